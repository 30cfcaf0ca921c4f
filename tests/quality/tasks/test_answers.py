"""Two made-up models on made-up questions, against figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ArtifactError, EngineError, InputError
from edgeq.quality.answerer import Answer
from edgeq.quality.tasks.answer_questions import QuestionItem
from edgeq.quality.tasks.answers import VlmQuality, compare_answers

PICTURE = Image.new("RGB", (4, 4))
EVEN, SKEWED = (0.5, 0.5), (0.25, 0.75)
KL = 0.5 * math.log(4 / 3)
"""KL(EVEN || SKEWED) = 1/2 ln(1/2 / 1/4) + 1/2 ln(1/2 / 3/4)."""


@dataclass
class Scripted:
    """Says what it is told to; its tokens are the words' lengths, its chances are the same before every token."""

    says: Mapping[str, str]
    chances: tuple[float, float] = EVEN
    sees: Sequence[Sequence[float]] = ((1.0, 0.0), (0.0, 1.0))
    forced: list[tuple[int, ...]] = field(default_factory=list)
    looked: int = 0

    def answer(self, _image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        words = self.says[question].split()[:max_new_tokens]
        return Answer(" ".join(words), tuple(len(word) % 2 for word in words))

    def logits(self, _image: Image.Image, _question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        self.forced.append(tuple(answer_ids))
        return np.log(np.array([self.chances] * len(answer_ids), np.float32))

    def features(self, _image: Image.Image) -> NDArray[np.float32]:
        self.looked += 1
        return np.array(self.sees, np.float32)


def items(*questions: str, **options: object) -> list[QuestionItem]:
    return [QuestionItem(f"{question}.jpg", PICTURE, question, **options) for question in questions]  # type: ignore[arg-type]


def test_the_same_model_differs_in_nothing() -> None:
    model = Scripted({"a": "x yy", "b": "zz"})
    found = compare_answers(model, model, items("a", "b", answer="zz"))
    assert (found.items, found.agreement.value, found.agreement.standard_error) == (2, 100.0, 0.0)
    assert (found.forced.tokens, found.forced.kl.value, found.forced.perplexity_ratio.value) == (3, 0.0, 1.0)
    assert found.forced.same_token.value == 100.0
    assert found.features.cosine.value == found.features.worst == pytest.approx(1.0)
    assert found.exact is not None
    assert (found.exact.reference.value, found.exact.drop.value, found.exact.drop.standard_error) == (50.0, 0.0, 0.0)
    assert (found.key_terms, found.divergences) == (None, ())


def test_exact_match_looks_past_case_spaces_and_a_full_stop() -> None:
    ours = Scripted({"a": "A  Crack.", "b": "a crack .", "c": "a crack, long", "d": "a crack"})
    theirs = Scripted({"a": "dent", "b": "a crack", "c": "a crack", "d": "a crack"})
    found = compare_answers(ours, theirs, items("a", "b", "c", "d", answer="a crack")).exact
    assert found is not None
    assert (found.items, found.reference.value, found.candidate.value, found.drop.value) == (4, 75.0, 75.0, 0.0)
    # One is lost and one is won of four: variance (1 + 1) / 3, over 4.
    assert found.drop.standard_error == pytest.approx(100 * math.sqrt(2 / 3 / 4))


def test_key_terms_are_whole_words() -> None:
    ours = Scripted({"a": "a long CRACK, top  left", "b": "none"})
    theirs = Scripted({"a": "a cracked tile", "b": "none"})
    asked = [
        *items("a", key_terms=("crack", "long", "top left", "tile")),
        *items("b"),
    ]
    found = compare_answers(ours, theirs, asked).key_terms
    assert found is not None
    assert (found.items, found.reference.value, found.candidate.value) == (1, 75.0, 25.0)
    assert found.drop.standard_error is None, "one question says nothing of the others"


def test_the_references_words_are_forced_through_both() -> None:
    ours, theirs = Scripted({"a": "x yy z", "b": "x"}), Scripted({"a": "yy", "b": "x"}, chances=SKEWED)
    found = compare_answers(ours, theirs, items("a", "b")).forced
    assert ours.forced == theirs.forced == [(1, 0, 1), (1,)]
    assert found.tokens == 4
    assert found.kl.value == pytest.approx(KL, rel=1e-6)
    assert found.kl.standard_error == pytest.approx(0.0, abs=1e-7)  # each token has the same
    # Even chances: the first of two equals counts as the likeliest, the other model's is the second.
    assert found.same_token.value == 0.0
    # Reference 1/2 each; candidate 3/4 for three tokens and 1/4 for one: exp of the mean of -ln of 1.5, 1.5, 1.5, 0.5.
    logs = [-math.log(1.5), (-2 * math.log(1.5) - math.log(0.5)) / 3]
    assert found.perplexity_ratio.value == pytest.approx(math.exp((logs[0] + 3 * logs[1]) / 4), rel=1e-6)
    # Ratio of sums over two answers of 1 and 3 tokens: residuals d1 = y1 - R, d2 = y2 - 3R, and d1 = -d2.
    residual = logs[0] - (logs[0] + 3 * logs[1]) / 4
    error = math.sqrt(2 * 2 * residual**2) / 4
    assert found.perplexity_ratio.standard_error == pytest.approx(error * found.perplexity_ratio.value, rel=1e-5)


def test_a_longest_answer_is_kept() -> None:
    model = Scripted({"a": "x yy z"})
    assert compare_answers(model, model, items("a"), max_new_tokens=2).forced.tokens == 2


def test_features_are_compared_patch_by_patch_and_the_worst_is_named() -> None:
    says = {"a": "x", "b": "x"}
    found = compare_answers(Scripted(says), Scripted(says, sees=((2.0, 0.0), (1.0, 1.0))), items("a", "b")).features
    assert (found.images, found.patches) == (2, 4)
    # One patch is scaled, the other turned by 45 degrees.
    assert found.cosine.value == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert found.cosine.standard_error == pytest.approx(0.0, abs=1e-7)
    assert found.worst == pytest.approx(math.sqrt(0.5))
    assert (found.worst_image, found.worst_patch) == ("a.jpg", 1)


def test_a_picture_is_looked_at_once() -> None:
    model = Scripted({"a": "x", "b": "x"})
    asked = [QuestionItem("one.jpg", PICTURE, "a"), QuestionItem("one.jpg", PICTURE, "b")]
    found = compare_answers(model, model, asked)
    assert (found.items, found.features.images, model.looked) == (2, 1, 2)


def test_partings_tell_what_both_said_and_where_they_part() -> None:
    ours = Scripted({"a": "x yy z", "b": "same"})
    theirs = Scripted({"a": "x yy zz", "b": "same"})
    found = compare_answers(ours, theirs, items("b", "a", answer="x"))
    (one,) = found.divergences
    assert (one.item, one.image, one.question, one.answer) == (2, "a.jpg", "a", "x")
    assert (one.reference, one.candidate, one.token) == ("x yy z", "x yy zz", 2)
    assert found.agreement.value == 50.0
    # Variance 1/2 of (1, 0), over 2 questions.
    assert found.agreement.standard_error == pytest.approx(100 * math.sqrt(0.5 / 2))


def test_it_is_saved_and_read_back(tmp_path: Path) -> None:
    ours, theirs = Scripted({"a": "x"}), Scripted({"a": "yy"}, chances=SKEWED)
    found = compare_answers(ours, theirs, items("a", answer="x", key_terms=("x",)))
    found.save(tmp_path / "quality.json")
    assert VlmQuality.load(tmp_path / "quality.json") == found
    (tmp_path / "quality.json").write_text('{"version": "edgeq.vlm-quality/2"}')
    with pytest.raises(ArtifactError):
        VlmQuality.load(tmp_path / "quality.json")


def test_progress_is_told() -> None:
    seen: list[int] = []
    model = Scripted({"a": "x"})
    compare_answers(model, model, items("a", "a"), advance=seen.append)
    assert seen == [1, 1]


def test_no_question_is_an_error() -> None:
    model = Scripted({})
    with pytest.raises(InputError, match="no question"):
        compare_answers(model, model, [])


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (Scripted({"a": "x"}, chances=(0.2, 0.3, 0.5)), "logits"),  # type: ignore[arg-type]
        (Scripted({"a": "x"}, chances=(math.nan, 0.5)), "candidate gave logits that are NaN"),
        (Scripted({"a": "x"}, sees=((1.0, 0.0),)), r"features of the reference are \[2, 2\]"),
        (Scripted({"a": "x"}, sees=((1.0, math.inf),) * 2), "candidate gave features that are NaN"),
    ],
)
def test_what_cannot_be_compared_is_named(candidate: Scripted, words: str) -> None:
    with pytest.raises(EngineError, match=rf"a\.jpg: .*{words}"):
        compare_answers(Scripted({"a": "x"}), candidate, items("a"))


def test_an_answer_without_a_token_is_an_error() -> None:
    model = Scripted({"a": ""})
    with pytest.raises(EngineError, match="no token"):
        compare_answers(model, model, items("a"))
