"""What a builder is told on each quantization, worked out from what a bundle says of its graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgeq.errors import ArtifactError, EngineError, GateError
from edgeq.tensorrt.inputs import ENGINE_INPUTS, Binding, EngineGraph, EngineInputs
from edgeq.tensorrt.precisions import LayerPrecision
from edgeq.tensorrt.settings import BuildSettings, ShapeRange, build_settings, check_memory, usual_batch

SHA = "a" * 64
LAYERS = (
    LayerPrecision(name="conv", op="Conv", precision="int8", outputs=("float16",)),
    LayerPrecision(name="softmax", op="Softmax", precision="float16", outputs=("float16",)),
    LayerPrecision(name="head", op="Gemm", precision="float32", outputs=("float32",)),
)


def graph(file: str, *inputs: Binding, casts: tuple[str, ...] = ()) -> EngineGraph:
    return EngineGraph(
        file=file,
        sha256=SHA,
        weight_bytes=10_000_000,
        inputs=inputs or (Binding(name="pixel_values", dtype="float32", shape=(None, 3, 32, 48)),),
        outputs=(Binding(name="logits", dtype="float32", shape=(None, 10)),),
        layers=LAYERS,
        casts=casts,
    )


def classifier(**others: Any) -> EngineInputs:
    graphs = {"implicit": graph("model.fp32.onnx"), "explicit": graph("model.int8.trt.onnx")}
    return EngineInputs(**({"precision": "int8", "graphs": graphs, "plan_sha256": SHA} | others))


def encoder(pictures: int = 1) -> EngineInputs:
    half = graph("vision.fp16.onnx", casts=("in.Cast",))
    graphs = {"implicit": half, "explicit": half}
    return classifier(precision="fp16", graphs=graphs, pictures=pictures)


def test_an_int8_classifier_on_the_implicit_road() -> None:
    made = build_settings(classifier(), "implicit", "because", tensorrt="10.3.0", batch=(1, 4, 8), runtime_bytes=7)
    assert made == BuildSettings(
        graph="model.fp32.onnx",
        graph_sha256=SHA,
        quantization="implicit",
        quantization_reason="because",
        tensorrt="10.3.0",
        network_flags=(),
        builder_flags=("INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"),
        cleared_flags=("TF32",),
        layers=LAYERS,
        output_types={"logits": "float32"},
        profile=(ShapeRange(input="pixel_values", min=(1, 3, 32, 48), opt=(4, 3, 32, 48), max=(8, 3, 32, 48)),),
        workspace_bytes=256 << 20,
        calibration="cache",
        peak_bytes=4 * 10_000_000 + (256 << 20) + 7,
    )
    assert build_settings(classifier(), "implicit", "", calibration="images").calibration == "images"


def test_the_same_on_the_explicit_road() -> None:
    made = build_settings(classifier(), "explicit", "because")
    assert (made.graph, made.network_flags, made.builder_flags) == ("model.int8.trt.onnx", ("STRONGLY_TYPED",), ())
    assert made.calibration == "none"
    # Beside its Q/DQ pairs that graph is FP32: what was planned FP16 is expected in FP32.
    assert [(layer.name, layer.precision) for layer in made.layers] == [
        ("conv", "int8"),
        ("softmax", "float32"),
        ("head", "float32"),
    ]


@pytest.mark.parametrize("typed", [{"casts": ("in.Cast",)}, {"half": True}])
def test_a_graph_with_fp16_beside_its_pairs_is_expected_in_fp16(typed: dict[str, Any]) -> None:
    """Casts, or the scales of its pairs alone, say so; a strongly typed network needs no flag for it."""
    half = graph("model.int8.trt.onnx").model_copy(update=typed)
    made = build_settings(classifier(graphs={"explicit": half}), "explicit", "because")
    assert (made.layers, made.builder_flags, made.network_flags) == (LAYERS, (), ("STRONGLY_TYPED",))
    assert made.cleared_flags == ("TF32",)  # the FP32 head beside it is multiplied in FP32


def test_what_a_graph_has_no_use_for_is_not_written() -> None:
    """A release before reads the file."""
    assert "half" not in graph("model.fp32.onnx").model_dump()
    assert graph("m.onnx").model_copy(update={"half": True}).model_dump()["half"] is True


@pytest.mark.parametrize(
    ("quantization", "flags"), [("implicit", ("FP16", "OBEY_PRECISION_CONSTRAINTS")), ("explicit", ())]
)
def test_an_fp16_encoder_is_one_graph_on_both_roads(quantization: Any, flags: tuple[str, ...]) -> None:
    made = build_settings(encoder(), quantization, "because")
    assert (made.graph, made.builder_flags, made.calibration) == ("vision.fp16.onnx", flags, "none")
    assert (made.layers, made.casts) == (LAYERS, ("in.Cast",))


def test_tiles_of_one_image_go_through_together() -> None:
    assert usual_batch(encoder()) == (1, 1, 1)
    assert usual_batch(encoder(pictures=5), images=2) == (1, 5, 10)
    (entry,) = build_settings(encoder(pictures=5), "explicit", "").profile
    assert (entry.min[0], entry.opt[0], entry.max[0]) == (1, 5, 5)


def test_a_fixed_batch_has_no_profile() -> None:
    fixed = classifier(graphs={"explicit": graph("a.onnx", Binding(name="x", dtype="float32", shape=(2, 3, 8, 8)))})
    assert build_settings(fixed, "explicit", "").profile == ()
    assert build_settings(fixed, "explicit", "", batch=(2, 2, 2)).profile == ()
    with pytest.raises(EngineError, match="takes 2 pictures at once, and 1 to 8 were asked for"):
        build_settings(fixed, "explicit", "", batch=(1, 2, 8))


def test_every_input_with_a_free_batch_has_a_range() -> None:
    two = graph(
        "a.onnx",
        Binding(name="left", dtype="float32", shape=(None, 3, 8, 8)),
        Binding(name="table", dtype="float32", shape=(16, 4)),
        Binding(name="right", dtype="float32", shape=(None, 5)),
    )
    made = build_settings(classifier(graphs={"implicit": two}), "implicit", "", batch=None)
    assert [(entry.input, entry.opt) for entry in made.profile] == [("left", (1, 3, 8, 8)), ("right", (1, 5))]


@pytest.mark.parametrize("batch", [(0, 1, 1), (2, 1, 4), (1, 5, 4)])
def test_a_batch_out_of_order_is_refused(batch: Any) -> None:
    with pytest.raises(EngineError, match="pictures in one run"):
        build_settings(classifier(), "implicit", "", batch=batch)


def test_another_free_axis_is_refused() -> None:
    free = classifier(
        graphs={"explicit": graph("a.onnx", Binding(name="x", dtype="float32", shape=(None, 3, None, 8)))}
    )
    with pytest.raises(ArtifactError, match="free axis beside its batch"):
        build_settings(free, "explicit", "")
    with pytest.raises(ArtifactError, match="no graph for implicit quantization"):
        build_settings(free, "implicit", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"builder_flags": ("PREFER_PRECISION_CONSTRAINTS", "OBEY_PRECISION_CONSTRAINTS")}, "not both"),
        ({"builder_flags": ("TF32",)}, "set and cleared"),
        (
            {"quantization": "explicit", "network_flags": ("STRONGLY_TYPED",), "calibration": "none"},
            "takes no precision flag",
        ),
        ({"quantization": "explicit", "network_flags": ("STRONGLY_TYPED",), "builder_flags": ()}, "no calibration"),
        ({"network_flags": ("STRONGLY_TYPED",)}, "only there"),
        ({"profile": [{"input": "x", "min": [2], "opt": [1], "max": [3]}]}, "min <= opt <= max"),
        ({"profile": [{"input": "x", "min": [1], "opt": [1, 3], "max": [1, 3]}]}, "numbers of axes"),
        ({"version": "edgeq.engine-build/2"}, "edgeq.engine-build/1"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(change: dict[str, Any], words: str) -> None:
    right = build_settings(classifier(), "implicit", "because").model_dump(mode="json")
    with pytest.raises(ValidationError, match=words):
        BuildSettings.model_validate(right | change)


def any_size(**ranges: tuple[int, int, int]) -> EngineInputs:
    """A graph of one image in its own size: patches, their positions, and windows of patches."""
    native = graph(
        "vision.fp16.onnx",
        Binding(name="pixel_values", dtype="float32", shape=("patches", 1176)),
        Binding(name="positions", dtype="int64", shape=("patches", 2)),
        Binding(name="windows", dtype="int64", shape=("windows", 64)),
        Binding(name="scale", dtype="float32", shape=(1,)),
    )
    return classifier(precision="fp16", graphs={"explicit": native}, ranges=ranges)


def test_every_free_axis_has_its_own_range() -> None:
    made = build_settings(any_size(patches=(4, 1024, 8160), windows=(1, 16, 140)), "explicit", "")
    assert made.profile == (
        ShapeRange(input="pixel_values", min=(4, 1176), opt=(1024, 1176), max=(8160, 1176)),
        ShapeRange(input="positions", min=(4, 2), opt=(1024, 2), max=(8160, 2)),
        ShapeRange(input="windows", min=(1, 64), opt=(16, 64), max=(140, 64)),
    )


def test_an_axis_of_unknown_length_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"windows has a free axis .*of which no lengths are known"):
        build_settings(any_size(patches=(4, 1024, 8160)), "explicit", "")


def test_images_of_any_size_have_no_batch() -> None:
    inputs = any_size(patches=(4, 1024, 8160), windows=(1, 16, 140))
    with pytest.raises(EngineError, match="pixel_values takes one image at once, of any number of patches"):
        build_settings(inputs, "explicit", "", batch=(1, 2, 4))


def test_a_batch_of_several_inputs_is_one() -> None:
    """Tiles, how they lie and which are used: all have as many rows as there are images."""
    three = graph(
        "vision.fp16.onnx",
        Binding(name="pixel_values", dtype="float32", shape=("batch", 4, 3, 28, 28)),
        Binding(name="aspect_ratio_ids", dtype="int64", shape=("batch",)),
    )
    made = build_settings(classifier(graphs={"explicit": three}), "explicit", "", batch=(1, 2, 3))
    assert [(entry.min, entry.opt, entry.max) for entry in made.profile] == [
        ((1, 4, 3, 28, 28), (2, 4, 3, 28, 28), (3, 4, 3, 28, 28)),
        ((1,), (2,), (3,)),
    ]


def text_encoder(**changed: Any) -> EngineInputs:
    """Texts of up to 20 tokens, with a mask beside them."""
    texts = graph(
        "text/model.int8.trt.onnx",
        Binding(name="input_ids", dtype="int64", shape=("batch", "length")),
        Binding(name="mask", dtype="int64", shape=("batch", "length")),
        Binding(name="language", dtype="int64", shape=("batch",)),
    )
    buckets = {"length": ((1, 8, 8), (9, 20, 20))}
    given = {"graphs": {"explicit": texts}, "ranges": {"batch": (1, 32, 64)}, "buckets": buckets}
    return classifier(**{**given, **changed})


def test_each_bucket_of_lengths_is_a_profile() -> None:
    made = build_settings(text_encoder(), "explicit", "", encoder="text")
    language = ShapeRange(input="language", min=(1,), opt=(32,), max=(64,))

    def ids(name: str, least: int, most: int) -> ShapeRange:
        return ShapeRange(input=name, min=(1, least), opt=(32, most), max=(64, most))

    assert made.profiles == (
        (ids("input_ids", 1, 8), ids("mask", 1, 8), language),
        (ids("input_ids", 9, 20), ids("mask", 9, 20), language),
    )
    assert made.encoder == "text"
    assert usual_batch(text_encoder()) == (1, 32, 64)
    narrow = build_settings(text_encoder(), "explicit", "", batch=(2, 4, 8)).profiles
    assert [(entry.min[0], entry.opt[0], entry.max[0]) for entry in narrow[1]] == [(2, 4, 8)] * 3


def test_without_buckets_there_is_one_profile() -> None:
    assert [len(each) for each in build_settings(classifier(), "explicit", "").profiles] == [1]
    assert build_settings(any_size(patches=(4, 8, 16), windows=(1, 1, 2)), "explicit", "").profiles[0][0].opt == (
        8,
        1176,
    )
    fixed = classifier(graphs={"explicit": graph("m.onnx", Binding(name="x", dtype="float32", shape=(1, 3)))})
    assert build_settings(fixed, "explicit", "").profiles == ((),)


@pytest.mark.parametrize(
    "buckets", [{"length": ()}, {"length": ((1, 1, 1),) * 9}, {"length": ((1, 2, 3),), "batch": ((1, 2, 3),)}]
)
def test_buckets_are_few_and_of_one_axis(buckets: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="buckets are for one axis"):
        text_encoder(buckets=buckets)


def test_inputs_have_as_many_profiles_as_each_other() -> None:
    right = build_settings(text_encoder(), "explicit", "").model_dump()
    with pytest.raises(ValidationError, match="different numbers of optimization profiles"):
        BuildSettings.model_validate(right | {"profile": [*right["profile"], right["profile"][0]]})


def test_files_of_the_first_release_are_read(tmp_path: Path) -> None:
    """There the batch has no name, and no other axis may be free."""
    old = EngineInputs.load(Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0" / "vlm" / ENGINE_INPUTS)
    (given,) = old.graphs["explicit"].inputs
    assert given.shape == ("batch", 3, 28, 28)
    assert old.ranges == {}
    assert [entry.opt for entry in build_settings(old, "explicit", "").profile] == [(old.pictures, 3, 28, 28)]
    inputs = any_size(patches=(4, 8, 16), windows=(1, 1, 2))
    inputs.save(tmp_path / ENGINE_INPUTS)
    assert EngineInputs.load(tmp_path / ENGINE_INPUTS) == inputs


def test_json_and_back(tmp_path: Path) -> None:
    made, inputs = build_settings(classifier(), "implicit", "because"), encoder(pictures=3)
    made.save(tmp_path / "build.json")
    inputs.save(tmp_path / ENGINE_INPUTS)
    assert BuildSettings.load(tmp_path / "build.json") == made
    assert EngineInputs.load(tmp_path / ENGINE_INPUTS) == inputs
    with pytest.raises(ArtifactError, match="does not say what an engine is built from"):
        EngineInputs.load(tmp_path / "build.json")


def test_a_bundle_without_a_graph_is_none() -> None:
    with pytest.raises(ValidationError, match="no graph"):
        classifier(graphs={})


def test_memory_is_asked_for_before_the_build() -> None:
    made = build_settings(classifier(), "implicit", "because", runtime_bytes=1_000_000_000)
    check_memory(made, made.peak_bytes)
    with pytest.raises(GateError) as caught:
        check_memory(made, 1_300_000_000)
    # 4 x 0.01 GB of weights, 0.27 GB of workspace and 1 GB of runtime.
    assert "may take 1.31 GB, and 1.30 GB are free" in str(caught.value)


def test_this_machine_is_asked_where_nobody_says_what_is_free() -> None:
    huge = build_settings(classifier(), "implicit", "because", runtime_bytes=1 << 60)
    with pytest.raises(GateError):
        check_memory(huge)


@pytest.mark.parametrize(
    ("release", "modes"),
    [("10.3.0", ("implicit", "explicit")), ("10.16.1", ("implicit", "explicit")), ("11.4.0", ("explicit",))],
)
def test_every_flag_is_one_of_the_release(release: str, modes: tuple[Any, ...], shared_data: Path) -> None:
    names = set(json.loads((shared_data / "tensorrt-names" / f"{release}.json").read_text()))
    for quantization in modes:
        for inputs in (classifier(), encoder()):
            made = build_settings(inputs, quantization, "because")
            assert {f"BuilderFlag.{flag}" for flag in (*made.builder_flags, *made.cleared_flags)} <= names
            assert {f"NetworkDefinitionCreationFlag.{flag}" for flag in made.network_flags} <= names
