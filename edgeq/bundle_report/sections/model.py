"""What the model is."""

from __future__ import annotations

from collections.abc import Iterator

from edgeq.bundle_report.blocks import Block, Section, Table
from edgeq.bundle_report.contents import BundleContents
from edgeq.bundle_report.words import in_bytes
from edgeq.plan.precision import PrecisionPlan

__all__ = ["KINDS", "kind_of", "model_section"]

KINDS = {
    "classifier": "a network from an image to classes or features",
    "vision-language": "a vision-language model, which answers questions about images in words",
    "retrieval": "encoders of texts and images, to search one by the other",
}
_TASKS = {"detect": "a detector, from an image to boxes", "segment": "a segmenter, from an image to a class a pixel"}
_LABELS = 50


def kind_of(contents: BundleContents) -> str:
    """What the bundle is, in words."""
    manifest = contents.manifest
    return _TASKS[manifest.task] if manifest.task else KINDS[manifest.kind]


def model_section(contents: BundleContents) -> Section:
    """What it is, what it takes and what it gives."""
    rows = [("what it is", kind_of(contents)), *_config(contents), *_graphs(contents)]
    blocks: list[Block] = [Table.of("", ("what", "value"), rows)]
    labels = contents.manifest.labels
    if labels:
        numbered = ((str(place), label) for place, label in enumerate(labels))
        blocks.append(Table.of(f"Classes ({len(labels):,})", ("number", "class"), numbered, folded=True, most=_LABELS))
    return Section("model", "The model", tuple(blocks))


def _config(contents: BundleContents) -> Iterator[tuple[str, str]]:
    """What config.json and the artifacts say of it."""
    config = contents.config
    named = config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        yield "architecture", named[0]
    if isinstance(config.get("model_type"), str):
        yield "type", config["model_type"]
    parameters = sum(decision.parameters for plan in _main_plans(contents) for decision in plan.decisions)
    if contents.memory is not None:
        parameters = contents.memory.parameters
    if parameters:
        yield "parameters", f"{parameters:,}"
    if contents.manifest.labels:
        yield "classes", f"{len(contents.manifest.labels):,}"


def _main_plans(contents: BundleContents) -> list[PrecisionPlan]:
    """The plan of the whole model; where there is none, those of its parts."""
    whole = contents.plans.get("plan.yaml")
    return [whole] if whole is not None else [*contents.plans.values()]


def _graphs(contents: BundleContents) -> Iterator[tuple[str, str]]:
    """What the graphs were made of, and how large the bundle is."""
    exported, vision = contents.export, contents.vision
    if exported is not None:
        source = "an ONNX file" if exported.source == "onnx" else "a Hugging Face checkpoint"
        yield "made from", source
        yield "graph", f"ONNX, opset {exported.opset}, IR version {exported.ir_version}"
        if exported.batchnorm_before:
            yield "BatchNorm", f"{exported.batchnorm_before} before, {exported.batchnorm_after} left after folding"
    if vision is not None:
        yield "vision graph", f"ONNX, opset {vision.opset}, {vision.image_tokens} image tokens of width {vision.hidden}"
    if contents.scales is not None:
        count = contents.scales.images + contents.scales.held_back
        yield "calibrated on", f"{count:,} images, {contents.scales.held_back} of them held back to choose the method"
    yield "the bundle", f"{len(contents.sizes)} files, {in_bytes(contents.total_bytes)}"
