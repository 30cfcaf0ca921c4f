"""The example of docs/extending/backend.md: two files and their test, which are all that a backend takes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import onnx
import pytest
from lowering import measured_scales
from networks import export_tiny
from pictures import draw_pictures

from edgeq.engine import registry
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import InputError
from edgeq.model.images.image_set import ImageSet
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8 import registry as workshop
from edgeq.quantize.int8 import stage

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending" / "backend.md"
NAME = "reference"
MODULES = (f"edgeq.engine.{NAME}", f"edgeq.quantize.int8.{NAME}", f"test_engine_{NAME}")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ...]:
    """The page's three files, in their places and registered for one test."""
    text = PAGE.read_text(encoding="utf-8")
    sources = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for name, source in zip(MODULES, sources, strict=True):
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, str(PAGE), "exec", dont_inherit=True), module.__dict__)
        found.append(module)
    engine, lowering, _ = found
    monkeypatch.setattr(registry, "BACKENDS", (*registry.BACKENDS, engine.BACKEND))
    for place in (workshop, stage):
        monkeypatch.setattr(place, "LOWERINGS", (*workshop.LOWERINGS, lowering.LOWERING))
    return tuple(found)


def test_the_example_is_not_there_by_itself() -> None:
    with pytest.raises(InputError, match="there is no backend reference"):
        registry.backend(NAME)
    assert not [name for name in MODULES if name in sys.modules]


def test_the_tests_of_the_example_pass(modules: tuple[ModuleType, ...]) -> None:
    tests = [value for name, value in vars(modules[2]).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        cast("Callable[[], None]", test)()


def test_a_network_is_quantized_for_it_and_runs_in_it(modules: tuple[ModuleType, ...], tmp_path: Path) -> None:
    """Its graph computes nearly what FP32 does: steps of 1/255 and 1/127 are some percent of the logits."""
    graph, source = export_tiny(tmp_path, ImageSet.open(draw_pictures(tmp_path / "pictures", each=1)))
    plan = plan_classifier(onnx.load(graph), shared_add=False)
    pixels = {"pixel_values": np.random.default_rng(0).uniform(-2, 2, (4, 3, 16, 16)).astype(np.float32)}
    quantize_to = tmp_path / "int8"
    quantize_to.mkdir()
    stage.quantize(graph, plan, measured_scales(graph, plan, pixels), source.preprocess, quantize_to, backend=NAME)
    made = stage.made_graph(quantize_to)
    backend = registry.backend_of_graph(made.name)
    assert backend is modules[0].BACKEND
    found = backend.open(made, threads=1).run(pixels)["logits"]
    wanted = OnnxRuntimeEngine(graph, threads=1).run(pixels)["logits"]
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
