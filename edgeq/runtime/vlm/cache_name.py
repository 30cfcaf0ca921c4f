"""What transformers calls keys and values: `past_key_values` up to 5.23, `cache` from 5.24 on.

5.24 to 5.39 know both names, but warn of the old one.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

__all__ = ["cache_name"]

_NEW: Final = "cache"
_OLD: Final = "past_key_values"


def cache_name(model: Any) -> str:
    """The name of a model's cache, as an argument of its forward pass and as an attribute of what comes out.

    Args:
        model: of transformers. Its class is asked: an instance's `forward` may be wrapped by accelerate.
    """
    return _NEW if _NEW in inspect.signature(type(model).forward).parameters else _OLD
