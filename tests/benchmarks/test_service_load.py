"""What the service's benchmark makes of what was heard; worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.peers.generate_run import refusal
from benchmarks.service import Report, cases, summarize
from benchmarks.service_clients import Heard
from edgeq.families.registry import runnable
from edgeq.model.images.decode import decode_image


def heard(tokens: int, first: float, total: float, status: int = 200) -> Heard:
    return Heard(status, "a", tokens, first, total)


ONE_THREAD, TWO_THREADS = -1, -2
"""Scripts."""


def test_medians_over_rounds_and_a_ratio_within_each() -> None:
    """The script says 10, 20 and 40 tokens a second; four clients 20, 60 and 80: 2, 3 and 2 times as many."""
    script = [([heard(10, 0.1, 1.0)], seconds) for seconds in (1.0, 0.5, 0.25)]
    service = [([heard(10, 0.2, 1.0), heard(30, 0.4, 2.0)], seconds) for seconds in (2.0, 40 / 60, 0.5)]
    one, four = summarize({TWO_THREADS: script, 4: service})
    assert (one.who, four.who) == ("generate, 2 threads", "4 clients")
    assert (one.tokens_per_second, one.requests_per_second, one.speed) == pytest.approx((20, 2, 1))
    assert (four.tokens_per_second, four.requests_per_second, four.speed) == pytest.approx((60, 3, 2))
    assert four.first[0] == pytest.approx(0.3)
    assert four.total[2] <= 2.0


def test_a_ratio_is_to_the_script_that_was_quickest_in_its_round() -> None:
    """One thread says 10, 40, 10 tokens a second, two say 20, 10, 30, a client 40, 40, 90: that is 2, 1, 3 times."""

    def turns(*seconds: float) -> list[tuple[list[Heard], float]]:
        return [([heard(10, 0.1, 0.2)], took) for took in seconds]

    one, two, client = summarize(
        {ONE_THREAD: turns(1, 0.25, 1), TWO_THREADS: turns(0.5, 1, 1 / 3), 1: turns(0.25, 0.25, 1 / 9)}
    )
    assert (one.who, two.who, client.who) == ("generate, 1 thread", "generate, 2 threads", "1 client")
    assert (one.speed, two.speed, client.speed) == pytest.approx((0.5, 1, 2))


def test_a_request_that_was_not_answered_is_no_figure() -> None:
    with pytest.raises(SystemExit, match="429"):
        summarize({ONE_THREAD: [([heard(1, 0.1, 0.1, status=429)], 1.0)]})


@pytest.mark.parametrize(("second", "equal", "passed"), [(0.1, 5, True), (0.12, 5, False), (0.1, 4, False)])
def test_what_is_good_enough(second: float, equal: int, passed: bool) -> None:
    """The second question's first token comes at least three times sooner, and every answer is the same."""
    report = Report(first_question=0.33, second_question=second, compared=5, equal=equal)
    assert report.passed is passed


def test_cases_are_scenes_that_nobody_was_asked_about() -> None:
    fresh = cases(9, seed=3)
    first, second = next(fresh), next(fresh)
    assert first.image != second.image
    assert decode_image(first.image, "it").mode == "RGB"
    assert (first.tokens, first.question != second.question) == (9, True)


@pytest.mark.parametrize("model_type", ["llava", "llava_onevision"])
def test_families_whose_prompts_are_embeddings_can_be_compared(model_type: str) -> None:
    assert refusal(model_type, runnable(model_type)) is None


@pytest.mark.parametrize("model_type", ["qwen3_vl", "mllama", "gemma3", "paligemma"])
def test_others_are_refused(model_type: str) -> None:
    """Their positions, masks or cross-attention are not in the embeddings."""
    told = refusal(model_type, runnable(model_type))
    assert told is not None
    assert told.startswith(f"{model_type}: ")
