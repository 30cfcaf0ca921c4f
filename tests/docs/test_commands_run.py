"""Commands and Python of README, docs and notebook are run, page after page in one directory, as a reader would."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from doc_pages import READ, ROOT, Block, blocks, cells, lines
from square_detector import SIDE, draw_scenes, write_detector
from transformers import ViTConfig, ViTForImageClassification

from benchmarks.detector import export, labelled
from edgeq.cli import run
from edgeq.demo import run as demo
from edgeq.demo.clip import pairs
from edgeq.demo.vlm import story
from edgeq.demo.vlm.report import SCENES
from edgeq.pipeline.stages import Progress


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo draws a fifth of its scenes, and asks about four: every command that follows finds what it needs."""

    def tell(work: Path, scenes: int, *, progress: Progress | None = None) -> story.Story:
        assert scenes == SCENES
        return story.tell(work, 4, progress=progress)

    monkeypatch.setattr(demo, "tell", tell)
    monkeypatch.setattr(story, "_PHOTOGRAPHS", 8)
    monkeypatch.setattr(demo, "_CALIBRATION_PER_KIND", 17)
    monkeypatch.setattr(demo, "_EVALUATION_PER_KIND", 150)
    monkeypatch.setattr(pairs, "_PAIRS", 100)
    monkeypatch.setattr(pairs, "_CAPTIONS", 100)


@pytest.fixture
def small_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the trained detector and its scenes: one that finds squares, and scenes of them."""

    def write(weights: Path, output: Path) -> Path:
        assert (weights / export.WEIGHTS_FILE).is_file()
        write_detector(output)
        size = {"height": SIDE, "width": SIDE}
        (output / "preprocessor_config.json").write_text(json.dumps({**labelled.PREPROCESSING, "size": size}))
        return output / "model.onnx"

    def draw(folder: Path, seed: int, count: int) -> None:
        draw_scenes(folder, count, seed=seed)
        (folder / "instances.json").rename(folder / "annotations.json")
        (folder / "000.png").rename(folder / "00000.png")
        told = folder / "annotations.json"
        told.write_text(told.read_text().replace('"000.png"', '"00000.png"'))

    monkeypatch.setattr(export, "export", write)
    monkeypatch.setattr(labelled, "write_scenes", draw)


@pytest.fixture
def small_vit(tmp_path: Path) -> None:
    """In place of the trained transformer one with two narrow layers, and the real one's preprocessing."""
    real = ROOT / "benchmarks" / "weights" / "vit"
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**size, image_size=32, patch_size=8, initializer_range=0.2, num_labels=10)
    ViTForImageClassification(config).save_pretrained(tmp_path / "benchmarks" / "weights" / "vit")
    settings = (real / "preprocessor_config.json").read_text(encoding="utf-8")
    (tmp_path / "benchmarks" / "weights" / "vit" / "preprocessor_config.json").write_text(settings)


class Reader:
    """Runs what is read: commands in this process, and all Python as one session."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._session: dict[str, object] = {}
        self._done: set[str] = set()

    def read(self, block: Block) -> None:
        """Run a block, but for what was run before."""
        if block.language == "python":
            self._python(block)
            return
        for line in lines(block):
            program, *arguments = shlex.split(line)
            if program == "edgeq" and self._is_new(line):
                status = run(arguments)
                assert status == 0, f"{block.page}: {line}\n{self._capsys.readouterr().err}"

    def _python(self, block: Block) -> None:
        if self._is_new(block.text.removeprefix("import edgeq\n\n")):
            self._capsys.readouterr()
            exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), self._session)
            assert "print(" not in block.text or self._capsys.readouterr().out, f"{block.page}, line {block.line}"

    def _is_new(self, text: str) -> bool:
        new = text not in self._done
        self._done.add(text)
        return new


@pytest.mark.usefixtures("small_demo", "quick_latency", "small_detector", "small_vit")
@pytest.mark.filterwarnings("ignore")  # of torch's exporter, in a snippet
def test_every_command_and_all_python_of_what_is_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(capsys)
    for page in READ:
        for block in blocks(page, "sh", "python"):
            reader.read(block)
    for block in cells(ROOT / "docs" / "notebooks" / "first_steps.ipynb"):
        reader.read(block)
