"""The tasks that there are: to add one, import it and add it to `IMAGE_TASKS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, SerializeAsAny

from edgeq.errors import ModelError
from edgeq.model.heads.seen import ultralytics_task
from edgeq.quality.tasks.answers import AnswersTask
from edgeq.quality.tasks.base import ImageTask, Task, TaskFigures, UnlabelledTask
from edgeq.quality.tasks.classification import ClassificationTask
from edgeq.quality.tasks.detection.found_again import FoundAgain
from edgeq.quality.tasks.detection.keypoints import KeypointTask
from edgeq.quality.tasks.detection.task import DetectionTask
from edgeq.quality.tasks.embedding import EmbeddingTask
from edgeq.quality.tasks.first_images import FirstImages
from edgeq.quality.tasks.multilabel import MultiLabelTask
from edgeq.quality.tasks.retrieval import RetrievalTask
from edgeq.quality.tasks.segmentation.task import SamePixels, SegmentationTask

__all__ = [
    "ANSWERS",
    "IMAGE_TASKS",
    "RETRIEVAL",
    "TASKS",
    "UNLABELLED",
    "AnyFigures",
    "choose_task",
    "recorded",
    "task_names",
    "unlabelled",
]

IMAGE_TASKS: Final[tuple[ImageTask[Any], ...]] = (
    ClassificationTask(),
    MultiLabelTask(),
    DetectionTask(),
    KeypointTask(),
    SegmentationTask(),
)
"""Tasks that `--task` chooses from; the first where neither a flag nor the model's config says which."""

UNLABELLED: Final = EmbeddingTask()
"""What is compared where there are no labels, unless a task has a way of its own."""

ANSWERS: Final = AnswersTask()
"""The task of a vision-language model."""

RETRIEVAL: Final = RetrievalTask()
"""The task of a text encoder and a vision encoder whose embeddings are compared."""

TASKS: Final[tuple[Task[Any], ...]] = (*IMAGE_TASKS, UNLABELLED, ANSWERS, RETRIEVAL)


_NOT_JUDGED: Final = ("obb",)
"""Ultralytics' words of what no task is for: fields on several scales would be one answer."""


def task_names() -> tuple[str, ...]:
    """What `--task` may be."""
    return tuple(task.name for task in IMAGE_TASKS)


def unlabelled(task: ImageTask[Any]) -> UnlabelledTask:
    """How a task compares answers of which nobody has said what is right."""
    return task.unlabelled() or UNLABELLED


def choose_task(
    name: str | None, config: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> ImageTask[Any]:
    """The task of a network.

    Args:
        name: given with `--task`; None leaves it to the model.
        config: the model's `config.json`, whose `problem_type` or `architectures` may say it.
        metadata: of its ONNX file, which may say it too; None for none.

    Raises:
        ModelError: there is no such task, or the model says another.
    """
    told = {task.name: task.chosen_by(config, metadata or {}) for task in IMAGE_TASKS}
    said = next((task for task in IMAGE_TASKS if told[task.name]), None)
    if name is None and said is None and ultralytics_task(metadata or {}) in _NOT_JUDGED:
        raise ModelError(
            f"the ONNX file says task {ultralytics_task(metadata or {})}: oriented boxes are not read",
            expected=f"a network for one of {', '.join(task_names())}",
        )
    if name is None:
        return said or IMAGE_TASKS[0]
    chosen = next((task for task in IMAGE_TASKS if task.name == name), None)
    if chosen is None:
        raise ModelError(f"there is no task {name}", expected=f"one of {', '.join(task_names())}")
    if said is not None and said is not chosen:
        raise ModelError(
            f"--task {name}, but the model's {told[said.name]}",
            expected=f"--task {said.name}, which may be left out",
            next_step="where the model is wrong, correct it",
        )
    return chosen


def recorded(task: ImageTask[Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config that chooses `task` by itself: with its `problem_type` where it does not do so already."""
    return config if choose_task(None, config).name == task.name else {**config, "problem_type": task.problem_type}


def _read_figures(values: Any) -> Any:
    """Figures of a task, or of a search, from what JSON holds; anything else as it is, for pydantic to refuse."""
    if not isinstance(values, Mapping):
        return values
    own = [task.figures for task in IMAGE_TASKS if task.figures is not None]
    known: list[type[TaskFigures]] = [FirstImages, FoundAgain, SamePixels, *own]
    kind = next((one for one in known if one.model_fields["task"].default == values.get("task")), None)
    return values if kind is None else kind.model_validate(values)


AnyFigures = Annotated[SerializeAsAny[TaskFigures], BeforeValidator(_read_figures)]
"""Figures of whichever task they name."""
