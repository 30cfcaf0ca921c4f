"""What a store does when it is not alone, not its own, full, or damaged."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from small_bundles import check_clean, make_version, own_bytes, pair
from test_files import small_files_only

from edgeq.errors import ArtifactError, OutputError
from edgeq.install import objects
from edgeq.install.listing import installed
from edgeq.install.run import install, prune, rollback
from edgeq.install.states import current, enter, read_state
from edgeq.install.store import locked, open_store


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    """Ids of three bundles, tmp_path/0 to tmp_path/2."""
    return [make_version(tmp_path / str(number), number) for number in range(3)]


@pytest.fixture
def root(tmp_path: Path, ids: list[str]) -> Path:
    """A store with bundles 0 and 1."""
    for number in range(2):
        install(tmp_path / str(number), tmp_path / "root")
    assert pair(tmp_path / "root") == (ids[1], ids[0])
    return tmp_path / "root"


def test_one_at_a_time(root: Path, tmp_path: Path, ids: list[str]) -> None:
    with locked(root):
        for act in (lambda: install(tmp_path / "2", root), lambda: rollback(root), lambda: prune(root, 0)):
            with pytest.raises(OutputError, match="another edgeq is changing"):
                act()
        assert [version.use for version in installed(root)] == ["current", "previous"]  # whoever only looks may
    assert install(tmp_path / "2", root).id == ids[2]


def test_a_lock_dies_with_its_process(root: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from edgeq.install.store import locked
with locked(Path({str(root)!r})):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="another edgeq is changing"):
            install(tmp_path / "2", root)
        process.kill()
    install(tmp_path / "2", root)


@pytest.mark.usefixtures("ids")
@pytest.mark.parametrize("name", ["objects", "versions", "staging", "current"])
def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "project" / name).mkdir(parents=True)
    (tmp_path / "project" / name / "precious").write_bytes(b"work")
    with pytest.raises(ArtifactError, match=f"has a '{name}' that no edgeq has put there"):
        install(tmp_path / "0", tmp_path / "project")
    assert [path.name for path in (tmp_path / "project").rglob("*")] == [name, "precious"]


def test_what_else_is_in_the_directory_stays(root: Path, tmp_path: Path) -> None:
    for name in ("engines", "lost+found"):
        (root / name).mkdir()
        (root / name / ".kept").write_bytes(b"")
    install(tmp_path / "2", root)
    prune(root, 0)
    assert (root / "engines" / ".kept").exists()
    assert (root / "lost+found" / ".kept").exists()


def test_a_store_of_another_version(root: Path, tmp_path: Path) -> None:
    (root / "store.json").write_text('{"version": "edgeq.store/2"}')
    for act in (lambda: install(tmp_path / "2", root), lambda: rollback(root), lambda: installed(root)):
        with pytest.raises(ArtifactError, match="not the mark of a store"):
            act()


@pytest.mark.usefixtures("ids")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be made"):
        install(tmp_path / "0", tmp_path / "file" / "root")


def test_space_is_looked_at_first(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[str]) -> None:
    """The bundle's own file and its manifest are all that is missing: the weights are there."""
    missing = len(own_bytes(2)) + (tmp_path / "2" / "manifest.json").stat().st_size
    usage = namedtuple("usage", "total used free")

    def free(count: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1 << 40, 0, count + objects.RESERVE_BYTES))

    free(missing - 1)
    with pytest.raises(OutputError, match="too full") as caught:
        install(tmp_path / "2", root)
    assert "edgeq prune" in caught.value.next_step
    assert pair(root) == (ids[1], ids[0])
    check_clean(root)
    free(missing)
    install(tmp_path / "2", root)


def test_a_write_that_fails_leaves_the_old_version(root: Path, tmp_path: Path, ids: list[str]) -> None:
    """The kernel refuses files of more than 100 bytes, as a full disk would refuse them."""
    with pytest.raises(OutputError) as caught, small_files_only(100):
        install(tmp_path / "2", root)
    assert "edgeq prune" in caught.value.next_step
    assert pair(root) == (ids[1], ids[0])
    check_clean(root)
    assert {version.id for version in installed(root)} == {*ids[:2]}


@pytest.mark.parametrize("check", [None, lambda _version: None])
def test_a_disk_that_fills_up_before_the_switch(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[str], check: Callable[[Path], None] | None
) -> None:
    """All files are there, and there is no room for a link."""

    def symlink(_target: str, path: Path, _directory: bool = False) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(os, "symlink", symlink)
    with pytest.raises(OutputError, match="full"):
        install(tmp_path / "2", root, check=check)
    assert pair(root) == (ids[1], ids[0])


def test_a_file_system_without_hard_links(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[str]
) -> None:
    def link(_target: Path, path: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OutputError, match="hard link"):
        install(tmp_path / "2", root)
    assert pair(root) == (ids[1], ids[0])


def test_damage_is_found_and_mended_by_installing_again(root: Path, tmp_path: Path) -> None:
    assert [version.damage for version in installed(root)] == [None, None]
    assert [version.damage for version in installed(root, check=True)] == ["", ""]
    weights = current(root) / "language/weights"
    weights.write_bytes(weights.read_bytes()[::-1])  # the one file of both
    for version in installed(root, check=True):
        assert version.damage
        assert "language/weights" in version.damage
    done = install(tmp_path / "2", root)  # a third version with the same file
    assert done.new_files == 3
    assert [version.damage for version in installed(root, check=True)] == ["", "", ""]
    check_clean(root)


@pytest.mark.parametrize("lost", ["vision.onnx", "manifest.json"])
def test_a_lost_file_is_brought_back(root: Path, tmp_path: Path, ids: list[str], lost: str) -> None:
    (current(root) / lost).unlink()
    assert [bool(version.damage) for version in installed(root, check=True)] == [True, False]
    install(tmp_path / "1", root)
    assert pair(root) == (ids[1], ids[0])


def test_a_changed_manifest_is_damage_though_it_fits_its_files(root: Path) -> None:
    path = current(root) / "manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert "manifest.json" in (installed(root, check=True)[0].damage or "")


def test_a_version_without_a_record_can_be_used(root: Path, tmp_path: Path, ids: list[str]) -> None:
    (root / "records" / f"{ids[1]}.json").write_bytes(b"\0" * 100)
    (root / "records" / f"{ids[0]}.json").unlink()
    assert {version.id: (version.use, version.source) for version in installed(root)} == {
        ids[1]: ("current", ""),
        ids[0]: ("previous", ""),
    }
    assert rollback(root).current == ids[0]
    install(tmp_path / "2", root)
    assert prune(root, 0).removed == (ids[1],)


def _on_trial(root: Path, bundle: Path) -> None:
    """What an install leaves that is killed during its check."""
    install(bundle, root)
    with locked(root) as store:
        state = read_state(store)
        before = enter(store, state.previous, None)
        enter(store, state.current, state.previous, back=before)


def test_a_check_that_was_killed_is_undone_by_the_next_install(root: Path, tmp_path: Path, ids: list[str]) -> None:
    _on_trial(root, tmp_path / "2")
    assert installed(root)[0].use == "trial"
    assert install(tmp_path / "0", root).previous == ids[1]
    (failed,) = (version for version in installed(root) if version.use == "failed")
    assert (failed.id, failed.failed) == (ids[2], "its check did not come to an end")


def test_rollback_after_a_check_that_was_killed_goes_back_once(root: Path, tmp_path: Path, ids: list[str]) -> None:
    _on_trial(root, tmp_path / "2")
    done = rollback(root)
    assert (done.current, done.previous) == (ids[1], None)


def test_a_state_that_vanishes_while_it_is_read_is_read_again(
    root: Path, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reader's two looks at the link, another process switches and sweeps."""
    store, readlink, looks = open_store(root), Path.readlink, []

    def look(path: Path) -> Path:
        found = readlink(path)
        if path == store.state:
            looks.append(found)
            if len(looks) == 1:
                monkeypatch.setattr(Path, "readlink", readlink)
                rollback(root)
                prune(root, 2)
                monkeypatch.setattr(Path, "readlink", look)
        return found

    monkeypatch.setattr(Path, "readlink", look)
    assert read_state(store).current == ids[0]
    assert len(set(looks)) == 2


def test_the_link_leads_nowhere(root: Path) -> None:
    (root / "state").unlink()
    (root / "state").symlink_to("states/999")
    with pytest.raises(ArtifactError, match="leads to no state"):
        current(root)


def test_what_the_store_writes_has_a_version(root: Path, ids: list[str]) -> None:
    assert '"edgeq.store/1"' in (root / "store.json").read_text()
    assert '"edgeq.installed/1"' in (root / "records" / f"{ids[0]}.json").read_text()


def test_a_version_is_a_bundle_like_any_other(root: Path, tmp_path: Path, ids: list[str]) -> None:
    assert install(current(root), tmp_path / "other").id == ids[1]
    assert install(current(root), root).new_files == 0
    assert pair(root) == (ids[1], ids[0])
