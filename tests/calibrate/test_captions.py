"""Captions from text files and JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq.calibrate import captions
from edgeq.calibrate.captions import read_captions
from edgeq.errors import CalibrationError


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_caption_in_each_line(tmp_path: Path) -> None:
    file = written(tmp_path / "captions.txt", "\ufeffa red shoe\r\n\n  rust on a beam \na red shoe\nüber")
    assert read_captions(file) == ("a red shoe", "rust on a beam", "über")


def test_json_lines_of_pairs(tmp_path: Path) -> None:
    lines = [{"image": "a.png", "captions": ["one", "two"]}, {"caption": "two"}, {"caption": " three "}]
    file = written(tmp_path / "pairs.jsonl", "\n".join(map(json.dumps, lines)))
    assert read_captions(file) == ("one", "two", "three")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("c.txt", "  \n\n", "has no captions"),
        ("c.txt", b"a\n\xff\xfe", "is not UTF-8: byte 2"),
        ("c.txt", "ok\n" + "x" * 20_001, "line 2 has a caption of 20,001 characters"),
        ("c.jsonl", '{"caption": "a"}\nnothing', "line 2 is not JSON"),
        ("c.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("c.jsonl", '["a"]', "line 1 has no captions"),
        ("c.jsonl", '{"caption": 3}', "line 1 has no captions"),
        ("c.jsonl", '{"captions": ["a", " "]}', "line 1 has no captions"),
        ("c.jsonl", '{"captions": "a"}', "line 1 has no captions"),
    ],
)
def test_what_are_no_captions(name: str, content: str | bytes, error: str, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=error):
        read_captions(written(tmp_path / name, content))


def test_a_file_that_is_too_long_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "MAX_CAPTIONS_BYTES", 8)
    with pytest.raises(CalibrationError, match="too long"):
        read_captions(written(tmp_path / "c.txt", "123456789"))
    assert read_captions(written(tmp_path / "c.txt", "12345678")) == ("12345678",)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_captions(tmp_path / "none.txt")
