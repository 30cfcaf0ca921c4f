"""Every name and keyword of TensorRT that edgeq uses exists: in the real bindings, and in lists of names.

What release 11 lacks is what implicit quantization alone uses, and stands in IMPLICIT by function.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pytest
from names_used import Use, missing_name, uses_in, uses_of
from tensorrt_bindings import RELEASE_11, VERSIONS, run_bindings

from edgeq.tensorrt.inputs import Binding, EngineGraph, EngineInputs
from edgeq.tensorrt.loading import QuantizationMode
from edgeq.tensorrt.settings import BuildSettings, build_settings

PACKAGE = Path(__file__).resolve().parents[2] / "edgeq"
RESOLVE = Path(__file__).with_name("resolve_names.py")
ROOM = "edgeq.tensorrt"

EnginePrecision = Literal["int8", "fp16"]
PRECISIONS: tuple[EnginePrecision, ...] = ("int8", "fp16")

IMPLICIT = {
    ("IBuilderConfig.int8_calibrator", f"{ROOM}.builder:_profiles"),
    ("IBuilderConfig.set_calibration_profile", f"{ROOM}.builder:_profiles"),
    ("IInt8EntropyCalibrator2", f"{ROOM}.calibrator:_subclass"),
    ("ILayer.precision", f"{ROOM}.constraints:_set"),
    ("ILayer.set_output_type", f"{ROOM}.constraints:_set"),
    ("ITensor.set_dynamic_range", f"{ROOM}.ranges:_set"),
}
"""What release 11 lacks, and the functions that use it."""

PYTHON = frozenset({"nptype"})
"""Functions in Python around the bindings, which the list of 11.4 leaves out; the bindings below have them."""

WRONG = """
def build(trt, config: Any, layer: Any):
    builder = trt.Builder(trt.Logger(min_severity=trt.Logger.ERROR))
    network = builder.create_network(flag=0)
    layers = [network.get_layer(index) for index in range(network.layer_count)]
    for each in layers:
        each.precicion = trt.float33
        each.get_output(0).dtype.name
        each.get_output(0).data_type
    config.set_int8_flag(trt.BuilderFlag.INT9)
    layer.get_output(position=0)

class Running:
    def __init__(self, trt):
        self._trt = trt
        self._made = self._trt.Runtime(None)

    def load(self, data):
        return self._made.deserialize_engine(data)

class Mine(trt.IProgressMonitors):
    pass
"""
"""Made-up source. What is wrong in it stands in the two tests below."""

GUARDED = """
def build(trt):
    if hasattr(trt.BuilderFlag, "MONITOR_MEMORY"):
        return trt.BuilderFlag.MONITOR_MEMORY
    return getattr(trt.BuilderFlag, "EDITABLE_TIMING_CACHE", None)
"""


@pytest.fixture(scope="module")
def used() -> list[Use]:
    return uses_of(PACKAGE)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bindings_have_every_name_and_keyword(version: str, used: list[Use], tmp_path: Path) -> None:
    assert _missing(version, used, tmp_path) == []


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1"])
def test_the_lists_of_names_have_every_name(version: str, used: list[Use], shared_data: Path) -> None:
    names = _names(shared_data, version)
    assert [use for use in used if missing_name(use.path, names) and not use.guarded] == []


@pytest.mark.parametrize("release", ["11.0.0", "11.4.0"])
def test_release_11_lacks_what_the_implicit_road_alone_uses(release: str, used: list[Use], shared_data: Path) -> None:
    names = _names(shared_data, release) | PYTHON
    found = {(missing_name(use.path, names), _function(use.where)) for use in used if not use.guarded}
    assert {(name, where) for name, where in found if name} == IMPLICIT


def test_the_bindings_of_release_11_have_every_other_name(used: list[Use], tmp_path: Path) -> None:
    lacked = {_function(use.where) for use, _ in _missing(RELEASE_11, used, tmp_path)}
    assert lacked == {where for _, where in IMPLICIT}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bindings_have_every_flag_of_the_settings(version: str, tmp_path: Path) -> None:
    modes: tuple[QuantizationMode, ...] = ("implicit", "explicit")
    flags = {
        flag
        for quantization in modes
        for precision in PRECISIONS
        for flag in _flags(_settings(quantization, precision))
    }
    assert {("BuilderFlag", "INT8"), ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")} <= flags
    assert _missing(version, [Use("settings", flag) for flag in flags], tmp_path) == []


@pytest.mark.parametrize("release", ["11.0.0", "11.4.0"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_release_11_has_every_flag_of_the_explicit_road(
    precision: EnginePrecision, release: str, shared_data: Path
) -> None:
    names = _names(shared_data, release)
    assert [flag for flag in _flags(_settings("explicit", precision)) if missing_name(flag, names)] == []


def test_the_scan_sees_calls_properties_enums_and_base_classes(used: list[Use]) -> None:
    seen = {".".join(use.path) for use in used}
    assert seen >= {
        "Builder.().create_network",  # a local variable
        "Builder.().create_builder_config.().progress_monitor",  # set, of what a call gave
        "IBuilderConfig.().int8_calibrator",  # a parameter
        "INetworkDefinition.().get_layer.().name",  # an item of a list
        "IExecutionContext.().execute_async_v3",  # of self
        "MemoryPoolType.WORKSPACE",
        "IInt8EntropyCalibrator2",
        "IProgressMonitor",
        "nptype",
    }


def test_the_scan_covers_both_rooms(used: list[Use]) -> None:
    modules = {use.where.partition(":")[0] for use in used}
    assert {f"{ROOM}.{module}" for module in ("builder", "calibrator", "inspector", "tensors")} <= modules
    assert "edgeq.engine.tensorrt" in modules
    assert any(module.startswith("edgeq.engine_store.") for module in modules)


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_names_and_keywords_are_found(version: str, tmp_path: Path) -> None:
    found = _missing(version, uses_in(WRONG, f"{ROOM}.made_up"), tmp_path)
    assert sorted({said for _, said in found}) == [
        "Builder.().create_network.().get_layer.().get_output.().data_type does not exist",
        "Builder.().create_network.().get_layer.().precicion does not exist",
        "Builder.().create_network.().layer_count does not exist",
        "BuilderFlag.INT9 does not exist",
        "IBuilderConfig.().set_int8_flag does not exist",
        "Runtime.().deserialize_engine does not exist",
        "create_network takes no flag",
        "float33 does not exist",
        "get_output takes no position",
    ]


def test_wrong_names_are_found_in_lists(shared_data: Path) -> None:
    names = _names(shared_data, "10.3.0")
    found = {missing_name(use.path, names) for use in uses_in(WRONG, f"{ROOM}.made_up")}
    assert found == {
        *("", "BuilderFlag.INT9", "IBuilderConfig.set_int8_flag", "Runtime.deserialize_engine", "float33"),
        "Builder.create_network().layer_count",
        "Builder.create_network().get_layer().precicion",
        "Builder.create_network().get_layer().get_output().data_type",
    }


def test_what_is_asked_for_first_may_be_missing(tmp_path: Path) -> None:
    uses = uses_in(GUARDED, f"{ROOM}.made_up")
    assert {use.path[-1] for use in uses if use.guarded} == {"MONITOR_MEMORY", "EDITABLE_TIMING_CACHE"}
    assert _missing("10.3.0", uses, tmp_path) == []
    alone = uses_in("def build(trt):\n    return trt.BuilderFlag.MONITOR_MEMORY", f"{ROOM}.made_up")
    assert len(_missing("10.3.0", alone, tmp_path)) == 1


def _missing(version: str, uses: Iterable[Use], scratch: Path) -> list[tuple[Use, str]]:
    """The uses that the bindings of a release lack, and how."""
    asked = [use for use in uses if not use.guarded]
    paths = scratch / "paths.json"
    paths.write_text(json.dumps([[use.path, use.keyword] for use in asked]))
    answers = run_bindings(version, RESOLVE, str(paths))
    return [(use, said) for use, said in zip(asked, answers, strict=True) if said not in (None, "?")]


def _names(shared_data: Path, version: str) -> frozenset[str]:
    return frozenset(json.loads((shared_data / "tensorrt-names" / f"{version}.json").read_text()))


def _function(where: str) -> str:
    """Module and function, without what is inside it."""
    module, _, function = where.partition(":")
    return f"{module}:{function.partition('.')[0]}"


def _flags(settings: BuildSettings) -> list[tuple[str, ...]]:
    return [
        *(("NetworkDefinitionCreationFlag", name) for name in settings.network_flags),
        *(("BuilderFlag", name) for name in (*settings.builder_flags, *settings.cleared_flags)),
        *((kind,) for kind in settings.output_types.values()),
    ]


def _settings(quantization: QuantizationMode, precision: EnginePrecision) -> BuildSettings:
    """The settings of a graph with one input and one output."""
    image = Binding(name="image", dtype="float32", shape=(None, 3, 32, 32))
    logits = Binding(name="logits", dtype="float32", shape=(None, 10))
    graph = EngineGraph(
        file="model.onnx", sha256="0" * 64, weight_bytes=1000, inputs=(image,), outputs=(logits,), layers=()
    )
    inputs = EngineInputs(precision=precision, graphs={quantization: graph}, plan_sha256="0" * 64)
    return build_settings(inputs, quantization, "asked for")
