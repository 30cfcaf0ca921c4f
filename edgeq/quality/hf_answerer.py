"""A whole vision-language model in transformers as an `Answerer`: the reference of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ModelError
from edgeq.families.base import WholeFeatures
from edgeq.quality.answerer import Answer

if TYPE_CHECKING:
    import torch

__all__ = ["HfAnswerer", "Prompt", "chat_prompt"]

Prompt = Callable[[Image.Image, str], Mapping[str, "torch.Tensor"]]
"""Image and question to what the model takes: `input_ids` int64 [1, n], `pixel_values` float32, and so on."""

_TEXT_INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
_GREEDY: Final = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}


def chat_prompt(processor: Any) -> Prompt:
    """The prompt that a model's own processor makes.

    Args:
        processor: a transformers processor, of text and images together. Without a chat template the prompt is the
            image's token and the question.
    """

    def prompt(image: Image.Image, question: str) -> Mapping[str, torch.Tensor]:
        if processor.chat_template is None:
            inputs = processor(text=f"{processor.image_token}{question}", images=image, return_tensors="pt")
        else:
            content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        return dict(inputs)

    return prompt


class HfAnswerer:
    """`Answerer` by `generate` of transformers, one question at a time.

    Forced answers go through `generate`, too: it knows what each family needs at each step.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: Prompt, features: WholeFeatures | None = None) -> None:
        """Take a model as it is.

        Args:
            model: loaded, in any precision, on any device.
            tokenizer: turns token ids into text.
            prompt: from `chat_prompt`, or one that both models of a comparison share.
            features: of an image, from its inputs; None asks `get_image_features`.
        """
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._features = features or _image_features

    def answer(self, image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        """As `Answerer.answer`."""
        inputs = self._inputs(image, question)
        made = self._generate(inputs, max_new_tokens=max_new_tokens)
        ids = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        return Answer(self._tokenizer.decode(ids, skip_special_tokens=True).strip(), tuple(ids))

    def logits(self, image: Image.Image, question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        """As `Answerer.logits`."""
        import torch

        inputs = self._inputs(image, question)
        start = inputs["input_ids"].shape[1]

        def force(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            forced = torch.full_like(scores, -torch.inf)
            forced[:, answer_ids[ids.shape[1] - start]] = 0.0
            return forced

        made = self._generate(inputs, max_new_tokens=len(answer_ids), logits_processor=[force], output_logits=True)
        return _numpy(torch.cat(made.logits))

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        """As `Answerer.features`.

        Raises:
            ModelError: the model's class has no `get_image_features`.
        """
        import torch

        inputs = {key: value for key, value in self._inputs(image, "?").items() if key not in _TEXT_INPUTS}
        with torch.inference_mode():
            return _numpy(self._features(self._model, inputs))

    def _inputs(self, image: Image.Image, question: str) -> dict[str, torch.Tensor]:
        device, dtype = self._model.device, self._model.dtype
        inputs = self._prompt(image, question)
        return {key: value.to(device, dtype if value.is_floating_point() else None) for key, value in inputs.items()}

    def _generate(self, inputs: Mapping[str, torch.Tensor], **options: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self._model.generate(**inputs, **_GREEDY, **options, return_dict_in_generate=True)


def _image_features(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Features in the places of the image, and behind them those that further layers are given, [rows, hidden]."""
    import torch

    if not hasattr(model, "get_image_features"):
        raise ModelError(f"{type(model).__name__} does not say what its image features are")
    found = model.get_image_features(**inputs, return_dict=True)
    levels = [found.pooler_output, *(getattr(found, "deepstack_features", None) or ())]
    parts = [part for level in levels for part in (level if isinstance(level, list | tuple) else [level])]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _numpy(values: torch.Tensor) -> NDArray[np.float32]:
    result: NDArray[np.float32] = values.float().cpu().numpy()
    return result
