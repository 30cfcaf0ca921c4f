"""Look ahead: what a model is made of, what would be done to it, does it fit a device."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgeq.calibrate.stage import CALIBRATION_IMAGES
from edgeq.device import device_profile
from edgeq.errors import InputError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.inspect import Inspection, inspect_model, read_config
from edgeq.pipeline.inspect import plan_model as plan_of
from edgeq.pipeline.stages import Options
from edgeq.pipeline.vlm_fit import is_vision_language
from edgeq.plan.facts import Facts, image_facts
from edgeq.plan.guards import GuardFinding, check
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.plan.precision import PrecisionPlan

__all__ = ["Planned", "inspect", "plan_model"]


class Planned(BaseModel):
    """What was planned.

    Attributes:
        guards: those that were tripped and allowed; None where they were not asked.
        changes: from another plan to this one, as `edgeq plan --diff` shows them; None where there is no other.
        memory: of a vision-language model on a device; None where none is named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.planned/1"] = "edgeq.planned/1"
    model: str
    plan: PrecisionPlan
    guards: tuple[GuardFinding, ...] | None = None
    changes: tuple[str, ...] | None = None
    memory: MemoryPlan | None = None


def inspect(model: str | Path, *, preprocess: Preprocess | None = None) -> Inspection:
    """Look at what an image classifier or encoder is made of, and what would be done to each part. Nothing is written.

    Args:
        model: a directory with model.onnx, a Hugging Face directory, or a Hugging Face id.
        preprocess: replaces the model's preprocessor_config.json.

    Raises:
        ModelError: the model cannot be read.
        ExportError: it cannot be exported.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return inspect_model(str(model), Path(scratch), preprocess=preprocess)


def plan_model(
    model: str | Path,
    *,
    device: str | None = None,
    context: int = 2048,
    images: int = 1,
    batch: int = 1,
    image_size: tuple[int, int] | None = None,
    check_guards: bool = False,
    calibration: str | Path | None = None,
    evaluation: str | Path | None = None,
    preprocess: Preprocess | None = None,
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
        image_size: height and width in pixels; None takes the encoder's own.
        check_guards: ask the guards, before any long work.
        calibration: a folder or zip of images that the guards look at.
        evaluation: likewise, of labelled images.
        preprocess: replaces a classifier's preprocessor_config.json.
        options: rules, allowances, and how BatchNorm and weights are treated.

    Returns:
        The plan, and with `device` a memory plan: `memory.fits` says whether it fits.

    Raises:
        ModelError: the model cannot be read.
        ExportError: it cannot be exported.
        PlanError: a rule does not fit the model.
        InputError: the device is not known, or memory is asked for and this is no vision-language model.
        GuardError: a guard said no.
    """
    settled, name = (options or Options()).settled(), str(model)
    facts = _facts(name, calibration, evaluation) if check_guards else Facts()
    guards = check(facts, settled.allow)
    with tempfile.TemporaryDirectory() as scratch:
        plan = plan_of(name, read_config(name), Path(scratch), preprocess=preprocess, options=settled)
    return Planned(
        model=name,
        plan=plan,
        guards=(*guards, *check(Facts(plan=plan), settled.allow)) if check_guards else None,
        memory=_memory(name, plan, device, context, images, batch, image_size) if device else None,
    )


def _facts(model: str, calibration: str | Path | None, evaluation: str | Path | None) -> Facts:
    counted = ImageSet.open(Path(calibration)).sample(CALIBRATION_IMAGES) if calibration else None
    return image_facts(counted, ImageSet.open(Path(evaluation)) if evaluation else None, read_config(model))


def _memory(
    model: str,
    plan: PrecisionPlan,
    device: str,
    context: int,
    images: int,
    batch: int,
    image_size: tuple[int, int] | None,
) -> MemoryPlan:
    """Does a vision-language model fit, in the precisions of its plan?"""
    from edgeq.families.modules import read_vlm

    if not is_vision_language(read_config(model)):
        raise InputError(f"{model} is not a vision-language model", expected="one, for a memory plan (--device)")
    return plan_memory(
        read_vlm(model),
        device_profile(device),
        context=context,
        images=images,
        batch=batch,
        image_size=image_size,
        precision={decision.layer: decision.precision for decision in plan.decisions},
    )
