"""An FP16 graph held against the FP32 graph that it is made of, run by run."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.outputs import thinned
from edgeq.errors import ParityError
from edgeq.model.graph.answers import decided_outputs
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.quality.token_parity import FP16_BOUND, Place, TokenParity, prove_tokens
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.fp16.overflow import Feeds

__all__ = ["prove_fp16", "prove_judged_fp16"]

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
    return max(_proved(reference, half, runs, frozenset(), threads), key=lambda parity: parity.worst_relative)


def prove_judged_fp16(
    reference: Path, half: onnx.ModelProto, runs: Iterable[Feeds], *, threads: int | None = None
) -> None:
    """As `prove_fp16`, for a graph whose answers are judged by what they are for besides.

    Lists of what was found need only be finite then: where two scores are nearly alike, rounding changes which of them
    comes first, and so what stands in a row. So need numbers behind a comparison, such as attention within a mask that
    is drawn at a threshold.

    Args:
        reference, half, runs, threads: as there.

    Raises:
        ParityError: as there.
    """
    _proved(reference, half, runs, decided_outputs(half), threads)


def _proved(
    reference: Path, half: onnx.ModelProto, runs: Iterable[Feeds], decided: Collection[str], threads: int | None
) -> list[TokenParity]:
    """Of every output but those decided; none where all of them are."""
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "rounded.onnx"
        save_onnx(simulate_fp16(half), exact)
        ours, theirs = (OnnxRuntimeEngine(graph, threads=threads) for graph in (reference, exact))
        pairs: dict[str, list[_Pair]] = {}
        for number, feeds in enumerate(runs):
            wanted, found = ours.run(feeds), theirs.run(feeds)
            for name in ours.outputs:
                if name in decided:
                    _require_finite(name, found[name])
                elif _comparable(wanted[name], found[name]):
                    pair = (number, 0), _rows(wanted[name]), _rows(found[name])
                    pairs.setdefault(name, []).append(pair)
    several = len(ours.outputs) > 1
    nothing: dict[str, list[_Pair]] = {} if decided else {"": []}
    return [
        prove_tokens(each, bound=FP16_BOUND, made=f"FP16 in the output {name}" if several else "FP16")
        for name, each in (pairs or nothing).items()
    ]


def _require_finite(name: str, values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ParityError(
            f"FP16 computes NaN or infinity in the output {name}",
            expected="finite answers to every image",
            causes=("a layer overflows its number format",),
        )


def _comparable(wanted: NDArray[Any], found: NDArray[Any]) -> bool:
    return wanted.dtype.kind == "f" and wanted.shape == found.shape and wanted.size > 0


def _rows(values: NDArray[Any]) -> NDArray[np.float32]:
    """Vectors as they are; anything else as one row, thinned."""
    rows: NDArray[np.float32] = np.asarray(values if values.ndim == _ROWS else thinned(values), np.float32)
    return rows
