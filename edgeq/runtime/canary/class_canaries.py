"""Make a classifier's canaries. The workshop does, from the user's images and the graphs that it has made of the model.

What is kept is exact: the image as it was decoded, as a PNG, which loses nothing and is decoded alike everywhere, as a
JPEG is not. An image larger than CANARY_SIDE is made smaller first, and that is then the canary: every figure is of
what the PNG holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.engine.onnxruntime import STAND_IN
from edgeq.engine.registry import backend_of_graph
from edgeq.errors import ImageError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.canary.canaries import CANARIES, CANARY_LIST, ClassCanaries, ClassCanary
from edgeq.runtime.canary.canary_set import canary_digest

__all__ = ["CANARY_SIDE", "COUNT", "make_class_canaries"]

COUNT: Final = 8
"""So many canaries are made: all folders of a small set are seen, and a graph that is wrong in one channel shows."""

CANARY_SIDE: Final = 1024
"""Longest side of a canary, in pixels, which is at most 3 MB then."""

_FP32_LOGITS, _INT8_LOGITS = "fp32.npy", "int8.npy"


def make_class_canaries(
    bundle: Path,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    fp32: str,
    int8: str,
    device: str | None = None,
    threads: int | None = None,
) -> ClassCanaries:
    """Write some images with their logits from both graphs.

    Args:
        bundle: the directory that is being made, with both graphs in it.
        images: equally many are taken from each folder as far as possible; those that cannot be read are passed over.
        preprocess: from an image to the graphs' input.
        fp32, int8: names of the graphs in `bundle`, each run in its own backend; the first output is the logits.
        device: name of an INT8 graph that no backend here runs, whose logits stand in the place of those of `int8`.
        threads: of one operator.

    Raises:
        ImageError: no image can be read.
        EngineError: a backend refuses a graph.
    """
    folder = bundle / CANARIES
    folder.mkdir()
    batches, made = [], []
    for number, (picture, pixels) in enumerate(_chosen(images, preprocess)):
        name = f"{number}.png"
        picture.save(folder / name)
        made.append(ClassCanary(image=name, pixels_sha256=canary_digest(pixels)))
        batches.append(pixels[None])
    if not made:
        raise ImageError(f"no image in {images.path} can be read")
    output = _run(bundle / fp32, batches, folder / _FP32_LOGITS, threads)
    _run(bundle / (device or int8), batches, folder / _INT8_LOGITS, threads)
    canaries = ClassCanaries(
        fp32=fp32,
        int8=int8,
        output=output,
        fp32_logits=_FP32_LOGITS,
        int8_logits=_INT8_LOGITS,
        canaries=tuple(made),
    )
    canaries.save(bundle / CANARY_LIST)
    return canaries


def _chosen(images: ImageSet, preprocess: Preprocess) -> Iterator[tuple[Image.Image, NDArray[np.float32]]]:
    """The first COUNT readable images of a sample, and of the rest where the sample has too few."""
    sample, found = images.sample(COUNT), 0
    for item in (*sample.items, *images.without(sample.items).items):
        if found == COUNT:
            return
        with suppress(ImageError):
            picture = _bounded(images.read(item), preprocess)
            pixels = preprocess(picture)
            found += 1
            yield picture, pixels


def _bounded(picture: Image.Image, preprocess: Preprocess) -> Image.Image:
    """No side longer than CANARY_SIDE, unless the network takes the image in its own size."""
    if preprocess.resize is not None:
        picture.thumbnail((CANARY_SIDE, CANARY_SIDE))
    return picture


def _run(graph: Path, batches: list[NDArray[np.float32]], file: Path, threads: int | None) -> str:
    """Write what a graph's first output gives for each batch of one image, and return that output's name."""
    backend = backend_of_graph(graph.name)
    engine = (STAND_IN if backend.built else backend).open(graph, threads=threads, batch=1)
    feeds, name = engine.inputs[0], str(engine.outputs[0])
    np.save(file, np.concatenate([engine.run({feeds: batch}, (name,))[name] for batch in batches]).astype("<f4"))
    return name
