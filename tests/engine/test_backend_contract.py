"""What every backend owes: two halves, names and files of its own, and no other module that knows it by name."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeq.cli import cli as root
from edgeq.engine import registry
from edgeq.engine.base import EngineBackend
from edgeq.engine.registry import BACKENDS, BUILT, DEFAULT, NAMES, PROVIDERS, RUNNING, backend, backend_of_graph
from edgeq.errors import EngineError, InputError
from edgeq.install.candidate_here import AUTO
from edgeq.quantize.int8 import registry as workshop
from edgeq.quantize.int8.base import Lowering

PACKAGE = Path(__file__).resolve().parents[2] / "edgeq"

HOMES = ("engine", "tensorrt", "quantize/int8")
"""Where backends may be named: their own files and registries, and what TensorRT's engine and builder are made with."""

FIELDS = {
    "handover/triton.py": Counter(onnxruntime=1, tensorrt=1),  # Triton's own names of its backends
    "bench/report.py": Counter(onnxruntime=1, tensorrt=1, openvino=1),  # packages whose versions are told
    "bundle_report/card.py": Counter(tensorrt=1),  # a tag of the model card
    "calibrate/on_ray.py": Counter(onnxruntime=1),  # a package whose version nodes must share
    "cli/device/build.py": Counter(tensorrt=1),  # the parameter of --tensorrt VERSION
    "engine_store/key.py": Counter(tensorrt=1),  # a field of the key
    "engine_store/run.py": Counter(tensorrt=1),  # a field of the report
    "extras.py": Counter(openvino=2),  # an extra and the package that it brings
    "faults.py": Counter(onnxruntime=1, tensorrt=1, openvino=1),  # packages whose errors are looked at
}
"""Other strings that are spelled as a backend's name: names of options, JSON fields, packages."""


def commands(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield from commands(found, (*words, name))
    else:
        yield words, group


CHOICES = {
    words: tuple(parameter.type.choices)
    for words, command in commands(root)
    for parameter in command.params
    if parameter.name == "backend" and isinstance(parameter.type, click.Choice)
}


def test_names_and_graphs_are_each_backends_own() -> None:
    for values in (NAMES, [each.graph for each in BACKENDS], [each.title for each in BACKENDS]):
        assert len(set(values)) == len(BACKENDS)
    assert tuple(each.name for each in BACKENDS) == NAMES
    for each in BACKENDS:
        assert backend(each.name) is each
        assert backend_of_graph(each.graph) is each
        assert each.graph.startswith("model.int8.")
        assert each.graph.endswith(".onnx")
    assert backend_of_graph("vision.fp16.onnx") is DEFAULT
    assert AUTO not in NAMES


def test_a_provider_runs_the_graph_of_a_backend() -> None:
    assert (*NAMES, *(each.name for each in PROVIDERS)) == RUNNING
    assert len(set(RUNNING)) == len(RUNNING)
    assert len({each.title for each in (*BACKENDS, *PROVIDERS)}) == len(RUNNING)
    graphs = {each.graph for each in BACKENDS}
    for each in PROVIDERS:
        assert backend(each.name) is each
        assert each.graph in graphs
        assert not each.built


def test_one_is_the_usual_and_one_is_built() -> None:
    assert {DEFAULT, BUILT} <= set(BACKENDS)
    assert [each for each in BACKENDS if each.built] == [BUILT]
    assert not DEFAULT.built


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(InputError, match="there is no backend coral") as refused:
        backend("coral")
    assert refused.value.expected == f"one of {', '.join(RUNNING)}"
    with pytest.raises(InputError, match="there is no lowering for coral"):
        workshop.lowering_for("coral")


def test_every_backend_has_a_lowering_and_every_lowering_a_backend() -> None:
    assert {lowering.backend for lowering in workshop.LOWERINGS} == set(BACKENDS)
    assert len(workshop.LOWERINGS) == len(BACKENDS)
    for lowering in workshop.LOWERINGS:
        assert isinstance(lowering, Lowering)
        assert (lowering.name, lowering.file) == (lowering.backend.name, lowering.backend.graph)
        ranged = workshop.lowering_for(lowering.ranges_of)
        assert ranged.always  # it is calibrated for whatever backend is asked for
        assert ranged.ranges_of == ranged.name


@pytest.mark.parametrize("name", NAMES)
def test_the_graphs_of_a_bundle(name: str) -> None:
    made = workshop.lowerings(name)
    assert [each for each in made if each.name == name]
    assert {each.name for each in made} == {each.name for each in workshop.LOWERINGS if each.always} | {name}


def test_every_choice_of_a_backend_is_the_registrys() -> None:
    """The workshop has no choice of a built backend: its graph is in every bundle, and cannot be judged there."""
    assert set(CHOICES) >= {("build",), ("install",), ("prepare",), ("quantize",), ("serve",), ("verify-engine",)}
    for words, choices in CHOICES.items():
        workshops = tuple(each.name for each in BACKENDS if not each.built)
        assert choices in (NAMES, RUNNING, (AUTO, *RUNNING), workshops), words


@pytest.mark.parametrize("asked", BACKENDS, ids=NAMES)
def test_its_two_files_are_where_they_are_looked_for(asked: EngineBackend) -> None:
    for folder in ("engine", "quantize/int8"):
        assert (PACKAGE / folder / f"{asked.name}.py").is_file()


@pytest.mark.parametrize("asked", BACKENDS, ids=NAMES)
def test_a_backend_that_is_not_installed(asked: EngineBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _name: None)
    assert not registry.installed(asked)
    if asked.built:
        return  # its loader has words of its own: tests/tensorrt
    with pytest.raises(EngineError, match=f"{asked.title} is not installed"):
        registry.require(asked)


def test_no_other_module_holds_a_backends_name() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(tuple(f"{home}/" for home in HOMES)):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        held = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        names = Counter(value for value in held if value in NAMES)
        if names:
            found[place] = names
    assert found == FIELDS
