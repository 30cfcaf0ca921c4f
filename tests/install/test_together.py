"""Two processes at one store, and a service that starts meanwhile; and a disk that is full at the worst places."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from classifier_bundle import classifier_bundle
from packed import make_bundle
from small_bundles import check_clean, make_version, pair
from test_files import small_files_only

from edgeq.bundle.errors import DigestError
from edgeq.bundle.keys import KeyPair
from edgeq.bundle.release import Release
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.verify import Trust, check_unchanged, examine
from edgeq.errors import EdgeqError, OutputError
from edgeq.files import sha256_file
from edgeq.install.history import read_history
from edgeq.install.run import install, prune, rollback
from edgeq.install.states import current
from edgeq.install.store import Store
from edgeq.install.trust import read_memory
from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings


def release(directory: Path, sequence: int, keys: KeyPair) -> Path:
    made = make_bundle(directory, {"weights": bytes(200_000), "vision.onnx": b"%d" % sequence * 50})
    at = Release(product="inspector", sequence=sequence, made="2026-01-01T00:00:00Z")
    sign_bundle(made, keys.private, release=at)
    return made


def test_two_installs_at_once(tmp_path: Path) -> None:
    """Of two command lines that begin together each is done or told to wait, and the store is whole."""
    ids = [make_version(tmp_path / str(number), number) for number in range(2)]
    root = tmp_path / "root"
    code = "import sys; from edgeq.cli import run; sys.stdin.read(1); sys.exit(run(sys.argv[1:]))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, "install", tmp_path / str(number), "--root", root, "--no-check"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
    told = [process.communicate()[1].decode() for process in processes]
    statuses = [process.returncode for process in processes]
    assert 0 in statuses
    assert all(status == 0 or "another edgeq is changing" in err for status, err in zip(statuses, told, strict=True))
    assert pair(root)[0] in [ids[number] for number in range(2) if statuses[number] == 0]
    check_clean(root)
    entries, damage = read_history(Store(root), read_memory(Store(root)).head)
    assert damage == ""
    assert len(entries) == statuses.count(0)


def test_installs_and_prunes_while_a_bundle_is_loaded(tmp_path: Path, ours: KeyPair) -> None:
    """They link and unlink what versions share, which is no change of what was checked."""
    root = tmp_path / "root"
    for number in (1, 2, 3):
        install(release(tmp_path / str(number), number, ours), root, keys=[ours.public])
    serving = current(root)
    verified = examine(serving, Trust())
    weights = serving / "weights"
    assert weights.stat().st_nlink == 4
    rollback(root)
    install(release(tmp_path / "4", 4, ours), root)
    check_unchanged(serving, verified)
    assert len(prune(root, 2).removed) == 1
    assert weights.stat().st_nlink == 4  # one name more, one less
    check_unchanged(serving, verified)
    assert prune(root, 0).removed == (serving.name,)
    with pytest.raises(DigestError):
        check_unchanged(serving, verified)


def test_readers_while_versions_come_and_go(tmp_path: Path, ours: KeyPair) -> None:
    """Anyone who resolves the link and checks what it finds gets a whole version, or hears that it was removed."""
    root, wrong = tmp_path / "root", list[BaseException]()
    bundles = [release(tmp_path / str(number), number, ours) for number in range(1, 9)]
    install(bundles[0], root, keys=[ours.public])
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                examine(current(root), Trust())
            except (EdgeqError, FileNotFoundError):
                pass
            except BaseException as error:
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for bundle in bundles[1:]:
        install(bundle, root)
        prune(root, 0)
    ended.set()
    reader.join()
    assert wrong == []
    check_clean(root)


@pytest.mark.parametrize("limit", range(0, 1600, 200))
def test_a_disk_that_is_full_anywhere(tmp_path: Path, ours: KeyPair, limit: int) -> None:
    """Files of more bytes than this cannot be written: the history and the memory grow past it, early or late."""
    root = tmp_path / "root"
    install(release(tmp_path / "1", 1, ours), root, keys=[ours.public])
    before = pair(root)
    for path in ("weights", "vision.onnx"):  # so that it is not for them that there is no room
        assert (current(root) / path).exists()
    second = release(tmp_path / "2", 2, ours)
    outcome = ""
    try:
        with small_files_only(limit):
            install(second, root)
    except OutputError as error:
        outcome = error.what
    assert pair(root) == (before if outcome else (sha256_file(second / "manifest.json"), before[0]))
    install(second, root)
    check_clean(root)
    memory = read_memory(Store(root))
    assert [each.sequence for each in memory.highest] == [2]
    assert read_history(Store(root), memory.head)[1] == ""


def test_what_is_served_is_what_was_checked(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, ours: KeyPair
) -> None:
    """A file of a signed bundle is changed after the check and before it is loaded."""
    bundle = tmp_path / "bundle"
    shutil.copytree(classifier_bundle(tmp_path_factory), bundle)
    sign_bundle(bundle, ours.private)
    settings = ServiceSettings(keys=(ours.public,), canaries=False, threads=1, backend="onnxruntime")
    open_served(bundle, settings).close()

    def change(what: str) -> None:
        if what == "opening the vision graph":
            config = bundle / "preprocessor_config.json"
            config.write_text(config.read_text().replace("0.", "1.", 1))

    with pytest.raises(DigestError, match=r"preprocessor_config\.json changed after it was checked"):
        open_served(bundle, settings, say=change)
