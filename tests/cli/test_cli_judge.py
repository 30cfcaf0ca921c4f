"""`edgeq judge`: two simulated servers that see colours, and liars, on real ports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from seeing_server import SeeingServer, seeing_server

from edgeq.cli import run
from edgeq.judge.sight.drawing import COLOURS as PAINTS

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def sees(image: Image.Image, _question: str) -> str:
    return next(name for name, colour in COLOURS.items() if image.getpixel((0, 0)) == colour)


@pytest.fixture(scope="module")
def reference() -> Iterator[SeeingServer]:
    with seeing_server(sees) as server:
        yield server


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for number in range(60):
        name = [*COLOURS][number % 3]
        Image.new("RGB", (4 + number, 4), COLOURS[name]).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": "Which colour?", "answer": name}))
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_an_honest_server(
    reference: SeeingServer, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with seeing_server(sees) as target:
        command = ["judge", target.url, "--against", reference.url, "--eval", str(questions), "--json"]
        files = ["--answers", str(tmp_path / "target.jsonl"), "--against-answers", str(tmp_path / "reference.jsonl")]
        assert run([*command, *files, "-o", str(tmp_path / "judgement.json")]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["verdict"] == "sees"
        assert json.loads((tmp_path / "judgement.json").read_text()) == found
        assert len(target.asked) == 1 + 60
        assert run([*command, *files]) == 0
        assert len(target.asked) == 1 + 60 + 1  # all of it was in the files, but what the server takes
        assert json.loads(capsys.readouterr().out)["verdict"] == "sees"


def test_a_blind_server(reference: SeeingServer, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with seeing_server(lambda _image, _question: "red") as target:
        assert run(["judge", target.url, "--against", reference.url, "--eval", str(questions)]) == 1
    out = capsys.readouterr().out
    assert "sees less" in out
    assert "right answers drop by 66.67" in out.replace("\n", " ").lower()


def test_a_blind_server_is_asked_no_longer_than_it_takes(
    reference: SeeingServer, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with seeing_server(lambda _image, _question: "red") as target:
        command = ["judge", target.url, "--against", reference.url, "--eval", str(questions), "--looks", "3", "--json"]
        assert run(command) == 1
        assert len(target.asked) == 1 + 20
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["spent"]["questions"], found["bounds"]["looks"]) == ("sees less", 20, 3)


def test_a_server_that_answers_about_the_image_before(
    reference: SeeingServer, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [Image.new("RGB", (1, 1), COLOURS["red"])]

    def swapped(image: Image.Image, question: str) -> str:
        before.append(image)
        return sees(before.pop(0), question)

    with seeing_server(swapped) as target:
        command = [
            "judge",
            target.url,
            "--against",
            reference.url,
            "--eval",
            str(questions),
            "--clients",
            "1",
            "--json",
        ]
        assert run(command) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "sees less"
    assert found["enough"] <= 20


def test_a_server_with_coarse_eyes(
    reference: SeeingServer, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simulated: it takes every second image, by its width, for a red one."""

    def coarse(image: Image.Image, question: str) -> str:
        return "red" if image.width % 2 == 0 else sees(image, question)

    with seeing_server(coarse) as target:
        assert run(["judge", target.url, "--against", reference.url, "--eval", str(questions), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "sees less"


def test_the_sight_test(capsys: pytest.CaptureFixture[str]) -> None:
    """The one reads the colour of the square, the other always names one; what neither can see does not count."""

    def colour(image: Image.Image, question: str) -> str:
        if "square" not in question:
            return "sound"
        counts = {colour: count for count, colour in image.getcolors(1 << 20) or []}
        return max(PAINTS, key=lambda name: counts.get(PAINTS[name], 0))

    with seeing_server(colour) as seeing, seeing_server(lambda _image, _question: "red") as blind:
        assert run(["judge", blind.url, "--against", seeing.url, "--sight", "12", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [group["group"] for group in found["groups"] if group["tells"]] == ["colour"]
    assert found["verdict"] == "sees less"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nothing/here", "answers no questions about images"),
        ("model.onnx", "is no file"),
        ("http://127.0.0.1:x/v1", "no address"),
    ],
)
def test_what_cannot_be_judged(
    target: str, words: str, reference: SeeingServer, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(reference.asked)
    assert run(["judge", target, "--against", reference.url, "--eval", str(questions)]) == 2
    assert words in capsys.readouterr().err
    assert len(reference.asked) == before


@pytest.mark.parametrize(
    ("text", "words"), [("[1]", "an object is expected"), ("{", "--extra-body"), ('{"n": 2}', "n cannot")]
)
def test_fields_that_cannot_go_along(
    text: str, words: str, reference: SeeingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with seeing_server(sees) as target:
        assert run(["judge", target.url, "--against", reference.url, "--sight", "1", "--extra-body", text]) == 2
        assert not target.asked
    assert words in capsys.readouterr().err


def test_nothing_is_asked(reference: SeeingServer, capsys: pytest.CaptureFixture[str]) -> None:
    with seeing_server(sees) as target:
        assert run(["judge", target.url, "--against", reference.url]) == 2
    assert "no question" in capsys.readouterr().err


def test_beside_itself(reference: SeeingServer, questions: Path) -> None:
    assert run(["judge", reference.url, "--against", reference.url, "--eval", str(questions)]) == 2
