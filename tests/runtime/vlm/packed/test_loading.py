"""Checkpoints of packed integers, loaded, against transformers' own model with the weights that they stand for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packed_bundles import unpacked_tensors
from safetensors.torch import load_file, save_file
from talk import tiny_settings, write_processor
from vlm import write_vlm

from edgeq.errors import EngineError, ModelError
from edgeq.families.modules import read_modules
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_modules
from edgeq.quantize.weight_only.write import write_packed
from edgeq.runtime.vlm import language
from edgeq.runtime.vlm.language import LanguageModel, open_language_model, require_packages
from edgeq.runtime.vlm.packed.checkpoint import check_packed, weight_format
from edgeq.runtime.vlm.packed.layer import PackedLinear
from edgeq.runtime.vlm.prompt import Prompter

WEIGHTS = "model.safetensors"
IDS = torch.arange(3, 75)[None]
"""More tokens than a kernel for few rows is given."""


@pytest.fixture(scope="module", params=[Precision.INT4, Precision.INT8])
def precision(request: pytest.FixtureRequest) -> Precision:
    found: Precision = request.param
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_vlm(tmp_path_factory.mktemp("packed") / "whole", "llava")
    write_processor(source, "llava")
    return source


@pytest.fixture(scope="module")
def written(whole: Path, precision: Precision) -> Path:
    """Not to be changed."""
    target = whole.with_name(precision.value)
    write_packed(whole, plan_modules(read_modules(whole), language=precision), target, precision=precision)
    return target


@pytest.fixture
def int4(whole: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    target = tmp_path / "checkpoint"
    plan = plan_modules(read_modules(whole), language=Precision.INT4)
    write_packed(whole, plan, target, precision=Precision.INT4)
    return target


def opened(directory: Path, whole: Path) -> LanguageModel:
    return open_language_model(directory, Prompter.open(whole, tiny_settings("llava")), threads=1)


def unpacked(directory: Path) -> Any:
    """transformers' model in float32, with each integer times its scale."""
    tensors = unpacked_tensors(load_file(directory / WEIGHTS))
    config = transformers.AutoConfig.from_pretrained(directory)
    del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(tensors)
    return model.eval()


def test_logits_are_those_of_the_weights_that_the_integers_stand_for(written: Path, whole: Path) -> None:
    """But for rounding to 16 bits."""
    ours = opened(written, whole)
    with torch.inference_mode():
        expected = unpacked(written)(IDS).logits
        found = ours.model(IDS).logits.float()
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()
    packed = [module for module in ours.model.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == len(check_packed(written)) == 14
    assert all(not list(module.parameters()) for module in packed), "nothing is kept of the checkpoint's form"


def test_the_file_is_not_held(written: Path, whole: Path, tmp_path: Path) -> None:
    """Neither by weights in 16 bits, which else keep the mapping, nor by those that were repacked."""
    copied = shutil.copytree(written, tmp_path / "mine")
    ours = opened(copied, whole)
    assert ours.model is not None
    assert str(copied) not in Path("/proc/self/maps").read_text()


@torch.inference_mode()
def test_as_llm_compressor_writes_it(whole: Path, tmp_path: Path) -> None:
    """Its config.json: `targets` a class, `ignore` a name, and keys that say nothing about the weights."""
    int8 = tmp_path / "checkpoint"
    write_packed(whole, plan_modules(read_modules(whole), language=Precision.INT8), int8, precision=Precision.INT8)
    config = json.loads((int8 / "config.json").read_text())
    (group,) = config["quantization_config"]["config_groups"].values()
    group["weights"] |= {"block_structure": None, "observer": "minmax", "observer_kwargs": {}, "scale_dtype": None}
    group["targets"] = ["Linear"]
    config["quantization_config"] |= {
        "ignore": ["lm_head"],
        "global_compression_ratio": None,
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.20.1",
    }
    before = opened(int8, whole).model(IDS).logits
    (int8 / "config.json").write_text(json.dumps(config))
    assert torch.equal(opened(int8, whole).model(IDS).logits, before)


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq, which edgeq does not read"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "float-quantized"),
        ("int4", "int4, which edgeq does not read"),
    ],
)
def test_other_formats_are_refused_before_weights_are_read(
    int4: Path, whole: Path, quantization: Any, said: str
) -> None:
    change_config(int4, quantization)
    (int4 / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=said):
        opened(int4, whole)


def change_config(directory: Path, quantization: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))


DOWN = "model.layers.1.mlp.down_proj"


def without_scale(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{DOWN}.weight_scale"]


def cut_scale(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DOWN}.weight_scale"] = tensors[f"{DOWN}.weight_scale"][:-1].contiguous()


def wide_scale(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DOWN}.weight_scale"] = tensors[f"{DOWN}.weight_scale"].float()


def with_zero_points(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DOWN}.weight_zero_point"] = torch.zeros(1, dtype=torch.int32)


def of_bytes(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DOWN}.weight_packed"] = tensors[f"{DOWN}.weight_packed"].view(torch.uint8)


def odd_groups(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{DOWN}.weight_packed"] = torch.zeros(64, 17, dtype=torch.int32)


def as_floats(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("weight_packed", "weight_scale", "weight_shape"):
        del tensors[f"{DOWN}.{name}"]
    tensors[f"{DOWN}.weight"] = torch.zeros(64, 128, dtype=torch.float16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_scale, "without 16-bit scales"),
        (wide_scale, "without 16-bit scales"),
        (cut_scale, r"weight_scale: F16 \(63, 1\), expected F16 \(64, 1\)"),
        (with_zero_points, "weight_zero_point: not read by edgeq"),
        (of_bytes, "weight_packed: U8"),
        (odd_groups, "136 inputs do not fall into groups of 128"),
        (as_floats, "stored otherwise than config.json says"),
    ],
)
def test_tensors_that_are_not_those_of_the_config(
    int4: Path, whole: Path, change: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    tensors = load_file(int4 / WEIGHTS)
    change(tensors)
    save_file(tensors, int4 / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError) as raised:
        opened(int4, whole)
    assert any(re.search(said, text) for text in (raised.value.what, *raised.value.causes))


def test_a_layer_that_the_config_leaves_out(int4: Path, whole: Path) -> None:
    config: Mapping[str, Any] = json.loads((int4 / "config.json").read_text())["quantization_config"]
    change_config(int4, {**config, "ignore": [*config["ignore"], DOWN]})
    with pytest.raises(ModelError) as raised:
        opened(int4, whole)
    assert f"{DOWN}: packed, and config.json leaves it out" in raised.value.causes


def test_bitsandbytes_is_needed_for_nf4_alone(int4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by a system in which it is not installed."""
    monkeypatch.setattr(language, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    require_packages(int4)
    assert weight_format(int4) == "packed"
    change_config(int4, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    for directory in (int4, tmp_path / "none", None):
        with pytest.raises(EngineError, match="bitsandbytes, which is not installed"):
            require_packages(directory)
