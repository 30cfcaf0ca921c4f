"""The losses count what belongs together, a step lowers them, and recall counts sets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="the torch extra is not installed")

import torch

import edgeq.demo.clip.train as train_module
from edgeq.demo.clip.captions import captions
from edgeq.demo.clip.lessons import Lessons, contrast
from edgeq.demo.clip.network import FEATURES
from edgeq.demo.clip.score import embed_pictures, embed_texts, load, recall, relevance
from edgeq.demo.clip.tokens import CONTEXT, build_processor
from edgeq.demo.clip.train import Settings, begin, main, run, train
from edgeq.demo.vlm.pool import Pool, draw_pool
from edgeq.demo.vlm.report import DefectFinding
from edgeq.errors import OutputError

QUICK = Settings(scenes=8, steps=2, batch=4)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Training sets their number for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(0, 8, workers=1)


def quiet(_line: str) -> None:
    """Nobody wants to know."""


def test_the_loss_is_that_of_a_hand() -> None:
    """Two pictures of text 0, one of text 1, none of text 2; a picture is drawn to its text by the logarithm of 2."""
    two = math.log(2)
    logits = torch.tensor([[two, 0, 0], [two, 0, 0], [0, two, 0]])
    of_pictures = math.log(4 / 2)  # 2 of 2 + 1 + 1
    of_text_0 = math.log(5 / 2)  # each of two has 2 of 2 + 2 + 1
    of_text_1 = math.log(4 / 2)  # 2 of 1 + 1 + 2
    expected = (of_pictures + (of_text_0 + of_text_1) / 2) / 2
    assert contrast(logits, torch.tensor([0, 0, 1])).item() == pytest.approx(expected)


def test_the_loss_falls_to_nothing_but_the_choice_among_those_that_belong() -> None:
    logits = torch.full((3, 3), -50.0)
    logits[[0, 1, 2], [0, 0, 1]] = 50.0
    assert contrast(logits, torch.tensor([0, 0, 1])).item() == pytest.approx(math.log(2) / 4)


def test_some_steps_on_one_batch_lower_both_losses(pool: Pool) -> None:
    lessons = begin(QUICK)
    views = pool.views(0, 8)
    optimizer = torch.optim.AdamW([*lessons.model.parameters(), *lessons.sorter.parameters()], 1e-3)
    seen = []
    for _ in range(6):
        contrastive, sorting = lessons.losses(views, np.random.default_rng(0))
        seen.append((contrastive.item(), sorting.item()))
        optimizer.zero_grad()
        torch.autograd.backward(contrastive + sorting)
        optimizer.step()
    assert seen[-1][0] < seen[0][0] - 0.1
    assert seen[-1][1] < seen[0][1] - 0.1


def test_what_stands_behind_the_end_changes_nothing(pool: Pool) -> None:
    lessons = begin(QUICK)
    tokenizer = lessons.processor.tokenizer
    texts = [*captions(pool.findings[0]), "a shadow " * CONTEXT]
    together = embed_texts(lessons.model.eval(), tokenizer, texts)
    alone = np.concatenate([embed_texts(lessons.model, tokenizer, [text]) for text in texts])
    assert together.shape == (len(texts), FEATURES)
    assert np.allclose(together, alone, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_training_is_the_same_every_time(pool: Pool) -> None:
    trained: list[Lessons] = [begin(QUICK), begin(QUICK)]
    for lessons in trained:
        train(lessons, pool, QUICK, quiet)
    start = begin(QUICK).model.state_dict()
    first, second = (lessons.model.state_dict() for lessons in trained)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    still = [name for name in first if name.endswith("weight") and first[name].equal(start[name])]
    assert still == []


def test_recall_counts_a_caption_once_any_of_its_pictures_is_near() -> None:
    sound, shadow = DefectFinding("sound"), DefectFinding("shadow", "top")
    right = relevance([sound, shadow, sound], [sound, sound, shadow, DefectFinding("shadow", "left")])
    assert right.tolist() == [[True, True, False, False], [False, False, True, False], [True, True, False, False]]
    nearest = np.array([[1, 2, 0], [3, 2, 0], [3, 2, 1]])
    assert [recall(nearest, right, count) for count in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_the_whole_way_ends_in_a_directory_that_holds_what_was_trained(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "_SCORE_PAIRS", 12)
    kept: list[Lessons] = []

    def keep(settings: Settings) -> Lessons:
        kept.append(begin(settings))
        return kept[0]

    monkeypatch.setattr(train_module, "begin", keep)
    result = run(tmp_path / "model", QUICK, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (record["settings"]["steps"], record["evaluation"]["pairs"]) == (2, 12)
    assert record["evaluation"]["recall_at_5"] == result.recall_at_5
    model, tokenizer = load(tmp_path / "model")
    assert tokenizer.backend_tokenizer.to_str() == build_processor().tokenizer.backend_tokenizer.to_str()
    trained = kept[0].model.float().eval()  # rounded to float16 already
    assert np.allclose(embed_pictures(model, pool), embed_pictures(trained, pool), atol=1e-6)


def test_an_existing_directory_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutputError, match="exists"):
        run(tmp_path, QUICK, quiet)
    monkeypatch.setattr("sys.argv", ["train", "-o", str(tmp_path)])
    assert main() == 2
    assert "exists" in capsys.readouterr().err


def test_no_steps_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "-o", str(tmp_path / "model"), "--steps", "0"])
    assert main() == 2
    assert "0 steps" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
