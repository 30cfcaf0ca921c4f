"""Training lowers the loss, goes on from a checkpoint as if it had not stopped, and writes what transformers loads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="the torch extra is not installed")

import torch

from edgeq.demo.scenes import SIZE
from edgeq.demo.vlm import train as train_module
from edgeq.demo.vlm.pool import Pool, draw_pool
from edgeq.demo.vlm.report import QUESTIONS, report
from edgeq.demo.vlm.score import answer, load, score
from edgeq.demo.vlm.tokens import prompt
from edgeq.demo.vlm.train import main, run, train
from edgeq.demo.vlm.training import Settings, Training, begin
from edgeq.errors import InputError, OutputError
from edgeq.model.images.preprocess_config import read_preprocess

QUICK = Settings(scenes=12, steps=4, sorting=0.5, sorting_batch=4, report_batch=4, threads=1)
VOCABULARY = 576


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(0, 12, workers=1)


def quiet(_line: str) -> None:
    pass


def weights(training: Training) -> dict[str, Any]:
    state: dict[str, Any] = training.lessons.model.state_dict()
    return state


def test_untrained_it_knows_nothing(pool: Pool) -> None:
    """Cross-entropy of an even guess: ln 6 + ln 9 + ln 3 to sort, ln of the vocabulary for each token."""
    lessons = begin(QUICK).lessons
    with torch.inference_mode():
        assert lessons.sorting_loss(pool.views(0, 12)).item() == pytest.approx(math.log(6 * 9 * 3), rel=0.15)
        loss = lessons.report_loss(pool.views(0, 4), QUESTIONS[0]).item()
    assert loss == pytest.approx(math.log(VOCABULARY), rel=0.05)
    assert lessons.reported_right(pool.views(0, 12), QUESTIONS[0]) == 0


@pytest.mark.parametrize("lesson", ["sorting", "report"])
def test_a_step_lowers_the_loss_of_its_batch(pool: Pool, lesson: str) -> None:
    training = begin(QUICK)
    views = pool.views(0, 4)
    sorts = lesson == "sorting"
    lessons = training.lessons
    optimizer = torch.optim.AdamW([*lessons.model.parameters(), *lessons.sorter.parameters()], 1e-4)
    before = lessons.sorting_loss(views) if sorts else lessons.report_loss(views, QUESTIONS[0])
    torch.autograd.backward(before)
    optimizer.step()
    with torch.inference_mode():
        after = lessons.sorting_loss(views) if sorts else lessons.report_loss(views, QUESTIONS[0])
    assert after.item() < before.item()


def test_only_the_answer_is_learned(pool: Pool) -> None:
    """The mean over answers of different length is that of each alone, weighted by tokens: nothing else counts."""
    lessons = begin(QUICK).lessons
    tokenizer = lessons.processor.tokenizer
    total = count = 0.0
    with torch.inference_mode():
        for index in range(4):
            views = pool.views(index, index + 1)
            tokens = len(tokenizer(f" {report(views.findings[0])}{tokenizer.eos_token}").input_ids)
            total += tokens * lessons.report_loss(views, QUESTIONS[1]).item()
            count += tokens
        together = lessons.report_loss(pool.views(0, 4), QUESTIONS[1]).item()
    assert together == pytest.approx(total / count, rel=2e-3)  # bfloat16


def test_first_the_tower_learns_and_then_everything(pool: Pool) -> None:
    training = begin(QUICK)
    start = {name: weight.clone() for name, weight in weights(training).items()}
    training.advance(pool)
    moved = {name for name, weight in weights(training).items() if not weight.equal(start[name])}
    assert moved
    assert all(name.startswith("model.vision_tower.") for name in moved)
    training.step = 2
    training.advance(pool)
    moved = {name for name, weight in weights(training).items() if not weight.equal(start[name])}
    assert {"lm_head.weight", "model.multi_modal_projector.linear_1.weight"} <= moved
    assert any(name.startswith("model.language_model.layers.3.") for name in moved)


def test_a_resumed_training_ends_where_an_unbroken_one_does(pool: Pool, tmp_path: Path) -> None:
    few = Pool(pool.pixels[:4], pool.findings[:4])
    unbroken, broken, resumed = begin(QUICK), begin(QUICK), begin(replace(QUICK))
    train(unbroken, pool, few, tmp_path / "unbroken.pt", quiet)
    for _ in range(3):
        broken.advance(pool)
    broken.save(tmp_path / "broken.pt")
    resumed.load(tmp_path / "broken.pt")
    assert resumed.step == 3
    train(resumed, pool, few, tmp_path / "broken.pt", quiet)
    assert resumed.step == unbroken.step == QUICK.steps
    for name, weight in weights(unbroken).items():
        assert torch.allclose(weights(resumed)[name], weight, atol=1e-6), name


def test_minutes_shorten_the_schedule() -> None:
    training = begin(replace(QUICK, minutes=2.0))
    assert (training.progress, training.sorts) == (0.0, True)
    training.seconds = 90.0
    assert (training.progress, training.sorts) == (0.75, False)
    training.seconds = 121.0
    assert training.progress == 1.0


def test_the_rate_rises_and_falls_once_in_each_part() -> None:
    training = begin(replace(QUICK, steps=1000, warm_up=0.1))
    rates = []
    for training.step in range(1000):
        training._set_rates()
        rates.append([group["lr"] for group in training.optimizer.param_groups])
    tower, sorter, rest = (list(column) for column in zip(*rates, strict=True))
    peak = training.settings.peak_rate
    assert max(tower[:500]) == pytest.approx(peak)
    assert max(tower[500:]) == pytest.approx(peak * training.settings.tower_share)
    assert [sorter.index(max(sorter)), 500 + rest[500:].index(max(rest[500:]))] == [50, 550]
    assert tower[499] < peak / 1000


def test_what_teacher_forcing_calls_right_is_what_generate_answers(pool: Pool) -> None:
    """Taught one report by heart, the model gives it, and is right where it is the right one and nowhere else."""
    lessons = begin(QUICK).lessons
    taught = pool.views(0, 1)
    weights = [*lessons.model.model.language_model.parameters(), lessons.model.lm_head.weight]
    optimizer = torch.optim.AdamW(weights, 1e-3)
    while (loss := lessons.report_loss(taught, QUESTIONS[0])).item() > 0.1:  # clear of bfloat16's ties
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    (said,) = answer(lessons.model.eval(), lessons.processor, [picture_of(pool, 0)], QUESTIONS[0])
    assert lessons.reported_right(taught, QUESTIONS[0]) == 1
    assert said == report(pool.findings[0])
    other = next(index for index, finding in enumerate(pool.findings) if finding != pool.findings[0])
    assert lessons.reported_right(pool.views(other, other + 1), QUESTIONS[0]) == 0


def picture_of(pool: Pool, index: int) -> Image.Image:
    return Image.fromarray(pool.pixels[index])


def test_the_whole_way_ends_in_a_small_directory_that_transformers_loads(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "_SCORE_SCENES", 3)
    monkeypatch.setattr(train_module, "_WATCH_SCENES", 4)
    lines: list[str] = []
    run(tmp_path / "model", QUICK, resume=False, report=lines.append)
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "the work directory is gone"
    assert any(line.startswith("step 4 (100.0%") for line in lines)
    assert sum(file.stat().st_size for file in (tmp_path / "model").iterdir()) < 12_000_000
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert 5_000_000 <= record["parameters"] <= 5_900_000
    assert (record["steps"], record["evaluation"]["scenes"]) == (4, 3)
    model, processor = load(tmp_path / "model")
    asked = processor(images=picture_of(pool, 0), text=prompt(processor, "?"), return_tensors="pt")
    made = model.generate(**asked, max_new_tokens=5)
    assert 1 <= made.shape[1] - asked.input_ids.shape[1] <= 5


def test_the_files_hold_the_weights_in_half_precision(tmp_path: Path) -> None:
    training = begin(QUICK)
    trained = {name: weight.clone() for name, weight in weights(training).items()}
    train_module.save_model(tmp_path, training.lessons)
    model, _ = load(tmp_path)
    stored = model.state_dict()
    assert stored.keys() == trained.keys()
    assert all(stored[name].equal(weight.half().float()) for name, weight in trained.items())
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    read = read_preprocess(preprocessor)
    assert (read.height, read.width, read.resize, read.center_crop) == (SIZE, SIZE, (SIZE, SIZE), False)


def test_an_untrained_model_scores_nothing(tmp_path: Path) -> None:
    lessons = begin(QUICK).lessons
    lessons.model.generation_config.max_new_tokens = 4
    lessons.model.save_pretrained(tmp_path)
    lessons.processor.save_pretrained(tmp_path)
    found = score(tmp_path, 2, 0)
    assert (found.report, found.kind, found.place, found.severity, found.action) == (0, 0, 0, 0, 0)


def test_an_existing_directory_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        run(tmp_path, QUICK, resume=False, report=quiet)


def test_there_is_nothing_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        run(tmp_path / "model", QUICK, resume=True, report=quiet)
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path / "model"), "--resume"])
    assert main() == 2
    assert "no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--steps", "0"), ("--minutes", "-1")])
def test_a_number_out_of_range_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path / "model"), option, value])
    assert main() == 2
    assert value in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
