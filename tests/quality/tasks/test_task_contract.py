"""What every registered task must do, whatever it is for; and that nothing else asks which task it is."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labels import LABELS
from numpy.typing import NDArray
from PIL import Image
from task_examples import fitted_task, open_examples, right_answers, task_folder

import edgeq
from edgeq.errors import EngineError, ImageError, InputError, ModelError
from edgeq.quality.answerer import Answer
from edgeq.quality.gate import GateBounds, decide
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.base import Examples, Figures, ImageTask, Outputs
from edgeq.quality.tasks.registry import (
    ANSWERS,
    IMAGE_TASKS,
    TASKS,
    UNLABELLED,
    choose_task,
    recorded,
    task_names,
)

IMAGES = (*IMAGE_TASKS, UNLABELLED)
PACKAGE = Path(edgeq.__file__).parent

images_of_every_task = pytest.mark.parametrize("task", IMAGES, ids=lambda task: task.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task_folder(tmp_path_factory.mktemp("contract") / "pictures")


def compared(task: ImageTask[Any], examples: Examples[Any], ours: Outputs, theirs: Outputs, *, at_once: int) -> Figures:
    tally = fitted_task(task).tally(examples, LABELS, len(LABELS))
    names = [item.name for item in examples.images.items]
    for start in range(0, len(names), at_once):
        piece = slice(start, start + at_once)
        tally.add(names[piece], *(tuple(output[piece] for output in side) for side in (ours, theirs)))
    return tally.figures()


def quality(task: ImageTask[Any], figures: Figures) -> Quality:
    found: dict[str, Any] = {"answers": None, task.key: figures}
    return Quality(backend="onnxruntime", latency=(), reference_bytes=4, candidate_bytes=1, **found)


@images_of_every_task
def test_equal_networks_lose_nothing(task: ImageTask[Any], folder: Path) -> None:
    examples = open_examples(task, folder)
    answers = right_answers(task, examples)
    headline = compared(task, examples, answers, answers, at_once=5).headline()
    assert (headline.drop, headline.agreement, headline.examples) == (0.0, 100.0, 12)
    assert headline.standard_error in (0.0, None)
    if headline.labelled:
        assert headline.reference == headline.candidate == 100.0
        assert headline.unit == "points"


@images_of_every_task
def test_a_worse_network_has_a_drop_that_the_gate_reads(task: ImageTask[Any], folder: Path) -> None:
    examples = open_examples(task, folder)
    figures = compared(
        task, examples, right_answers(task, examples), right_answers(task, examples, sign=-1.0), at_once=64
    )
    headline = figures.headline()
    assert headline.drop > 0
    assert headline.agreement is not None
    assert headline.agreement < 100
    if headline.labelled:
        assert headline.reference is not None
        assert headline.candidate is not None
        assert headline.drop == pytest.approx(headline.reference - headline.candidate)
        assert headline.standard_error is not None
    bound: dict[str, Any] = {"max_drop" if headline.labelled else "max_error": headline.drop}
    apart = math.inf  # the other bound of answers without labels
    assert decide(quality(task, figures), GateBounds(**bound, max_spread=apart)).passed
    less: dict[str, Any] = {name: value - 1e-6 for name, value in bound.items()}
    gate = decide(quality(task, figures), GateBounds(**less, max_spread=apart))
    assert not gate.passed
    assert "12 images" in gate.objections[0]
    assert gate.headline == headline


@images_of_every_task
def test_batches_do_not_matter(task: ImageTask[Any], folder: Path) -> None:
    examples = open_examples(task, folder)
    sides = right_answers(task, examples), right_answers(task, examples, sign=0.3)
    whole, bit_by_bit = (compared(task, examples, *sides, at_once=size).headline() for size in (12, 1))
    assert whole.model_dump() == pytest.approx(bit_by_bit.model_dump())


@images_of_every_task
def test_rows_are_for_a_table(task: ImageTask[Any], folder: Path) -> None:
    examples = open_examples(task, folder)
    sides = right_answers(task, examples), right_answers(task, examples, sign=0.3)
    figures = compared(task, examples, *sides, at_once=64)
    rows, headline = figures.rows(), figures.headline()
    assert rows[0][0].startswith(headline.name)
    assert any(headline.alike in row[0] for row in rows)
    assert all(len(row) == 4 and row[0] and any(row[1:]) for row in rows)


@images_of_every_task
def test_figures_are_read_back_from_quality_json(task: ImageTask[Any], folder: Path, tmp_path: Path) -> None:
    examples = open_examples(task, folder)
    answers = right_answers(task, examples)
    made = quality(task, compared(task, examples, answers, answers, at_once=64))
    made.save(tmp_path / "quality.json")
    read = Quality.load(tmp_path / "quality.json")
    assert read == made
    assert read.headline == made.headline
    held = json.loads((tmp_path / "quality.json").read_text())
    assert ("figures" in held) is (task.key == "figures")
    assert held[task.key] is not None


@images_of_every_task
def test_a_network_that_gives_no_numbers_is_named(task: ImageTask[Any], folder: Path) -> None:
    examples = open_examples(task, folder)
    good = right_answers(task, examples)
    with pytest.raises(EngineError, match="gave NaN or infinity"):
        compared(task, examples, good, tuple(np.full_like(output, math.nan) for output in good), at_once=64)


@images_of_every_task
def test_nothing_judged_is_an_error(task: ImageTask[Any], folder: Path) -> None:
    with pytest.raises(ImageError):
        fitted_task(task).tally(open_examples(task, folder), LABELS, len(LABELS)).figures()


@images_of_every_task
def test_a_part_means_what_the_whole_means(task: ImageTask[Any], folder: Path) -> None:
    examples = open_examples(task, folder)
    some = examples.part(examples.images.sample(5))
    answers = right_answers(task, some)
    assert compared(task, some, answers, answers, at_once=2).headline().examples == 5


@pytest.mark.parametrize("task", IMAGE_TASKS, ids=lambda task: task.name)
def test_the_search_sees_the_same_headline(task: ImageTask[Any], folder: Path) -> None:
    examples = open_examples(task, folder)
    ours, theirs = right_answers(task, examples), right_answers(task, examples, sign=0.3)
    names = [item.name for item in examples.images.items]
    tally = fitted_task(task).search_tally(examples, LABELS, len(LABELS))
    tally.add(names, ours[:1], theirs[:1])
    found, judged = tally.figures().headline(), compared(task, examples, ours, theirs, at_once=64).headline()
    assert (found.name, found.labelled, found.alike) == (judged.name, True, judged.alike)
    assert (found.drop, found.agreement) == pytest.approx((judged.drop, judged.agreement))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_what_is_not_there_cannot_be_opened(task: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        task.open(tmp_path / "nowhere", None)


def test_names_are_unique_and_say_what_they_are() -> None:
    assert len({task.name for task in TASKS}) == len(TASKS)
    assert all(task.what for task in TASKS)
    types = [task.problem_type for task in IMAGE_TASKS]
    assert len(set(types)) == len(types)
    assert task_names() == tuple(task.name for task in IMAGE_TASKS)


@pytest.mark.parametrize("task", IMAGE_TASKS, ids=lambda task: task.name)
def test_a_config_chooses_a_task_and_a_flag_does_not_contradict_it(task: ImageTask[Any]) -> None:
    assert choose_task(None, {"problem_type": task.problem_type}) is task
    assert choose_task(task.name, {}) is task
    assert choose_task(None, recorded(task, {"a": 1})) is task
    for ending in task.architectures:
        assert choose_task(None, {"architectures": [f"Detr{ending}"]}) is task
    for exported in task.exported_as:
        assert choose_task(None, {}, {"task": exported}) is task
    said = {"problem_type": task.problem_type}
    assert recorded(task, said) is said
    for other in IMAGE_TASKS:
        if other is not task:
            with pytest.raises(ModelError, match=f"--task {other.name}"):
                choose_task(other.name, said)


def test_where_nothing_is_said_it_is_a_classifier() -> None:
    assert choose_task(None, {}) is choose_task(None, {"problem_type": ["odd"]}) is IMAGE_TASKS[0]
    assert recorded(IMAGE_TASKS[0], {}) == {}
    with pytest.raises(ModelError, match="says task obb: oriented boxes are not read"):
        choose_task(None, {}, {"task": "obb"})
    with pytest.raises(ModelError, match="there is no task tea"):
        choose_task("tea", {})


class Repeats:
    """Answers every question with one word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def answer(self, _image: Image.Image, _question: str, _max_new_tokens: int) -> Answer:
        return Answer(self.word, (1, 2))

    def logits(self, _image: Image.Image, _question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        return np.eye(3, dtype=np.float32)[list(answer_ids)]

    def features(self, _image: Image.Image) -> NDArray[np.float32]:
        return np.ones((2, 3), np.float32)


@pytest.mark.parametrize(("known", "name", "drop"), [(True, "right answers", 100.0), (False, "other answers", 100.0)])
def test_answers_in_words_have_a_headline_too(known: bool, name: str, drop: float, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    answer = ', "answer": "rust"' if known else ""
    lines = [f'{{"image": "a.png", "question": "{question}"{answer}}}' for question in ("What?", "Where?")]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    questions = ANSWERS.open(tmp_path / "questions.jsonl")
    found = ANSWERS.compare(Repeats("rust"), Repeats("dust"), questions)
    headline = found.headline()
    assert (headline.name, headline.drop, headline.labelled, headline.examples) == (name, drop, known, 2)
    assert (headline.alike, headline.agreement) == (found.rows()[0][0], 0.0)


def outside() -> list[Path]:
    """Every module that is no task."""
    return [file for file in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "quality" / "tasks" not in file.parents]


def test_nothing_else_asks_which_task_it_is() -> None:
    own = {type(task).__name__ for task in TASKS} | {"Classification", "Fidelity", "MultiLabel", "VlmQuality"}
    own |= {task.figures.__name__ for task in IMAGE_TASKS if task.figures is not None}
    problem_types = {task.problem_type for task in IMAGE_TASKS}
    found = []
    for file in outside():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                found += [file for name in ast.walk(node.args[1]) if isinstance(name, ast.Name) and name.id in own]
            if isinstance(node, ast.Constant) and node.value in problem_types | {"multilabel"}:
                found.append(file)
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("edgeq.quality.tasks"):
                found += [file for name in node.names if name.name.endswith("Task") and name.name in own]
    assert found == []
