"""YAML that stands for more than it shows, and files that are none: refused at once, with exit status 2 in words."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgeq.artifact import Artifact
from edgeq.errors import ArtifactError, EdgeqError, ModelError
from edgeq.files import open_plain, read_json_object, read_plain, require_plain_files, sha256_file
from edgeq.model.checkpoint.safetensors_header import read_safetensors_header
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rule_file import load_rules
from edgeq.service.report_phrases import load_report_phrases
from edgeq.service.settings import load_settings
from edgeq.yaml_text import parse_yaml


def bomb(levels: int, wide: int = 9) -> bytes:
    """A list of `wide` aliases, each of which stands for a list of so many, `levels` times."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * wide)}]" for level in range(1, levels + 1)]
    return "\n".join(lines).encode()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "aliases of aliases": (bomb(9), "stand for more than 200,000 values"),
    "merged keys of merged keys": (
        bomb(8).replace(b"[x, x]", b"{k: 1}").replace(b" [", b" {<<: [").replace(b"]", b"]}"),
        "stand for more than 200,000 values",
    ),
    "many aliases": (b"a: &a 1\nb: [" + b"*a, " * 5000 + b"]", "or are 1,001"),
    "an alias of itself": (b"a: &a [1, *a]", r"the alias \*a stands inside"),
    "lists within lists": (b"[" * 100_000, "nested more than 64 deep"),
    "objects within objects": (b"{a: " * 100_000, "nested more than 64 deep"),
    "blocks within blocks": (b"\n".join(b" " * n + b"a:" for n in range(1000)), "nested more than 64 deep"),
    "dashes": (b"- " * 100_000, "nested more than 64 deep"),
    "a number to the base of sixty": (b"a: " + b"1:" * 50_000 + b"1", "without quotes has more than 10,000"),
    "a long number": (b"a: " + b"1" * 50_000, "without quotes has more than 10,000"),
    "a key that comes twice": (b"version: 1\nversion: 2", "the key 'version' comes twice"),
    "an object of Python": (b"a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "no text": (b"\xff\xfe\xfa", "codec can't decode"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_in_words(name: str) -> None:
    text, words = HOSTILE[name]
    with pytest.raises(ValueError, match=words):
        parse_yaml(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_every_file_of_yaml_is_read_so(tmp_path: Path, name: str) -> None:
    text, _ = HOSTILE[name]
    path = tmp_path / "file.yaml"
    path.write_bytes(text)
    for load in (load_rules, PrecisionPlan.load, load_settings, load_report_phrases):
        with pytest.raises(ArtifactError) as caught:
            load(path)
        assert len(str(caught.value)) < 2000


def test_what_people_write_is_read() -> None:
    text = b"\xef\xbb\xbfcommon: &c {a: 1, b: [x, y]}\none: {<<: *c, a: 2}\ntwo: *c\nlong: '" + b"z" * 20_000 + b"'\n"
    common = {"a": 1, "b": ["x", "y"]}
    assert parse_yaml(text) == {"common": common, "one": {"a": 2, "b": ["x", "y"]}, "two": common, "long": "z" * 20_000}
    assert parse_yaml(b"") is None
    nested: object = "x"
    for _ in range(64):
        nested = [nested]
    assert parse_yaml(b"[" * 64 + b"x" + b"]" * 64) == nested


class _Note(Artifact):
    otherwise = "is no note"

    version: str = "note/1"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_no_reader_waits_for_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    listener = socket.socket(socket.AF_UNIX)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        listener.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    words = {"pipe": "a named pipe", "socket": "a socket", "device": "a device"}[kind]
    for read in (open_plain, read_plain, sha256_file):
        with pytest.raises(OSError, match=f"it is {words}, expected a plain file"):
            read(path)
    for load in (
        read_json_object, load_onnx, load_rules, PrecisionPlan.load, load_settings, _Note.load, read_safetensors_header,
        lambda path: require_plain_files(path.parent),
    ):  # fmt: skip
        with pytest.raises(EdgeqError, match=words):
            load(path)
    listener.close()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_in_a_model_is_refused(tmp_path: Path, name: str) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes(b"{}")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelError, match=rf"{name} cannot be read: it is a named pipe"):
        open_model(tmp_path)
