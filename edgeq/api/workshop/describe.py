"""Look ahead: what a model is made of, what would be done to it, does it fit a device."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from edgeq.artifact import LaterFields
from edgeq.calibrate.choices import CALIBRATION_IMAGES
from edgeq.device import device_profile
from edgeq.device.power_modes import POWER_MODES
from edgeq.errors import InputError, ModelError, first_line
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.families.registry import cap, counting_family, lacking
from edgeq.families.two_tower import (
    check_two_tower,
    encoder_notes,
    is_text_tower,
    is_two_tower,
    is_vision_tower,
    text_notes,
)
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.inspect import Inspection, foreseen_outputs, inspect_model, read_config
from edgeq.pipeline.inspect import plan_model as plan_of
from edgeq.pipeline.stages import Options
from edgeq.pipeline.vlm_fit import is_vision_language
from edgeq.pipeline.vlm_options import check_embeddings, image_caps
from edgeq.pipeline.vlm_processor import config_directory
from edgeq.plan.ceilings import Ceiling, device_ceiling, model_work
from edgeq.plan.facts import Facts, image_facts
from edgeq.plan.guards import GuardFinding, check
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.plan.photographs import PhotographCount, count_photographs
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.query_rate import QueryRate, query_rate
from edgeq.plan.weights import by_name, weigh

__all__ = ["Planned", "inspect", "plan_model", "plan_queries"]


class Planned(LaterFields):
    """What was planned.

    Attributes:
        guards: those that were tripped and allowed; None where they were not asked.
        changes: from another plan to this one, as `edgeq plan --diff` shows them; None where there is no other.
        parameters, weights_bytes: of a vision-language model, as the plan stores them.
        lacking: what edgeq does not do with a vision-language model; None where it goes the whole way.
        photographs: of the user, the dearest for a vision-language model; None where none were given.
        memory: of a vision-language model on a device; None where none is named.
        outputs: of a classifier's or an image encoder's ONNX file: what it gives, the answer first.
        notes: what a careful reader should know, in sentences.
        ceilings: of a vision-language model on a device whose power modes are known, the fastest mode first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    later = ("ceilings",)

    version: Literal["edgeq.planned/1"] = "edgeq.planned/1"
    model: str
    plan: PrecisionPlan
    guards: tuple[GuardFinding, ...] | None = None
    changes: tuple[str, ...] | None = None
    parameters: int | None = None
    weights_bytes: int | None = None
    lacking: str | None = None
    photographs: PhotographCount | None = None
    memory: MemoryPlan | None = None
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()


def plan_queries(model: str | Path, device: str, per_second: float) -> QueryRate:
    """Whether a device's peak would suffice for so many queries a second, from config.json alone.

    Args:
        model: a Hugging Face directory or id of CLIP or SigLIP; a directory with config.json alone will do.
        device: such as `orin-nx-16gb`.
        per_second: texts, or images, that are embedded.

    Raises:
        InputError: the device's peak is not known, or this is no model of a text and a vision encoder.
        ModelError: the model cannot be read.
    """
    config = read_config(str(model))
    if not is_two_tower(config):
        raise InputError(
            f"{model} is no model of a text and a vision encoder", expected="CLIP or SigLIP, for queries a second"
        )
    check_two_tower(config)
    from transformers import AutoConfig

    try:
        whole = AutoConfig.for_model(**config).to_dict()
    except Exception as error:  # config classes raise whatever they like
        raise ModelError(f"the config of {model} cannot be used", causes=(first_line(error),)) from error
    return query_rate(whole, device, per_second)


def inspect(
    model: str | Path, *, preprocess: Preprocess | PreprocessFlags | None = None, outputs: tuple[str, ...] = ()
) -> Inspection:
    """Look at what an image classifier or encoder is made of, and what would be done to each part. Nothing is written.

    Args:
        model: a directory with model.onnx, a Hugging Face directory, or a Hugging Face id.
        preprocess: replaces the model's preprocessor_config.json; flags say single steps over it.
        outputs: names of the graph's outputs that are the answer; empty leaves that to the labels.

    Raises:
        ModelError: the model cannot be read.
        ExportError: it cannot be exported.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return inspect_model(str(model), Path(scratch), preprocess=preprocess, outputs=outputs)


def plan_model(
    model: str | Path,
    *,
    device: str | None = None,
    context: int = 2048,
    images: int = 1,
    batch: int = 1,
    image_size: tuple[int, int] | None = None,
    photographs: str | Path | None = None,
    max_pixels: int | None = None,
    max_tiles: int | None = None,
    check_guards: bool = False,
    calibration: str | Path | None = None,
    evaluation: str | Path | None = None,
    preprocess: Preprocess | PreprocessFlags | None = None,
    language: Literal["nf4", "int4-awq", "int4-gptq", "int8"] = "nf4",
    embeddings: Literal["fp16", "int8"] = "fp16",
    options: Options | None = None,
) -> Planned:
    """Which layer of a model gets which precision, by which rule, and why; and whether a device has the memory.

    Args:
        model: as for `inspect`, or a vision-language model: a Hugging Face directory or id, of which only configs and
            headers are read. A directory with config.json alone will do.
        device: such as `orin-nx-16gb`; the memory of a vision-language model is planned for it. None plans none.
        context: tokens of images, question and answer that memory is planned for.
        images: in a sequence.
        batch: sequences at once.
        image_size: height and width in pixels; None takes the dearest photograph's, or else the encoder's own.
        photographs: a folder or zip of photographs like those that a vision-language model will see; its own image
            processor says what they cost.
        max_pixels: bounds an image, for families that cut it by pixels.
        max_tiles: likewise, for families that cut it into tiles.
        check_guards: ask the guards, before any long work.
        calibration: a folder or zip of images that the guards look at.
        evaluation: likewise, of labelled images.
        preprocess: replaces a classifier's preprocessor_config.json.
        language: of a vision-language model: what its language model's layers are stored in.
        embeddings: likewise its input embedding and output head; INT8 not with NF4.
        options: rules, allowances, and how BatchNorm and weights are treated.

    Returns:
        The plan, and with `device` a memory plan: `memory.fits` says whether it fits; `ceilings` what each power mode
        of the device allows at the most.

    Raises:
        ModelError: the model cannot be read.
        ExportError: it cannot be exported.
        PlanError: a rule does not fit the model.
        InputError: the device is not known; the family has no such bound; memory, photographs, a bound, another
            language or embeddings are given and this is no vision-language model; or language and embeddings do not go
            together.
        GuardError: a guard said no.
    """
    settled, name = (options or Options()).settled(), str(model)
    config, caps = read_config(name), image_caps(max_pixels, max_tiles)
    other = (language, embeddings) != ("nf4", "fp16")
    if (device or photographs or caps or other) and not is_vision_language(config):
        raise InputError(
            f"{model} is not a vision-language model",
            expected="one, for a memory plan, photographs, bounds on images or a language model's precision",
        )
    check_embeddings(language, embeddings)
    if device is not None:  # refused before the model is built
        counting_family(str(config.get("model_type")))
    facts = _facts(name, calibration, evaluation) if check_guards else Facts()
    guards = check(facts, settled.allow)
    judged_by = Path(evaluation) if check_guards and evaluation else None
    outputs = foreseen_outputs(name, config, preprocess=preprocess, options=settled, labelled=judged_by)
    with tempfile.TemporaryDirectory() as scratch:
        plan = plan_of(
            name,
            config,
            Path(scratch),
            preprocess=preprocess,
            options=settled,
            labelled=judged_by,
            language=language,
            embeddings=embeddings,
        )
    planned = Planned(
        model=name,
        plan=plan,
        guards=(*guards, *check(Facts(plan=plan), settled.allow)) if check_guards else None,
        outputs=outputs,
        notes=_notes(name, config, preprocess),
    )
    if not is_vision_language(config):
        return planned
    described, precision = _described(name, caps), {decision.layer: decision.precision for decision in plan.decisions}
    counted = _counted(name, described, photographs) if photographs else None
    if device is not None:
        memory = plan_memory(
            described,
            device_profile(device),
            context=context,
            images=images,
            batch=batch,
            image_size=image_size,
            photographs=counted,
            caps=caps,
            precision=precision,
        )
        planned = planned.model_copy(update={"memory": memory, "ceilings": _ceilings(memory)})
    return planned.model_copy(
        update={
            "parameters": described.parameters,
            "weights_bytes": weigh(described, by_name(precision)).bytes(),
            "lacking": lacking(described.model_type, described.vision),
            "photographs": counted,
        }
    )


def _ceilings(memory: MemoryPlan) -> tuple[Ceiling, ...]:
    """By power mode; none for a device or a model of which that is not known."""
    work = model_work(memory)
    return () if work is None else tuple(device_ceiling(work, mode) for mode in POWER_MODES.get(memory.device.name, ()))


def _notes(model: str, config: Mapping[str, Any], preprocess: Preprocess | PreprocessFlags | None) -> tuple[str, ...]:
    """Of an encoder of CLIP or SigLIP alone."""
    if is_text_tower(config):
        return text_notes(config)
    if not is_vision_tower(config):
        return ()
    steps = open_model(model, preprocess=preprocess).preprocess
    return encoder_notes(config, (steps.height, steps.width))


def _facts(model: str, calibration: str | Path | None, evaluation: str | Path | None) -> Facts:
    counted = ImageSet.open(Path(calibration), calibration=True).sample(CALIBRATION_IMAGES) if calibration else None
    return image_facts(counted, ImageSet.open(Path(evaluation)) if evaluation else None, read_config(model))


def _described(model: str, caps: Mapping[str, int]) -> VlmDescription:
    """A vision-language model with its images bounded."""
    return cap(read_vlm(model), caps)


def _counted(model: str, described: VlmDescription, photographs: str | Path) -> PhotographCount:
    return count_photographs(config_directory(model), described, ImageSet.open(Path(photographs)))
