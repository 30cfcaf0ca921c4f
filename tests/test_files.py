"""Writing in one step: what is there after success, failure and interruption."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from edgeq.errors import OutputError
from edgeq.files import atomic_write, new_directory, sha256_file


def names_in(directory: Path) -> list[str]:
    """What lies in a directory, hidden files too, sorted."""
    return sorted(file.name for file in directory.iterdir())


@contextmanager
def small_files_only(limit: int) -> Iterator[None]:
    """The kernel refuses files over `limit` bytes (EFBIG) within: this process's own log, too, so keep it short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_bytes_are_written_and_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.json"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names_in(path.parent) == ["plan.json"]


def test_a_function_may_write(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"one ")
        file.write(b"two")

    atomic_write(tmp_path / "a", write)
    assert (tmp_path / "a").read_bytes() == b"one two"


def test_files_get_the_permissions_of_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    atomic_write(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "scales.json"
    path.write_bytes(b"before")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise stop

    with pytest.raises(stop):
        atomic_write(path, write)
    assert path.read_bytes() == b"before"
    assert names_in(tmp_path) == ["scales.json"]


def test_a_file_that_grows_too_large_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"big\.bin is larger than") as caught, small_files_only(4096):
        atomic_write(tmp_path / "big.bin", bytes(4097))
    assert "needed" in caught.value.what
    assert names_in(tmp_path) == []


def test_a_full_disk_says_what_is_free(tmp_path: Path) -> None:
    def write(_: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"the disk is full: .*MB are free"):
        atomic_write(tmp_path / "a", write)
    assert names_in(tmp_path) == []


def test_a_parent_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="cannot be written"):
        atomic_write(tmp_path / "file" / "a", b"y")
    with pytest.raises(OutputError, match="cannot be written"), new_directory(tmp_path / "file" / "a"):
        pass


def test_a_directory_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        atomic_write(tmp_path / "a", b"x")
    assert names_in(tmp_path) == ["a"]


def test_a_new_directory_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bundle"
    with new_directory(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_bytes(b"x")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".bundle.partial-")
    assert (path / "sub" / "file").read_bytes() == b"x"
    assert names_in(path.parent) == ["bundle"]


@pytest.mark.parametrize("kind", ["file", "empty directory", "dangling link"])
def test_nothing_is_written_over(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bundle"
    if kind == "file":
        path.write_bytes(b"mine")
    elif kind == "empty directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already") as caught, new_directory(path):
        pytest.fail("the body must not run")
    assert caught.value.next_step == "choose another name or remove it"


def test_a_directory_that_came_into_being_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with pytest.raises(OutputError, match="exists already"), new_directory(path):
        path.mkdir()
    assert names_in(tmp_path) == ["bundle"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, FileNotFoundError])
def test_an_interrupted_directory_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    def work() -> None:
        with new_directory(tmp_path / "bundle") as temporary:
            (temporary / "half").write_bytes(b"x")
            raise stop

    with pytest.raises(stop):
        work()
    assert names_in(tmp_path) == []


def test_a_full_disk_inside_a_new_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the disk is full: .*bundle"), new_directory(tmp_path / "bundle"):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert names_in(tmp_path) == []


def test_sha256_of_a_file_longer_than_one_piece(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
