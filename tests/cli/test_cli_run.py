"""`edgeq run`: an answer, and everything that is no bundle, no image or no question."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import Edgeq, assert_refused
from pictures import draw_pictures

from edgeq.api.device.images import open_image
from edgeq.bundle.manifest import write_manifest
from edgeq.extras import install_command
from edgeq.runtime.vlm.model import Reply, open_vlm

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cameras.md"
ASK = ("--threads", "1", "--max-new-tokens", "3")


@pytest.fixture
def bundle(prepared_vlm: PreparedVlm) -> Path:
    return prepared_vlm.bundle


@pytest.fixture
def image(tiny_photographs: Path) -> Path:
    return tiny_photographs / "red" / "red-000.jpg"


def test_it_answers(edgeq: Edgeq, bundle: Path, image: Path) -> None:
    done = edgeq("run", bundle, image, "what is it?", *ASK, "--json")
    assert (done.status, done.err) == (0, "")
    reply = Reply.model_validate_json(done.out)
    assert 1 <= len(reply.token_ids) <= 3
    for_people = edgeq("run", bundle, image, "what is it?", *ASK)
    assert (for_people.status, for_people.out) == (0, f"{reply.text}\n")
    assert for_people.err == f"{reply.backend}: {reply.because}\n"


def test_it_answers_about_several_images(edgeq: Edgeq, bundle: Path, image: Path, tiny_photographs: Path) -> None:
    """In the order in which they are given: the answer is that of the model asked so."""
    other = tiny_photographs / "blue" / "blue-000.jpg"
    vlm, said = open_vlm(bundle, threads=1), set()
    for paths in ((image, other), (other, image)):
        reply = Reply.model_validate_json(edgeq("run", bundle, *paths, "which?", *ASK, "--json").out)
        assert reply.token_ids == vlm.ask([open_image(path) for path in paths], "which?", 3).token_ids
        assert (reply.image_tokens, reply.prompt_tokens) == (8, len(["<s>", *"which?:"]) + 8)
        said.add(reply.token_ids)
    assert len(said) == 2


def test_a_film_is_asked_about(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    from films import av, draw_film  # skips where the extra `camera` is missing

    film = tmp_path / "a.mkv"
    draw_film(film, 20, rate=10)
    flags = ("--fps", "1", "--overlay", tmp_path / "o.mp4", "--lines", tmp_path / "a.jsonl")
    done = edgeq("run", bundle, film, "what is it?", *ASK, *flags)
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert done.out.splitlines() == [f"{line['seconds']:.1f} s: {line['text']}" for line in lines]
    assert [line["frame"] for line in lines] == [0, 10]
    assert [line["tokens"] <= 3 for line in lines] == [True, True]
    with av.open(str(tmp_path / "o.mp4")) as made:
        assert len([*made.decode(video=0)]) == 2


def test_a_folder_is_asked_about(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    """Each image gets the answer that it gets alone; one that is broken has the reason instead."""
    folder = draw_pictures(tmp_path / "drawn", each=2) / "red"
    (folder / "red-002.jpg").write_bytes(b"no image")
    done = edgeq("run", bundle, folder, "what is it?", *ASK, "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert [answer["name"] for answer in told["answers"]] == ["red-000.jpg", "red-001.jpg", "red-002.jpg"]
    assert "cannot be decoded" in told["answers"][2]["reason"]
    assert (told["counts"]["answered"], told["counts"]["failed"]) == (2, 1)
    for answer in told["answers"][:2]:
        alone = edgeq("run", bundle, folder / answer["name"], "what is it?", *ASK, "--json")
        assert json.loads(alone.out)["text"] == answer["text"]


def test_the_commands_of_the_page_about_cameras(
    edgeq: Edgeq, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from films import RtspServer, draw_film, served  # skips where the extra `camera` is missing

    monkeypatch.chdir(tmp_path)
    Path("vlm-bundle").symlink_to(bundle)
    draw_film(Path("film.mp4"), 20, rate=10)
    (draw_pictures(tmp_path / "drawn", each=1) / "red").rename("images")
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("edgeq run ")]
    with served(RtspServer) as server:
        for line in lines:
            words = shlex.split(line.replace("camera:554", f"127.0.0.1:{server.server_address[1]}"))
            done = edgeq(*words[1:], *ASK)
            assert done.status == 0, (line, done.err)
    assert len(lines) == 3


def test_no_image(edgeq: Edgeq, bundle: Path) -> None:
    assert_refused(edgeq("run", bundle, "what?"), "Missing argument 'IMAGE...'")


def test_no_bundle(edgeq: Edgeq, image: Path, tmp_path: Path) -> None:
    assert_refused(edgeq("run", tmp_path, image, "what?"), "is not a bundle", "manifest.json")
    assert_refused(edgeq("run", tmp_path / "nowhere", image, "what?"), "is not a bundle")


def test_the_bundle_of_a_classifier(edgeq: Edgeq, image: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, labels=("a", "b"))
    assert_refused(edgeq("run", tmp_path, image, "what?"), "the bundle of a classifier")


def test_a_damaged_bundle(edgeq: Edgeq, bundle: Path, image: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "b")
    with (damaged / "vision.fp16.onnx").open("ab") as file:
        file.write(b"\0")
    assert_refused(edgeq("run", damaged, image, "what?"), "vision.fp16.onnx is not the file that the manifest lists")


def test_settings_that_are_none(edgeq: Edgeq, bundle: Path, image: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "b")
    (other / "vlm.json").write_text("{}")
    write_manifest(other, kind="vision-language")
    assert_refused(edgeq("run", other, image, "what?"), "does not say how vision and language are joined")


def test_language_weights_that_are_none(edgeq: Edgeq, bundle: Path, image: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "b")
    (other / "language" / "model.safetensors").write_bytes(b"no weights")
    write_manifest(other, kind="vision-language")
    assert_refused(edgeq("run", other, image, "what?"), "transformers cannot load the language model")


def test_an_image_that_is_none(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    assert_refused(edgeq("run", bundle, tmp_path / "a.jpg", "what?"), "a.jpg cannot be decoded")
    assert_refused(edgeq("run", bundle, tmp_path / "b.jpg", "what?"), "b.jpg cannot be read")
    done = edgeq("run", bundle, tmp_path, "what?")
    assert done.status == 2
    assert "none of 1 frames could be answered about" in done.err


def test_an_empty_question(edgeq: Edgeq, bundle: Path, image: Path) -> None:
    assert_refused(edgeq("run", bundle, image, "  ", *ASK), "the question is empty")


def test_a_question_of_a_hundred_thousand_characters(edgeq: Edgeq, bundle: Path, image: Path) -> None:
    """Each character is a token; `<s>`, four for the image and `:` come to it. Of 64 tokens planned, 60 are left."""
    done = edgeq("run", bundle, image, "a" * 100_000, *ASK)
    assert_refused(done, "takes 100,006 tokens, and the context is 64", "at most 60 tokens of question and answer")
    assert len(done.err) < 1000


@pytest.mark.parametrize("package", ["transformers", "bitsandbytes"])
def test_a_package_that_is_not_installed(
    edgeq: Edgeq, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert_refused(edgeq("run", bundle, image, "what?"), package, install_command("device", "language"))


def test_no_tokens(edgeq: Edgeq, bundle: Path, image: Path) -> None:
    assert_refused(edgeq("run", bundle, image, "what?", "--max-new-tokens", "0"), "--max-new-tokens")
