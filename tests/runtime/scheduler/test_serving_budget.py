"""What is left for requests, from files of known sizes and against the memory plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.device import device_profile
from edgeq.errors import InputError, ModelError
from edgeq.model.checkpoint.packed_weights import WeightScheme, quantization_config
from edgeq.model.checkpoint.stored import StoredTensor
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.plan.memory import MemoryPlan
from edgeq.runtime.scheduler.budget import serving_budget, serving_device

GIB = 1 << 30
NX = device_profile("orin-nx-16gb")
CPU = NX.model_copy(update={"memory": "system", "runtime_bytes": 1000, "widens_fp16": True})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A graph of 7,000 bytes in two files; a language model whose largest layer has 2 x 600 4-bit weights."""
    (tmp_path / "language").mkdir()
    (tmp_path / "vision.fp16.onnx").write_bytes(bytes(2000))
    (tmp_path / "vision.fp16.onnx.data").write_bytes(bytes(5000))
    tensors: dict[str, NDArray[Any]] = {"a": np.zeros((600, 1), np.uint8), "b": np.zeros((500, 1), np.uint8)}
    tensors["c"] = np.zeros(900, np.float16)
    save_file(tensors, tmp_path / "language/model.safetensors")
    settings = {"model_type": "llava", "vision": "vision.fp16.onnx", "image_token": "<image>", "image_token_id": 1}
    VlmSettings.model_validate({**settings, "tokens": 4, "context": 64, "stop": (2,)}).save(tmp_path / "vlm.json")
    return tmp_path


def test_what_is_always_in_memory_is_taken_off(bundle: Path) -> None:
    language = (bundle / "language/model.safetensors").stat().st_size
    budget = serving_budget(bundle, CPU, reserve_bytes=300, total_bytes=100_000)
    assert budget.weights == language + 2 * 7000, "a CPU holds the graph as FP32"
    assert budget.working == 600 * 2 * 2, "the largest layer in FP16"
    assert budget.requests == 100_000 - language - 14_000 - 2400 - 1000 - 300


def test_on_a_jetson(bundle: Path) -> None:
    budget = serving_budget(bundle, NX, reserve_bytes=300)
    assert budget.total == NX.budget_bytes
    assert budget.weights == (bundle / "language/model.safetensors").stat().st_size + 7000
    assert budget.working == 2400 + 256 * 2**20, "and what the engine works in"
    assert budget.runtime == NX.runtime_bytes


def test_nothing_left_is_an_error_with_the_numbers(bundle: Path) -> None:
    fixed = 100_000 - serving_budget(bundle, CPU, reserve_bytes=300, total_bytes=100_000).requests
    assert serving_budget(bundle, CPU, reserve_bytes=300, total_bytes=fixed + 1).requests == 1
    with pytest.raises(InputError, match="leaves no memory for requests"):
        serving_budget(bundle, CPU, reserve_bytes=300, total_bytes=fixed)


def test_damaged_weights(bundle: Path) -> None:
    (bundle / "language/model.safetensors").write_bytes(b"no header")
    with pytest.raises(ModelError):
        serving_budget(bundle, CPU, reserve_bytes=0, total_bytes=100_000)


def test_a_prepared_bundle_as_its_memory_plan_has_it(prepared_vlm: PreparedVlm) -> None:
    """Files have headers beside the weights; of a model as tiny as this one they are a part of it."""
    plan = MemoryPlan.load(prepared_vlm.bundle / "memory.json")
    budget = serving_budget(prepared_vlm.bundle, NX, reserve_bytes=0)
    items = {item.name: item.bytes for item in plan.phases[-1].items}
    assert budget.working == items["unpacked weights"] + items["engine workspace"]
    assert budget.runtime == items["runtime"]
    files = [file for file in prepared_vlm.manifest.files if file.name.startswith(("language/model", "vision.fp16"))]
    assert plan.weights_bytes < budget.weights == sum(file.size for file in files)


def machine(root: Path, total: int, available: int) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {total >> 10} kB\nMemAvailable: {available >> 10} kB\n")
    return root


def test_this_machine_gives_no_more_than_the_device_planned_for(prepared_vlm: PreparedVlm, tmp_path: Path) -> None:
    large = serving_device(prepared_vlm.bundle, cuda=False, root=machine(tmp_path / "large", 64 * GIB, 60 * GIB))
    assert large.budget_bytes == NX.budget_bytes
    small = serving_device(prepared_vlm.bundle, cuda=False, root=machine(tmp_path / "small", 8 * GIB, 5 * GIB))
    assert small.budget_bytes == 5 * GIB
    assert (small.memory, small.widens_fp16) == ("system", True)


def test_without_a_memory_plan_the_machine_is_all_there_is_to_go_by(bundle: Path, tmp_path: Path) -> None:
    assert not (bundle / "memory.json").exists()
    root = machine(tmp_path / "machine", 64 * GIB, 60 * GIB)
    assert serving_device(bundle, cuda=False, root=root).budget_bytes == 60 * GIB
    jetson = serving_device(bundle, cuda=True, root=root)
    assert (jetson.memory, jetson.runtime_bytes, jetson.widens_fp16) == ("unified", NX.runtime_bytes, False)


def test_of_a_large_table_in_int8_a_part_is_unpacked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 152,064 x 3,584, where a kernel is missing: 67 million numbers at once, in 16 bits."""
    read = {"lm_head.weight_packed": StoredTensor("I32", (152_064, 896))}
    monkeypatch.setattr("edgeq.runtime.scheduler.budget.read_stored", lambda _: read)
    monkeypatch.setattr("edgeq.runtime.scheduler.budget._schemes", lambda _: {"lm_head": WeightScheme(8, None)})
    assert serving_budget(bundle, CPU, reserve_bytes=0, total_bytes=1 << 40).unpacked == 2 * (1 << 26)


@pytest.mark.parametrize(("bits", "unpacked"), [(4, 0), (8, 600 * 128 * 2)])
def test_packed_integers(bundle: Path, bits: int, unpacked: int) -> None:
    """One layer, 600 x 128: INT4 has a zero point beside each of 600 scales, INT8 is unpacked for a long prompt."""
    scheme = WeightScheme(bits, 128 if bits == 4 else None)
    tensors: dict[str, NDArray[Any]] = {
        "l.weight_packed": np.zeros((600, 128 * bits // 32), np.int32),
        "l.weight_scale": np.zeros((600, 1), np.float16),
        "l.weight_shape": np.array([600, 128]),
    }
    save_file(tensors, bundle / "language/model.safetensors")
    config = {"quantization_config": quantization_config({"l": scheme}, [])}
    (bundle / "language/config.json").write_text(json.dumps(config))
    budget = serving_budget(bundle, CPU, reserve_bytes=0, total_bytes=1_000_000)
    assert budget.unpacked == unpacked
    file = (bundle / "language/model.safetensors").stat().st_size
    assert budget.weights == file + 2 * 7000 + (2 * 600 if bits == 4 else 0)
