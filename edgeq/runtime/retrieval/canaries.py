"""Canaries of a two-tower model: texts and images with the embeddings that the workshop saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from edgeq.artifact import Artifact
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.retrieval_settings import TEXT, VISION, RetrievalSettings
from edgeq.errors import ArtifactError, GateError, ImageError
from edgeq.files import read_json_object
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.runtime.canary.canaries import CANARIES, CANARY_LIST
from edgeq.runtime.canary.canary_set import CanarySet, KnownCanary
from edgeq.runtime.canary.class_canaries import CANARY_SIDE
from edgeq.runtime.canary.files import read_array, read_picture
from edgeq.runtime.canary.report import DEFAULT_BOUNDS
from edgeq.runtime.retrieval.two_tower import PREPROCESS, TwoTowerModel, open_two_tower

__all__ = [
    "RetrievalCanaries",
    "RetrievalCheck",
    "check_retrieval_canaries",
    "make_retrieval_canaries",
    "retrieval_canary_sets",
]

MIN_COSINE: Final = 1 - DEFAULT_BOUNDS.embeddings
"""Of an embedding with the workshop's."""

_MOST: Final = 64
_LONGEST: Final = 20_000
_SHOWN: Final = 60
_TEXT_VECTORS, _IMAGE_VECTORS = "texts.npy", "images.npy"

_FileName = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z_.-]{0,99}$")]


class TextCanary(BaseModel):
    """One text and its token ids, as the workshop's tokenizer made them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(max_length=_LONGEST)
    ids: tuple[int, ...] = Field(min_length=1, max_length=_LONGEST)


class RetrievalCanaries(Artifact):
    """All of a two-tower model's.

    Attributes:
        texts: with their tokens; row i of `texts.npy` is the embedding of text i, float32 [texts, dimension].
        images: file names of PNGs; row i of `images.npy` is the embedding of image i. None for a text encoder alone.
    """

    otherwise = "holds no canaries of a two-tower model"
    made_by = "edgeq prepare"

    version: Literal["edgeq.retrieval-canaries/1"] = "edgeq.retrieval-canaries/1"
    texts: tuple[TextCanary, ...] = Field(min_length=1, max_length=_MOST)
    images: tuple[_FileName, ...] = Field(max_length=_MOST)


@dataclass(frozen=True)
class RetrievalCheck:
    """What a device computes beside what the workshop saw.

    Attributes:
        other_tokens: texts that get other tokens here.
        text_cosine, image_cosine: of the embedding that is furthest from the workshop's; 1 where there is no image.
    """

    other_tokens: tuple[str, ...]
    text_cosine: float
    image_cosine: float

    @property
    def passed(self) -> bool:
        """Whether tokens are equal and every embedding is near enough."""
        return not self.other_tokens and all(each >= MIN_COSINE for each in (self.text_cosine, self.image_cosine))

    def raise_if_failed(self) -> None:
        """Raise GateError unless tokens are equal and every embedding is near enough."""
        faults = [f"the text {text!r} gets other tokens" for text in self.other_tokens]
        for what, cosine in (("text", self.text_cosine), ("image", self.image_cosine)):
            if not cosine >= MIN_COSINE:
                faults.append(f"an embedding of {what} has a cosine of {cosine:.4f} with the workshop's")
        if faults:
            raise GateError(
                f"the bundle does not compute here what the workshop saw: {faults[0]}",
                expected=f"the same tokens, and cosines of {MIN_COSINE} or more",
                causes=tuple(faults[1:]),
            )


def make_retrieval_canaries(
    bundle: Path, texts: Sequence[str], pictures: Sequence[Image.Image], *, count: int, threads: int | None = None
) -> int:
    """Put texts and images into a bundle, with what its own graphs give for them.

    Args:
        bundle: with its graphs, its tokenizer and `retrieval.json`.
        texts: that are chosen from, evenly; one at least.
        pictures: one at least, and none for a text encoder alone; a large one is made smaller first, and is the canary
            then.
        count: at most so many texts, and so many images.
        threads: of one operator.

    Returns:
        How many texts and images there are.

    Raises:
        EngineError: a graph fails.
    """
    folder = bundle / CANARIES
    folder.mkdir()
    step = max(len(texts) // count, 1)
    chosen, images = list(texts[::step][:count]), []
    for number, picture in enumerate(pictures[:count]):
        small = picture.copy()
        small.thumbnail((CANARY_SIDE, CANARY_SIDE))
        small.save(folder / f"{number}.png")
        images.append(small)
    model = open_two_tower(bundle, threads=threads)
    np.save(folder / _TEXT_VECTORS, model.text.embed(chosen).astype("<f4"))
    if images:
        np.save(folder / _IMAGE_VECTORS, model.image.embed(images).astype("<f4"))
    ids = model.tokenizer.ids(chosen)
    RetrievalCanaries(
        texts=tuple(TextCanary(text=text, ids=tuple(each.tolist())) for text, each in zip(chosen, ids, strict=True)),
        images=tuple(f"{number}.png" for number in range(len(images))),
    ).save(bundle / CANARY_LIST)
    return len(chosen) + len(images)


def check_retrieval_canaries(bundle: Path, model: TwoTowerModel) -> RetrievalCheck:
    """Embed a bundle's canaries and hold them against what the workshop saw.

    Args:
        bundle: whose files were checked.
        model: opened from it.

    Raises:
        ArtifactError: it has no canaries that can be used, or none of images where it embeds them.
        EngineError: a graph fails.
    """
    listed, folder = RetrievalCanaries.load(bundle / CANARY_LIST), bundle / CANARIES
    texts = [canary.text for canary in listed.texts]
    if bool(listed.images) is (model.vision is None):
        raise ArtifactError(
            f"{bundle / CANARY_LIST} names {len(listed.images)} images",
            expected="none for a text encoder alone, and some for a model that embeds images",
        )
    pictures = [read_picture(folder / name) for name in listed.images]
    ids = model.tokenizer.ids(texts)
    others = tuple(
        canary.text for canary, each in zip(listed.texts, ids, strict=True) if tuple(each.tolist()) != canary.ids
    )
    return RetrievalCheck(
        other_tokens=others,
        text_cosine=_worst(model.text.embed(texts), read_array(folder / _TEXT_VECTORS)),
        image_cosine=_worst(model.image.embed(pictures), read_array(folder / _IMAGE_VECTORS)) if pictures else 1.0,
    )


def retrieval_canary_sets(bundle: Path, manifest: Manifest) -> dict[str, CanarySet]:
    """The canaries of each encoder, as they go through its graph; texts by the tokens that the workshop made of them.

    Args:
        bundle: every file of which was checked.
        manifest: its own.

    Raises:
        ArtifactError: it has no canaries that can be used.
        ModelError: the preprocessing cannot be used.
    """
    listed, settings = RetrievalCanaries.load(bundle / CANARY_LIST), RetrievalSettings.of(bundle)
    known = {TEXT: _known_texts(bundle, listed, settings)}
    if VISION in settings.graphs:
        known[VISION] = _known_images(bundle, listed, settings)
    return {
        encoder: CanarySet(
            manifest, bundle / graph, bundle / graph, (), known[encoder], unit=True, against="the graph in the workshop"
        )
        for encoder, graph in settings.graphs.items()
    }


def _known_texts(bundle: Path, listed: RetrievalCanaries, settings: RetrievalSettings) -> tuple[KnownCanary, ...]:
    rows = _rows(bundle / CANARIES / _TEXT_VECTORS, len(listed.texts), settings)
    return tuple(
        KnownCanary(_shown(canary.text), None, {TEXT: np.array([canary.ids], np.int64)}, row)
        for canary, row in zip(listed.texts, rows, strict=True)
    )


def _known_images(bundle: Path, listed: RetrievalCanaries, settings: RetrievalSettings) -> tuple[KnownCanary, ...]:
    folder, preprocess = bundle / CANARIES, read_preprocess(read_json_object(bundle / PREPROCESS))
    rows = _rows(folder / _IMAGE_VECTORS, len(listed.images), settings)
    pictures = ((name, read_picture(folder / name)) for name in listed.images)
    return tuple(
        KnownCanary(name, picture, {VISION: _pixels(preprocess, picture, folder / name)[None]}, row)
        for (name, picture), row in zip(pictures, rows, strict=True)
    )


def _shown(text: str) -> str:
    """Its beginning, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_SHOWN])


def _rows(file: Path, count: int, settings: RetrievalSettings) -> Iterator[NDArray[np.float32]]:
    """Each embedding, float32 [1, dimension]; raises ArtifactError where they are not as many, or not as wide."""
    found = read_array(file)
    if found.shape != (count, settings.dimension):
        raise ArtifactError(f"{file} has the shape {list(found.shape)}", expected=f"[{count}, {settings.dimension}]")
    return (row[None] for row in found)


def _pixels(preprocess: Preprocess, picture: Image.Image, file: Path) -> NDArray[np.float32]:
    try:
        return preprocess(picture)
    except ImageError as error:
        raise ArtifactError(f"the canary {file} cannot be used", causes=(error.what,)) from error


def _worst(here: NDArray[np.float32], there: NDArray[np.float32]) -> float:
    """The smallest cosine of rows that belong together; -1 where they do not even have one form."""
    return float((here * there).sum(axis=1).min()) if here.shape == there.shape else -1.0
