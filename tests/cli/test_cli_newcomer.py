"""What a newcomer meets first: names, help, completion, next lines, errors in JSON, tables, logs without a terminal."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest
from command import Edgeq

from edgeq import __version__
from edgeq.cli import VERBS, cli
from edgeq.cli.completion import SHELLS
from edgeq.cli.console import print_next, print_reasons, print_table
from edgeq.cli.device.verify import command as verify_command
from edgeq.cli.error_report import ErrorReport
from edgeq.cli.invocation import Invocation
from edgeq.device.this_machine import device_profile
from edgeq.doctor.child import Outcome
from edgeq.doctor.probes import Probes
from edgeq.doctor.run import examine
from edgeq.errors import InputError, ModelError

EXTRAS = (
    *("accelerate", "anyio", "bitsandbytes", "cryptography", "faiss", "h11", "httptools", "huggingface_hub"),
    *("llguidance", "matplotlib", "mlflow", "onnx", "onnx_graphsurgeon", "onnxruntime", "onnxscript", "openvino"),
    *(
        "prometheus_client",
        "pyarrow",
        "pycocotools",
        "ray",
        "safetensors",
        "starlette",
        "tensorboardX",
        "tensorrt",
        "tokenizers",
    ),
    *("torch", "transformers", "uvicorn", "uvloop"),
)
"""What the extras bring, as it is imported."""


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m edgeq ARGUMENTS`, with nothing that is a terminal."""
    command = [sys.executable, "-m", "edgeq", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_python_m_edgeq_is_edgeq() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"edgeq, version {__version__}\n")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("prepar",), "'prepare'"),
        (("serv", "bundle"), "'serve'"),
        (("benchmark",), "'bench'"),
        (("quantise", "x"), "'prepare'"),
        (("bundle", "pak", "x"), "'pack'"),
        (("trust", "lgo"), "'log'"),
        (("plan", "m", "--divice", "x"), "'--device'"),
    ],
)
def test_a_near_name_is_suggested(edgeq: Edgeq, typed: tuple[str, ...], meant: str) -> None:
    done = edgeq(*typed)
    assert (done.status, done.out) == (2, "")
    assert meant in done.err


def test_a_name_like_no_other_suggests_nothing(edgeq: Edgeq) -> None:
    assert "Did you mean" not in edgeq("xyzzy").err


def test_a_device_of_a_like_name_is_suggested() -> None:
    with pytest.raises(InputError) as refused:
        device_profile("jetson-orin-nx-16gb")
    assert refused.value.next_step == "--device orin-nx-16gb"


def test_help_of_no_verb_needs_an_extra() -> None:
    code = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None
from edgeq.cli import VERBS, run
for verb in VERBS:
    assert run([verb, "--help"]) == 0, verb
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: edgeq ") == len(VERBS)


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_tells_where_an_error_arose(edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def find(*_: object, **__: object) -> None:
        raise ModelError("it is none")

    monkeypatch.setattr("edgeq.cli.device.verify.verify", find)
    assert "Traceback" not in edgeq("verify", "bundle").err
    words = ("-v", "verify", "bundle") if place == "before" else ("verify", "bundle", "--verbose")
    done = edgeq(*words)
    assert done.status == 2
    assert "Traceback" in done.err
    assert done.err.rstrip().endswith("error: it is none")


def test_verbose_stands_once_in_the_help_of_a_verb(edgeq: Edgeq) -> None:
    for _ in range(2):
        context = click.Context(cli)
        assert cli.get_command(context, "verify") is verify_command
    assert edgeq("verify", "--help").out.count("-v, --verbose") == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_that_a_shell_reads(shell: str) -> None:
    done = process("--completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_EDGEQ_COMPLETE={shell}_complete" in done.stdout
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgeq pre", ["plain,prepare"]),
        ("edgeq bundle un", ["plain,unpack"]),
        ("edgeq calibrate --me", ["plain,--merge", "plain,--method"]),
        ("edgeq calibrate --method en", ["plain,entropy"]),
        ("edgeq verify b", ["file,b"]),
        ("edgeq prepare m", ["file,m"]),
    ],
)
def test_what_may_come_next(line: str, expected: list[str]) -> None:
    words = line.split()
    done = process(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), _EDGEQ_COMPLETE="bash_complete")
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_verb(tmp_path: Path) -> None:
    """Real bash with the real script, whose function is called as readline does."""
    (tmp_path / "edgeq").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m edgeq "$@"\n')
    (tmp_path / "edgeq").chmod(0o755)
    script = """
eval "$(edgeq --completion bash)"
COMP_WORDS=(edgeq sens) COMP_CWORD=1
_edgeq_completion edgeq
echo "${COMPREPLY[@]}"
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["sensitivity"]


def test_a_next_line_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    print_next("edgeq", "run", Path("/data/my models/it's"), "IMAGE", "QUESTION")
    line = capsys.readouterr().out.removeprefix("next: ")
    assert shlex.split(line) == ["edgeq", "run", "/data/my models/it's", "IMAGE", "QUESTION"]
    assert '"QUESTION"' in line, "quotes show that words go there"


def test_the_next_line_of_an_error_can_be_pasted(edgeq: Edgeq, tmp_path: Path) -> None:
    root = tmp_path / "two words"
    done = edgeq("list", "--root", root)
    (line,) = (line for line in done.err.splitlines() if line.startswith("next: "))
    assert shlex.split(line)[1:] == ["edgeq", "install", "BUNDLE", "--root", str(root)]


@pytest.mark.parametrize(
    ("words", "status", "kind", "said"),
    [
        (("inspect", "/nowhere", "--json"), 2, "ModelError", "/nowhere does not exist"),
        (("fly", "--json"), 2, "UsageError", "No such command 'fly'."),
        (("prepare", "--json"), 2, "MissingParameter", "Missing argument 'MODEL'."),
        (("list", "--root", "/nowhere", "--json"), 2, "InputError", "nothing is installed in /nowhere"),
        (("serve", "/nowhere", "--no-canaries", "--json"), 75, "ArtifactError", "/nowhere is neither a bundle"),
    ],
)
def test_an_error_in_json(edgeq: Edgeq, words: tuple[str, ...], status: int, kind: str, said: str) -> None:
    done = edgeq(*words)
    report = ErrorReport.model_validate_json(done.out)
    assert (done.status, report.exit_status, report.version) == (status, status, "edgeq.error/1")
    assert said in report.error
    assert kind in (report.kind, "InputError", "ArtifactError")
    assert said.split()[0] in done.err, "a person reads it on stderr all the same"


def test_an_error_in_json_has_hint_and_causes(edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*_: object, **__: object) -> None:
        raise ModelError("it is none", expected="one", causes=("a", "b"), next_step="edgeq doctor")

    monkeypatch.setattr("edgeq.cli.device.verify.verify", find)
    assert json.loads(edgeq("verify", "bundle", "--json").out) == {
        "version": "edgeq.error/1",
        "kind": "ModelError",
        "error": "it is none",
        "expected": "one",
        "causes": ["a", "b"],
        "hint": "edgeq doctor",
        "exit_status": 2,
    }


def test_a_bug_in_json(edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("edgeq.cli.device.verify.verify", find)
    done = edgeq("verify", "bundle", "--json")
    assert (done.status, json.loads(done.out)["error"]) == (70, "ZeroDivisionError: a bug")


def test_a_verb_that_answered_prints_no_second_object(
    edgeq: Edgeq, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`doctor` shows what it saw, and then ends with 1 where something is missing; no kernel is launched here."""
    nothing = partial(examine, probe_packages=lambda: Probes(None, None, Outcome({"error": "it is not installed"}, 0)))
    monkeypatch.setattr("edgeq.cli.device.doctor.examine", nothing)
    (tmp_path / "manifest.json").write_text("{}")
    done = edgeq("doctor", tmp_path, "--needs-memory", "999999", "--json")
    assert done.status == 1
    assert json.loads(done.out)["version"].startswith("edgeq.doctor/")
    assert "error: this machine lacks" in done.err


def test_json_behind_two_dashes_is_a_word() -> None:
    assert not Invocation.of(["run", "--", "--json"]).as_json
    assert Invocation.of(["run", "--json", "--", "x"]).as_json


@pytest.mark.parametrize("verb", ["plan", "inspect"])
def test_rows_of_a_plan_take_one_line_at_80_columns(
    edgeq: Edgeq, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = edgeq(verb, tiny_model)
    table = done.out.rpartition("──")[2].lstrip("─ \n").split("\n\n")[0].partition("  fp32-head:")[0]
    rows = [line for line in table.splitlines() if line.strip() and ":" not in line]
    assert len(rows) >= 5
    assert all(line.split()[0] in ("backbone", "head") for line in rows), rows
    assert max(map(len, done.out.splitlines())) <= 80
    assert "the head's error goes straight into the answer" in done.out


def test_the_plan_of_a_large_model_takes_one_line_a_row(
    edgeq: Edgeq, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven columns of reasons took six lines a row."""
    monkeypatch.setenv("COLUMNS", "80")
    done = edgeq("plan", shared_data / "vlm-configs" / "smolvlm2-2.2b")
    rows = [
        line for line in done.out.splitlines() if line.startswith((" vision ", " connector ", " language ", " head "))
    ]
    folded = done.out[done.out.index("──") :].partition("\n\n")[0].splitlines()[1:]
    assert len(rows) == 13
    assert [line for line in folded if line.strip() and not line.startswith("  ")] == rows


def test_a_long_reason_goes_on_in_the_next_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_reasons([("a", "so it is"), ("a", "so it is"), ("b", "word " * 12)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  a: so it is"
    assert lines[1].startswith("  b: word")
    assert lines[2].startswith("    word")
    assert max(map(len, lines)) <= 40


def test_columns_move_closer_before_a_cell_is_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "38")
    print_table("", ("a", "b", "c", "d"), [["12345678"] * 4], numbers=())
    assert "12345678 12345678 12345678 12345678" in capsys.readouterr().out
