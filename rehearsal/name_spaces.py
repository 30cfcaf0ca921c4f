"""Mounts and processes of a rehearsal's own, which end with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["enter_name_spaces"]

_INSIDE: Final = "EDGEQ_REHEARSAL_INSIDE"


def enter_name_spaces(module: str, words: Sequence[str] | None) -> None:
    """Start again where mounts and processes end when the first of these processes does, unless that was done.

    Args:
        module: that is run.
        words: its arguments; None takes this process's.
    """
    if _INSIDE in os.environ:
        return
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.environ[_INSIDE] = "1"
    os.execvp(unshare[0], [*unshare, sys.executable, "-m", module, *(sys.argv[1:] if words is None else words)])
