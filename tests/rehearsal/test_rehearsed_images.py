"""What of `make images` needs neither root nor an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rehearsal.images.__main__ import main
from rehearsal.images.engine import ContainerEngine, find_engine, lacking
from rehearsal.images.story import RIGHTS, broken_rights
from rehearsal.report import UnexpectedError

CONFINED = {"user": 10001, "capabilities": 0, "no_new_privileges": 1, "writable": ["/tmp"]}


def engine(there: Sequence[str], answering: Sequence[str]) -> str | None:
    """The name of the engine that is taken, where these programs are, and the first words of these commands succeed."""
    found = find_engine(
        Path("/cache"),
        lambda name: f"/usr/bin/{name}" if name in there else None,
        lambda command: " ".join(command[:2]) in answering,
    )
    return None if found is None else found.name


def test_docker_is_taken_where_its_daemon_answers_and_it_has_buildkit() -> None:
    both = ("docker", "podman")
    assert engine(both, ("docker buildx", "docker info")) == "docker"
    assert engine(both, ("docker buildx",)) == "podman"
    assert engine(both, ("docker info",)) == "podman"
    assert engine(("docker",), ()) is None


def test_podman_keeps_its_images_apart() -> None:
    found = find_engine(Path("/cache"), lambda name: name, lambda _: False)
    assert found is not None
    assert found.program[:5] == ("podman", "--root", "/cache/images", "--runroot", "/cache/run")


def test_all_that_is_missing_is_told_at_once() -> None:
    sentences, packages = lacking(None, 1000, lambda _: None)
    assert packages == ("podman", "runc", "debootstrap")
    assert [word in sentence for word, sentence in zip(("root", "engine", "debootstrap"), sentences, strict=True)] == [
        True
    ] * 3


def test_runc_is_asked_for_where_it_would_be_called() -> None:
    podman = ContainerEngine("podman", ("podman", "--runtime", "runc"))
    assert lacking(podman, 0, lambda name: None if name == "runc" else name)[1] == ("runc",)
    assert lacking(podman, 0, lambda name: name) == ((), ())


def test_it_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "report.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this machine cannot build the images")
    assert "apt-get install podman runc debootstrap" in said
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_says_what_it_said() -> None:
    shell = ContainerEngine("podman", ("sh", "-c", "echo before; echo why >&2; exit 3"))
    with pytest.raises(UnexpectedError, match="podman build ended with status 3: why"):
        shell.call("build")


def test_rights_are_read_of_the_process_itself() -> None:
    """/opt/edgeq and the like may be missing here: a directory that is not there is not writable."""
    done = subprocess.run([sys.executable, "-c", RIGHTS], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    assert found["user"] == os.getuid()
    assert f"NoNewPrivs:\t{found['no_new_privileges']}\n" in status
    assert "/tmp" in found["writable"]
    assert "/opt/edgeq" not in found["writable"] or os.access("/opt/edgeq", os.W_OK)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user": 0}, "user is 0"),
        ({"capabilities": 1 << 21}, "0x200000"),
        ({"no_new_privileges": 0}, "new privileges"),
        ({"writable": ["/tmp", "/opt/edgeq"]}, "/opt/edgeq"),
        ({"writable": []}, "should in"),
    ],
)
def test_a_right_too_many_is_told(change: dict[str, Any], words: str) -> None:
    assert broken_rights(CONFINED, ["/tmp"]) == []
    (told,) = broken_rights({**CONFINED, **change}, ["/tmp"])
    assert words in told
