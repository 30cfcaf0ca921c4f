"""A bundle's canaries as they go through its network: what it is given, and what the workshop saw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.bundle.manifest import Kind, Manifest, read_manifest
from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS
from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.errors import ArtifactError, EdgeqError, EngineError, shell_word
from edgeq.families.base import PIXELS, Arrays
from edgeq.files import read_json_object
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.runtime.canary.canaries import CANARIES, CANARY_LIST, Canaries, ClassCanaries
from edgeq.runtime.canary.files import read_array, read_picture
from edgeq.runtime.vlm.prompt import ProcessedImage, Prompter

__all__ = [
    "CanaryOutput",
    "CanarySet",
    "KnownCanary",
    "Talk",
    "canary_digest",
    "canary_graph",
    "open_canaries",
    "refuse_retrieval",
]

_PREPROCESS = "preprocessor_config.json"


@dataclass(frozen=True)
class KnownCanary:
    """One canary.

    Attributes:
        image: its file name; of a text, the text.
        picture: it, mode RGB; None of a text.
        feeds: an array for each input of the network; where that is one alone, its name does not matter.
        reference: what the FP32 graph gave in the workshop, float32 [pictures, tokens, hidden], or [1, numbers] with
            what a classifier gave in each of `CanarySet.parts`, see `CanarySet.stacked`; of a two-tower model what the
            bundle's graph gave there, [1, dimension], of length one.
        int8: of a classifier, what the INT8 graph gave there in ONNX Runtime, [1, numbers].
        same_pixels: whether the workshop had the same pixels; None where that is not known.
    """

    image: str
    picture: Image.Image | None
    feeds: Arrays
    reference: NDArray[np.float32]
    int8: NDArray[np.float32] | None = None
    same_pixels: bool | None = None


@dataclass(frozen=True)
class Talk:
    """What it takes to ask a vision-language model about its canaries.

    Attributes:
        canaries: with questions and answers, in the order of `CanarySet.known`.
        prompter: writes prompts.
    """

    canaries: Canaries
    prompter: Prompter


@dataclass(frozen=True)
class CanaryOutput:
    """One output of a classifier's graph, which is a part of each row that is compared.

    Attributes:
        name: of the output.
        numbers: of the row that are its own.
        every: so many-th number of it alone is in the row.
        resized: its size differs from image to image: it is only looked at whether it gives anything.
        classes: it is one number for each class.
    """

    name: str
    numbers: int
    every: int = 1
    resized: bool = False
    classes: bool = True


@dataclass(frozen=True)
class CanarySet:
    """All canaries of a bundle.

    Attributes:
        manifest: of the bundle, every file of which was checked against it.
        graph: the ONNX file that the bundle runs in ONNX Runtime.
        reference_graph: the ONNX file that is nearest to what the reference was: FP32 for a classifier, and the vision
            graph itself otherwise, whose FP32 form did not leave the workshop.
        outputs: of the graph, that are compared; none where it has one alone.
        known: the canaries; at least one.
        talk: None for all but a vision-language model.
        stacked: the rows of all outputs are compared as those of one picture; otherwise the only output as it is.
        unit: what the graph gives is brought to length one before it is compared.
        against: what gave the references, in words.
        parts: of a classifier, its outputs in the order in which they stand in a row, the answer first.
    """

    manifest: Manifest
    graph: Path
    reference_graph: Path
    outputs: tuple[str, ...]
    known: tuple[KnownCanary, ...]
    talk: Talk | None = None
    stacked: bool = False
    unit: bool = False
    against: str = "the FP32 graph in the workshop"
    parts: tuple[CanaryOutput, ...] = ()


def open_canaries(bundle: Path, manifest: Manifest | None = None) -> CanarySet:
    """Read a bundle's canaries.

    Args:
        bundle: its directory.
        manifest: of a bundle that was checked just now; None checks it byte for byte.

    Raises:
        ArtifactError: it is no bundle, is damaged, or has no canaries that can be used.
        ModelError: the bundle's preprocessing or tokenizer cannot be used.
    """
    manifest = manifest or read_manifest(bundle)
    refuse_retrieval(bundle, manifest.kind)
    if not (bundle / CANARY_LIST).exists():
        raise ArtifactError(
            f"{bundle} has no canaries",
            expected=CANARY_LIST,
            causes=(f"it was made by a version of edgeq ({manifest.made_by}) that put none into such a bundle",),
            next_step="make the bundle again with edgeq prepare",
        )
    return _of_vlm(bundle, manifest) if manifest.kind == "vision-language" else _of_classifier(bundle, manifest)


def canary_graph(bundle: Path) -> Path:
    """The graph that a bundle's canaries were made with, which is the one that it runs.

    Raises:
        ArtifactError: it does not say.
    """
    refuse_retrieval(bundle, "retrieval" if (bundle / RETRIEVAL_SETTINGS).is_file() else "classifier")
    if (bundle / LANGUAGE).is_dir():
        return bundle / VlmSettings.of(bundle).vision
    return bundle / ClassCanaries.load(bundle / CANARY_LIST).int8


def refuse_retrieval(bundle: Path, kind: Kind) -> None:
    """Raise ArtifactError for the bundle of a two-tower model, which has two graphs and canaries of its own kind.

    Args:
        bundle: for the message.
        kind: of it.
    """
    if kind == "retrieval":
        raise ArtifactError(
            f"{bundle} embeds texts and images for retrieval: it has two graphs, and canaries for each",
            expected="the bundle of a classifier, an image encoder or a vision-language model",
            next_step=f"edgeq serve {shell_word(bundle)}; in Python edgeq.open_bundle, then embed() and embed_texts()",
        )


def canary_digest(pixels: NDArray[np.float32]) -> str:
    """The SHA-256 of a network's input, float32, little-endian, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels, "<f4").tobytes()).hexdigest()


def _of_classifier(bundle: Path, manifest: Manifest) -> CanarySet:
    listed = ClassCanaries.load(bundle / CANARY_LIST)
    folder, count = bundle / CANARIES, len(listed.canaries)
    fp32, int8 = ([read_array(folder / name) for name in names] for names in _files(listed))
    labels = len(manifest.labels) if listed.answer is None else 0
    for names, arrays in zip(_files(listed), (fp32, int8), strict=True):
        for place, (name, values) in enumerate(zip(names, arrays, strict=True)):
            _expect(folder / name, values.shape, (count, (labels if place == 0 else 0) or fp32[place].shape[1]))
    ours, theirs = np.concatenate(fp32, axis=1), np.concatenate(int8, axis=1)
    preprocess = read_preprocess(read_json_object(bundle / _PREPROCESS))
    known = []
    for number, canary in enumerate(listed.canaries):
        picture = read_picture(folder / canary.image)
        pixels = _preprocessed(preprocess, picture, folder / canary.image)
        rows = slice(number, number + 1)
        same = canary_digest(pixels) == canary.pixels_sha256
        known.append(KnownCanary(canary.image, picture, {PIXELS: pixels[None]}, ours[rows], theirs[rows], same))
    parts = tuple(
        CanaryOutput(each.output, values.shape[1], each.every, each.resized, place == 0 and listed.answer is None)
        for place, (each, values) in enumerate(zip(listed.outputs, fp32, strict=True))
    )
    outputs = tuple(part.name for part in parts)
    return CanarySet(manifest, bundle / listed.int8, bundle / listed.fp32, outputs, tuple(known), parts=parts)


def _files(listed: ClassCanaries) -> tuple[list[str], list[str]]:
    """The files of FP32 and those of INT8, one for each output."""
    return [each.fp32 for each in listed.outputs], [each.int8 for each in listed.outputs]


def _of_vlm(bundle: Path, manifest: Manifest) -> CanarySet:
    listed = Canaries.load(bundle / CANARY_LIST)
    if not listed.canaries:
        raise ArtifactError(f"{bundle} has no canaries", expected=f"one at least in {CANARY_LIST}")
    settings = VlmSettings.of(bundle)
    prompter, folder = Prompter.open(bundle, settings), bundle / CANARIES
    outputs = prompter.vision.outputs(prompter.config)
    stacked = not prompter.vision.pictures or len(outputs) > 1
    known: list[KnownCanary] = []
    for canary in listed.canaries:
        picture = read_picture(folder / canary.image)
        image = prompter.pixels(picture)
        features = read_array(folder / canary.features)
        hidden = known[0].reference.shape[-1] if known else features.shape[1]
        pictures = 1 if stacked else image.layout.pictures
        if features.shape[1] != hidden or not _makes(prompter, image, features, outputs):
            raise ArtifactError(
                f"the canary {folder / canary.features} has the shape {list(features.shape)}",
                expected=f"features of {image.layout.tokens} image tokens, each of {hidden} numbers",
            )
        known.append(KnownCanary(canary.image, picture, image.feeds, features.reshape(pictures, -1, hidden)))
    graph = bundle / settings.vision
    return CanarySet(manifest, graph, graph, outputs, tuple(known), Talk(listed, prompter), stacked)


def _makes(prompter: Prompter, image: ProcessedImage, features: NDArray[np.float32], outputs: tuple[str, ...]) -> bool:
    """Whether the rows of a graph's outputs become what the language model is given in the places of an image."""
    try:
        parts = np.split(features, len(outputs))
        if prompter.vision.pictures:
            parts = [part.reshape(image.layout.pictures, -1, part.shape[-1]) for part in parts]
        prompter.joined(dict(zip(outputs, parts, strict=True)), image.layout)
    except (EngineError, ValueError, IndexError):
        return False
    return True


def _preprocessed(preprocess: Preprocess, picture: Image.Image, path: Path) -> NDArray[np.float32]:
    try:
        return preprocess(picture)
    except EdgeqError as error:
        raise ArtifactError(f"the canary {path} cannot be used", causes=(error.what,)) from error


def _expect(path: Path, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise ArtifactError(f"the canary {path} has the shape {list(found)}", expected=f"{list(wanted)}")
