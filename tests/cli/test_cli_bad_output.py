"""A place for the result that cannot be used: nothing is ever written over, and nothing half-written stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command import Edgeq, assert_refused, listing


@pytest.mark.parametrize("verb", ["export", "prepare", "demo"])
@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_output_that_exists(
    verb: str, kind: str, edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    if kind == "file":
        made.write_text("mine")
    elif kind == "directory":
        made.mkdir()
    else:
        made.symlink_to("gone")
    before = listing(tmp_path)
    given = () if verb == "demo" else (tiny_model, "--images", tiny_pictures)
    assert_refused(edgeq(verb, *given, "-o", made), "exists already", "next: choose another name or remove it")
    assert listing(tmp_path) == before


def test_output_below_a_file(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "file" / "made")
    assert_refused(done, "cannot be written", "next: choose another place with -o")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="there is no /sys, where not even root can make files")
def test_output_where_nobody_may_write(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path) -> None:
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "-o", "/sys/kernel/made")
    assert_refused(done, "/sys/kernel/made cannot be written", "next: choose another place with -o")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_output_in_a_read_only_directory(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "made")
    tmp_path.chmod(0o755)
    assert_refused(done, "cannot be written", "next: choose another place with -o")
    assert listing(tmp_path) == []
