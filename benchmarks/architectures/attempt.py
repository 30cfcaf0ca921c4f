"""One network through `inspect` and `prepare`, in a process of its own: what happened, and how soon."""

from __future__ import annotations

import json
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.architectures.families import FAMILIES, SkippedError, draw_statistics
from benchmarks.architectures.families import make as make_family
from benchmarks.architectures.networks import NETWORKS
from edgeq.errors import EdgeqError, GateError
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.classifier import Prepared
from edgeq.pipeline.inspect import inspect_model
from edgeq.pipeline.stages import Options
from edgeq.quality.gate import GateBounds
from edgeq.quality.latency import Timing

__all__ = ["Attempt", "Case", "attempt", "cases"]

IMAGES = 12
ALLOWED = {"EQ107": "drawn pictures", "EQ108": "no accuracy is looked at", "EQ110": "drawn pictures"}
_FLAGS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclass(frozen=True)
class Case:
    """What is tried: a family of transformers, or one of the networks in one way of exporting it."""

    name: str
    exporter: str = ""

    @property
    def title(self) -> str:
        """For the table."""
        return f"{self.name} ({self.exporter})" if self.exporter else self.name


@dataclass
class Verb:
    """What one verb did.

    Attributes:
        outcome: `done`, `refused` (an error of edgeq's own), `guard`, or `traceback`.
        seconds: from its start to its end.
        stage: it was in when it ended.
        said: its refusal, or the traceback.
    """

    outcome: str = "not run"
    seconds: float = 0.0
    stage: str = ""
    said: str = ""
    found: dict[str, Any] = field(default_factory=dict)


@dataclass
class Attempt:
    """Everything about one network.

    Attributes:
        expected: what torch says of it: parameters, BatchNorms, whether there is a softmax.
        skipped: why it could not be made; empty where it was.
        inspect, prepare: with the model's own preprocessing.
        processor: why the model's own image processor was refused, where flags had to stand in for it.
    """

    title: str
    expected: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""
    processor: str = ""
    inspect: Verb = field(default_factory=Verb)
    prepare: Verb = field(default_factory=Verb)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def cases() -> tuple[Case, ...]:
    """All that is tried, in order."""
    exported = [Case(name, exporter) for name, network in NETWORKS.items() for exporter in network.exporters]
    return (*(Case(name) for name in FAMILIES), *exported)


def attempt(case: Case, images: Path) -> Attempt:
    """Make a network and run both verbs on it."""
    made = Attempt(case.title)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        model.mkdir()
        try:
            network, size = _make(case, model)
        except SkippedError as error:
            made.skipped = str(error)
            return made
        except Exception:
            made.skipped = "it could not be made: " + traceback.format_exc(limit=-3)
            return made
        made.expected = _facts(network)
        flags = None
        made.inspect = _verb(lambda _: _inspected(model, None, scratch))
        if made.inspect.outcome == "refused" and "preprocessor_config" in made.inspect.said:
            made.processor = made.inspect.said
            flags = Preprocess.from_flags(_FLAGS["mean"], _FLAGS["std"], (size, size))
            made.inspect = _verb(lambda _: _inspected(model, flags, scratch))
        made.prepare = _verb(lambda progress: _prepared(model, images, Path(scratch) / "bundle", flags, progress))
    return made


def _make(case: Case, directory: Path) -> tuple[torch.nn.Module, int]:
    if not case.exporter:
        return make_family(case.name, directory), FAMILIES[case.name].size
    network = NETWORKS[case.name]
    torch.manual_seed(0)
    module = network.make()
    draw_statistics(module)
    module.eval()
    export(module, directory / "model.onnx", network.answers, network.size, case.exporter)
    steps = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": network.size, "width": network.size},
        "image_mean": _FLAGS["mean"],
        "image_std": _FLAGS["std"],
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(steps))
    return module, network.size


def export(module: torch.nn.Module, path: Path, answers: tuple[str, ...], size: int, exporter: str) -> None:
    """Write a network to ONNX as people do.

    Args:
        module: in eval mode.
        path: the file.
        answers: names of its outputs.
        size: height and width of its images.
        exporter: `dynamo` or `legacy`, with `fixed` for a batch of one and no dynamic axes.
    """
    fixed = "fixed" in exporter
    sample = torch.randn(1 if fixed else 2, 3, size, size)
    options: dict[str, Any] = {"input_names": ["images"], "output_names": list(answers), "verbose": False}
    if exporter.startswith("dynamo"):
        shapes = None if fixed else ({0: torch.export.Dim("batch")},)
        torch.onnx.export(module, (sample,), str(path), dynamo=True, opset_version=18, dynamic_shapes=shapes, **options)
        return
    axes = None if fixed else {name: {0: "batch"} for name in ("images", *answers)}
    torch.onnx.export(module, (sample,), str(path), dynamo=False, opset_version=17, dynamic_axes=axes, **options)


def _facts(network: torch.nn.Module) -> dict[str, Any]:
    return {
        "parameters": sum(value.numel() for value in network.parameters()),
        "batchnorm": sum("BatchNorm" in type(module).__name__ for module in network.modules()),
    }


def _verb(run: Callable[[Callable[[str, int, int], None]], dict[str, Any]]) -> Verb:
    made = Verb()
    start = time.perf_counter()

    def progress(stage: str, _done: int, _total: int) -> None:
        made.stage = stage

    try:
        made.found, made.outcome = run(progress), "done"
    except GateError as error:
        made.outcome, made.said = "guard", str(error)
    except EdgeqError as error:
        made.outcome, made.said = "refused", str(error)
    except Exception:
        made.outcome, made.said = "traceback", traceback.format_exc(limit=-6)
    made.seconds = time.perf_counter() - start
    return made


def _inspected(model: Path, flags: Preprocess | None, scratch: str) -> dict[str, Any]:
    found = inspect_model(str(model), Path(scratch), preprocess=flags)
    return {
        "parameters": found.parameters,
        "batchnorm": found.batchnorm,
        "foldable": found.batchnorm_foldable,
        "kept": found.batchnorm_kept,
        "components": [part.name for part in found.components],
        "kinds": sorted({group.kind for group in found.groups}),
        "notes": list(found.notes),
    }


def _prepared(
    model: Path,
    images: Path,
    bundle: Path,
    flags: Preprocess | None,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    from edgeq.api.workshop.prepare import prepare

    options = Options(
        allow=ALLOWED, threads=1, timing=Timing(rounds=1, block_seconds=0.01), gate=GateBounds(min_speedup=0.0)
    )
    made = prepare(model, images, bundle, preprocess=flags, options=options, progress=progress)
    if not isinstance(made, Prepared):
        return {"kind": type(made).__name__}
    fidelity = made.quality.fidelity
    return {
        "layers": [made.int8_layers, made.fp16_layers, made.fp32_layers],
        "error": fidelity.error if fidelity else None,
        "agreement": fidelity.agreement if fidelity else None,
        "parity": made.export.parity.relative,
        "gate": made.gate.kept if made.gate else "",
        "kept": made.export.kept,
        "warnings": list(made.warnings),
    }


def draw_images(folder: Path, count: int = IMAGES, side: int = 96) -> Path:
    """Smooth, coloured pictures with some noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.uniform(0, 255, (6, 6, 3)).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.float64)
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:03d}.png")
    return folder
