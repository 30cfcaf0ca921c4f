"""The class of a language half, by its name in transformers; one that has no head there is given one.

Some families' language halves are in transformers only as a decoder that ends in hidden states: the head is a part of
the whole model. Here the decoder is `model` and the head `lm_head`, as in every causal language model of transformers,
so that checkpoints have the usual names of tensors: the decoder's own class loads one, without its head.
"""

from __future__ import annotations

from functools import cache, wraps
from typing import Any, ClassVar

from edgeq.errors import ModelError

__all__ = ["causal_class"]


@cache
def causal_class(name: str) -> Any:
    """A class of causal language models.

    Its `__name__` is `name`, which a checkpoint's config.json gives as its architecture.

    Raises:
        ModelError: transformers has no model of this name.
    """
    import transformers

    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ModelError(f"{name!r} is no model of transformers")
    return found if issubclass(found, transformers.GenerationMixin) else _with_head(found)


def _with_head(decoder: Any) -> Any:
    """A decoder's class with an output head behind it.

    It stands beside its siblings, with what they say of attention and of first weights.
    """
    from torch import nn
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class Causal(decoder.__base__):  # type: ignore[misc]
        config_class = decoder.config_class
        base_model_prefix = "model"
        _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = decoder(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.post_init()

        @wraps(decoder.forward)  # who asks for its arguments is told the decoder's
        def forward(self, logits_to_keep: int = 0, **inputs: Any) -> Any:
            found = dict(self.model(**inputs))
            hidden = found.pop("last_hidden_state")
            return CausalLMOutputWithPast(logits=self.lm_head(hidden[:, -logits_to_keep:]), **found)

    Causal.__name__ = Causal.__qualname__ = decoder.__name__
    Causal.__module__ = decoder.__module__  # where transformers looks whether its attention can be replaced
    return Causal
