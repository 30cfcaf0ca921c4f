"""A model's chat template, rendered in a child with limits.

A template is a program: it may loop within loops, or ask for a text of gigabytes, and comes with the model. A child
that is warm renders one in about a millisecond.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeq.confined.limits import Limits, Made
from edgeq.confined.pool import Pool
from edgeq.errors import InputError, first_line

__all__ = ["chat_text", "start_templates"]

_SECONDS: Final = 10.0
_MEMORY_BYTES: Final = 256 << 20
_TEXT_BYTES: Final = 64 << 10
_TIMES_THE_MESSAGES: Final = 8
"""A text may be so many times as long as the messages, and _TEXT_BYTES."""

_POOL: Final = Pool(1, [__name__, "jinja2.ext", "jinja2.sandbox", "transformers.utils.chat_template_utils"])
"""Of the process: prompts are written one after another. It is started by the first that is."""


def start_templates() -> None:
    """Start the child before it is needed."""
    _POOL.start()


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as the model reads it, up to where it answers.

    Args:
        tokenizer: transformers'.
        messages: as chat templates take them.

    Raises:
        LimitError: it takes more time or memory, or becomes longer, than any conversation.
        Exception: whatever transformers raises where there is no template; an InputError for what Jinja raises.
    """
    if not _is_plain(tokenizer):
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text
    plain = {
        "messages": list(messages),
        "template": tokenizer.get_chat_template(),
        "tokens": dict(tokenizer.special_tokens_map),
    }
    limits = Limits(
        _SECONDS,
        _MEMORY_BYTES,
        answer_bytes=_TEXT_BYTES + _TIMES_THE_MESSAGES * len(json.dumps(plain["messages"])),
    )
    made = _POOL.run(f"{__name__}:render_template", plain, limits=limits, what="the chat template")
    return bytes(made.data).decode("utf-8", "surrogatepass")


def render_template(plain: Mapping[str, Any], _data: bytearray) -> Made:
    """Called in the child: as `apply_chat_template` of transformers' tokenizers.

    Raises:
        InputError: what the template says, or Jinja of it.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        (text,), _ = render_jinja_template(
            conversations=[plain["messages"]],
            chat_template=plain["template"],
            add_generation_prompt=True,
            **plain["tokens"],
        )
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # whatever Jinja makes of a wrong template, or a template says by itself
        raise InputError(first_line(error)) from error
    return Made({}, text.encode("utf-8", "surrogatepass"))


def _is_plain(tokenizer: Any) -> bool:
    """Whether it writes conversations as all tokenizers of transformers do; some bring code of their own for that."""
    from transformers import PreTrainedTokenizerBase

    return (
        isinstance(tokenizer, PreTrainedTokenizerBase)
        and type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template
    )
