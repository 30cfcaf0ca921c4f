"""What inspect says: parameters counted by hand on a small graph, and from the weights' own file on a trained one."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from command import Edgeq
from networks import BATCHNORMS, CHANNELS, PARAMETERS, PREPROCESS_FLAGS, write_model

from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.inspect import Inspection, inspect_model

FLOAT_BYTES = 4


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return inspect_model(str(tiny_model), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def resnet20(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return inspect_model(str(shared_data / "cifar10-resnet20"), tmp_path_factory.mktemp("scratch"))


def shapes(file: Path) -> dict[str, list[int]]:
    """The shapes of all tensors in a safetensors file, from its header."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def test_parameters_of_a_small_graph(tiny: Inspection) -> None:
    assert tiny.source == "onnx"
    assert tiny.parameters == sum(PARAMETERS.values())
    assert {part.name: part.parameters for part in tiny.components} == {
        "backbone": sum(PARAMETERS.values()) - PARAMETERS["head"],
        "head": PARAMETERS["head"],
    }


def test_bytes_include_the_running_statistics(tiny: Inspection) -> None:
    statistics = BATCHNORMS * 2 * CHANNELS
    assert tiny.bytes == FLOAT_BYTES * (sum(PARAMETERS.values()) + statistics)


def test_every_layer_is_in_one_group(tiny: Inspection) -> None:
    for part in tiny.components:
        groups = [group for group in tiny.groups if group.component == part.name]
        assert sum(group.layers for group in groups) == part.layers
        assert sum(group.parameters for group in groups) == part.parameters
        assert sum(group.bytes for group in groups) == part.bytes
    assert all(group.reason for group in tiny.groups)


def test_what_would_be_done_to_each_kind(tiny: Inspection) -> None:
    decisions = {(group.component, group.kind): (group.decision, group.parameters) for group in tiny.groups}
    assert decisions["backbone", "convolution"] == ("int8", PARAMETERS["stem"] + PARAMETERS["pointwise"])
    assert decisions["backbone", "depthwise convolution"] == ("int8", PARAMETERS["depthwise"])
    assert decisions["backbone", "batchnorm"] == ("folded", BATCHNORMS * 2 * CHANNELS)
    assert decisions["backbone", "add"] == ("int8", 0)
    assert decisions["head", "linear"] == ("fp32", PARAMETERS["head"])
    assert (tiny.batchnorm, tiny.batchnorm_foldable, tiny.batchnorm_kept) == (BATCHNORMS, BATCHNORMS, {})


def test_nothing_is_left_in_the_scratch_directory(tiny_model: Path, tmp_path: Path) -> None:
    inspect_model(str(tiny_model), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_preprocessing_from_flags(tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare", preprocessor=False)
    flags = Preprocess.from_flags((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (16, 16))
    assert inspect_model(str(bare), tmp_path, preprocess=flags).parameters == sum(PARAMETERS.values())


def test_parameters_of_resnet20_are_those_of_its_weights(resnet20: Inspection, shared_data: Path) -> None:
    stored = shapes(shared_data / "cifar10-resnet20" / "model.safetensors")
    learned = {name: math.prod(shape) for name, shape in stored.items() if name.endswith((".weight", ".bias"))}
    running = {name: math.prod(shape) for name, shape in stored.items() if ".running_" in name}
    head = {name: count for name, count in learned.items() if name.startswith("linear.")}
    assert resnet20.parameters == sum(learned.values())
    assert resnet20.bytes == FLOAT_BYTES * (sum(learned.values()) + sum(running.values()))
    assert {part.name: part.parameters for part in resnet20.components}["head"] == sum(head.values())
    assert (resnet20.batchnorm, resnet20.batchnorm_foldable) == (19, 19)


@pytest.mark.parametrize("flags", [(), PREPROCESS_FLAGS])
def test_the_verb_in_json(flags: tuple[str, ...], edgeq: Edgeq, tiny_model: Path, tiny: Inspection) -> None:
    done = edgeq("inspect", tiny_model, *flags, "--json")
    assert (done.status, done.err) == (0, "")
    assert Inspection.model_validate_json(done.out) == tiny


def test_the_verb_for_a_person(edgeq: Edgeq, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that no cell is broken into lines
    done = edgeq("inspect", tiny_model)
    assert (done.status, done.err) == (0, "")
    assert f"{sum(PARAMETERS.values()):,} parameters" in done.out
    assert "BatchNorm: 3, of which 3 fold." in done.out
    assert "depthwise convolution" in done.out
