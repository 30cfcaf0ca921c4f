"""The main job: a judged bundle of whatever model it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, overload

from edgeq.errors import InputError
from edgeq.families.two_tower import check_two_tower, is_text_tower, is_two_tower, is_vision_tower
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.classifier import Prepared
from edgeq.pipeline.classifier import prepare as prepare_classifier
from edgeq.pipeline.inspect import read_config
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.pipeline.retrieval.prepare import PreparedRetrieval, prepare_retrieval
from edgeq.pipeline.stages import Options, Progress
from edgeq.pipeline.text_encoder import PreparedText, prepare_text
from edgeq.pipeline.vlm import PreparedVlm, prepare_vlm
from edgeq.pipeline.vlm_fit import is_vision_language
from edgeq.pipeline.vlm_options import VlmOptions
from edgeq.quantize.search.bounds import SearchBounds
from edgeq.track.record import bundle_record
from edgeq.track.registry import open_trackers, record_on

__all__ = ["prepare"]

_Chosen = TypeVar("_Chosen", Options, VlmOptions, RetrievalOptions)


@overload
def prepare(
    model: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    evaluation: str | Path | None = ...,
    captions: None = ...,
    device: None = ...,
    context: None = ...,
    max_drop: float | None = ...,
    preprocess: Preprocess | PreprocessFlags | None = ...,
    threads: int | None = ...,
    options: Options,
    progress: Progress | None = ...,
    track: str | Sequence[str] = ...,
) -> Prepared: ...


@overload
def prepare(
    model: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    evaluation: str | Path | None = ...,
    captions: None = ...,
    device: str | None = ...,
    context: int | None = ...,
    max_drop: None = ...,
    preprocess: None = ...,
    threads: int | None = ...,
    options: VlmOptions,
    progress: Progress | None = ...,
    track: str | Sequence[str] = ...,
) -> PreparedVlm: ...


@overload
def prepare(
    model: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    evaluation: str | Path | None = ...,
    captions: str | Path,
    device: None = ...,
    context: None = ...,
    max_drop: None = ...,
    preprocess: Preprocess | PreprocessFlags | None = ...,
    threads: int | None = ...,
    options: RetrievalOptions | None = ...,
    progress: Progress | None = ...,
    track: str | Sequence[str] = ...,
) -> PreparedRetrieval: ...


@overload
def prepare(
    model: str | Path,
    images: None,
    output: str | Path,
    *,
    evaluation: None = ...,
    captions: str | Path,
    device: None = ...,
    context: None = ...,
    max_drop: None = ...,
    preprocess: None = ...,
    threads: int | None = ...,
    options: RetrievalOptions | None = ...,
    progress: Progress | None = ...,
    track: str | Sequence[str] = ...,
) -> PreparedText: ...


@overload
def prepare(
    model: str | Path,
    images: str | Path | None,
    output: str | Path,
    *,
    evaluation: str | Path | None = ...,
    captions: str | Path | None = ...,
    device: str | None = ...,
    context: int | None = ...,
    max_drop: float | None = ...,
    preprocess: Preprocess | PreprocessFlags | None = ...,
    threads: int | None = ...,
    options: Options | VlmOptions | RetrievalOptions | None = ...,
    progress: Progress | None = ...,
    track: str | Sequence[str] = ...,
) -> Prepared | PreparedVlm | PreparedRetrieval | PreparedText: ...


def prepare(
    model: str | Path,
    images: str | Path | None,
    output: str | Path,
    *,
    evaluation: str | Path | None = None,
    captions: str | Path | None = None,
    device: str | None = None,
    context: int | None = None,
    max_drop: float | None = None,
    preprocess: Preprocess | PreprocessFlags | None = None,
    threads: int | None = None,
    options: Options | VlmOptions | RetrievalOptions | None = None,
    progress: Progress | None = None,
    track: str | Sequence[str] = (),
) -> Prepared | PreparedVlm | PreparedRetrieval | PreparedText:
    """Make a judged bundle of a classifier or encoder (INT8), of a vision-language model (FP16 and NF4), of a model of
    a text and a vision encoder (CLIP, SigLIP; INT8 and FP16), or of its text encoder alone (FP16).

    Which of them it is, the model's config.json says.

    Args:
        model: a directory with model.onnx, a Hugging Face directory, or a Hugging Face id, which is downloaded.
        images: a folder or zip, to calibrate on; of a vision-language model, photographs like those that it will see.
            None for a text encoder alone.
        output: the bundle's directory; it must not exist, and exists only once all has succeeded.
        evaluation: labelled images in folders named after their class; of a vision-language model, a JSONL file of
            questions beside its images; of CLIP or SigLIP, `pairs.jsonl` beside its images. Without it nothing is
            judged.
        captions: of CLIP, SigLIP or their text encoder: texts like those that will be asked.
        device: of a vision-language model: such as `orin-nx-16gb`; stop if it does not fit. None plans no memory.
        context: likewise: tokens of image, question and answer that memory is planned for.
        max_drop: of a classifier: points of top-1 that may be lost; layers are kept in floating point until no more is.
        preprocess: of a classifier, CLIP or SigLIP: replaces its preprocessor_config.json.
        threads: of one operator; None takes every processor there is.
        options: everything else, `Options`, `VlmOptions` or `RetrievalOptions`; an argument above that is given goes
            before it.
        progress: called as (stage, done, total); total is 0 for a stage that is not counted.
        track: experiment trackers that get the figures, such as `mlflow:http://127.0.0.1:5000` or `tensorboard:runs`.
            One that fails at the end is a warning of the result.

    Returns:
        What was done and measured; `PreparedVlm` of a vision-language model, `PreparedRetrieval` of CLIP or SigLIP,
        `PreparedText` of a text encoder.

    Raises:
        InputError: an argument or the options are for another kind of model, images or captions are missing, or a
            tracker cannot be written to.
        EdgeqError: any of them; nothing is left behind then. GateError: a guard said no, or it does not fit the device.
    """
    trackers, begun = open_trackers(track), time.monotonic()
    prepared = _prepare(
        model,
        images,
        output,
        evaluation,
        captions,
        device,
        context,
        max_drop,
        preprocess,
        threads,
        options,
        progress,
    )
    given = {
        "model": model,
        "images": images,
        "evaluation": evaluation,
        "captions": captions,
        "options": options,
        **_given(device=device, context=context, max_drop=max_drop, threads=threads),
    }
    seconds = time.monotonic() - begun
    warnings = record_on(trackers, lambda: bundle_record(prepared.bundle, prepared.manifest, given, seconds))
    return prepared.model_copy(update={"warnings": (*prepared.warnings, *warnings)}) if warnings else prepared


def _prepare(
    model: str | Path,
    images: str | Path | None,
    output: str | Path,
    evaluation: str | Path | None,
    captions: str | Path | None,
    device: str | None,
    context: int | None,
    max_drop: float | None,
    preprocess: Preprocess | PreprocessFlags | None,
    threads: int | None,
    options: Options | VlmOptions | RetrievalOptions | None,
    progress: Progress | None,
) -> Prepared | PreparedVlm | PreparedRetrieval | PreparedText:
    """`prepare`, without trackers."""
    judged_by, config = Path(evaluation) if evaluation else None, read_config(str(model))
    if is_two_tower(config):
        check_two_tower(config)
    if (is_two_tower(config) or is_text_tower(config)) and captions is None:
        raise InputError(
            f"captions: {model} has a text encoder, which is calibrated on texts like those that will be asked",
            next_step="give a text file with one in each line",
        )
    if is_text_tower(config):
        alone = "a text encoder alone, without images that its texts could be judged by"
        _refuse(model, alone, images=images, evaluation=evaluation, preprocess=preprocess)
        _refuse(model, alone, device=device, context=context, max_drop=max_drop)
        text = replace(_own(RetrievalOptions, options, model), **_given(threads=threads))
        return prepare_text(model, Path(captions or ""), Path(output), options=text, progress=progress)
    if images is None:
        raise InputError(f"images: {model} sees images, and is prepared on some", next_step="give a folder or a zip")
    if is_two_tower(config):
        _refuse(model, "a model of a text and a vision encoder", device=device, context=context, max_drop=max_drop)
        two = replace(_own(RetrievalOptions, options, model), **_given(threads=threads))
        return prepare_retrieval(
            model,
            Path(images),
            Path(captions or ""),
            Path(output),
            pairs=judged_by,
            preprocess=preprocess,
            options=two,
            progress=progress,
        )
    if is_vision_language(config):
        _refuse(model, "a vision-language model", max_drop=max_drop, preprocess=preprocess, captions=captions)
        vlm = replace(_own(VlmOptions, options, model), **_given(device=device, context=context, threads=threads))
        return prepare_vlm(model, Path(images), Path(output), questions=judged_by, options=vlm, progress=progress)
    if is_vision_tower(config):
        _refuse(model, "a vision encoder alone, which reads no texts: give the whole model", captions=captions)
    _refuse(model, "no vision-language model", device=device, context=context, captions=captions)
    own = _own(Options, options, model)
    search = own.search if max_drop is None else replace(own.search or SearchBounds(max_drop), max_drop=max_drop)
    return prepare_classifier(
        model,
        Path(images),
        Path(output),
        labelled=judged_by,
        preprocess=preprocess,
        options=replace(own, search=search, **_given(threads=threads)),
        progress=progress,
    )


def _given(**choices: Any) -> dict[str, Any]:
    return {name: value for name, value in choices.items() if value is not None}


def _refuse(model: str | Path, kind: str, **choices: Any) -> None:
    """Raise InputError where an argument was given that has no meaning for this kind of model."""
    for name in _given(**choices):
        raise InputError(f"{name}: {model} is {kind}")


def _own(kind: type[_Chosen], options: Options | VlmOptions | RetrievalOptions | None, model: str | Path) -> _Chosen:
    """The options, of the kind that the model takes; the usual ones for None."""
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise InputError(f"{model} takes {kind.__name__}", expected=f"{kind.__name__}, not {type(options).__name__}")
    return options
