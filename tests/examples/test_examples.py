"""Each example is run, on tiny models and drawn pictures."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from classifier_bundle import classifier_bundle
from talk import QUESTION

import edgeq

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GOLDEN = ROOT / "tests" / "golden" / "vlm-configs"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    return Example(monkeypatch, capsys)


class Example:
    """Runs an example in this process, and gives its lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.err = ""

    def __call__(self, name: str, *arguments: object, status: int = 0) -> list[str]:
        """Run `examples/NAME.py ARGUMENTS`, which ends with this status."""
        self._monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        self._capsys.readouterr()
        ended = 0
        try:
            runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            ended = int(end.code or 0)
        out, self.err = self._capsys.readouterr()
        assert ended == status, self.err
        return out.splitlines()


def test_every_example_is_run_here_and_listed() -> None:
    called = {
        node.args[0].value
        for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "example"
        if isinstance(node.args[0], ast.Constant)
    }
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for file in EXAMPLES:
        assert file.stem in called
        assert f"({file.name})" in page


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_says_how_it_is_run(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert f"python examples/{file.name} " in (ast.get_docstring(ast.parse(text)) or "")
    assert len(text.splitlines()) <= 50
    done = subprocess.run([sys.executable, str(file), "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("quick_latency")
def test_quantize_classifier(
    example: Example, tiny_model: Path, tiny_pictures: Path, tiny_answers: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    lines = example("quantize_classifier", tiny_model, tiny_pictures, tiny_answers, bundle, "--method", "mse")
    assert lines[0].startswith("top-1: ")
    assert lines[1].endswith("points on 24 images")
    assert lines[2].startswith("3 layers are INT8; ")
    assert edgeq.verify(bundle).manifest.kind == "classifier"


def test_quantize_vlm(example: Example, tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    given = (tiny_vlm_model, tiny_photographs, tmp_path / "bundle", QUESTION, "--context", "64")
    lines = example("quantize_vlm", *given, "--device", "orin-nx-16gb")
    assert " parameters are in 4 bits; " in lines[0]
    assert lines[-1].endswith("s to the first token, 4 image tokens")


def test_plan_memory(example: Example) -> None:
    """LLaVA-1.5 7B fits an Orin NX; 13B with 8,192 tokens of 819,200 bytes each does not."""
    lines = example("plan_memory", GOLDEN / "llava-1.5-7b")
    expected = json.loads((GOLDEN / "expected.json").read_text())["llava-1.5-7b"]["total"]
    assert sum(int(line.split()[1].replace(",", "")) for line in lines if line.split()[2] == "parameters") == expected
    lines = example("plan_memory", GOLDEN / "llava-1.5-13b", "--context", 8192, status=1)
    assert any(line.startswith("it would fit with context ") for line in lines)


def test_find_sensitive_layers(
    example: Example, tmp_path_factory: pytest.TempPathFactory, tiny_pictures: Path, tmp_path: Path
) -> None:
    bundle = classifier_bundle(tmp_path_factory)
    lines = example("find_sensitive_layers", bundle, tiny_pictures, "--max-drop", 100, "--output", tmp_path / "found")
    assert {line.split()[-1] for line in lines[:3]} == {"stem", "depthwise", "pointwise"}
    assert lines[-1] == "to stay in floating point: none has to"
    assert edgeq.PrecisionPlan.load(tmp_path / "found" / "plan.yaml").layers(edgeq.Precision.INT8)


def test_ask_a_bundle(
    example: Example, prepared_vlm: PreparedVlm, tmp_path_factory: pytest.TempPathFactory, tiny_photographs: Path
) -> None:
    photographs = sorted(tiny_photographs.rglob("*.jpg"))[:2]
    lines = example("ask_a_bundle", prepared_vlm.bundle, *photographs, "--question", QUESTION)
    assert [line.split(":")[0] for line in lines if line.startswith("/")] == [str(path) for path in photographs]
    lines = example("ask_a_bundle", classifier_bundle(tmp_path_factory), *photographs)
    assert [line.split()[1] in ("blue", "green", "red") for line in lines] == [True, True]
    example("ask_a_bundle", tiny_photographs, *photographs, status=1)
    assert "is not a bundle" in example.err
