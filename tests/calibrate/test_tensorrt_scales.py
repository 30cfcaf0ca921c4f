"""Which tensors go into a TensorRT cache, on which ranges, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import tiny_network
from onnx import TensorProto, helper, numpy_helper

from edgeq.calibrate.observe import with_outputs
from edgeq.calibrate.scales import Scales, TensorRange, TensorScale
from edgeq.calibrate.tensorrt_scales import (
    activation_tensors,
    amax_from_cache,
    cache_from_scales,
    non_negative_tensors,
    scales_from_cache,
)
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, CalibrationError
from edgeq.quantize.int8.grid import signed_grid
from edgeq.tensorrt.calibration_cache import CalibrationCache

RELEASE = (10, 3, 0)
ONE_127TH = (1 + 66052 / 2**23) / 2**7  # float32, worked out in test_trt_cache


def scales_of(**amax: float) -> Scales:
    """Scales with two methods: `chosen` has the amax given, `other` a hundred times as much."""
    tensors = {
        name: TensorScale(
            minimum=-value,
            maximum=value,
            ranges={
                "chosen": TensorRange(amax=value, low=-value, high=value),
                "other": TensorRange(amax=100 * value, low=0.0, high=100 * value),
            },
            histogram_sha256="",
        )
        for name, value in amax.items()
    }
    return Scales(graph_sha256="g", preprocess_sha256="p", images=1, method="chosen", tensors=tensors)


def shapes_network() -> onnx.ModelProto:
    """A float graph with everything that is no activation: constants, shapes, integers, a mask, an unused output."""
    nodes = [
        helper.make_node("Neg", ["constant"], ["from_constant"]),
        helper.make_node("Mul", ["x", "from_constant"], ["scaled"]),
        helper.make_node("Shape", ["scaled"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["shape_as_float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["scaled", "shape"], ["reshaped"]),
        helper.make_node("MaxPool", ["reshaped"], ["pooled", "indices"], kernel_shape=[2, 2]),
        helper.make_node("Dropout", ["pooled"], ["kept", ""]),
        helper.make_node("Greater", ["kept", "constant"], ["mask"]),
        helper.make_node("Cast", ["kept"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 3, 3])],
        [numpy_helper.from_array(np.array(2.0, np.float32), "constant")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def one_node(op: str, inputs: list[str], constants: dict[str, float], domain: str = "") -> onnx.ModelProto:
    """x -> Relu -> positive, and a node that makes y."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["positive"]), helper.make_node(op, inputs, ["y"], domain=domain)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_scales_are_amax_over_127_in_the_order_of_the_scales() -> None:
    cache = cache_from_scales(scales_of(b=127.0, a=1.0, zero=0.0), RELEASE)
    assert cache == CalibrationCache(RELEASE, (("b", 1.0), ("a", ONE_127TH), ("zero", 0.0)))
    assert cache.to_bytes() == b"TRT-100300-EntropyCalibration2\nb: 3f800000\na: 3c010204\nzero: 0\n"


def test_the_method_is_the_one_chosen_for_tensorrt() -> None:
    auto = scales_of(x=127.0).model_copy(
        update={"method": "auto", "chosen": {"onnxruntime": "chosen", "tensorrt": "other"}}
    )
    assert cache_from_scales(auto, RELEASE).scales == (("x", 100.0),)


def test_a_group_gets_its_largest_amax() -> None:
    groups = [frozenset({"a", "c", "not calibrated"}), frozenset({"nobody"})]
    cache = cache_from_scales(scales_of(a=127.0, b=127.0, c=254.0), RELEASE, groups=groups)
    assert cache.scales == (("a", 2.0), ("b", 1.0), ("c", 2.0))


@given(st.floats(0.0, 3e38))
def test_a_scale_is_the_one_of_the_signed_graph_and_survives_the_way_back(amax: float) -> None:
    cache = cache_from_scales(scales_of(x=amax), RELEASE)
    ((_, scale),) = cache.scales
    assert amax_from_cache(cache) == {"x": scale * 127}
    assert abs(scale - amax / 127) <= max(scale * 2.0**-24, 2.0**-150)
    if scale >= float(np.finfo(np.float32).tiny):  # below it the graph's grid is 1, as of a tensor of zeros
        assert scale == signed_grid(amax).scale == signed_grid(amax_from_cache(cache)["x"]).scale


@pytest.mark.parametrize("amax", [-1.0, 1e39])
def test_an_edited_amax_is_refused(amax: float) -> None:
    with pytest.raises(CalibrationError, match="tensor x has amax"):
        cache_from_scales(scales_of(x=amax), RELEASE)


def test_a_name_that_would_make_a_line_of_its_own_is_refused() -> None:
    with pytest.raises(ArtifactError, match="control character"):
        cache_from_scales(scales_of(**{"x: 0\ny": 1.0}), RELEASE)


def test_a_method_that_was_not_calibrated_is_refused() -> None:
    scales = scales_of(x=1.0).model_copy(update={"method": "third"})
    with pytest.raises(CalibrationError, match="x has no third range"):
        cache_from_scales(scales, RELEASE)


def test_activations_are_all_that_is_computed_from_pixels() -> None:
    made = [name for node in tiny_network().graph.node for name in node.output]
    assert activation_tensors(tiny_network()) == ("pixel_values", *made)


def test_what_is_no_activation_is_left_out() -> None:
    assert activation_tensors(shapes_network()) == ("x", "scaled", "reshaped", "pooled", "kept", "y")


@pytest.mark.parametrize(
    ("op", "inputs", "constants", "expected"),
    [
        ("Sigmoid", ["x"], {}, True),
        ("Tanh", ["x"], {}, False),
        ("Tanh", ["positive"], {}, False),  # true, but nobody needs it: an unknown operator counts as negative
        ("Clip", ["x", "zero", "six"], {"zero": 0.0, "six": 6.0}, True),
        ("Clip", ["x", "low", "six"], {"low": -1.0, "six": 6.0}, False),
        ("Clip", ["positive", "low", "six"], {"low": -1.0, "six": 6.0}, True),
        ("Clip", ["positive", "low", "high"], {"low": -2.0, "high": -1.0}, False),
        ("Clip", ["x", "", "six"], {"six": 6.0}, False),
        ("Clip", ["positive"], {}, True),
        ("Clip", ["x", "positive"], {}, False),
        ("Add", ["positive", "positive"], {}, True),
        ("Add", ["positive", "x"], {}, False),
        ("Add", ["positive", "bias"], {"bias": 1.0}, True),
        ("Add", ["positive", "bias"], {"bias": -1.0}, False),
        ("Concat", ["positive", "x"], {}, False),
        ("GlobalAveragePool", ["positive"], {}, True),
        ("GlobalAveragePool", ["x"], {}, False),
        ("Pad", ["positive", "pads"], {"pads": 1.0}, True),
        ("Pad", ["positive", "pads", "fill"], {"pads": 1.0, "fill": -1.0}, False),
        ("Mul", ["positive", "positive"], {}, False),
    ],
)
def test_what_is_never_negative(op: str, inputs: list[str], constants: dict[str, float], expected: bool) -> None:
    attributes = one_node(op, inputs, constants)
    assert ("y" in non_negative_tensors(attributes)) is expected


def test_another_domain_may_mean_anything() -> None:
    assert non_negative_tensors(one_node("Relu", ["x"], {}, domain="com.example")) == {"positive"}


def test_real_values_agree_with_what_is_never_negative() -> None:
    model = tiny_network()
    names = activation_tensors(model)[1:]
    pixels = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    values = OnnxRuntimeEngine(with_outputs(model, names).SerializeToString(), threads=1).run(
        {"pixel_values": pixels}, names
    )
    assert non_negative_tensors(model) == {name for name in names if values[name].min() >= 0.0}


def test_a_cache_becomes_scales() -> None:
    scales = tuple((name, 2.0) for name in activation_tensors(tiny_network()))
    cache = CalibrationCache(RELEASE, (*scales, ("(Unnamed Layer* 3) [Shuffle]_output", 1.0)))
    wanted = ("pixel_values", "stem_relu", "flat")
    read = scales_from_cache(cache, tiny_network(), wanted, graph_sha256="g", preprocess_sha256="p")
    assert tuple(read.tensors) == wanted
    assert read.range_of("pixel_values", "tensorrt") == TensorRange(amax=254.0, low=-254.0, high=254.0)
    assert read.range_of("stem_relu", "tensorrt") == TensorRange(amax=254.0, low=0.0, high=254.0)
    assert read.range_of("flat", "tensorrt") == TensorRange(amax=254.0, low=0.0, high=254.0)
    assert (read.method, read.images, read.graph_sha256, read.preprocess_sha256) == ("trt-cache", 0, "g", "p")
    assert {name for scale in read.tensors.values() for name in scale.ranges} == {"trt-cache"}


def test_scales_read_from_a_cache_can_be_saved_and_written_again(tmp_path: Path) -> None:
    names = activation_tensors(tiny_network())
    cache = CalibrationCache(RELEASE, tuple((name, float(np.float32(0.1 * i))) for i, name in enumerate(names)))
    read = scales_from_cache(cache, tiny_network(), names, graph_sha256="g", preprocess_sha256="p")
    read.save(tmp_path / "scales.json")
    assert cache_from_scales(Scales.load(tmp_path / "scales.json"), RELEASE) == cache


def test_missing_tensors_are_counted_and_named() -> None:
    wanted = [f"t{i}" for i in range(12)]
    cache = CalibrationCache(RELEASE, (("t0", 1.0), ("other", 1.0)))
    with pytest.raises(CalibrationError) as refused:
        scales_from_cache(cache, tiny_network(), wanted, graph_sha256="g", preprocess_sha256="p")
    assert "lacks 11 of 12 tensors: t1, t2, t3, t4, t5, t6, t7, t8 and 3 more" in refused.value.what
