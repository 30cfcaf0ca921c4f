"""The store with real processes and a simulated builder: nobody here has TensorRT, and no engine is loaded."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import simulated
from simulated import ORIN, make, parts, plan_bytes, settings

from edgeq.engine_store.key import KeyParts, engine_key
from edgeq.engine_store.store import ENGINE, RECORD, EngineRecord, EngineStore, StoredEngine, default_store
from edgeq.errors import EngineError, OutputError

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start another process that builds in the same store."""
    started: list[subprocess.Popen[str]] = []

    def begin(how: str, release: str = simulated.RELEASE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(simulated.__file__), str(tmp_path), release, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def told(process: subprocess.Popen[str]) -> dict[str, object]:
    """Let it go on, and what it got in the end."""
    found: dict[str, object] = json.loads(process.communicate("\n")[0].splitlines()[-1])
    return found


def build(root: Path, release: str = simulated.RELEASE) -> StoredEngine:
    return EngineStore(root).build(settings(release), parts(release), lambda path: make(path, release))


def key_of(release: str = simulated.RELEASE) -> str:
    key = engine_key(parts(release))
    assert key is not None
    return key


def listing(root: Path) -> set[str]:
    """Everything in the store but its locks."""
    return {path.name for path in root.iterdir() if path.name != ".locks"}


def never(_path: Path) -> None:
    raise AssertionError("it was built again")


def test_an_engine_is_built_once(tmp_path: Path) -> None:
    store = EngineStore(tmp_path / "new" / "store")
    assert store.find(key_of()) is None
    first = store.build(settings(), parts(), make)
    assert (first.reused, first.because) == (False, "no engine of this graph is in the store")
    assert first.engine.read_bytes() == plan_bytes()
    second = store.build(settings(), parts(), never)
    assert second.reused
    assert (second.engine, second.record) == (first.engine, first.record)
    assert store.find(key_of()) == second


def test_the_record_says_what_the_engine_is(tmp_path: Path) -> None:
    kept = build(tmp_path)
    assert kept.engine == tmp_path / key_of() / ENGINE
    record = EngineRecord.load(tmp_path / key_of() / RECORD)
    assert record == kept.record
    assert (record.size, record.sha256) == (len(plan_bytes()), hashlib.sha256(plan_bytes()).hexdigest())
    assert (record.settings, record.parts, record.key) == (settings(), parts(), key_of())


def test_two_processes_at_once_build_once(tmp_path: Path, start: Start) -> None:
    first = start("paused")
    assert heard(first) == "building"
    second = start("once")
    assert heard(second) == "waiting"
    one, other = told(first), told(second)
    assert (one["reused"], other["reused"]) == (False, True)
    assert one["sha256"] == other["sha256"] == hashlib.sha256(plan_bytes()).hexdigest()
    assert listing(tmp_path) == {key_of()}


def test_other_keys_do_not_wait(tmp_path: Path, start: Start) -> None:
    first = start("paused")
    assert heard(first) == "building"
    assert not build(tmp_path, "10.16.1").reused
    assert told(first)["reused"] is False  # what it had written half was not taken for garbage
    assert listing(tmp_path) == {key_of(), key_of("10.16.1")}


@pytest.mark.parametrize("next_release", ["10.3.0", "10.16.1"])
def test_a_killed_build_leaves_nothing_but_garbage_that_the_next_removes(
    tmp_path: Path, start: Start, next_release: str
) -> None:
    killed = start("paused")
    assert heard(killed) == "building"
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    (garbage,) = listing(tmp_path)
    assert (tmp_path / garbage / ENGINE).stat().st_size == simulated.SIZE // 2
    assert EngineStore(tmp_path).find(key_of()) is None
    assert (tmp_path / ".locks" / key_of()).exists()  # it is stale, and blocks nobody
    assert not build(tmp_path, next_release).reused
    assert listing(tmp_path) == {key_of(next_release)}


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, start: Start) -> None:
    found = told(start("small-files"))
    assert found["error"] == "OutputError"
    assert "--store" in str(found["text"])
    assert listing(tmp_path) == set()
    assert not build(tmp_path).reused


def test_a_flipped_byte_is_found_and_the_engine_built_again(tmp_path: Path) -> None:
    engine = build(tmp_path).engine
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    assert EngineStore(tmp_path).find(key_of()) is None
    again = build(tmp_path)
    assert not again.reused
    assert "has other bytes than those that were built" in again.because
    assert engine.read_bytes() == plan_bytes()
    assert build(tmp_path).reused


def test_a_shortened_engine_is_found_by_its_length(tmp_path: Path) -> None:
    engine = build(tmp_path).engine
    engine.write_bytes(plan_bytes()[:-1])
    assert f"has {len(plan_bytes()) - 1:,} bytes instead of {len(plan_bytes()):,}" in build(tmp_path).because


@pytest.mark.parametrize("lost", [ENGINE, RECORD])
def test_half_of_an_entry_is_no_engine(tmp_path: Path, lost: str) -> None:
    (build(tmp_path).engine.parent / lost).unlink()
    assert EngineStore(tmp_path).find(key_of()) is None
    again = build(tmp_path)
    assert not again.reused
    assert lost in again.because


def test_an_engine_under_the_key_of_another_is_not_used(tmp_path: Path) -> None:
    """Copied from another device into the place of ours: its record still says what it is."""
    theirs = build(tmp_path, "10.16.1").engine.parent
    theirs.rename(tmp_path / key_of())
    assert EngineStore(tmp_path).find(key_of()) is None
    assert "holds the engine of another key" in build(tmp_path).because
    record = EngineRecord.load(tmp_path / key_of() / RECORD)
    forged = record.model_copy(update={"parts": parts("10.16.1")})
    forged.save(tmp_path / key_of() / RECORD)
    assert EngineStore(tmp_path).find(key_of()) is None


def test_another_release_is_built_anew_and_said_why(tmp_path: Path) -> None:
    build(tmp_path)
    other = build(tmp_path, "10.16.1")
    assert not other.reused
    assert other.because.endswith("cannot be used: built for TensorRT 10.3.0, this is 10.16.1")
    assert listing(tmp_path) == {key_of(), key_of("10.16.1")}


def test_the_nearest_engine_explains(tmp_path: Path) -> None:
    build(tmp_path, "10.3.0")
    agx = ORIN.model_copy(update={"device": "NVIDIA Jetson AGX Orin"})
    store = EngineStore(tmp_path)
    store.build(settings("10.16.1"), parts("10.16.1", agx), make)
    ours = parts("10.3.0", ORIN.model_copy(update={"platform": "L4T 38.2"}))
    assert store.explain(ours).endswith("cannot be used: built under L4T 36.4.3, this is L4T 38.2")
    theirs = parts("10.16.1", agx.model_copy(update={"platform": "L4T 38.2", "architecture": "x86_64"}))
    assert store.explain(theirs).endswith("L4T 38.2; built for the processor aarch64, this is x86_64")


def test_engines_of_other_graphs_explain_nothing(tmp_path: Path) -> None:
    build(tmp_path)
    other = parts().model_copy(update={"graph": {"vision.fp16.onnx": "44" * 32}})
    assert EngineStore(tmp_path).explain(other) == ""
    assert EngineStore(tmp_path / "empty").explain(parts()) == ""


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise EngineError("the builder returned nothing")

    with pytest.raises(EngineError, match="returned nothing"):
        EngineStore(tmp_path).build(settings(), parts(), fail)
    with pytest.raises(EngineError, match="without an engine"):
        EngineStore(tmp_path).build(settings(), parts(), Path.touch)
    assert listing(tmp_path) == set()


def test_without_a_whole_key_nothing_is_built(tmp_path: Path) -> None:
    workstation: KeyParts = parts(machine=ORIN.model_copy(update={"compute_capability": None}))
    with pytest.raises(EngineError, match="compute_capability"):
        EngineStore(tmp_path).build(settings(), workstation, never)


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="--store"):
        build(tmp_path / "file" / "store")


def test_the_default_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_store() == Path("/var/lib/edgeq/engines")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store() == tmp_path / "edgeq" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_store() == tmp_path / "home" / ".cache" / "edgeq" / "engines"
