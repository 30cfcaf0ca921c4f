"""Every lowering, in the order in which graphs are made. A new backend is a line here, and its two files."""

from __future__ import annotations

from typing import Final

from edgeq.engine.registry import DEFAULT
from edgeq.errors import InputError
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.onnxruntime import LOWERING as ONNXRUNTIME
from edgeq.quantize.int8.openvino import LOWERING as OPENVINO
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT

__all__ = ["LOWERINGS", "USUAL", "lowering_for", "lowerings"]

LOWERINGS: Final[tuple[Lowering, ...]] = (ONNXRUNTIME, TENSORRT, OPENVINO)

USUAL: Final = next(each for each in LOWERINGS if each.name == DEFAULT.name)
"""The one that the workshop tries, searches and judges with, unless another backend is asked for."""


def lowering_for(backend: str) -> Lowering:
    """The lowering for a backend; raises InputError for one that has none."""
    for each in LOWERINGS:
        if each.name == backend:
            return each
    raise InputError(f"there is no lowering for {backend}", expected=f"one of {', '.join(x.name for x in LOWERINGS)}")


def lowerings(asked: str = DEFAULT.name) -> tuple[Lowering, ...]:
    """Those whose graphs a bundle gets: every one that is always made, and the one asked for."""
    return tuple(each for each in LOWERINGS if each.always or each.name == asked)
