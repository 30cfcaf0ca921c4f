"""An FP16 graph held against the FP32 graph that it is made of, run by run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.quality.token_parity import FP16_BOUND, Place, TokenParity, prove_tokens
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.fp16.overflow import Feeds

__all__ = ["prove_fp16"]


def prove_fp16(
    reference: Path, half: onnx.ModelProto, runs: Iterable[Feeds], *, threads: int | None = None
) -> TokenParity:
    """The first output of FP32 against that of FP16 with every FP16 tensor rounded.

    Args:
        reference: FP32 ONNX file.
        half: the FP16 graph made of it.
        runs: what both are given, one image or text at a time.
        threads: of one operator.

    Raises:
        ParityError: the FP16 graph computes NaN, infinity, or an output [rows, numbers] too far from that of FP32.
    """
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "rounded.onnx"
        save_onnx(simulate_fp16(half), exact)
        ours, theirs = (OnnxRuntimeEngine(graph, threads=threads) for graph in (reference, exact))
        return prove_tokens(_pairs(ours, theirs, runs), bound=FP16_BOUND, made="FP16")


def _pairs(
    reference: OnnxRuntimeEngine, candidate: OnnxRuntimeEngine, runs: Iterable[Feeds]
) -> Iterator[tuple[Place, NDArray[np.float32], NDArray[np.float32]]]:
    for number, feeds in enumerate(runs):
        wanted, found = (engine.run(feeds)[engine.outputs[0]] for engine in (reference, candidate))
        yield (number, 0), wanted, found
