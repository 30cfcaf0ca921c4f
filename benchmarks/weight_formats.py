"""A language model's weights in NF4, INT4 and INT8: how far is what it expects from what the whole model expects?

    python -m benchmarks.weight_formats

The formats alone are compared, in float32: whatever kernel runs them later adds its own rounding.
`benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from benchmarks.random_vlms import RANDOM_VLMS, write_random_vlm
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.demo.vlm.report import QUESTIONS
from edgeq.demo.vlm.scenes import draw_finding
from edgeq.demo.vlm.story import VLM_WEIGHTS
from edgeq.families.base import Arrays, Made
from edgeq.families.modules import read_modules
from edgeq.model.checkpoint.packed_weights import packed_scheme, unpack_integers
from edgeq.pipeline.vlm import VlmOptions, prepare_vlm
from edgeq.pipeline.vlm_language import image_prompts
from edgeq.plan.precision import PACKED_BITS, Precision
from edgeq.plan.rules import plan_modules
from edgeq.quantize.language.read import read_tensors
from edgeq.quantize.language.source import Language, open_language
from edgeq.quantize.weight_only.round import round_weight
from edgeq.quantize.weight_only.write import write_packed
from edgeq.runtime.vlm.language import LanguageModel
from edgeq.runtime.vlm.model import VisionLanguageModel
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

__all__ = ["FORMATS", "Row", "holds", "main", "measure", "spread_norms", "table"]

FORMATS: Final = (
    *("bitsandbytes FP4", "NF4", "INT4, to the nearest", "INT4, AWQ", "INT4, GPTQ", "INT8"),
    *("INT4, AWQ; embeddings INT8", "INT8; embeddings INT8"),
)
_DEMO: Final = "demo"
_TOKENS: Final = 24
_SPREAD: Final = 0.7
"""Standard deviation of the logarithm of a norm's weights, where they are drawn."""


@dataclass(frozen=True)
class Row:
    """What a format does.

    Attributes:
        model: its name.
        format: one of `FORMATS`.
        bits: stored for a weight in few bits, scales included: of the linear layers, and of embedding and head where
            they are.
        megabytes: of the language half, all else in 16 bits.
        kl: mean over tokens of KL(whole || this), in nats.
        same: percent of tokens at which both find the same one likeliest.
        answers: percent of answers that are the whole model's.
    """

    model: str
    format: str
    bits: float
    megabytes: float
    kl: float
    same: float
    answers: float


@dataclass(frozen=True)
class _Stored:
    """A format's weights, float32 by name, the numbers that are in few bits, and all these bits with scales."""

    weights: Mapping[str, torch.Tensor]
    numbers: int
    bits: float


class _Remembering(VisionEncoder):
    """Sees each picture once: the eyes are the same for every format."""

    def __init__(self, encoder: VisionEncoder) -> None:
        self._encoder, self._seen = encoder, dict[bytes, Made]()

    def encode(self, feeds: Arrays) -> Made:
        key = b"".join(np.ascontiguousarray(feeds[name]).tobytes() for name in sorted(feeds))
        if key not in self._seen:
            self._seen[key] = self._encoder.encode(feeds)
        return self._seen[key]


class _Asked:
    """A model, and what it is asked about photographs that no scales were searched on."""

    def __init__(self, directory: Path, work: Path, photographs: int) -> None:
        seen = work / "photographs"
        seen.mkdir(parents=True)
        for seed in range(16):
            draw_finding(seed)[0].save(seen / f"{seed:02}.png")
        options = VlmOptions(reference_answers=False, canaries=1, max_new_tokens=1)
        self.bundle, self.source = work / "bundle", directory
        prepare_vlm(directory, seen, self.bundle, options=options)
        self.seen = [Image.open(file).convert("RGB") for file in sorted(seen.iterdir())]
        self._images = [draw_finding(1_000 + seed)[0] for seed in range(photographs)]
        settings = VlmSettings.of(self.bundle)
        self._prompter = Prompter.open(self.bundle, settings)
        self._vision = _Remembering(VisionEncoder.open(self.bundle / settings.vision))
        self.language = open_language(directory)

    def answers(self, model: nn.Module) -> list[tuple[int, ...]]:
        """The likeliest tokens, for each photograph."""
        vlm = self._vlm(model)
        return [vlm.ask(image, question, _TOKENS).token_ids for image, question in self._questions()]

    def expects(self, model: nn.Module, answers: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """Log-likelihoods [tokens, vocabulary] of answers that are forced."""
        vlm = self._vlm(model)
        asked = zip(self._questions(), answers, strict=True)
        return [_log_softmax(vlm.logits(image, question, ids)) for (image, question), ids in asked]

    def _questions(self) -> Iterator[tuple[Image.Image, str]]:
        yield from ((image, QUESTIONS[number % len(QUESTIONS)]) for number, image in enumerate(self._images))

    def _vlm(self, model: nn.Module) -> VisionLanguageModel:
        settings = self._prompter.settings
        language = LanguageModel(model, self._prompter.image_prompt, settings.image_token_id, self._prompter.config)
        return VisionLanguageModel(self._prompter, self._vision, language)


def measure(name: str, directory: Path, work: Path, photographs: int) -> list[Row]:
    """Every format of one model.

    Args:
        name: of the model.
        directory: with its weights.
        work: an empty directory.
        photographs: that it is asked about.
    """
    asked = _Asked(directory, work, photographs)
    whole = _model(asked.language, {})
    answers = asked.answers(whole)
    expected = asked.expects(whole, answers)
    rows = []
    for form in FORMATS:
        stored = _WAYS[form](asked, work / form.replace(" ", "-"))
        model = _model(asked.language, stored.weights)
        rest = sum(source.stored.elements for source in asked.language.tensors.values()) - stored.numbers
        size = (stored.bits / 8 + 2 * rest) / 1e6
        found = asked.expects(model, answers)
        same = np.concatenate([(a.argmax(-1) == b.argmax(-1)) for a, b in zip(expected, found, strict=True)])
        kl = np.concatenate([(np.exp(a) * (a - b)).sum(-1) for a, b in zip(expected, found, strict=True)])
        said = [ours == theirs for ours, theirs in zip(answers, asked.answers(model), strict=True)]
        agreed = 100 * float(same.mean()), 100 * float(np.mean(said))
        rows.append(Row(name, form, stored.bits / stored.numbers, size, float(kl.mean()), *agreed))
        print(rows[-1], file=sys.stderr)
    return rows


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    found: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found


def _model(language: Language, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """The language model in float32, some of its tensors in the place of the checkpoint's."""
    model: Any = type(language.model)(language.config).float().eval()
    sources = [language.tensors[name] for name in language.tensors]
    stored = dict(zip(language.tensors, read_tensors(sources, "float16"), strict=True))
    model.load_state_dict({name: value.float() for name, value in {**stored, **weights}.items()}, strict=False)
    model.tie_weights()
    found: nn.Module = model
    return found


def _linear(asked: _Asked) -> dict[str, torch.Tensor]:
    """Weights of the layers that are planned in few bits, float32 by name."""
    plan = plan_modules(read_modules(asked.source))
    planned = {asked.language.modules[layer] for layer in plan.layers(Precision.NF4)}
    names = [f"{layer}.weight" for layer in sorted(planned)]
    sources = [asked.language.tensors[name] for name in names]
    return {name: value.float() for name, value in zip(names, read_tensors(sources, "float16"), strict=True)}


def _bitsandbytes(kind: str) -> Callable[[_Asked, Path], _Stored]:
    def way(asked: _Asked, _work: Path) -> _Stored:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        double, found = kind == "nf4", {}
        for name, weight in _linear(asked).items():
            packed, state = quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=double)
            found[name] = dequantize_4bit(packed, state).float()
        numbers = sum(weight.numel() for weight in found.values())
        return _Stored(found, numbers, numbers * (4 + (8 + 32 / 256 if double else 32) / 64))

    return way


def _nearest(precision: Precision) -> Callable[[_Asked, Path], _Stored]:
    def way(asked: _Asked, _work: Path) -> _Stored:
        found, bits, numbers = {}, 0.0, 0
        for name, weight in _linear(asked).items():
            scheme = packed_scheme(PACKED_BITS[precision], weight.shape[1])
            assert scheme is not None
            found[name] = round_weight(weight, scheme, torch.float16).weight()
            bits += weight.numel() * scheme.bits + 16 * len(weight) * scheme.scales(weight.shape[1])
            numbers += weight.numel()
        return _Stored(found, numbers, bits)

    return way


def _written(
    precision: Precision, embeddings: Precision = Precision.FP16, *, error_feedback: bool = False
) -> Callable[[_Asked, Path], _Stored]:
    """As `edgeq prepare` writes it, INT4 by AWQ or GPTQ, read back."""

    def way(asked: _Asked, work: Path) -> _Stored:
        plan = plan_modules(read_modules(asked.source), language=precision, embeddings=embeddings)
        prompts = image_prompts(asked.bundle, asked.seen, QUESTIONS, None) if precision is Precision.INT4 else None
        write_packed(asked.source, plan, work, precision=precision, prompts=prompts, error_feedback=error_feedback)
        return _read_back(work)

    return way


def _read_back(directory: Path) -> _Stored:
    from safetensors.torch import load_file

    stored: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        stored |= load_file(file)
    found, bits, numbers = {}, 0, 0
    for name, value in stored.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight_packed":
            scales, columns = stored[f"{layer}.weight_scale"], int(stored[f"{layer}.weight_shape"][1])
            integers = unpack_integers(value, 32 * value.shape[1] // columns).float().reshape(*scales.shape, -1)
            found[f"{layer}.weight"] = (integers * scales.float()[..., None]).flatten(1)
            bits += 32 * value.numel() + 16 * scales.numel()
            numbers += integers.numel()
        elif not kind.startswith("weight_"):
            found[name] = value
    return _Stored(found, numbers, bits)


_WAYS: Final[Mapping[str, Callable[[_Asked, Path], _Stored]]] = {
    "bitsandbytes FP4": _bitsandbytes("fp4"),
    "NF4": _bitsandbytes("nf4"),
    "INT4, to the nearest": _nearest(Precision.INT4),
    "INT4, AWQ": _written(Precision.INT4),
    "INT4, GPTQ": _written(Precision.INT4, error_feedback=True),
    "INT8": _nearest(Precision.INT8),
    "INT4, AWQ; embeddings INT8": _written(Precision.INT4, Precision.INT8),
    "INT8; embeddings INT8": _written(Precision.INT8, Precision.INT8),
}


def spread_norms(directory: Path, spread: float = _SPREAD) -> None:
    """Draw the weights of a random model's norms log-normally: some channels are larger than others, as trained ones.

    Args:
        directory: of the model, changed in place.
        spread: standard deviation of the logarithm.
    """
    from safetensors.torch import load_file, save_file

    drawn = torch.Generator().manual_seed(0)
    for file in sorted(directory.glob("*.safetensors")):
        tensors = load_file(file)
        for name, value in tensors.items():
            if "language_model" in name and name.endswith("norm.weight") and value.ndim == 1:
                tensors[name] = torch.exp(spread * torch.randn(value.shape, generator=drawn)).to(value.dtype)
            elif "language_model" in name and name.endswith("proj.weight"):
                tensors[name] = value * 2
        save_file(tensors, file, metadata={"format": "pt"})


def table(rows: Sequence[Row]) -> str:
    """The figures for people."""
    lines = [
        "| model | language half | bits a weight | MB | KL, nats a token | same token, % | same answer, % |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.model} | {row.format} | {row.bits:.2f} | {row.megabytes:.2f} | {row.kl:.2g} | {row.same:.1f} | "
        f"{row.answers:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where AWQ or GPTQ is further from the whole model than rounding to the nearest."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weight_formats", description=__doc__.splitlines()[0])
    kinds = (_DEMO, *RANDOM_VLMS)
    small = (_DEMO, *(name for name in RANDOM_VLMS if name.endswith("7m")))
    parser.add_argument("--models", nargs="+", choices=kinds, default=small)
    parser.add_argument("--photographs", type=int, default=16, help="that the model is asked about")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.models:
            directory = VLM_WEIGHTS
            if name != _DEMO:
                directory = Path(scratch) / f"{name}-model"
                write_random_vlm(directory, RANDOM_VLMS[name])
                spread_norms(directory)
            rows += measure(name, directory, Path(scratch) / name, given.photographs)
    print(json.dumps([asdict(row) for row in rows], indent=1) if given.json else table(rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory: {peak / 1e6:.2f} GB", file=sys.stderr)
    return 0 if all(holds(rows, name) for name in given.models) else 1


def holds(rows: Sequence[Row], model: str) -> bool:
    """Whether AWQ and GPTQ are as near to the whole model as rounding to the nearest is, or nearer."""
    kl = {row.format: row.kl for row in rows if row.model == model}
    return max(kl["INT4, AWQ"], kl["INT4, GPTQ"]) <= kl["INT4, to the nearest"]


if __name__ == "__main__":
    raise SystemExit(main())
