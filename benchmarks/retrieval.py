"""A text encoder in INT8 by edgeq and by ONNX Runtime's quantizers: what its texts still find among FP16 images.

    python -m benchmarks.retrieval --pairs 5000

`benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.demo.clip.pairs import CAPTIONS, write_captions, write_pairs
from edgeq.demo.clip.score import CLIP_WEIGHTS
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.pipeline.retrieval.prepare import PreparedRetrieval, prepare_retrieval
from edgeq.plan.precision import ChannelEqualization
from edgeq.quality.tasks.pairs import Pairs
from edgeq.quality.tasks.registry import RETRIEVAL
from edgeq.quality.tasks.retrieval import Embedded
from edgeq.quality.tasks.retrieval_figures import RetrievalFigures
from edgeq.quality.tasks.retrieval_gate import decide_retrieval
from edgeq.runtime.retrieval.encoders import TextEncoder
from edgeq.runtime.retrieval.two_tower import TwoTowerModel, open_two_tower

__all__ = ["MODELS", "Row", "inject_outliers", "main", "quantizers", "table"]

Texts = NDArray[np.float32]

MODELS: Final = ("plain", "outliers")
_CAPTIONS: Final = 300
_CHANNELS: Final = (3, 17, 40)
"""Channels of each LayerNorm that are made wide."""

_WIDER: Final = 40.0


@dataclass(frozen=True)
class Row:
    """One way to quantize.

    Attributes:
        model: plain, or with outliers.
        who: in words.
        figures: INT8 texts beside FP16 texts, on the same FP16 images.
        kept: what edgeq's gate says of these figures.
    """

    model: str
    who: str
    figures: RetrievalFigures
    kept: str


def inject_outliers(model: Path, made: Path, wider: float = _WIDER) -> None:
    """A model that computes the same, with three channels behind each LayerNorm of its text encoder 40 times as wide.

    The weights that read them are as much smaller, as in the published observations of activations of transformers
    (LLM.int8(), arXiv 2208.07339; SmoothQuant, arXiv 2211.10438).

    Args:
        model: its directory.
        made: the directory that is written.
        wider: another factor than 40.
    """
    import torch
    from transformers import CLIPModel

    shutil.copytree(model, made)
    whole = CLIPModel.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for layer in whole.text_model.encoder.layers:
            attention = layer.self_attn
            readers = {
                layer.layer_norm1: (attention.q_proj, attention.k_proj, attention.v_proj),
                layer.layer_norm2: (layer.mlp.fc1,),
            }
            for norm, linears in readers.items():
                for channel in _CHANNELS:
                    norm.weight[channel] *= wider
                    norm.bias[channel] *= wider
                    for linear in linears:
                        linear.weight[:, channel] /= wider
    whole.save_pretrained(made)


def quantizers(ids: Sequence[NDArray[np.int64]]) -> Mapping[str, Callable[[Path, Path], None]]:
    """ONNX Runtime's quantizers: name -> from an FP32 graph to an INT8 graph, calibrated on token ids [1, length]."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[NDArray[np.int64]] = iter(ids)

        def get_next(self) -> dict[str, NDArray[np.int64]] | None:
            one = next(self._left, None)
            return None if one is None else {"input_ids": one}

    def static(**choices: Any) -> Callable[[Path, Path], None]:
        return lambda graph, made: quantize_static(str(graph), str(made), Reader(), per_channel=True, **choices)

    return {
        "ONNX Runtime quantize_static as it is": static(),
        "ONNX Runtime quantize_static, MatMul alone": static(op_types_to_quantize=["MatMul", "Gemm"]),
        "ONNX Runtime quantize_dynamic, per channel": lambda graph, made: quantize_dynamic(
            str(graph), str(made), per_channel=True, weight_type=QuantType.QInt8
        ),
    }


def measure(
    pairs_count: int, scratch: Path, models: Sequence[str] = MODELS, threads: int | None = None
) -> Iterator[Row]:
    """Every way on the plain model and on the one with outliers."""
    (scratch / "images").mkdir()
    pairs = write_pairs(scratch / "images", pairs_count)
    write_captions(scratch / CAPTIONS, _CAPTIONS)
    inject_outliers(CLIP_WEIGHTS, scratch / "outliers")
    judged = Pairs.open(pairs)
    for name, model in zip(MODELS, (CLIP_WEIGHTS, scratch / "outliers"), strict=True):
        if name not in models:
            continue
        yield from _measure_model(name, model, judged, scratch, threads)


def _measure_model(name: str, model: Path, pairs: Pairs, scratch: Path, threads: int | None) -> Iterator[Row]:
    ways: dict[str, ChannelEqualization] = {"edgeq": "auto", "edgeq without equalization": "none"}
    for who, equalization in ways.items():
        prepared = prepare_retrieval(
            model,
            scratch / "images",
            scratch / CAPTIONS,
            scratch / f"{name}-{equalization}",
            pairs=pairs.path,
            options=RetrievalOptions(
                channel_equalization=equalization, compare_int8_images=True, keep_fp32=True, threads=threads
            ),
        )
        assert prepared.gate is not None
        fold = f", {prepared.channels.fold}" if prepared.channels is not None else ""
        yield _row(name, f"{who}{fold}", (prepared.whole_int8 or prepared.gate).figures)
        if prepared.search is not None:
            yield _searched(name, who, prepared)
    yield from _measure_others(name, scratch / f"{name}-none", pairs, scratch, threads)


def _searched(name: str, who: str, prepared: PreparedRetrieval) -> Row:
    """What the layer search made of a refused text encoder; the figures are those of INT8 where it kept nothing."""
    assert prepared.gate is not None
    assert prepared.search is not None
    kept = prepared.search.kept
    share = prepared.search.steps[prepared.search.chosen or 0].share
    return _row(name, f"{who}, {len(kept)} layers kept in FP32 ({share:.1f} % of the bytes)", prepared.gate.figures)


def _measure_others(name: str, bundle: Path, pairs: Pairs, scratch: Path, threads: int | None) -> Iterator[Row]:
    """The quantizers on the FP32 graph of a bundle without equalization; the reference is that graph in FP32."""
    model = open_two_tower(bundle, threads)
    images = np.concatenate(
        [
            model.image.embed([pairs.images.read(item) for item in pairs.images.items[start : start + 64]])
            for start in range(0, len(pairs.images), 64)
        ]
    )
    graph = _in_float32(bundle / "text" / "model.fp32.onnx", scratch / f"{name}.fp32.onnx")
    ids = [each[None] for each in model.tokenizer.ids((scratch / CAPTIONS).read_text(encoding="utf-8").splitlines())]
    reference = _texts(model, graph, pairs, threads)
    for who, quantize in quantizers(ids).items():
        made = scratch / f"{name}.onnx"
        with redirect_stderr(StringIO()):
            quantize(graph, made)
        found = RETRIEVAL.compare(pairs, Embedded(reference, _texts(model, made, pairs, threads), images))
        yield _row(name, who, found)


def _in_float32(graph: Path, made: Path) -> Path:
    """A text graph with its token table in float32 again, which ONNX Runtime's quantizers need."""
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    onnx.save(model, made)  # the Cast behind it has nothing left to do
    return made


def _texts(model: TwoTowerModel, graph: Path, pairs: Pairs, threads: int | None) -> Texts:
    settings: RetrievalSettings = model.settings
    return TextEncoder(OnnxRuntimeEngine(graph, threads=threads), model.tokenizer, settings).embed(pairs.captions)


def _row(name: str, who: str, figures: RetrievalFigures) -> Row:
    gate = decide_retrieval(figures)
    return Row(name, who, figures, gate.kept if gate.judged else f"{gate.kept}, not judged")


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    first = rows[0].figures.text_to_image
    lines = [
        f"{first.queries:,} texts in {first.groups:,} groups, {first.items:,} images.",
        "",
        "| model | text encoder | recall@1 / 5 / 10, % | drop of recall@1, points (95 %) | images in INT8 too | gate |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        way = row.figures.text_to_image
        found = " / ".join(f"{at.candidate:.2f}" for at in (way.at1, way.at5, way.at10))
        drop = way.at1.drop
        error = 0.0 if drop.standard_error is None else drop.standard_error
        doubt = f"{drop.value:.2f} ± {error:.2f} ({drop.low:.2f} to {drop.high:.2f})"
        both = "" if way.at1.both_int8 is None else f"{way.at1.both_int8:.2f}"
        lines.append(f"| {row.model} | {row.who} | {found} | {doubt} | {both} | {row.kept} |")
    whole = " / ".join(f"{at.reference:.2f}" for at in (first.at1, first.at5, first.at10))
    return "\n".join([*lines, "", f"FP16 texts find {whole} %."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="edgeq-retrieval-") as scratch:
        print(table(list(measure(given.pairs, Path(scratch), given.models, given.threads))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
