"""What of the vision-language story needs neither root nor an emulator; the service is real, its runtime simulated."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from classifier_bundle import classifier_bundle
from running import ANSWER, PIECES, SimulatedRuntime, picture, running, talking

from edgeq.errors import InputError
from rehearsal.__main__ import main
from rehearsal.client import ChatAnswer, chat, read_stream
from rehearsal.compare import COSINE, LOGPROB, compare_answers, compare_chats, compare_features
from rehearsal.releases import require_vision_language
from rehearsal.report import UnexpectedError
from rehearsal.wheels import bitsandbytes_release, language_wheels

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's."""
    return classifier_bundle(tmp_path_factory)


def event(content: str, logprobs: list[tuple[str, float]]) -> str:
    """A line of a stream, as the API has it."""
    told = {"content": [{"token": token, "logprob": value} for token, value in logprobs]}
    return "data: " + json.dumps({"choices": [{"delta": {"content": content}, "logprobs": told}]})


def test_a_stream_is_read_to_its_end() -> None:
    lines = [event("", []), "", event("a cr", [("a", -0.5)]), event("ack", [(" crack", -0.25)]), "data: [DONE]"]
    assert read_stream(lines) == ChatAnswer("a crack", (("a", -0.5), (" crack", -0.25)), 2)


@pytest.mark.parametrize("lines", [[event("a", [])], ['data: {"error": {"message": "busy"}}', "data: [DONE]"]])
def test_a_stream_that_breaks_off_or_fails_is_no_answer(lines: list[str]) -> None:
    with pytest.raises(UnexpectedError, match=r"without \[DONE\]|busy"):
        read_stream(lines)


def test_the_service_is_asked_about_a_picture(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture())
    runtime = SimulatedRuntime()
    with running(talking(runtime)) as service:
        answer = chat(service.url, tmp_path / "red.png", "what is it?")
    assert (answer.text, answer.pieces) == (ANSWER, len(PIECES))
    (asked,) = runtime.asks
    assert (len(asked.images), asked.turns[-1].texts) == (1, ("what is it?",))


def test_tokens_are_bounded_as_long_as_they_are_the_same() -> None:
    here = ChatAnswer("a crack", (("a", -0.5), (" crack", -0.25)), 2)
    near = compare_chats(here, ChatAnswer("a crack", (("a", -0.5 - LOGPROB / 2), (" crack", -0.25)), 2))
    assert [difference.within for difference in near] == [True, True]
    assert near[1].measured == pytest.approx(LOGPROB / 2)
    far = compare_chats(here, ChatAnswer("a crack", (("a", -0.5 - LOGPROB * 2), (" crack", -0.25)), 2))
    assert [difference.within for difference in far] == [True, False]
    other = compare_chats(here, ChatAnswer("a hole", (("a", -0.5), (" hole", -9.0), (".", -1.0)), 3))
    assert [(difference.arm64, difference.measured) for difference in other] == [("1 of 3", None), ("", 0.0)]
    assert not other[0].within
    nothing = compare_chats(here, ChatAnswer("", (), 0))
    assert [(difference.within, difference.measured) for difference in nothing] == [(False, None), (False, math.inf)]


def test_answers_are_the_same_word_for_word() -> None:
    assert compare_answers(["a", "b"], ["a", "c"])[0].arm64 == "1 of 2"
    assert not compare_answers(["a", "b"], ["a", "c"])[0].within
    assert compare_answers(["a"], ["a"])[0].within


def verified(cosine: float, said: str) -> dict[str, Any]:
    """As `edgeq verify-engine --answers --json` prints it, in what is compared."""
    answer = {"said": said, "wanted": "a crack", "tokens": 4, "chosen": 3}
    return {
        "backend": "onnxruntime 1",
        "canaries": {"canaries": [{"parity": {"worst_cosine": cosine}, "answer": answer}]},
    }


def test_features_and_answers_of_canaries_are_compared() -> None:
    near = compare_features(verified(1.0, "a crack"), verified(1 - COSINE / 2, "a crack"))
    assert all(difference.within for difference in near)
    assert [d.arm64 for d in near if "chosen" in d.what] == ["3 of 4"]
    far = compare_features(verified(1.0, "a crack"), verified(1 - COSINE * 2, "a hole"))
    assert [difference.within for difference in far] == [True, False, True, False]


def test_another_bundle_is_refused_before_anything_is_made(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="classifier"):
        require_vision_language(bundle)
    monkeypatch.setattr("rehearsal.__main__.require_able", lambda: None)
    words = ["--stories", "language", "--vlm-bundle", str(bundle), "--cache", str(tmp_path / "cache")]
    assert main(words) == 2
    assert "vlm-bundle" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_wheels_that_are_there_are_not_fetched_and_those_of_other_releases_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, fetched = bitsandbytes_release(CHECKOUT), list[str]()
    assert f"\nBITSANDBYTES_TAG={release} " in (CHECKOUT / "jetson/install.sh").read_text(encoding="utf-8")
    for name in (f"bitsandbytes-{release}-py3-none-any.whl", "torch-2.8.0-cp311-cp311-any.whl"):
        (tmp_path / name).touch()
    monkeypatch.setattr("rehearsal.wheels._download", lambda _directory, requirement: fetched.append(requirement))
    language_wheels(tmp_path, CHECKOUT, "2.9.1")
    assert fetched == ["torch==2.9.1"]
    assert [path.name for path in tmp_path.iterdir()] == [f"bitsandbytes-{release}-py3-none-any.whl"]
