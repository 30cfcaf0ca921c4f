"""ONNX files of some kilobytes that would be computed for ever, or stand for millions of nodes: refused at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifier_bundle import classifier_bundle
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.confined import worker
from edgeq.confined.limits import Limits
from edgeq.engine import trial
from edgeq.engine.registry import DEFAULT
from edgeq.engine.trial import trial_run
from edgeq.errors import LimitError
from edgeq.install import proof
from edgeq.model.graph.onnx_bounds import MOST_NODES
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.graph.outline import load_outline
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.inspect import inspect_model

IMPORTS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def saved(
    path: Path, nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]] | None = None, **model: Any
) -> Path:
    """A graph from x to y, float32 [1, 3, 8, 8], in a file."""
    values = [helper.make_tensor_value_info(name, FLOAT, [1, 3, 8, 8]) for name in "xy"]
    held = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], held)
    made = helper.make_model(graph, opset_imports=IMPORTS, ir_version=8, **model)
    file = path / "model.onnx"
    file.write_bytes(made.SerializeToString())
    return file


def loop(rounds: str, inside: list[onnx.NodeProto], *, output: str = "y", given: str = "x") -> onnx.NodeProto:
    """A loop that goes on while it is true, over a tensor that `inside` takes from `v` to `w`."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes"]), *inside],
        "body",
        [
            helper.make_tensor_value_info("round", INT64, []),
            helper.make_tensor_value_info("going", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [helper.make_tensor_value_info("goes", BOOL, []), helper.make_tensor_value_info("w", FLOAT, None)],
    )
    return helper.make_node("Loop", [rounds, "true", given], [output], body=body)


RELU = helper.make_node("Relu", ["v"], ["w"])
EMPTY = helper.make_graph([], "empty", [], [])
CONSTANTS = {"many": np.array(2**62), "some": np.array(40_000), "true": np.array(True)}


def doubling(levels: int) -> list[onnx.FunctionProto]:
    """Functions that call the one before twice: 2 ** levels nodes."""
    found = [helper.make_function("own", "f0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], IMPORTS)]
    for level in range(1, levels + 1):
        nodes = [helper.make_node(f"f{level - 1}", [x], [y], domain="own") for x, y in (("a", "m"), ("m", "b"))]
        found.append(helper.make_function("own", f"f{level}", ["a"], ["b"], nodes, IMPORTS))
    return found


def test_functions_that_double_are_counted_before_they_are_written_out(tmp_path: Path) -> None:
    call = helper.make_node("f24", ["x"], ["y"], domain="own")
    with pytest.raises(LimitError, match="has 16,777,216 nodes"):
        load_onnx(saved(tmp_path, [call], functions=doubling(24)))
    call = helper.make_node("f200", ["x"], ["y"], domain="own")
    with pytest.raises(LimitError, match="has more than 4,611,686,018,427,387,904 nodes"):
        load_onnx(saved(tmp_path, [call], functions=doubling(200)))
    call = helper.make_node("f4", ["x"], ["y"], domain="own")
    assert len(load_onnx(saved(tmp_path, [call], functions=doubling(4))).graph.node) == 16


def test_functions_that_call_themselves_are_refused(tmp_path: Path) -> None:
    functions = doubling(2)
    functions[0].node[0].op_type, functions[0].node[0].domain = "f2", "own"
    with pytest.raises(LimitError, match="calls itself"):
        load_onnx(saved(tmp_path, [helper.make_node("f2", ["x"], ["y"], domain="own")], functions=functions))


def test_too_many_nodes_are_counted_without_parsing(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x" if not n else f"t{n}"], [f"t{n + 1}"]) for n in range(MOST_NODES)]
    path = saved(tmp_path, [*nodes, helper.make_node("Relu", [f"t{MOST_NODES}"], ["y"])])
    for read in (load_onnx, load_outline):
        with pytest.raises(LimitError, match="more than 50,000 nodes"):
            read(path)


def test_nodes_inside_of_nodes_count(tmp_path: Path) -> None:
    branch = helper.make_graph([RELU] * (MOST_NODES // 2), "b", [], [helper.make_tensor_value_info("w", FLOAT, None)])
    node = helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(LimitError, match="has 50,001 nodes"):
        load_onnx(saved(tmp_path, [node], CONSTANTS))


@pytest.mark.parametrize("held", ["initializer", "constant", "inside", "function"])
def test_a_loop_that_never_ends_is_refused(tmp_path: Path, held: str) -> None:
    node, functions, constants = loop("many", [RELU]), [], dict(CONSTANTS)
    nodes = [node]
    if held == "constant":
        del constants["many"]
        nodes = [helper.make_node("Constant", [], ["many"], value_int=2**62), node]
    elif held == "inside":
        inner = loop("some", [RELU], output="w", given="v")
        nodes = [loop("some", [inner])]
    elif held == "function":
        constant = helper.make_node("Constant", [], ["many"], value_int=2**62)
        body = [constant, loop("many", [RELU], output="b", given="a")]
        functions = [helper.make_function("own", "f", ["a", "true"], ["b"], body, IMPORTS)]
        nodes = [helper.make_node("f", ["x", "true"], ["y"], domain="own")]
    with pytest.raises(LimitError, match=r"its loop '\w' goes round [\d,]+ times"):
        load_onnx(saved(tmp_path, nodes, constants, functions=functions))


def test_a_short_loop_is_read(tmp_path: Path) -> None:
    assert load_onnx(saved(tmp_path, [loop("some", [RELU])], CONSTANTS)).graph.node[0].op_type == "Loop"


def test_graphs_too_deep_in_each_other_are_refused(tmp_path: Path) -> None:
    node = RELU
    for _ in range(17):
        branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("w", FLOAT, None)])
        node = helper.make_node("If", ["true"], ["w"], then_branch=branch, else_branch=EMPTY)
    node.output[0] = "y"
    with pytest.raises(LimitError, match="more than 16 deep in each other"):
        load_onnx(saved(tmp_path, [node], CONSTANTS))


def computed(path: Path) -> Path:
    """A loop whose rounds, 40,000 to the fourth power, are worked out while it is run."""
    rounds = [helper.make_node("Mul", ["some", "some"], ["m"]), helper.make_node("Mul", ["m", "m"], ["many"])]
    constants = {name: CONSTANTS[name] for name in ("some", "true")}
    return saved(path, [*rounds, loop("many", [RELU])], constants)


def expanded(path: Path) -> Path:
    """8 x 10^9 images out of one."""
    return saved(path, [helper.make_node("Expand", ["x", "shape"], ["y"])], {"shape": np.array([1 << 33, 3, 8, 8])})


@pytest.mark.parametrize(
    ("make", "limits", "words"),
    [
        (computed, Limits(0.5, 4 << 30), r"model\.onnx took more than 0\.5 s: refused"),
        (computed, Limits(60, 4 << 30, cpu_seconds=0.5), r"model\.onnx took more than 0\.5 s of a processor: refused"),
        (expanded, Limits(60, 1 << 30), r"model\.onnx took more than 1,074 MB: refused"),
    ],
)
def test_what_a_run_costs_is_found_out_in_a_child(
    tmp_path: Path, make: Callable[[Path], Path], limits: Limits, words: str
) -> None:
    with pytest.raises(LimitError, match=words) as caught:
        trial_run(make(tmp_path), (3, 8, 8), limits=limits)
    assert "a run on one image within" in caught.value.expected


def test_the_same_bytes_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever directory; not those beside other weights, nor what did not pass."""
    tried: list[str] = []

    def run_confined(*given: Any, what: str, **options: Any) -> object:
        tried.append(what)
        return worker.run_confined(*given, what=what, **options)

    monkeypatch.setattr(trial, "run_confined", run_confined)
    node = helper.make_node("Add", ["x", "given"], ["y"])
    places = [tmp_path / name for name in ("first", "second", "third")]
    for place in places:
        place.mkdir()
    paths = [saved(place, [node], {"given": np.array(1.25, np.float32)}) for place in places]
    (places[2] / "weights").write_bytes(b"others")
    for path in (*paths, *paths):
        trial_run(path, (3, 8, 8))
    assert tried == [str(paths[0]), str(paths[2])]
    (places[2] / "weights").write_bytes(b"change")
    trial_run(paths[2], (3, 8, 8))
    assert tried[2:] == [str(paths[2])]
    for _ in range(2):
        with pytest.raises(LimitError):
            trial_run(computed(places[0]), (3, 8, 8), limits=Limits(0.2, 4 << 30))
    assert tried[3:] == [str(paths[0])] * 2


def test_what_is_wrong_in_another_way_is_left_to_those_who_say_it_better(tmp_path: Path) -> None:
    trial_run(saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"])]), (3, 8, 8))
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    trial_run(tmp_path / "model.onnx", (3, 8, 8))


def test_inspect_refuses_a_graph_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.engine.trial.trial_limits", lambda _directory: Limits(0.5, 4 << 30))
    computed(tmp_path)
    preprocess = Preprocess(8, 8, resize=(8, 8), resample=2, center_crop=False, scale=1 / 255)
    with pytest.raises(LimitError, match=r"took more than 0\.5 s: refused"):
        inspect_model(str(tmp_path), tmp_path, preprocess=preprocess)


def test_a_bundle_whose_graph_never_ends_is_not_installed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canaries are shown to it in a child."""
    bundle = tmp_path / "bundle"
    shutil.copytree(classifier_bundle(tmp_path_factory), bundle)
    proof.canary_check(tmp_path / "engines", backend=DEFAULT, threads=1)(bundle)
    model, said = onnx.load(bundle / DEFAULT.graph), read_manifest(bundle)
    given = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == given else name for name in node.output]
    endless = onnx.load(computed(tmp_path))
    endless.graph.node[-1].input[2], endless.graph.node[-1].output[0] = "before", given
    model.graph.node.extend(endless.graph.node)
    model.graph.initializer.extend(endless.graph.initializer)
    (bundle / DEFAULT.graph).write_bytes(model.SerializeToString())
    write_manifest(bundle, kind=said.kind, labels=said.labels, allowed=said.allowed, needs=said.needs, task=said.task)
    monkeypatch.setattr(proof, "trial_limits", lambda _directory: Limits(1, 4 << 30))
    with pytest.raises(LimitError, match="bundle took more than 1 s: refused"):
        proof.canary_check(tmp_path / "engines", backend=DEFAULT, threads=1)(bundle)
