"""A bundle opened: asked, or shown images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from edgeq.api.device.images import ImageLike, open_image
from edgeq.bundle.manifest import Kind, Manifest
from edgeq.bundle.verify import check_unchanged, examine
from edgeq.bundle.vlm_settings import LANGUAGE
from edgeq.errors import ArtifactError, EngineError, InputError, first_line, shell_word
from edgeq.faults import known_fault
from edgeq.install.candidate_here import AUTO, open_two_tower_here, require_backend, vision_candidate
from edgeq.install.states import current
from edgeq.install.store import MARKER
from edgeq.install.trust import trust_at
from edgeq.model.heads.boxes import Detections
from edgeq.runtime.pixel_answers import LEAST_SCORE, Detector, Segmenter
from edgeq.runtime.retrieval.two_tower import TwoTowerModel
from edgeq.runtime.vision_graph import ClassScore, VisionModel, rank_classes
from edgeq.runtime.vlm.language import require_packages
from edgeq.runtime.vlm.model import MAX_NEW_TOKENS, Reply, VisionLanguageModel, check_answers, load_vlm

__all__ = ["Bundle", "open_bundle"]

_Image = TypeVar("_Image", bound=ImageLike)
_Model = VisionLanguageModel | VisionModel | Detector | Segmenter | TwoTowerModel


class Bundle:
    """A bundle that was checked and loaded; made by `open_bundle`. One thread at a time may use it.

    Args:
        path: its directory.
        manifest: what it holds, and for what.
        backend: what runs its graphs, with its version.
        model: its vision graph, both halves of its vision-language model, or both encoders of its two-tower model.
        because: why it is that backend.

    Attributes:
        path, manifest, backend, because: the same.
    """

    def __init__(self, path: Path, manifest: Manifest, backend: str, model: _Model, because: str = "") -> None:
        self.path = path
        self.manifest = manifest
        self.backend = backend
        self.because = because
        self._model: _Model | None = model

    def __enter__(self) -> Bundle:
        """The bundle itself; it is closed at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the model and its memory; a second time does nothing."""
        self._model = None

    def ask(
        self,
        images: ImageLike | list[_Image] | tuple[_Image, ...],
        question: str,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Reply:
        """What the vision-language model answers to a question about one image or several, greedily.

        Args:
            images: one, or a list or tuple in the order in which they stand before the question; each a path, a file's
                bytes, a Pillow image, or RGB pixels as uint8 [H, W, 3].
            question: in plain text; the model's chat template is put around it.
            max_new_tokens: the longest answer, in tokens.

        Returns:
            The answer's `text`, its tokens, what it took in seconds, and what ran the vision graph.

        Raises:
            ArtifactError: it is the bundle of a classifier.
            ImageError: an image cannot be read, or the model does not take it.
            InputError: the question is empty or too long, no token may be said, there are more images than the model
                takes, or the bundle was closed.
            EngineError: the vision graph fails on an image, or the language model on the question.
            OutOfMemoryError: memory ran out, of the machine or the GPU; a shorter question may be answered.
            DeviceLostError: the GPU does nothing more for this process.
        """
        check_answers(self.path, self.manifest)
        model = self._opened()
        assert isinstance(model, VisionLanguageModel)
        given = images if isinstance(images, list | tuple) else (images,)
        pictures = [open_image(image) for image in given]
        with _named_faults(self.path):
            reply = model.ask(pictures, question, max_new_tokens)
        return reply.model_copy(update={"backend": self.backend, "because": self.because})

    @overload
    def classify(self, images: ImageLike, top: int = ...) -> tuple[ClassScore, ...]: ...

    @overload
    def classify(self, images: list[_Image] | tuple[_Image, ...], top: int = ...) -> list[tuple[ClassScore, ...]]: ...

    def classify(
        self, images: ImageLike | list[_Image] | tuple[_Image, ...], top: int = 5
    ) -> tuple[ClassScore, ...] | list[tuple[ClassScore, ...]]:
        """The likeliest classes of an image, the likeliest first; a list of them for a list or tuple of images.

        Args:
            images: one, or a list or tuple; each a path, a file's bytes, a Pillow image, or uint8 [H, W, 3]. They go
                through the network one at a time.
            top: so many classes.

        Raises:
            ArtifactError: it is the bundle of a vision-language model.
            ImageError: an image cannot be read.
            InputError: `top` is less than 1, or the bundle was closed.
            EngineError: the graph fails on an image.
        """
        if top < 1:
            raise InputError(f"the top {top} classes are none", expected="1 or more")
        graph = self._seeing("classes")
        if isinstance(images, list | tuple):
            return [self._classify(graph, image, top) for image in images]
        return self._classify(graph, images, top)

    def detect(self, image: ImageLike, score: float = 0.25) -> Detections:
        """The objects on an image, the likeliest first, with boxes in the image's own pixels.

        Args:
            image: as for `classify`.
            score: what is less likely is left out.

        Raises:
            ArtifactError: it is not the bundle of a detector.
            ImageError: the image cannot be read.
            InputError: `score` is below 0.01 or above 1, or the bundle was closed.
            EngineError: the graph fails on the image.
        """
        if not LEAST_SCORE <= score <= 1.0:
            raise InputError(f"a score of {score} was asked for", expected=f"{LEAST_SCORE} to 1")
        model = self._opened()
        if not isinstance(model, Detector):
            raise _not_for(self.path, "objects", "a detector")
        return model.run(model.pixels(open_image(image))).above(score)

    def segment(self, image: ImageLike) -> NDArray[np.uint16]:
        """The class of each pixel of an image.

        Args:
            image: as for `classify`.

        Returns:
            uint16 [height, width] of the image; of fewer pixels where a side is above 2048.

        Raises:
            ArtifactError: it is not the bundle of a network that gives each pixel a class.
            ImageError: the image cannot be read.
            InputError: the bundle was closed.
            EngineError: the graph fails on the image.
        """
        model = self._opened()
        if not isinstance(model, Segmenter):
            raise _not_for(self.path, "masks", "a network that gives each pixel a class")
        return model.run(model.pixels(open_image(image)))

    def embed(
        self, images: ImageLike | list[_Image] | tuple[_Image, ...], *, normalize: bool = False
    ) -> NDArray[np.float32]:
        """The vector that an encoder gives of an image.

        Args:
            images: as for `classify`.
            normalize: divide each vector by its length (L2). Vectors of a two-tower model always are.

        Returns:
            float32 [size], or [images, size] for a list or tuple.

        Raises:
            ArtifactError: it is the bundle of a vision-language model, or of a network that ends in classes.
            ImageError: an image cannot be read.
            InputError: the bundle was closed.
            EngineError: the graph fails on an image.
        """
        model = self._opened()
        if isinstance(model, TwoTowerModel):
            several = isinstance(images, list | tuple)
            given = images if isinstance(images, list | tuple) else (images,)
            pictures = [open_image(image) for image in given]
            with _named_faults(self.path):
                found = model.image.embed(pictures)
            return found if several else found[0]
        graph = self._seeing("vectors")
        if self.manifest.labels:
            raise ArtifactError(
                f"{self.path} ends in classes: it gives no vectors",
                expected="the bundle of an image encoder, which has no class names",
                next_step="classify()",
            )
        if isinstance(images, list | tuple):
            return np.stack([_vector(graph, image, normalize) for image in images])
        return _vector(graph, images, normalize)

    def embed_texts(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """The vector that a two-tower model gives of a text, to be compared with those of images.

        Args:
            texts: one, or a sequence of them.

        Returns:
            float32 [size], or [texts, size] for a sequence; each of length 1.

        Raises:
            ArtifactError: it is the bundle of another kind of model.
            InputError: a text cannot be tokenized, or the bundle was closed.
            EngineError: the text graph fails.
        """
        model = self._opened()
        if not isinstance(model, TwoTowerModel):
            raise ArtifactError(
                f"{self.path} is the bundle of a {self.manifest.kind}: it gives no vectors of texts",
                expected="the bundle of CLIP or SigLIP",
            )
        with _named_faults(self.path):
            found = model.text.embed([texts] if isinstance(texts, str) else texts)
        return found[0] if isinstance(texts, str) else found

    def _classify(self, graph: VisionModel, image: ImageLike, top: int) -> tuple[ClassScore, ...]:
        return rank_classes(graph.run(graph.pixels(open_image(image))), self.manifest.labels, top)

    def _opened(self) -> _Model:
        if self._model is None:
            raise InputError(f"{self.path} was closed", next_step="open_bundle() again")
        return self._model

    def _seeing(self, what: str) -> VisionModel:
        _check_sees(self.path, self.manifest, what)
        graph = self._opened()
        if not isinstance(graph, VisionModel):
            raise _not_for(self.path, what, "a classifier or an image encoder")
        return graph


def open_bundle(
    path: str | Path,
    *,
    kind: Kind | None = None,
    backend: str = AUTO,
    keys: Sequence[str | Path] = (),
    threads: int | None = None,
) -> Bundle:
    """Check every byte of a bundle, then load it.

    Args:
        path: a bundle's directory, or a store of `install_bundle`, whose current version is taken.
        kind: `classifier`, `vision-language` or `retrieval`: others are refused before anything is loaded. None takes
            all.
        backend: what runs the vision graph, and a two-tower model's text graph. TensorRT's engines must have been built
            (`build`); `auto` takes them where they were built for this device, else the backend that the bundle was
            made for.
        keys: files of public keys; the bundle must be signed by one of them. Without any the signature is not looked
            at.
        threads: of one operator; None takes every processor there is.

    Raises:
        ArtifactError: it is no bundle, is damaged, is not signed as it must be, or is of another kind.
        ModelError: the language model, the tokenizer or the preprocessing cannot be loaded.
        EngineError: the engine refuses the vision graph, was not built, or a package is missing.
    """
    require_backend(backend)
    place = Path(path)
    bundle = current(place) if (place / MARKER).is_file() else place
    verified = examine(bundle, trust_at(place, bundle, keys))
    opened = _opened(place, bundle, verified.manifest, kind, backend, threads)
    check_unchanged(bundle, verified)
    return opened


def _opened(
    place: Path, bundle: Path, manifest: Manifest, kind: Kind | None, backend: str, threads: int | None
) -> Bundle:
    """What was checked, loaded."""
    if kind == "vision-language":
        check_answers(bundle, manifest)
    elif kind == "classifier":
        _check_sees(bundle, manifest, "classes")
    if manifest.kind == "retrieval" or kind == "retrieval":
        return _open_towers(place, bundle, manifest, backend, threads)
    if manifest.kind == "vision-language":
        require_packages(bundle / LANGUAGE)
    candidate = vision_candidate(place, bundle, manifest, backend, threads=threads)
    engine = candidate.open()
    model: _Model
    if manifest.kind == "vision-language":
        model = load_vlm(bundle, engine=engine, threads=threads)
    elif manifest.task == "detect":
        model = Detector.of_bundle(bundle, engine)
    elif manifest.task == "segment":
        model = Segmenter.of_bundle(bundle, engine)
    else:
        model = VisionModel.of_bundle(bundle, engine)
    return Bundle(bundle, manifest, candidate.backend, model, candidate.because)


def _open_towers(place: Path, bundle: Path, manifest: Manifest, backend: str, threads: int | None) -> Bundle:
    """Both encoders; raises ArtifactError for the bundle of another kind."""
    if manifest.kind != "retrieval":
        raise ArtifactError(
            f"{bundle} is the bundle of a {manifest.kind}, which embeds no texts", expected="that of CLIP or SigLIP"
        )
    why: list[str] = []
    model, version = open_two_tower_here(place, bundle, manifest, backend, threads=threads, say=why.append)
    return Bundle(bundle, manifest, version, model, *why)


@contextmanager
def _named_faults(bundle: Path) -> Iterator[None]:
    """What a library raises as an error of edgeq, as `edgeq serve` tells it.

    Raises:
        OutOfMemoryError: memory ran out.
        DeviceLostError: the accelerator does nothing more for this process.
        EngineError: a native library failed otherwise.
    """
    try:
        yield
    except Exception as error:
        known = known_fault(error)
        if known is not None and known is not error:
            raise known from error
        if not isinstance(error, RuntimeError):  # edgeq's own, or a bug, whose traceback says more
            raise
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise EngineError(f"{bundle} could not answer", causes=(cause,)) from error


def _not_for(bundle: Path, what: str, whose: str) -> ArtifactError:
    return ArtifactError(f"{bundle} gives no {what}", expected=f"the bundle of {whose}")


def _check_sees(bundle: Path, manifest: Manifest, what: str) -> None:
    """Raise ArtifactError for the bundle of a vision-language model, or of a two-tower model."""
    if manifest.kind == "retrieval":
        raise ArtifactError(
            f"{bundle} is the bundle of a model of a text and a vision encoder: it gives no {what}",
            expected="the bundle of a classifier or an image encoder",
            next_step="embed() and embed_texts()",
        )
    if manifest.kind == "vision-language":
        raise ArtifactError(
            f"{bundle} is the bundle of a vision-language model: it gives no {what}",
            expected="the bundle of a classifier or an image encoder",
            next_step=f'edgeq run {shell_word(bundle)} IMAGE "QUESTION"',
        )


def _vector(graph: VisionModel, image: ImageLike, normalize: bool) -> NDArray[np.float32]:
    """What the graph gives for an image, float32 [n]; divided by its length if that is asked for, and not 0."""
    vector = graph.run(graph.pixels(open_image(image)))
    length = np.linalg.norm(vector) if normalize else 0.0
    return (vector / length).astype(np.float32) if length else vector
