"""edgeq: vision and vision-language models, quantized for the edge, and proved to see.

`import edgeq` loads nothing else: each name of `__all__` is loaded when it is asked for (PEP 562). Six functions have
an object in their name, because a function `edgeq.plan` would be hidden by the package of that name, or hide it.
"""

import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# From 1.29 on ONNX Runtime reports itself to Microsoft, and keeps a device's number in ~/.cache, unless this is set
# before it is loaded (its Privacy.md). Set to 0 it reports.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PLACES = {
    "BenchReport": "edgeq.bench.report",
    "Bundle": "edgeq.api.device.opened",
    "BuiltEncoders": "edgeq.engine_store.run",
    "BuiltEngine": "edgeq.engine_store.run",
    "Calibrated": "edgeq.api.workshop.stages",
    "ClassScore": "edgeq.runtime.vision_graph",
    "EdgeqError": "edgeq.errors",
    "Exported": "edgeq.api.workshop.stages",
    "Found": "edgeq.pipeline.search",
    "GateBounds": "edgeq.quality.gate",
    "ImageLike": "edgeq.api.device.images",
    "ImageSearch": "edgeq.api.device.retrieval",
    "Indexed": "edgeq.api.device.retrieval",
    "Inspection": "edgeq.pipeline.inspect",
    "Installed": "edgeq.install.run",
    "JudgeBounds": "edgeq.judge.bounds",
    "Judgement": "edgeq.judge.judgement",
    "LintReport": "edgeq.lint.report",
    "MemoryPlan": "edgeq.plan.memory",
    "Options": "edgeq.pipeline.stages",
    "Planned": "edgeq.api.workshop.describe",
    "Precision": "edgeq.plan.precision",
    "PrecisionPlan": "edgeq.plan.precision",
    "Prepared": "edgeq.pipeline.classifier",
    "PreparedRetrieval": "edgeq.pipeline.retrieval.prepare",
    "PreparedText": "edgeq.pipeline.text_encoder",
    "PreparedVlm": "edgeq.pipeline.vlm",
    "Preprocess": "edgeq.model.images.preprocess",
    "PreprocessFlags": "edgeq.model.images.preprocess_flags",
    "Pushed": "edgeq.hub",
    "Quality": "edgeq.quality.judge",
    "Quantized": "edgeq.api.workshop.stages",
    "Reply": "edgeq.runtime.vlm.model",
    "RetrievalOptions": "edgeq.pipeline.retrieval.options",
    "Rule": "edgeq.plan.precision",
    "Scales": "edgeq.calibrate.scales",
    "SearchBounds": "edgeq.quantize.search.bounds",
    "SearchResult": "edgeq.api.device.retrieval",
    "Sensitivity": "edgeq.quantize.search.sensitivity",
    "Timing": "edgeq.quality.latency",
    "Verified": "edgeq.bundle.verification_states",
    "VlmOptions": "edgeq.pipeline.vlm_options",
    "bench_bundle": "edgeq.api.device.bench",
    "build": "edgeq.api.device.bundles",
    "calibrate_model": "edgeq.api.workshop.stages",
    "evaluate": "edgeq.api.workshop.stages",
    "export_model": "edgeq.api.workshop.stages",
    "index_images": "edgeq.api.device.retrieval",
    "inspect": "edgeq.api.workshop.describe",
    "install_bundle": "edgeq.api.device.bundles",
    "judge_model": "edgeq.api.workshop.judge",
    "lint_model": "edgeq.api.workshop.lint",
    "open_bundle": "edgeq.api.device.opened",
    "open_search": "edgeq.api.device.retrieval",
    "plan_model": "edgeq.api.workshop.describe",
    "prepare": "edgeq.api.workshop.prepare",
    "push": "edgeq.api.workshop.report",
    "quantize_model": "edgeq.api.workshop.stages",
    "report": "edgeq.api.workshop.report",
    "search_layers": "edgeq.api.workshop.layers",
    "sensitivity": "edgeq.api.workshop.layers",
    "this_device": "edgeq.api.device.bundles",
    "verify": "edgeq.api.device.bundles",
}
"""Where each name is. What type checkers see stands below; a test compares the two."""

if TYPE_CHECKING:
    from edgeq.api.device.bench import bench_bundle
    from edgeq.api.device.bundles import build, install_bundle, this_device, verify
    from edgeq.api.device.images import ImageLike
    from edgeq.api.device.opened import Bundle, open_bundle
    from edgeq.api.device.retrieval import ImageSearch, Indexed, SearchResult, index_images, open_search
    from edgeq.api.workshop.describe import Planned, inspect, plan_model
    from edgeq.api.workshop.judge import judge_model
    from edgeq.api.workshop.layers import search_layers, sensitivity
    from edgeq.api.workshop.lint import lint_model
    from edgeq.api.workshop.prepare import prepare
    from edgeq.api.workshop.report import push, report
    from edgeq.api.workshop.stages import (
        Calibrated,
        Exported,
        Quantized,
        calibrate_model,
        evaluate,
        export_model,
        quantize_model,
    )
    from edgeq.bench.report import BenchReport
    from edgeq.bundle.verification_states import Verified
    from edgeq.calibrate.scales import Scales
    from edgeq.engine_store.run import BuiltEncoders, BuiltEngine
    from edgeq.errors import EdgeqError
    from edgeq.hub import Pushed
    from edgeq.install.run import Installed
    from edgeq.judge.bounds import JudgeBounds
    from edgeq.judge.judgement import Judgement
    from edgeq.lint.report import LintReport
    from edgeq.model.images.preprocess import Preprocess
    from edgeq.model.images.preprocess_flags import PreprocessFlags
    from edgeq.pipeline.classifier import Prepared
    from edgeq.pipeline.inspect import Inspection
    from edgeq.pipeline.retrieval.options import RetrievalOptions
    from edgeq.pipeline.retrieval.prepare import PreparedRetrieval
    from edgeq.pipeline.search import Found
    from edgeq.pipeline.stages import Options
    from edgeq.pipeline.text_encoder import PreparedText
    from edgeq.pipeline.vlm import PreparedVlm
    from edgeq.pipeline.vlm_options import VlmOptions
    from edgeq.plan.memory import MemoryPlan
    from edgeq.plan.precision import Precision, PrecisionPlan, Rule
    from edgeq.quality.gate import GateBounds
    from edgeq.quality.judge import Quality
    from edgeq.quality.latency import Timing
    from edgeq.quantize.search.bounds import SearchBounds
    from edgeq.quantize.search.sensitivity import Sensitivity
    from edgeq.runtime.vision_graph import ClassScore
    from edgeq.runtime.vlm.model import Reply

__all__ = [
    "BenchReport",
    "BuiltEncoders",
    "BuiltEngine",
    "Bundle",
    "Calibrated",
    "ClassScore",
    "EdgeqError",
    "Exported",
    "Found",
    "GateBounds",
    "ImageLike",
    "ImageSearch",
    "Indexed",
    "Inspection",
    "Installed",
    "JudgeBounds",
    "Judgement",
    "LintReport",
    "MemoryPlan",
    "Options",
    "Planned",
    "Precision",
    "PrecisionPlan",
    "Prepared",
    "PreparedRetrieval",
    "PreparedText",
    "PreparedVlm",
    "Preprocess",
    "PreprocessFlags",
    "Pushed",
    "Quality",
    "Quantized",
    "Reply",
    "RetrievalOptions",
    "Rule",
    "Scales",
    "SearchBounds",
    "SearchResult",
    "Sensitivity",
    "Timing",
    "Verified",
    "VlmOptions",
    "__version__",
    "bench_bundle",
    "build",
    "calibrate_model",
    "evaluate",
    "export_model",
    "index_images",
    "inspect",
    "install_bundle",
    "judge_model",
    "lint_model",
    "open_bundle",
    "open_search",
    "plan_model",
    "prepare",
    "push",
    "quantize_model",
    "report",
    "search_layers",
    "sensitivity",
    "this_device",
    "verify",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of edgeq's

    def __getattr__(name: str) -> object:
        """Load a public name, once."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = getattr(import_module(_PLACES[name]), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """The public names, whether they are loaded yet or not, and the rest."""
    return sorted({*globals(), *__all__})
