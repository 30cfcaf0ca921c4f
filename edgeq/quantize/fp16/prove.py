"""An FP16 graph held against the FP32 graph that it is made of, run by run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.outputs import thinned
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.quality.token_parity import FP16_BOUND, Place, TokenParity, prove_tokens
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.fp16.overflow import Feeds

__all__ = ["prove_fp16"]

_Pair = tuple[Place, NDArray[np.float32], NDArray[np.float32]]
_ROWS: Final = 2


def prove_fp16(
    reference: Path, half: onnx.ModelProto, runs: Iterable[Feeds], *, threads: int | None = None
) -> TokenParity:
    """Every output of FP32 against that of FP16 with every FP16 tensor rounded, each by itself.

    Integers, and outputs that are of another size in FP16, such as lists of what was found, say nothing of rounding.

    Args:
        reference: FP32 ONNX file.
        half: the FP16 graph made of it.
        runs: what both are given, one image or text at a time.
        threads: of one operator.

    Returns:
        Of the output that is farthest away.

    Raises:
        ParityError: the FP16 graph computes NaN, infinity, or an output too far from that of FP32.
    """
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "rounded.onnx"
        save_onnx(simulate_fp16(half), exact)
        ours, theirs = (OnnxRuntimeEngine(graph, threads=threads) for graph in (reference, exact))
        pairs: dict[str, list[_Pair]] = {}
        for number, feeds in enumerate(runs):
            wanted, found = ours.run(feeds), theirs.run(feeds)
            for name in ours.outputs:
                if _comparable(wanted[name], found[name]):
                    pair = (number, 0), _rows(wanted[name]), _rows(found[name])
                    pairs.setdefault(name, []).append(pair)
    several = len(ours.outputs) > 1
    proved = [
        prove_tokens(each, bound=FP16_BOUND, made=f"FP16 in the output {name}" if several else "FP16")
        for name, each in (pairs or {"": []}).items()
    ]
    return max(proved, key=lambda parity: parity.worst_relative)


def _comparable(wanted: NDArray[Any], found: NDArray[Any]) -> bool:
    return wanted.dtype.kind == "f" and wanted.shape == found.shape and wanted.size > 0


def _rows(values: NDArray[Any]) -> NDArray[np.float32]:
    """Vectors as they are; anything else as one row, thinned."""
    rows: NDArray[np.float32] = np.asarray(values if values.ndim == _ROWS else thinned(values), np.float32)
    return rows
