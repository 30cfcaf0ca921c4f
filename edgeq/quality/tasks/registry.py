"""The tasks that there are: to add one, import it and add it to `IMAGE_TASKS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, SerializeAsAny

from edgeq.errors import ModelError
from edgeq.quality.tasks.answers import AnswersTask
from edgeq.quality.tasks.base import ImageTask, Task, TaskFigures
from edgeq.quality.tasks.classification import ClassificationTask
from edgeq.quality.tasks.embedding import EmbeddingTask
from edgeq.quality.tasks.first_images import FIRST_IMAGES, FirstImages
from edgeq.quality.tasks.multilabel import MultiLabelTask
from edgeq.quality.tasks.retrieval import RetrievalTask

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
]

IMAGE_TASKS: Final[tuple[ImageTask[Any], ...]] = (
    ClassificationTask(),
    MultiLabelTask(),
)
"""Tasks that `--task` chooses from; the first where neither a flag nor the model's config says which."""

UNLABELLED: Final = EmbeddingTask()
"""What is compared where there are no labels."""

ANSWERS: Final = AnswersTask()
"""The task of a vision-language model."""

RETRIEVAL: Final = RetrievalTask()
"""The task of a text encoder and a vision encoder whose embeddings are compared."""

TASKS: Final[tuple[Task[Any], ...]] = (*IMAGE_TASKS, UNLABELLED, ANSWERS, RETRIEVAL)


def task_names() -> tuple[str, ...]:
    """What `--task` may be."""
    return tuple(task.name for task in IMAGE_TASKS)


def choose_task(name: str | None, config: Mapping[str, Any]) -> ImageTask[Any]:
    """The task of a network.

    Args:
        name: given with `--task`; None leaves it to the config.
        config: the model's `config.json`, whose `problem_type` may say it.

    Raises:
        ModelError: there is no such task, or the config says another.
    """
    said = next((task for task in IMAGE_TASKS if task.problem_type and task.problem_type == _problem(config)), None)
    if name is None:
        return said or IMAGE_TASKS[0]
    chosen = next((task for task in IMAGE_TASKS if task.name == name), None)
    if chosen is None:
        raise ModelError(f"there is no task {name}", expected=f"one of {', '.join(task_names())}")
    if said is not None and said is not chosen:
        raise ModelError(
            f"--task {name}, but the model's config.json says problem_type {_problem(config)}",
            expected=f"--task {said.name}, which may be left out",
            next_step="where config.json is wrong, correct its problem_type",
        )
    return chosen


def recorded(task: ImageTask[Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config that chooses `task` by itself: with its `problem_type` where it does not do so already."""
    return config if choose_task(None, config) is task else {**config, "problem_type": task.problem_type}


def _problem(config: Mapping[str, Any]) -> Any:
    return config.get("problem_type")


def _read_figures(values: Any) -> Any:
    """Figures of a task, or of a search, from what JSON holds; anything else as it is, for pydantic to refuse."""
    if not isinstance(values, Mapping):
        return values
    kinds = {FIRST_IMAGES: FirstImages, **{task.name: task.figures for task in IMAGE_TASKS}}
    kind = kinds.get(str(values.get("task")))
    return values if kind is None else kind.model_validate(values)


AnyFigures = Annotated[SerializeAsAny[TaskFigures], BeforeValidator(_read_figures)]
"""Figures of whichever task they name."""
