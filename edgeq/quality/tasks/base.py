"""The contract of a task: what a network is for, and how the quantized one is held beside FP32.

A task is one file in this folder and one line in `edgeq.quality.tasks.registry`. It says

1. how the examples of a labelled set are read (`Task.open`): what is right for each, in the task's own form;
2. which outputs of the network are the answer (`ImageTask.outputs`); of the others it is told how near the two
   networks are;
3. how the candidate is compared with FP32 on the same examples, in pairs (`ImageTask.tally` gives a `Tally`);
4. what came of it (`Figures`): a `Headline` and rows for a table.

Where the outputs must be understood first, `ImageTask.fitted` makes of the task that of one network; without labels,
`ImageTask.unlabelled` says how answers are compared.

Everything else in edgeq reads the headline and the rows, whatever the task: the gate and the search hold the headline's
drop and its standard error against their bounds, tables print the rows, and `quality.json` holds the figures whole.
Canaries hold the network's outputs themselves.

What is right for an example is whatever the task makes of it: a class, a set of labels, boxes, the names of images that
should be found. The outputs are a tuple of tensors, of which row i belongs to example i, and a tally may keep what it
needs until the last example is in, so that a figure need not be a mean over images. A task whose network is not a graph
from pixels to tensors is a `Task` and no `ImageTask`, and brings its own comparison (`edgeq.quality.tasks.answers`).

`docs/extending/task.md` goes through one that exists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.errors import EngineError, ModelError
from edgeq.model.heads.seen import Seen, ultralytics_task
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess

__all__ = [
    "BATCH",
    "Decisive",
    "Examples",
    "Figures",
    "Headline",
    "ImageTask",
    "Outputs",
    "Row",
    "SearchTally",
    "Tally",
    "Task",
    "TaskFigures",
    "UnlabelledTask",
    "finite",
    "require_finite",
]

T = TypeVar("T")
E = TypeVar("E", covariant=True)

Outputs = tuple[NDArray[np.float32], ...]
"""What a network gave for a batch: a tensor [n, ...] for each output that is the answer."""

Row = tuple[str, str, str, str]
"""A line of a table: what it is, FP32's value, the candidate's, and the candidate's against FP32's."""

BATCH: Final = 64
"""Images that go through a network together, where a task does not say otherwise."""


class Headline(BaseModel):
    """The one figure that decides.

    Attributes:
        name: of the figure, such as `top-1`.
        unit: of `drop` and its standard error, such as `points`.
        reference, candidate: FP32's value and the candidate's, in percent; None where nobody has said what is right.
        drop: what the candidate loses, positive where it is worse; without labels, how far its answers are from FP32's.
        standard_error: of `drop`, over the choice of examples, paired; None where it is not known.
        examples: how many it rests on.
        labelled: whether it was told what is right. Without that a drop says nothing of accuracy.
        alike, agreement: what it is called that both say the same of an example, and in percent of the examples (or of
            what is found on them) how often they do; None where that means nothing of such outputs.
        spread: without labels, the error of the answers against what tells images apart
            (`edgeq.quality.tasks.embedding`); None where that is not known.
        allowed: without labels, the largest drop that passes; None leaves that to the gate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: str
    reference: float | None
    candidate: float | None
    drop: float
    standard_error: float | None
    examples: int
    labelled: bool
    alike: str
    agreement: float | None
    spread: float | None = None
    allowed: float | None = None

    @property
    def doubt(self) -> str:
        """The standard error behind a figure, such as ` ± 0.12`; empty where it is not known."""
        return "" if self.standard_error is None else f" ± {self.standard_error:.2f}"

    def row(self, what: str) -> Row:
        """Of labelled examples, for a table: both values in percent, and the drop as a gain."""
        change = f"{0.0 - self.drop:+.2f}{self.doubt} {self.unit}"
        return (what, f"{self.reference:.2f} %", f"{self.candidate:.2f} %", change)


class Decisive(Protocol):
    """What a comparison for the search found."""

    def headline(self) -> Headline:
        """The one figure that decides."""
        ...


class Figures(Decisive, Protocol):
    """What a comparison found: a frozen pydantic model with these two methods."""

    def rows(self) -> tuple[Row, ...]:
        """All figures, for a table; the headline first."""
        ...


class TaskFigures(BaseModel, ABC):
    """Figures as `quality.json` holds them under `figures`.

    Attributes:
        task: the task's name, by which they are read back.
        version: of this form of them, such as `edgeq.multilabel/1`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    version: str

    @abstractmethod
    def headline(self) -> Headline:
        """The one figure that decides."""

    @abstractmethod
    def rows(self) -> tuple[Row, ...]:
        """All figures, for a table; the headline first."""


@dataclass(frozen=True)
class Examples(Generic[T]):
    """Images, each once, and what is right for each.

    Attributes:
        images: all of them.
        truth: by an image's name, in the task's own form; of other images too where these are a part.
    """

    images: ImageSet
    truth: Mapping[str, T]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def part(self, images: ImageSet) -> Examples[T]:
        """Some of the images; the truth stays whole, so that classes mean the same in every part."""
        return replace(self, images=images)


class SearchTally(Protocol):
    """A comparison under way, of which only the headline is asked."""

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        """Take what both networks gave for the same images.

        Args:
            names: of the images, by which the examples' truth is found.
            reference, candidate: the outputs, in the order of `ImageTask.outputs`, row i for image i.

        Raises:
            EngineError: a network gave NaN or infinity.
        """
        ...

    def figures(self) -> Decisive:
        """What all that was added comes to; raises ImageError where that is not enough for a figure."""
        ...


class Tally(SearchTally, Protocol):
    """A comparison under way."""

    def figures(self) -> Figures:
        """What all that was added comes to; raises ImageError where that is not enough for a figure."""
        ...


class Task(ABC, Generic[E]):
    """A task.

    Attributes:
        name: for `--task` and `quality.json`.
        what: a line for people.
    """

    name: ClassVar[str]
    what: ClassVar[str]

    @abstractmethod
    def open(self, path: Path, labels: Sequence[str] | None) -> E:
        """Read a labelled set, and check all that can be checked before any long work.

        Args:
            path: what was given with `--eval`.
            labels: the model's class names in the order of its logits; None where its config has none.

        Raises:
            InputError: it cannot be used; the error names the file, and the line where there is one.
        """


class ImageTask(Task[Examples[T]], Generic[T]):
    """A task of a graph from pixels, float32 [n, 3, H, W], to tensors.

    Attributes:
        key: where its figures stand in `quality.json`: `figures`, which takes a `TaskFigures`; the two tasks that were
            there first have places of their own.
        figures: the type that `figures` in `quality.json` is read back as; None for those two.
        problem_type: Hugging Face's word for it, by which a model's config chooses it; None where there is none.
        architectures: endings of Hugging Face's class names of such models, by which it is chosen as well.
        exported_as: Ultralytics' words for it, by which an ONNX file chooses it.
        understands: `fitted` looks at the outputs.
        served_as: what a bundle's manifest calls it; None for classes and features.
        draws: `drawn` gives pictures.
        features: the tally wants what enters the network's head as well, as one more tensor behind the outputs.
        batch: images that go through a network together.
        latency_batches: batch sizes at which latency is measured.
        one_vector: the answer is one number for each class, [images, classes]: which of a graph's outputs that is, is
            found by the number of classes, and a network that has none is refused.
        one_class: of these classes one alone is right.
    """

    key: ClassVar[str] = "figures"
    figures: ClassVar[type[TaskFigures] | None] = None
    problem_type: ClassVar[str | None] = None
    architectures: ClassVar[tuple[str, ...]] = ()
    exported_as: ClassVar[tuple[str, ...]] = ()
    understands: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    served_as: ClassVar[Literal["detect", "segment"] | None] = None
    features: ClassVar[bool] = False
    batch: ClassVar[int] = BATCH
    one_vector: ClassVar[bool] = False
    one_class: ClassVar[bool] = False
    latency_batches: ClassVar[tuple[int, ...]] = (1, BATCH)

    def chosen_by(self, config: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
        """What a model says of itself that chooses this task, in words; empty where it says nothing of the kind.

        Args:
            config: the model's `config.json`.
            metadata: of its ONNX file.
        """
        if self.problem_type and config.get("problem_type") == self.problem_type:
            return f"config.json says problem_type {self.problem_type}"
        named = config.get("architectures")
        for name in named if isinstance(named, list) else ():
            if self.architectures and str(name).endswith(self.architectures):
                return f"config.json says {name}"
        exported = ultralytics_task(metadata)
        return f"ONNX file says task {exported}" if exported in self.exported_as else ""

    def fitted(self, seen: Seen, preprocess: Preprocess, head: str | None = None) -> ImageTask[T]:  # noqa: ARG002
        """The task of one network, whose outputs it understands; itself where there is nothing to understand.

        It is asked twice: before any work, of what can be seen without running the network, and of what that gave.

        Args:
            seen: what is known of the network.
            preprocess: from an image to its input.
            head: given with `--detector-head`; None where it was not.

        Raises:
            ModelError: the outputs are none that the task knows; a head was given, and this is no detector.
        """
        if head is not None:
            raise ModelError(
                f"--detector-head {head}, and the task is {self.name}: it has no such head",
                next_step="leave it out, or add --task detection",
            )
        return self

    def unlabelled(self) -> UnlabelledTask | None:
        """How answers are compared where nobody has said what is right; None for the way of any answer."""
        return None

    def fields(self, outputs: Outputs) -> Mapping[str, NDArray[np.float32]]:
        """What the outputs hold, [n, ...] each: numbers that live on one scale are one field.

        Args:
            outputs: in the order of `outputs`.

        Returns:
            float32 by the field's name.
        """
        return {str(place): output for place, output in enumerate(outputs)}

    def drawn(self, image: Image.Image, outputs: Outputs, labels: Sequence[str]) -> Image.Image:  # noqa: ARG002
        """An image with what the outputs say of it, for a person; of a fitted task.

        Args:
            image: mode RGB; it may be smaller than what the network saw, of the same shape.
            outputs: for that image, float32 [1, ...] each.
            labels: class names; empty where there are none.
        """
        return image

    def record(self, directory: Path) -> None:
        """Write into a bundle what a device must know of a fitted task; nothing, unless a task says otherwise."""

    def recorded_in(self, directory: Path, preprocess: Preprocess) -> ImageTask[T] | None:  # noqa: ARG002
        """The fitted task that `record` wrote of; None where there is none.

        Args:
            directory: of the bundle.
            preprocess: from an image to the network's input.

        Raises:
            ArtifactError: the file is damaged.
        """
        return None

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of a graph's outputs that are the answer: the first, unless a task says otherwise."""
        return tuple(names[:1])

    def classes(self, examples: Examples[T]) -> int | None:  # noqa: ARG002
        """How many classes a labelled set names; None where that says nothing of the network's outputs."""
        return None

    @abstractmethod
    def tally(self, examples: Examples[T], labels: Sequence[str] | None, classes: int) -> Tally:
        """Begin a comparison.

        Args:
            examples: those that will be shown.
            labels: the model's class names; None where its config has none.
            classes: size of the last axis of the first output.

        Raises:
            ImageError: the examples name a class that the model does not have.
            ModelError: the config names another number of classes.
        """

    def search_tally(self, examples: Examples[T], labels: Sequence[str] | None, classes: int) -> SearchTally:
        """As `tally`, for the search, which reads a headline and shows no features: many tallies on the same examples.

        `search.json` holds what it gives: a `TaskFigures`, or a classifier's `edgeq.quality.logits.LogitFigures`.
        """
        return self.tally(examples, labels, classes)

    def folder_classes(self, images: ImageSet, labels: Sequence[str] | None, classes: int) -> dict[str, int] | None:  # noqa: ARG002
        """Folder -> class, where images are in folders of the one class that is right; None for other tasks.

        Args:
            images: in folders.
            labels, classes: as in `tally`.

        Raises:
            ImageError: a folder is no class.
        """
        return None


class UnlabelledTask(ImageTask[None]):
    """Answers of which nobody says what is right, held beside those of FP32."""

    def open(self, path: Path, labels: Sequence[str] | None) -> Examples[None]:  # noqa: ARG002
        """Images in any folders."""
        images = ImageSet.open(path)
        return Examples(images, {item.name: None for item in images.items})

    def tally(self, examples: Examples[None], labels: Sequence[str] | None, classes: int) -> Tally:  # noqa: ARG002
        """As `begin`: there is nothing to know of the examples."""
        return self.begin()

    @abstractmethod
    def begin(self, names: Sequence[str] = ()) -> Tally:
        """Begin a comparison.

        Args:
            names: of the outputs that are compared; may be left out where there is one alone.
        """


def finite(role: str, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Values [n, ...] as float64; raises EngineError, which names the network's role, for NaN or infinity."""
    if not np.isfinite(values).all():
        raise EngineError(f"the {role} network gave NaN or infinity", expected="finite logits on real images")
    return values.astype(np.float64)


def require_finite(reference: Outputs, candidate: Outputs) -> None:
    """Raise EngineError where an output of FP32, or of the candidate, holds NaN or infinity."""
    for role, outputs in (("FP32", reference), ("INT8", candidate)):
        for output in outputs:
            finite(role, output)
