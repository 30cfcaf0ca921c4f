"""A bundle of CLIP or SigLIP as a classifier: class names as texts, labelled images, top-1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.retrieval_settings import TEXT, RetrievalSettings
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError
from edgeq.export.stage import FP32, PREPROCESS
from edgeq.files import read_json_object
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.model.images.stream import ImageStream
from edgeq.pipeline.stages import Progress, counter
from edgeq.pipeline.text_encoder import HALF
from edgeq.quality.tasks.retrieval_figures import ZeroShot
from edgeq.quality.tasks.zero_shot import ClassTexts, compare_zero_shot
from edgeq.runtime.retrieval.encoders import MOST_IMAGES, ImageEncoder, TextEncoder
from edgeq.runtime.retrieval.two_tower import open_two_tower

__all__ = ["ZeroShotQuality", "judge_zero_shot"]

_KINDS: Final = {HALF: "FP16", f"{TEXT}/{FP32}": "FP32"}
"""Text graphs that a bundle's own may be held against, the first that is there."""

_TEXTS: Final = 256


class ZeroShotQuality(BaseModel):
    """How many images a bundle puts into their class.

    Attributes:
        made: what reads texts in the bundle, `INT8` or `FP16`.
        reference: what it is held against, `FP16` or `FP32`; None where the bundle has no other text graph
            (`--keep-fp32` leaves one).
        skipped: names of images that cannot be read.
        figures: top-1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    made: str
    reference: str | None
    skipped: tuple[str, ...]
    figures: ZeroShot


def judge_zero_shot(
    bundle: Path,
    labelled: Path,
    *,
    classes: Path | None = None,
    templates: Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ZeroShotQuality:
    """Classify labelled images with the texts of their classes.

    Args:
        bundle: of CLIP or SigLIP.
        labelled: a folder or zip of images, in folders that stand for classes.
        classes: a text file, in each line a class: its name, which its folder has too, or folder, tab, name. None takes
            the folders' names.
        templates: a text file with a template in each line, `{}` where the name goes; None takes `a photo of a {}.`.
        threads: of one operator; None takes every processor there is.
        progress: called as (`texts` or `judge`, done, in all).

    Raises:
        ArtifactError: it is no such bundle, or was changed.
        InputError: classes, templates and folders do not fit each other, or the bundle is of a text encoder alone.
        ImageError: the images cannot be read, or lie in no folders.
    """
    report = progress or (lambda _stage, _done, _total: None)
    settings = RetrievalSettings.of(bundle)
    images = ImageSet.open(labelled, labelled=True)
    said = ClassTexts.open(images, classes, templates)
    if read_manifest(bundle).kind != "retrieval":
        raise ArtifactError(f"{bundle} is no bundle of CLIP or SigLIP", expected="one made by edgeq prepare --captions")
    model = open_two_tower(bundle, threads=threads)
    seen = model.image
    other = next((name for name in _KINDS if name != settings.text and (bundle / name).is_file()), None)
    texts = said.texts()
    advance = counter(report, "texts", len(texts) * (1 if other is None else 2))
    shape = (len(said.names), len(said.templates), settings.dimension)

    def embedded(encoder: TextEncoder) -> NDArray[np.float32]:
        found = np.empty((len(texts), settings.dimension), np.float32)
        for start in range(0, len(texts), _TEXTS):
            some = texts[start : start + _TEXTS]
            found[start : start + len(some)] = encoder.embed(some)
            advance(len(some))
        return found.reshape(shape)

    candidate = embedded(model.text)
    reference: NDArray[np.float32] | None = None
    if other is not None:
        engine = OnnxRuntimeEngine(bundle / other, threads=threads, memory_pattern=False)
        reference = embedded(TextEncoder(engine, model.tokenizer, settings))
    stream = ImageStream(images, read_preprocess(read_json_object(bundle / PREPROCESS)), batch_size=MOST_IMAGES)
    vectors, labels = _images(seen, stream, dict(zip(images.items, said.labels, strict=True)), report)
    return ZeroShotQuality(
        made=_KINDS.get(settings.text, "INT8"),
        reference=None if other is None else _KINDS[other],
        skipped=tuple(image.name for image in stream.skipped),
        figures=compare_zero_shot(vectors, labels, reference, candidate),
    )


def _images(
    encoder: ImageEncoder, stream: ImageStream, classes: Mapping[ImageItem, np.int64], report: Progress
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings float32 [n, dimension] of the images that can be read, and their classes int64 [n]."""
    advance = counter(report, "judge", len(stream))
    vectors: list[NDArray[np.float32]] = []
    labels: list[np.int64] = []
    for items, pixels in stream:
        vectors.append(encoder.embed_pixels(pixels))
        labels += [classes[item] for item in items]
        advance(len(items))
    return np.concatenate(vectors), np.array(labels, np.int64)
