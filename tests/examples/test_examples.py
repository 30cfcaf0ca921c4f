"""Each example is run, on tiny models and drawn pictures."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import small_catalogs
from classifier_bundle import classifier_bundle
from talk import QUESTION

import edgeq
from edgeq.catalog.read import open_catalog

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


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[tuple[Path, list[int]]]:
    """A catalog, first as it was made and then after it has changed, with the rows that are not removed."""
    images = small_catalogs.folder(tmp_path / "images", small_catalogs.files(7))

    def states() -> Iterator[tuple[Path, list[int]]]:
        small_catalogs.build(images, tmp_path / "catalog")
        yield tmp_path / "catalog", list(range(7))
        (images / "0002.png").unlink()
        (images / "0006.png").unlink()
        small_catalogs.build(small_catalogs.folder(images, small_catalogs.files(6, first=10)), tmp_path / "catalog")
        yield tmp_path / "catalog", [0, 1, 3, 4, 5, *range(7, 13)]

    return states()


@pytest.mark.filterwarnings("ignore")  # of the clients, which are not edgeq's
def test_export_to_qdrant(example: Example, changing: Iterator[tuple[Path, list[int]]], tmp_path: Path) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    for catalog, rows in changing:
        for _ in range(2):
            lines = example("export_to_qdrant", catalog, "--path", tmp_path / "qdrant", "--batch", 3)
            assert lines == [f"edgeq-aaaaaaaaaaaa: {len(rows)} points"]
        client = qdrant.QdrantClient(path=str(tmp_path / "qdrant"))
        found = client.query_points("edgeq-aaaaaaaaaaaa", query=open_catalog(catalog).vector(5).tolist(), limit=20)
        assert sorted(point.id for point in found.points) == rows
        assert (found.points[0].id, Path(found.points[0].payload["image_path"]).name) == (5, "0005.png")
        client.close()


@pytest.mark.filterwarnings("ignore")
def test_export_to_lance(example: Example, changing: Iterator[tuple[Path, list[int]]], tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    for catalog, rows in changing:
        for _ in range(2):
            lines = example("export_to_lance", catalog, tmp_path, "--batch", 3)
            assert lines == [f"{tmp_path}/edgeq_aaaaaaaaaaaa.lance: {len(rows)} rows"]
        near = {"column": "vector", "q": open_catalog(catalog).vector(5), "k": 20, "metric": "dot"}
        found = lance.dataset(str(tmp_path / "edgeq_aaaaaaaaaaaa.lance")).to_table(nearest=near).to_pylist()
        assert sorted(row["id"] for row in found) == rows
        assert (found[0]["id"], Path(found[0]["image_path"]).name) == (5, "0005.png")


@pytest.mark.filterwarnings("ignore")
def test_export_to_postgres(example: Example, changing: Iterator[tuple[Path, list[int]]]) -> None:
    psycopg = pytest.importorskip("psycopg")
    database = os.environ.get("EDGEQ_TEST_POSTGRES") or pytest.skip("EDGEQ_TEST_POSTGRES names no database")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS edgeq_aaaaaaaaaaaa")
        for catalog, rows in changing:
            for _ in range(2):
                lines = example("export_to_postgres", catalog, database, "--batch", 3)
                assert lines == [f"edgeq_aaaaaaaaaaaa: {len(rows)} rows"]
            query = str(open_catalog(catalog).vector(5).tolist())
            near = "SELECT id, image_path FROM edgeq_aaaaaaaaaaaa ORDER BY embedding <#> %s::halfvec LIMIT 20"
            found = connection.execute(near, (query,)).fetchall()
            assert sorted(row for row, _ in found) == rows
            assert (found[0][0], Path(found[0][1]).name) == (5, "0005.png")
