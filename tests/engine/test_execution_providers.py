"""ONNX Runtime's GPU providers: what they are told, and what is refused. Only the CPU's wheel is at hand.

The refusals are the real wheel's. Where the wheel with the providers is simulated, its sessions are real ones on the
CPU that say what a GPU's would.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq, assert_refused
from onnx import TensorProto, helper
from PIL import Image

from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.confined.worker import run_confined
from edgeq.device import device_profile
from edgeq.engine.base import Placement
from edgeq.engine.execution_providers import CUDA, TENSORRT, cuda_provider, tensorrt_provider
from edgeq.engine.onnxruntime import ExecutionProvider, OnnxRuntimeEngine
from edgeq.engine.registry import DEFAULT, PROVIDERS, backend, require
from edgeq.engine_store.candidate import open_candidate, placement_for
from edgeq.errors import EngineError, OutputError
from edgeq.extras import install_command
from edgeq.families.modules import read_vlm
from edgeq.install import proof
from edgeq.plan.memory import plan_memory
from edgeq.service.settings import ServiceSettings

CONFIGS = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
X = np.array([[1.0, -2.0]], np.float32)
ORT_NAMES = {CUDA.name: "CUDAExecutionProvider", TENSORRT.name: "TensorrtExecutionProvider"}
CUDA_OPTIONS = {
    "device_id": "0",
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
    "do_copy_in_default_stream": "1",
    "use_tf32": "0",
}


def network(*, pairs: bool = False) -> bytes:
    """y = max(x, 0) of x [n, 2]; with a Q/DQ pair of scale 0.5 before it."""
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, ["n", 2])], [value("y", TensorProto.FLOAT, ["n", 2])]
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5])
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    plain = [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes if pairs else plain, "test", *ends, initializer=[scale, zero] if pairs else [])
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A simulated wheel's: on the CPU, and says that it is on what it was asked for."""

    asked: Sequence[tuple[str, dict[str, str]]] = ()
    given: Sequence[str] | None = None

    def __init__(self, model: Any, options: Any, *, providers: Any, enable_fallback: int) -> None:
        assert enable_fallback == 0
        type(self).asked = providers
        super().__init__(model, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return list(self.given or [name for name, _ in self.asked])

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return []  # as older releases, which say nothing


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """A simulated wheel with both providers."""
    found = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(Session, "given", None)
    return Session


def asked(session: type[Session]) -> dict[str, dict[str, str]]:
    return dict(session.asked)


@pytest.mark.parametrize("name", ORT_NAMES)
def test_a_wheel_without_the_provider_is_refused_before_any_work(name: str) -> None:
    with pytest.raises(EngineError, match=f"has no {ORT_NAMES[name]}") as refused:
        require(backend(name))
    assert "CPUExecutionProvider" in refused.value.expected
    assert install_command("device-gpu") in refused.value.next_step


@pytest.mark.parametrize("verb", [["run", "B", "I.png", "what?"], ["serve", "B"], ["verify-engine", "B"]])
@pytest.mark.parametrize("name", ORT_NAMES)
def test_the_verbs_refuse_it_first(edgeq: Edgeq, tmp_path: Path, verb: list[str], name: str) -> None:
    image = tmp_path / "i.png"
    (tmp_path / "b").mkdir()
    write_manifest(tmp_path / "b")
    Image.new("RGB", (4, 4)).save(image)
    words = [str({"B": tmp_path / "b", "I.png": image}.get(word, word)) for word in verb]
    status = 70 if verb[0] == "serve" else 2
    done = edgeq(*words, "--backend", name)
    assert_refused(done, f"has no {ORT_NAMES[name]}", install_command("device-gpu"), status=status)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("each", PROVIDERS, ids=list(ORT_NAMES))
def test_a_silent_fall_to_the_cpu_is_an_error(each: Any) -> None:
    """The real wheel: it makes a session on the CPU, and says nothing but a warning."""
    with pytest.raises(EngineError, match="fell back to CPUExecutionProvider") as refused:
        each.open(network(), threads=1)
    assert refused.value.expected == ORT_NAMES[each.name]
    assert "--backend onnxruntime" in refused.value.next_step


def test_a_provider_that_takes_no_node_is_an_error() -> None:
    """The real wheel has one more provider, which runs no node of a usual graph."""
    with pytest.raises(EngineError, match="takes no node of the graph: all 1 would run on the CPU"):
        OnnxRuntimeEngine(network(), threads=1, provider=ExecutionProvider("AzureExecutionProvider"))


def test_from_tensorrt_to_cuda_alone_is_an_error(wheel: type[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "given", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EngineError, match="fell back to CUDAExecutionProvider for the graph") as refused:
        TENSORRT.open(network())
    assert refused.value.expected == "TensorrtExecutionProvider"


def test_cuda_is_told_device_arena_and_no_tf32(wheel: type[Session], tmp_path: Path) -> None:
    engine = CUDA.open(network(), threads=1)
    assert engine.run({"x": X})["y"].tolist() == [[1.0, 0.0]]
    assert asked(wheel) == {"CUDAExecutionProvider": CUDA_OPTIONS}
    CUDA.opener(Placement(tmp_path / "kept", 123_456_789))(network(), threads=1)
    assert asked(wheel) == {"CUDAExecutionProvider": {**CUDA_OPTIONS, "gpu_mem_limit": "123456789"}}
    assert not (tmp_path / "kept").exists(), "it compiles nothing"


def test_tensorrt_keeps_its_engines_where_it_is_told(wheel: type[Session], tmp_path: Path) -> None:
    opener = TENSORRT.opener(Placement(tmp_path / "store" / TENSORRT.name, 1000))
    (tmp_path / "store" / TENSORRT.name / onnxruntime.__version__).mkdir(parents=True, mode=0o777)
    opener(network(pairs=True), threads=1)
    options, behind = asked(wheel).values()
    assert list(asked(wheel)) == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    kept = tmp_path / "store" / "onnxruntime-tensorrt" / onnxruntime.__version__
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {name: options[name] for name in options if "cache" in name} == {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(kept),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(kept),
    }
    assert options["device_id"] == "0"
    assert options["trt_max_workspace_size"] == str(256 << 20)
    assert behind == {**CUDA_OPTIONS, "gpu_mem_limit": "1000"}


def test_the_flags_of_tensorrt_are_those_that_the_graph_needs(tmp_path: Path) -> None:
    def flags(model: Path | bytes) -> tuple[str, str]:
        options = tensorrt_provider(model, None).options
        assert not any("cache" in name for name in options), "nobody said where"
        return options["trt_fp16_enable"], options["trt_int8_enable"]

    assert flags(network(pairs=True)) == ("True", "True")
    for name, pairs, wanted in (
        ("model.int8.trt.onnx", True, ("True", "True")),
        ("vision.fp16.onnx", False, ("True", "False")),
        ("model.fp32.onnx", False, ("False", "False")),
    ):
        (tmp_path / name).write_bytes(network(pairs=pairs))
        assert flags(tmp_path / name) == wanted
    with pytest.raises(EngineError, match="cannot be read"):
        tensorrt_provider(tmp_path / "none.onnx", None)


def test_tf32_is_off_for_the_libraries_as_well(wheel: type[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    assert wheel.asked is not None
    TENSORRT.open(network(), threads=1)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    CUDA.open(network(), threads=1)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1", "what somebody set stays"
    assert cuda_provider(b"", None).options["use_tf32"] == "0"


def test_a_store_that_cannot_be_written(wheel: type[Session], tmp_path: Path) -> None:
    assert wheel.given is None
    (tmp_path / "store").write_text("a file")
    with pytest.raises(OutputError, match="cannot be made"):
        TENSORRT.opener(Placement(tmp_path / "store" / "x"))(network())


def test_the_memory_is_what_the_plan_has_for_the_vision_graph(tmp_path: Path) -> None:
    """All of the last moment but what is the process's or the language model's."""
    plan = plan_memory(read_vlm(CONFIGS / "llava-1.5-7b"), device_profile("orin-nx-16gb"), context=2048)
    plan.save(tmp_path / "memory.json")
    placement = placement_for(tmp_path, tmp_path / "store", CUDA)
    assert placement is not None
    assert placement.cache == tmp_path / "store" / "onnxruntime-cuda"
    others = {"runtime", "language weights", "head weights", "embedding weights", "KV cache", "image features"}
    others |= {"prefill activations", "unpacked weights", "photograph", "decode graphs"}
    items = {item.name: item.bytes for item in plan.phases[-1].items}
    assert others < items.keys()
    assert placement.memory_bytes == sum(items.values()) - sum(items[name] for name in others)
    assert placement_for(tmp_path, tmp_path / "store", DEFAULT) is None
    unplanned = placement_for(tmp_path / "elsewhere", tmp_path / "store", CUDA)
    assert unplanned is not None
    assert unplanned.memory_bytes is None


def test_a_bundle_runs_in_it_with_the_graph_that_was_made_for_it(wheel: type[Session], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in (DEFAULT.graph, "model.int8.trt.onnx"):
        (bundle / name).write_bytes(network(pairs=True))
    write_manifest(bundle)
    for each, graph in ((CUDA, DEFAULT.graph), (TENSORRT, "model.int8.trt.onnx")):
        found = open_candidate(bundle, read_manifest(bundle), bundle / DEFAULT.graph, each, tmp_path / "store")
        assert found.file == bundle / graph
        assert found.backend == f"onnxruntime {onnxruntime.__version__} {ORT_NAMES[each.name]}"
        assert found.open().run({"x": X})["y"].tolist() == [[1.0, 0.0]]
        assert asked(wheel)[ORT_NAMES[each.name]]["device_id"] == "0"
    assert (tmp_path / "store" / "onnxruntime-tensorrt").is_dir()


def test_installing_tries_the_graph_on_the_cpu_and_checks_it_in_the_provider(
    wheel: type[Session], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child that is killed where a graph takes too much is a real process, in which nothing is simulated."""
    tried: list[str] = []

    def spied(function: str, plain: Any, **options: Any) -> Any:
        tried.append(plain["backend"])
        return run_confined(function, plain, **options)

    monkeypatch.setattr(proof, "run_confined", spied)
    proof.canary_check(tmp_path / "engines", backend=CUDA, threads=1)(classifier_bundle(tmp_path_factory))
    assert tried == [DEFAULT.name]
    assert asked(wheel)["CUDAExecutionProvider"] == CUDA_OPTIONS


def test_settings_take_their_names() -> None:
    for each in PROVIDERS:
        assert ServiceSettings(backend=each.name).backend == each.name
