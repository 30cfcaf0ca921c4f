"""Make a classifier's canaries. The workshop does, from the user's images and the graphs that it has made of the model.

What is kept is exact: the image as it was decoded, as a PNG, which loses nothing and is decoded alike everywhere, as a
JPEG is not. An image larger than CANARY_SIDE is made smaller first, and that is then the canary: every figure is of
what the PNG holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.engine.onnxruntime import STAND_IN
from edgeq.engine.outputs import flat_row, stride_for
from edgeq.engine.registry import backend_of_graph
from edgeq.errors import ImageError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.canary.canaries import CANARIES, CANARY_LIST, ClassCanaries, ClassCanary, OutputCanaries
from edgeq.runtime.canary.canary_set import canary_digest

__all__ = ["CANARY_SIDE", "COUNT", "make_class_canaries"]

COUNT: Final = 8
"""So many canaries are made: all folders of a small set are seen, and a graph that is wrong in one channel shows."""

CANARY_SIDE: Final = 1024
"""Longest side of a canary, in pixels, which is at most 3 MB then."""

_FP32_LOGITS, _INT8_LOGITS = "fp32.npy", "int8.npy"
_VECTOR: Final = 2
_ROUNDING: Final = 1e-3


def make_class_canaries(
    bundle: Path,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    fp32: str,
    int8: str,
    device: str | None = None,
    classes: bool | None = None,
    threads: int | None = None,
) -> ClassCanaries:
    """Write some images with what both graphs give for them, in every output.

    Args:
        bundle: the directory that is being made, with both graphs in it.
        images: equally many are taken from each folder as far as possible; those that cannot be read are passed over.
        preprocess: from an image to the graphs' input.
        fp32, int8: names of the graphs in `bundle`, each run in its own backend; the first output is the answer.
        device: name of an INT8 graph that no backend here runs, whose outputs stand in the place of those of `int8`.
        classes: whether the answer has a number for each class that the bundle names; None where it names none.
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
    ours, theirs = (_run(bundle / graph, batches, threads) for graph in (fp32, device or int8))
    answer, *further = (_save(folder, place, name, ours[name], theirs[name]) for place, name in enumerate(ours))
    canaries = ClassCanaries(
        fp32=fp32,
        int8=int8,
        output=answer.output,
        fp32_logits=answer.fp32,
        int8_logits=answer.int8,
        canaries=tuple(made),
        answer=None if _is_vector(next(iter(ours.values()))) and classes is not False else answer,
        further=tuple(further),
        shares=bool(classes) and all(map(_are_shares, next(iter(ours.values())))),
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


def _run(graph: Path, batches: list[NDArray[np.float32]], threads: int | None) -> dict[str, list[NDArray[Any]]]:
    """What a graph gives in each output, for each batch of one image."""
    backend = backend_of_graph(graph.name)
    engine = (STAND_IN if backend.built else backend).open(graph, threads=threads, batch=1)
    made = [engine.run({engine.inputs[0]: batch}) for batch in batches]
    return {str(name): [values[name] for values in made] for name in engine.outputs}


def _is_vector(values: list[NDArray[Any]]) -> bool:
    """Whether an output is one vector for each image, of always the same length."""
    return all(value.shape == values[0].shape and value.ndim == _VECTOR and len(value) == 1 for value in values)


def _are_shares(values: NDArray[Any]) -> bool:
    """Whether numbers are shares of a whole, as a softmax in the graph gives them."""
    return bool((values >= 0).all()) and abs(float(values.sum()) - 1.0) <= _ROUNDING


def _save(folder: Path, place: int, name: str, fp32: list[NDArray[Any]], int8: list[NDArray[Any]]) -> OutputCanaries:
    """Write what both graphs gave in one output: a vector whole, of anything larger every so many-th number."""
    shapes = {values.shape for values in (*fp32, *int8)}
    every = 1 if _is_vector(fp32) else stride_for(max(values.size for values in (*fp32, *int8)))
    numbers = max(1, *(len(flat_row(values, every)) for values in (*fp32, *int8)))
    files = _FP32_LOGITS, _INT8_LOGITS
    fp32_file, int8_file = files if place == 0 else (f"{place}.{file}" for file in files)
    for file, images in ((fp32_file, fp32), (int8_file, int8)):
        rows = np.zeros((len(images), numbers), "<f4")
        for row, values in zip(rows, images, strict=True):
            flat = flat_row(values, every)
            row[: len(flat)] = flat
        np.save(folder / file, rows)
    return OutputCanaries(output=name, fp32=fp32_file, int8=int8_file, every=every, resized=len(shapes) > 1)
