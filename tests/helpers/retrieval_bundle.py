"""The bundle of the tiny CLIP and images to search, made once for all tests that only read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from two_towers import SENTENCES, write_text_tower, write_two_tower

from edgeq.api.device.retrieval import index_images
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.pipeline.retrieval.prepare import prepare_retrieval
from edgeq.pipeline.text_encoder import prepare_text

__all__ = ["PLACES", "add_image", "indexed", "retrieval_bundle", "text_bundle"]

PLACES = ("harbour", "tree", "harbour", "river")
"""What the JSON beside each of the first four images says; their years are 2000, 2001 and so on."""


def add_image(folder: Path, number: int) -> bytes:
    """Write an image of noise, `NUMBER.png`, and a JSON file beside it; the image's bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (36, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{number}.png")
    said = {"place": PLACES[number % len(PLACES)], "year": 2000 + number}
    (folder / f"{number}.json").write_text(json.dumps(said))
    return (folder / f"{number}.png").read_bytes()


def retrieval_bundle(factory: pytest.TempPathFactory) -> Path:
    """A bundle in a directory that has its four images, `images`, beside it; not to be written to."""
    directory = factory.getbasetemp() / "retrieval"
    bundle = directory / "towers"
    if not bundle.exists():
        write_two_tower(directory / "model", "clip")
        for number in range(len(PLACES)):
            add_image(directory / "images", number)
        (directory / "captions.txt").write_text("\n".join(SENTENCES))
        options = RetrievalOptions(method="minmax", channel_equalization="none", threads=1)
        prepare_retrieval(
            directory / "model", directory / "images", directory / "captions.txt", bundle, options=options
        )
    return bundle


def text_bundle(factory: pytest.TempPathFactory) -> Path:
    """The bundle of a tiny text encoder alone, CLIP's with its projection; not to be written to."""
    directory = factory.getbasetemp() / "text"
    bundle = directory / "texts"
    if not bundle.exists():
        write_text_tower(directory / "model", "CLIPTextModelWithProjection")
        (directory / "captions.txt").write_text("\n".join(SENTENCES))
        options = RetrievalOptions(threads=1)
        prepare_text(directory / "model", directory / "captions.txt", bundle, options=options)
    return bundle


def indexed(bundle: Path, images: Path, catalog: Path) -> Path:
    """A catalog of a folder of images, or what has come to it since."""
    index_images(bundle, images, catalog, threads=1, workers=1)
    return catalog
