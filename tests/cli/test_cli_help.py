"""Every verb explains itself, and `--help` is quick because nothing heavy is imported for it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import click
import pytest
from networks import PREPROCESSOR

from edgeq import __version__
from edgeq.cli import VERBS, cli, run
from edgeq.extras import install_command

EDGEQ = Path(sys.executable).with_name("edgeq")


def verb(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def test_the_installed_command_lists_every_verb() -> None:
    done = subprocess.run([EDGEQ, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    listed = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert set(VERBS) <= listed


def test_the_installed_command_tells_its_version() -> None:
    done = subprocess.run([EDGEQ, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"edgeq, version {__version__}\n", "")


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, flag]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"Usage: edgeq {name}")
    assert output.err == ""


@pytest.mark.parametrize("name", VERBS)
def test_every_option_has_a_help_text(name: str) -> None:
    command = verb(name)
    assert command.name == name
    assert command.help
    assert command.get_short_help_str(limit=200).endswith(".")
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_can_answer_in_json(name: str) -> None:
    command = verb(name)
    verbs = command.commands.values() if isinstance(command, click.Group) else [command]
    for one in verbs:
        assert "--json" in {flag for parameter in one.params for flag in parameter.opts}, one.name


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from edgeq.cli import run
sys.argv = ["edgeq", "--help"]
assert run(["--help"]) == 0
heavy = {"torch", "onnx", "onnx_graphsurgeon", "onnxruntime", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("missing", "arguments", "status", "words"),
    [
        ("onnx", ["--help"], 0, "prepare"),
        ("onnx", ["inspect", "model"], 2, f"next: {install_command('quantize')}"),
        ("onnxruntime", ["evaluate", "bundle", "--eval", "images"], 2, f"next: {install_command('quantize')}"),
        ("torch", ["inspect", "HF"], 2, f"next: {install_command('torch')}"),
    ],
)
def test_a_package_that_is_not_installed(
    missing: str, arguments: list[str], status: int, words: str, hf_directory: Path
) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from edgeq.cli import run
sys.exit(run(sys.argv[1:]))
"""
    arguments = [str(hf_directory) if word == "HF" else word for word in arguments]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def hf_directory(tmp_path: Path) -> Path:
    """A Hugging Face directory whose weights file has a header and nothing in it."""
    (tmp_path / "config.json").write_text('{"architectures": ["ResNetForImageClassification"]}')
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["fly"], "fly"),
        (["prepare"], "MODEL"),
        (["prepare", "model", "-o", "o"], "--images"),
        (["prepare", "model", "--images", "i", "-o", "o", "--threads", "0"], "--threads"),
        (["prepare", "model", "--images", "i", "-o", "o", "--method", "guess"], "guess"),
        (["inspect", "model", "--wings"], "--wings"),
    ],
)
def test_wrong_usage(arguments: list[str], names: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert names in output.err


def test_no_verb_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    output = capsys.readouterr()
    assert "Usage: edgeq" in output.out + output.err
    assert "prepare" in output.out + output.err
