"""What a model is made of, and what the main job would do to each part of it, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.bundle.vision_report import VISION_FP32
from edgeq.errors import PlanError, shell_word
from edgeq.export.fold import FoldReport, require_folded
from edgeq.export.input_adapter import open_image_model
from edgeq.export.simplify import simplify
from edgeq.export.stage import FP32, check_batch, fold_graph, foresee_outputs, open_graph
from edgeq.export.towers import export_text, export_vision, load_text_tower, load_towers
from edgeq.families.two_tower import TwoTower, check_two_tower, encoder_notes, is_text_tower, is_two_tower, text_notes
from edgeq.files import read_json_object
from edgeq.model.checkpoint.hub import fetch_description, is_hub_id
from edgeq.model.checkpoint.source import ModelSource, find_checkpoint, open_model
from edgeq.model.checkpoint.stored import FLOATS, read_stored
from edgeq.model.graph.answers import Expected, Outputs
from edgeq.model.graph.components import Layer, name_nodes, read_components
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.fit_task import choose_for
from edgeq.pipeline.stages import Options, check_classes, expected_answer, unfoldable_allowance
from edgeq.pipeline.text_encoder import FLOAT_REASON
from edgeq.pipeline.vlm_fit import is_vision_language
from edgeq.pipeline.vlm_options import EMBEDDINGS, LANGUAGES
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import float_additions, plan_classifier, plan_float, plan_modules, plan_vision
from edgeq.quality.tasks.base import Examples, ImageTask
from edgeq.quantize.equalize.trial import int8_linears

__all__ = ["Group", "Inspection", "Part", "foreseen_outputs", "inspect_model", "plan_model", "read_config"]


class Part(BaseModel):
    """A component: its number of layers, parameters, and bytes as stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    layers: int
    parameters: int
    bytes: int


class Group(BaseModel):
    """Layers of one component and kind that meet the same decision, for the same reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    component: str
    kind: str
    decision: str
    reason: str
    layers: int
    parameters: int
    bytes: int


class Inspection(BaseModel):
    """What `edgeq inspect` shows.

    Attributes:
        batchnorm: BatchNormalization nodes in the graph.
        batchnorm_foldable: how many of them fold.
        batchnorm_kept: the others, with the reason.
        outputs: of a classifier or an image encoder: what it gives, the answer first, and what is done to that.
        notes: what a careful reader should know, in sentences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    source: Literal["onnx", "hf"]
    parameters: int
    bytes: int
    components: tuple[Part, ...]
    groups: tuple[Group, ...]
    batchnorm: int
    batchnorm_foldable: int
    batchnorm_kept: dict[str, str]
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def inspect_model(
    model: str,
    scratch: Path,
    *,
    preprocess: Preprocess | PreprocessFlags | None = None,
    outputs: tuple[str, ...] = (),
) -> Inspection:
    """Look at MODEL.

    Args:
        model: as for `edgeq.pipeline.classifier.prepare`.
        scratch: an existing directory, for an exporter's file.
        preprocess: replaces the model's preprocessor_config.json; flags say single steps over it.
        outputs: names of the graph's outputs that are the answer; empty leaves that to the labels.

    Raises:
        ModelError: the model cannot be read.
        ExportError: it cannot be exported, or takes one number of images only.
    """
    config = read_config(model)
    if is_text_tower(config):
        return _inspect_text(model, config, scratch)
    if is_two_tower(config):
        check_two_tower(config)
        return _inspect_towers(model, open_model(model, preprocess=preprocess), scratch)
    source, task = choose_for(open_image_model(model, preprocess=preprocess), None)
    opened = open_graph(source, scratch, None, expected=expected_answer(source, task, None, outputs))
    graph = name_nodes(simplify(opened.model))
    planned, report = fold_graph(graph, outputs=opened.outputs)
    check_batch(opened, planned, source)
    parts = read_components(graph)
    held = sum(part.parameters for part in parts)
    parameters = _stored_parameters(source.path) if source.kind == "hf" else held
    return Inspection(
        model=str(model),
        source=source.kind,
        parameters=parameters,
        bytes=sum(part.bytes for part in parts),
        components=tuple(
            Part(name=part.name, layers=len(part.layers), parameters=part.parameters, bytes=part.bytes)
            for part in parts
        ),
        groups=_groups(graph, plan_classifier(planned), report),
        batchnorm=report.before,
        batchnorm_foldable=len(report.folded),
        batchnorm_kept={kept.batchnorm: kept.reason for kept in report.kept},
        outputs=tuple(_told(opened.outputs)),
        notes=(
            *source.notes,
            *encoder_notes(config, (source.preprocess.height, source.preprocess.width)),
            *_computed_beforehand(parameters, held),
        ),
    )


def _told(outputs: Outputs) -> Iterator[str]:
    """What the graph gives, the answer first, and what was done to it."""
    for place, chosen in enumerate(outputs.chosen):
        yield f"{'Answer' if place < outputs.answers else 'Output'}: {chosen.output}"
    for name, change in outputs.changes.items():
        yield f"  {name}: {change}"


def _stored_parameters(directory: Path) -> int:
    """Learned numbers of a checkpoint: every floating-point tensor but a BatchNorm's running mean and variance."""
    stored = read_stored(directory).items()
    return sum(
        tensor.elements
        for name, tensor in stored
        if tensor.dtype in FLOATS and not name.endswith(("running_mean", "running_var"))
    )


def _computed_beforehand(stored: int, held: int) -> Iterator[str]:
    """Says where a checkpoint's parameters are not those of its graph."""
    if stored != held:
        yield (
            f"the checkpoint stores {stored:,} parameters, and the graph holds {held:,}: what does not depend on the "
            "image, such as tables of relative positions, is computed beforehand"
        )


def _inspect_towers(model: str, source: ModelSource, scratch: Path) -> Inspection:
    """A text encoder and a vision encoder, each by the plan that it would get."""
    size = (source.preprocess.height, source.preprocess.width)
    towers = load_towers(source.path, size)
    gradient = np.linspace(-1, 1, 3 * size[0] * size[1], dtype=np.float32)
    export_text(towers, source.path, scratch, [_full_text(towers.described)])
    export_vision(towers, source.path, scratch, gradient.reshape(1, 3, *size))
    graphs = {"text": load_onnx(scratch / FP32), "vision": load_onnx(scratch / VISION_FP32)}
    plans = {"text": plan_classifier(graphs["text"]), "vision": plan_vision(graphs["vision"])}
    return _shown(model, graphs, plans, encoder_notes(source.config, size))


def _inspect_text(model: str, config: Mapping[str, Any], scratch: Path) -> Inspection:
    """A text encoder alone, in floating point."""
    graph = _text_graph(model, scratch)
    return _shown(model, {"text": graph}, {"text": plan_float(graph, because=FLOAT_REASON)}, text_notes(config))


def _text_graph(model: str, scratch: Path) -> onnx.ModelProto:
    """The graph of a text encoder alone, in FP32."""
    source = find_checkpoint(model)
    tower = load_text_tower(source)
    export_text(tower, source, scratch, [_full_text(tower.described)])
    return load_onnx(scratch / FP32)


def _full_text(described: TwoTower) -> NDArray[np.int64]:
    """A text as long as the context, int64 [context]: its end over and over, or what fills up."""
    return np.full(described.context, described.pad_id if described.eos_id is None else described.eos_id)


def _shown(
    model: str, graphs: Mapping[str, onnx.ModelProto], plans: Mapping[str, PrecisionPlan], notes: tuple[str, ...]
) -> Inspection:
    """Encoders without BatchNorm, each by the plan that it would get."""
    parts = [(name, part) for name, graph in graphs.items() for part in read_components(graph)]
    groups = [
        group.model_copy(update={"component": f"{name}: {group.component}"})
        for name, graph in graphs.items()
        for group in _groups(graph, plans[name], FoldReport(0, 0, (), ()))
    ]
    return Inspection(
        model=model,
        source="hf",
        parameters=sum(part.parameters for _, part in parts),
        bytes=sum(part.bytes for _, part in parts),
        components=tuple(
            Part(
                name=f"{name}: {part.name}",
                layers=len(part.layers),
                parameters=part.parameters,
                bytes=part.bytes,
            )
            for name, part in parts
        ),
        groups=tuple(groups),
        batchnorm=0,
        batchnorm_foldable=0,
        batchnorm_kept={},
        notes=notes,
    )


def _groups(graph: onnx.ModelProto, plan: PrecisionPlan, report: FoldReport) -> tuple[Group, ...]:
    gathered: dict[tuple[str, str, str, str], list[Layer]] = {}
    decisions = {d.layer: (d.precision.value, d.reason) for d in plan.decisions}
    decisions |= {
        fold.batchnorm: ("folded", "into the layer beside it") for fold in (*report.folded, *report.channel_affine)
    }
    for component in read_components(graph):
        for layer in component.layers:
            decision, reason = decisions.get(layer.name, ("folded", "constant, computed beforehand"))
            gathered.setdefault((component.name, layer.kind, decision, reason), []).append(layer)
    return tuple(
        Group(
            component=component,
            kind=kind,
            decision=decision,
            reason=reason,
            layers=len(layers),
            parameters=sum(layer.parameters for layer in layers),
            bytes=sum(layer.bytes for layer in layers),
        )
        for (component, kind, decision, reason), layers in gathered.items()
    )


def read_config(model: str) -> Mapping[str, Any]:
    """MODEL's config.json; empty where there is none. Of a Hugging Face id that is not here, it alone is fetched.

    Raises:
        ModelError: it cannot be fetched, or is no JSON object.
    """
    path = Path(model)
    if is_hub_id(model) and not path.exists():
        path, _ = fetch_description(model)
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json_object(file) if file.is_file() else {}


def foreseen_outputs(
    model: str,
    config: Mapping[str, Any],
    *,
    preprocess: Preprocess | PreprocessFlags | None = None,
    options: Options,
    labelled: Path | None = None,
) -> tuple[str, ...]:
    """What a classifier's or an image encoder's ONNX file gives, the answer first; empty for other models.

    Args:
        model, config, preprocess, options, labelled: as for `plan_model`.

    Raises:
        ModelError: outputs and labels do not match, or match in several ways.
        ImageError: the labelled images are of no classes of the model.
    """
    if is_two_tower(config) or is_text_tower(config) or is_vision_language(config):
        return ()
    source, task, examples, expected = _asked(open_image_model(model, preprocess=preprocess), options, labelled)
    outputs = foresee_outputs(source, expected)
    check_classes(task, examples, source, outputs.chosen[0].numbers if outputs else None)
    return tuple(_told(outputs)) if outputs else ()


def _asked(
    opened: ModelSource, options: Options, labelled: Path | None
) -> tuple[ModelSource, ImageTask[Any], Examples[Any] | None, Expected]:
    """What the network is for, by what it is judged, and what is expected of its answer."""
    source, task = choose_for(opened, options.task, options.detector_head)
    examples = task.open(labelled, source.labels) if labelled else None
    return source, task, examples, expected_answer(source, task, examples, options.outputs)


def plan_model(
    model: str,
    config: Mapping[str, Any],
    scratch: Path,
    *,
    preprocess: Preprocess | PreprocessFlags | None = None,
    options: Options,
    labelled: Path | None = None,
    language: str = "nf4",
    embeddings: str = "fp16",
) -> PrecisionPlan:
    """The plan that the main job would follow.

    Args:
        model: a classifier as for `edgeq.pipeline.classifier.prepare`, or a Hugging Face directory or id of a
            vision-language model, of which configs and headers are read.
        config: from `read_config`.
        scratch: an existing directory, for an exporter's file.
        preprocess: replaces a classifier's preprocessor_config.json.
        options: rules, allowances, and how BatchNorm and weights are treated.
        labelled: of a classifier: images that it will be judged by, whose classes say which output is the answer.
        language: of a vision-language model: what its language model's layers are stored in, one of `LANGUAGES`.
        embeddings: likewise its input embedding and output head, one of `EMBEDDINGS`.

    Raises:
        ModelError: the model cannot be read.
        ExportError: it cannot be exported.
        PlanError: `options.rules` do not fit the model.
    """
    options = options.settled()
    allowed = dict(options.allow)
    if is_two_tower(config):
        check_two_tower(config)
        raise PlanError(
            f"{model} has a text and a vision encoder, and each gets a plan of its own",
            next_step=f"edgeq inspect {shell_word(model)} shows both; edgeq prepare writes them into the bundle",
        )
    if is_text_tower(config):
        plan = plan_float(_text_graph(model, scratch), because=FLOAT_REASON, rules=options.rules)
    elif is_vision_language(config):
        from edgeq.families.modules import read_modules

        precision, tables = LANGUAGES[language], EMBEDDINGS[embeddings]
        plan = plan_modules(read_modules(model), rules=options.rules, language=precision, embeddings=tables)
    else:
        source, _, _, expected = _asked(open_image_model(model, preprocess=preprocess), options, labelled)
        opened = open_graph(source, scratch, None, expected=expected)
        graph, report = fold_graph(
            opened.model, fold=options.fold, keep_batchnorm=options.keep_batchnorm, outputs=opened.outputs
        )
        if options.strict:
            require_folded(report)
        plan = plan_classifier(
            graph,
            rules=options.rules,
            weights=options.weights,
            shared_add=options.shared_add is not False,
            keep_batchnorm=tuple(kept.batchnorm for kept in report.kept),
        )
        plan = float_additions(graph, plan) if options.float_adds else plan
        if int8_linears(plan):
            plan = plan.model_copy(update={"channel_equalization": options.channel_equalization})
        allowed |= unfoldable_allowance(report.unfoldable)
    return plan.model_copy(update={"allowed": allowed})
