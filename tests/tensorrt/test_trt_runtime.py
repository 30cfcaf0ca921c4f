"""Running an engine: a simulated one under the real bindings of both releases, in the host's memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorrt_bindings import RELEASE_11, VERSIONS, run_bindings

from edgeq.errors import EngineError
from edgeq.tensorrt.tensors import DeviceTensor

CASES = Path(__file__).with_name("runtime_cases.py")
FLOAT32_BYTES = 4
IMAGE_BYTES = 3 * 2 * 2 * FLOAT32_BYTES


@pytest.fixture(scope="module", params=(*VERSIONS, RELEASE_11))
def cases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every case of runtime_cases.py with one release's bindings, all warnings being errors."""
    found = run_bindings(request.param, CASES, str(tmp_path_factory.mktemp("scratch")))
    return {**found, "version": request.param}


def test_arrays_go_in_and_come_out(cases: Any) -> None:
    found, count = cases["run"], 3 * 12
    assert (found["inputs"], found["outputs"]) == (["image"], ["doubled", "half"])
    assert found["names"] == ["doubled", "half"]
    assert found["doubled"] == [2.0 * number for number in range(count)]
    assert found["half"] == [float(number) for number in range(count)]
    assert (found["shape"], found["half_dtype"]) == ([3, 3, 2, 2], "float16")
    assert found["given"] == "an engine"


def test_a_second_input_of_integers_goes_in(cases: Any) -> None:
    found = cases["several_inputs"]
    assert found["inputs"] == ["image", "order"]
    assert found["first"] == [24.0, 0.0, 12.0]
    assert "int64" in found["narrow"]
    assert "exactly its inputs: image, order" in found["missing"]
    assert "order" in found["long"]


def test_each_optimization_profile_has_a_context_made_when_it_is_needed(cases: Any) -> None:
    found = cases["several_profiles"]
    assert found["right"] == [True] * 4
    assert found["made for"] == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert found["told"] == [0, 1, 1], "the first has the first profile by itself"
    ranges = "[1, 3, 1, 2] to [4, 3, 2, 2], or [1, 3, 3, 2] to [4, 3, 4, 2], or [1, 3, 5, 2] to [4, 3, 8, 2]"
    assert f"shape [2, 3, 9, 2]\nexpected: within the engine's profile: {ranges}" in found["high"]
    assert "did not make an execution context" in found["no memory"]


def test_the_context_is_told_shapes_then_addresses_then_to_run(cases: Any) -> None:
    assert cases["run"]["calls"] == [
        *("set_input_shape", "infer_shapes", "get_tensor_shape", "get_tensor_shape"),
        *("set_tensor_address", "set_tensor_address", "set_tensor_address", "execute_async_v3"),
    ]


def test_results_are_read_once_the_stream_is_done(cases: Any) -> None:
    assert cases["run"]["log"][-3:] == ["copy out 144", "copy out 72", "synchronize"]


def test_some_outputs(cases: Any) -> None:
    assert cases["some_outputs"] == {"one": ["half"], "none": []}


def test_memory_is_taken_once_and_grows_with_the_batch(cases: Any) -> None:
    found = cases["memory_is_kept"]
    two, four = 2 * IMAGE_BYTES, 4 * IMAGE_BYTES
    taken = [f"allocate {two}", f"allocate {two}", f"allocate {two // 2}"]
    assert found["logs"][:3] == [[*taken, "synchronize"], ["synchronize"], ["synchronize"]]
    grown = [line for old, new in ((two, four), (two, four), (two // 2, four // 2)) for line in _grown(old, new)]
    assert found["logs"][3] == [*grown, "synchronize"]
    assert found["right"] == [True] * 4


def test_memory_is_given_back_once_the_stream_is_done(cases: Any) -> None:
    closing = cases["memory_is_kept"]["closing"]
    assert closing[0] == "synchronize"
    assert sorted(closing[1:]) == sorted(f"free {size}" for size in (192, 192, 96))
    assert cases["memory_is_kept"]["live"] == 0


def test_tensors_on_the_device_are_not_copied(cases: Any) -> None:
    found = cases["run_device"]
    assert found["theirs_is_used"]
    assert found["ours_is_given"]
    assert found["log"] == ["wait for caller", f"allocate {2 * IMAGE_BYTES}", f"allocate {IMAGE_BYTES}", "synchronize"]


def test_an_array_goes_to_the_device_and_what_comes_of_it_stays_there(cases: Any) -> None:
    """Each output is in memory of its own: the second run does not write over the first one's."""
    found = cases["run_device_from_the_host"]
    taken = [f"allocate {IMAGE_BYTES}", f"copy in {IMAGE_BYTES}", f"allocate {IMAGE_BYTES}"]
    assert found["log"] == ["wait for caller", *taken, f"allocate {IMAGE_BYTES // 2}", "synchronize"]
    assert found["apart"]
    assert found["values"] == [[float(number) for number in range(12)], [number + 1.0 for number in range(24)]]
    assert not found["on torch"]


def test_what_comes_back_lies_on_the_device(cases: Any) -> None:
    found = cases["run_device"]
    assert found["names"] == ["doubled", "half"]
    assert (found["shape"], found["dtypes"]) == ([2, 3, 2, 2], ["float32", "float16"])
    assert found["values"] == [2.0 * number for number in range(24)]


def test_an_array_with_gaps_is_put_together(cases: Any) -> None:
    assert cases["not_contiguous"]["right"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("unknown", "the engine was given image, mask\nexpected: exactly its inputs: image"),
        ("missing", "the engine was given no inputs\nexpected: exactly its inputs: image"),
        ("dtype", "input image was given as float64\nexpected: float32"),
        ("batch", "shape [9, 3, 2, 2]\nexpected: within the engine's profile: [1, 3, 2, 2] to [8, 3, 2, 2]"),
        ("empty", "shape [0, 3, 2, 2]"),
        ("side", "shape [1, 3, 2, 3]"),
        ("rank", "shape [3, 2, 2]"),
        ("output", "the engine has no output logits\nexpected: one of doubled, half"),
        ("address", "not a multiple of 256"),
        ("device dtype", "input image was given as float16"),
    ],
)
def test_wrong_feeds_are_refused(cases: Any, wrong: str, said: str) -> None:
    assert said in cases["wrong_feeds"][wrong]


def test_an_engine_that_tensorrt_refuses(cases: Any) -> None:
    found = cases["refused_engines"]
    assert f"TensorRT {cases['version']} refuses the engine\n1. the plan file is for another GPU" in found["bytes"]
    for cause in ("another release", "another kind of GPU", "damaged", "next: build it again on this device"):
        assert cause in found["bytes"]
    assert "model.engine" in found["file"]
    assert "cannot be read" in found["missing"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no device", "did not start\n1. there is no CUDA device"),
        ("context", "did not make an execution context"),
        ("host", "tensor image of the engine lies in the host's memory"),
        ("bfloat16", "BF16\nexpected: a type that numpy has"),
    ],
)
def test_an_engine_that_edgeq_cannot_run(cases: Any, kind: str, said: str) -> None:
    assert said in cases["refused_engines"][kind]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("set_input_shape", "did not take shape (1, 3, 2, 2) for input image"),
        ("infer_shapes", "did not infer the shapes: image are not known"),
        ("infer_shapes raises", "did not infer the shapes\n1. shapes do not go together"),
        ("get_tensor_shape", "output doubled has shape [2, -1]"),
        ("set_tensor_address", "did not take the address of image"),
        ("execute_async_v3", "did not run the engine"),
    ],
)
def test_a_step_that_tensorrt_refuses(cases: Any, step: str, said: str) -> None:
    assert said in cases["failing_runs"][step][0]


def test_after_a_run_that_failed_nothing_is_under_way(cases: Any) -> None:
    assert cases["failing_runs"]["execute_async_v3"][1] == ["synchronize"]


def test_the_simulated_engine_has_no_name_that_the_real_one_lacks(cases: Any) -> None:
    """Both names were TensorRT 8's."""
    assert cases["names_of_other_releases"] == {"engine": False, "context": False}


def test_a_device_tensor_is_one_of_other_libraries() -> None:
    tensor = DeviceTensor(512, (2, 3), np.dtype(np.float16))
    assert tensor.__cuda_array_interface__ == {
        "version": 3,
        "shape": (2, 3),
        "typestr": "<f2",
        "data": (512, False),
        "strides": None,
    }
    assert tensor.nbytes == 12
    assert DeviceTensor.of(tensor) == tensor


def test_a_device_tensor_keeps_what_it_was_made_of() -> None:
    tensor = DeviceTensor(512, (2, 3), np.dtype(np.float16))
    assert DeviceTensor.of(tensor).owner is tensor


def test_a_tensor_with_gaps_is_no_device_tensor() -> None:
    interface = {**DeviceTensor(512, (2, 3), np.dtype(np.float32)).__cuda_array_interface__, "strides": (4, 8)}
    with pytest.raises(EngineError, match="gaps") as caught:
        DeviceTensor.of(SimpleNamespace(__cuda_array_interface__=interface))
    assert ".contiguous()" in caught.value.next_step


def test_a_host_array_is_no_device_tensor() -> None:
    with pytest.raises(EngineError, match="this ndarray cannot be used where it lies"):
        DeviceTensor.of(np.zeros(3, np.float32))


def _grown(old: int, new: int) -> list[str]:
    return ["synchronize", f"free {old}", f"allocate {new}"]
