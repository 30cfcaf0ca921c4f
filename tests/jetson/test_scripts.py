"""The scripts in jetson/ as text: they parse, and a linter has nothing to say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scratch import CHECKOUT

SCRIPTS = [*sorted((CHECKOUT / "jetson").glob("*.sh")), CHECKOUT / "tests/jetson/stub.sh"]
RUN_BY_PEOPLE = ["install.sh", "presets.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_can_read_it(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck_has_nothing_to_say() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    # What is sourced is looked at through those that source it: alone, its variables have no reader.
    scripts = [script for script in SCRIPTS if script.name in {*RUN_BY_PEOPLE, "stub.sh"}]
    done = subprocess.run(["shellcheck", "-x", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", RUN_BY_PEOPLE)
def test_a_script_that_people_run(name: str) -> None:
    script = CHECKOUT / "jetson" / name
    text = script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text


@pytest.mark.parametrize("name", RUN_BY_PEOPLE)
def test_every_option_is_in_the_help(name: str) -> None:
    script = CHECKOUT / "jetson" / name
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = re.findall(r"^ +(--[a-z-]+)\)", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert "--dry-run" in options
    assert not [option for option in options if f" {option} " not in done.stdout and f"[{option}" not in done.stdout]


def test_no_mode_number_is_written_anywhere() -> None:
    for script in SCRIPTS[:-1]:
        called = [line for line in script.read_text(encoding="utf-8").splitlines() if "nvpmodel -m" in line]
        assert all('-m "$number"' in line or "-m $number" in line for line in called)


def test_units_are_never_changed_with_now() -> None:
    """In a chroot, where an image is made, `systemctl start` and `stop` do nothing, and `--now` fails."""
    lines = [line for script in SCRIPTS[:-1] for line in script.read_text(encoding="utf-8").splitlines()]
    called = [line for line in lines if re.match(r" *run systemctl ", line)]
    assert len(called) >= 5
    assert not [line for line in called if "--now" in line.partition("#")[0]]
