"""The main job's choices, on a small network and drawn pictures."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from networks import ALLOWED, BATCHNORMS, QUICK, SIDE, write_model
from onnx import numpy_helper
from pictures import draw_pictures

from edgeq.bundle.manifest import read_manifest
from edgeq.errors import ExportError, GuardError, ImageError, OutputError
from edgeq.export.fold import count_batchnorm
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.classifier import Options, _at_chance, prepare
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.tasks.classification import Classification

INT8 = "model.int8.ort.onnx"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network and 24 pictures."""
    directory = tmp_path_factory.mktemp("tiny")
    return write_model(directory / "model"), draw_pictures(directory / "pictures")


def test_per_tensor_weights_warn(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    made = prepare(
        *tiny, tmp_path / "bundle", options=Options(allow=ALLOWED, weights="per-tensor", threads=1, timing=QUICK)
    )
    assert any(warning.startswith("EQ103 per-tensor weights in 3 convolutions") for warning in made.warnings)
    assert _weight_scales(made.bundle) == {0}
    assert read_manifest(made.bundle) == made.manifest


def test_per_channel_weights_are_the_default(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    made = prepare(*tiny, tmp_path / "bundle", options=Options(allow=ALLOWED, threads=1, timing=QUICK))
    assert made.weights == "per-channel"
    assert _weight_scales(made.bundle) == {1}
    assert (made.int8_layers, made.fp32_layers) == (3, 1)


def test_without_folding_every_batchnorm_stays_and_warns(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    made = prepare(*tiny, tmp_path / "bundle", options=Options(allow=ALLOWED, fold=False, threads=1, timing=QUICK))
    assert (made.export.batchnorm_before, made.export.batchnorm_after) == (BATCHNORMS, BATCHNORMS)
    assert any(warning.startswith(f"EQ102 {BATCHNORMS} BatchNormalization nodes") for warning in made.warnings)
    assert count_batchnorm(onnx.load(made.bundle / INT8)) == BATCHNORMS
    assert read_manifest(made.bundle) == made.manifest


def test_a_named_batchnorm_stays(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    options = Options(allow=ALLOWED, keep_batchnorm=("depthwise_bn",), threads=1, timing=QUICK)
    made = prepare(*tiny, tmp_path / "bundle", options=options)
    assert made.export.batchnorm_after == 1
    assert list(made.export.kept) == ["depthwise_bn"]
    assert PrecisionPlan.load(made.bundle / "plan.yaml").keep_batchnorm == ("depthwise_bn",)


@pytest.fixture(scope="module")
def activated_first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with a Relu between its stem and the BatchNorm after it: that one folds nowhere."""
    directory = write_model(tmp_path_factory.mktemp("activated") / "model")
    model = onnx.load(directory / "model.onnx")
    batchnorm = next(node for node in model.graph.node if node.name == "stem_bn")
    batchnorm.input[0] = "early"
    relu = onnx.helper.make_node("Relu", ["stem"], ["early"], name="early")
    model.graph.node.insert(1, relu)
    onnx.save(model, directory / "model.onnx")
    return directory


def test_a_batchnorm_that_cannot_be_folded_stays_and_is_named(
    tiny: tuple[Path, Path], activated_first: Path, tmp_path: Path
) -> None:
    options = Options(allow=ALLOWED, threads=1, timing=QUICK)
    made = prepare(activated_first, tiny[1], tmp_path / "bundle", options=options)
    assert (made.export.batchnorm_before, made.export.batchnorm_after) == (BATCHNORMS, 1)
    assert made.export.unfoldable == {"stem_bn": "Relu early stands before it; Relu stem_relu stands after it"}
    warning = next(warning for warning in made.warnings if warning.startswith("EQ102"))
    assert "1 cannot be folded and stay in FP32; stem_bn: Relu early stands before it" in warning
    plan = PrecisionPlan.load(made.bundle / "plan.yaml")
    assert {d.precision.value for d in plan.decisions if d.layer == "stem_bn"} == {"fp32"}
    assert count_batchnorm(onnx.load(made.bundle / INT8)) == 1
    again = prepare(activated_first, tiny[1], tmp_path / "again", options=Options(plan=plan, threads=1, timing=QUICK))
    assert again.export.kept == {"stem_bn": "kept by the plan"}


def test_strict_wants_every_batchnorm_folded(tiny: tuple[Path, Path], activated_first: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="1 of 3 BatchNorm nodes cannot be folded") as caught:
        prepare(activated_first, tiny[1], tmp_path / "bundle", options=Options(allow=ALLOWED, strict=True, threads=1))
    assert caught.value.causes == ("stem_bn: Relu early stands before it; Relu stem_relu stands after it",)
    assert list(tmp_path.iterdir()) == []
    named = Options(allow=ALLOWED, strict=True, keep_batchnorm=("stem_bn",), threads=1, timing=QUICK)
    assert prepare(activated_first, tiny[1], tmp_path / "bundle", options=named).export.unfoldable == {}


def test_mean_and_deviation_of_another_scale_are_stopped(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    preprocess = Preprocess.from_flags((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), (SIDE, SIDE))
    with pytest.raises(GuardError, match="EQ110") as caught:
        prepare(*tiny, tmp_path / "bundle", preprocess=preprocess, options=Options(allow=ALLOWED, threads=1))
    assert any("hardly varies: the standard deviation of a channel is 0.00" in cause for cause in caught.value.causes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("top1", "images", "classes", "told"),
    [
        (10.0, 600, 10, True),
        (12.4, 600, 10, True),  # two standard deviations are 2.45 points
        (12.6, 600, 10, False),
        (2.17, 600, 10, True),  # labels in another order
        (81.17, 600, 10, False),
        (100.0, 5, 1, False),
    ],
)
def test_a_network_that_guesses_is_named(top1: float, images: int, classes: int, told: bool) -> None:
    answers = Classification(
        images=images,
        top1_reference=top1,
        top1_candidate=top1,
        drop=0.0,
        drop_standard_error=0.0,
        agreement=100.0,
        only_reference_right=0,
        only_candidate_right=0,
        logit_error=0.0,
        feature_cosine_mean=1.0,
        feature_cosine_worst=1.0,
    )
    warnings = list(_at_chance(answers, classes))
    assert bool(warnings) == told
    if told:
        assert warnings[0].startswith(f"FP32 itself is right for {top1:.2f} % of {images} images, no better than")


def test_a_batchnorm_that_is_not_there_cannot_stay(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nowhere_bn"):
        prepare(*tiny, tmp_path / "bundle", options=Options(allow=ALLOWED, keep_batchnorm=("nowhere_bn",), threads=1))
    assert list(tmp_path.iterdir()) == []


def test_both_inputs_of_an_addition_share_a_scale_unless_told_otherwise(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    found = []
    for shared in (True, False):
        options = Options(allow=ALLOWED, shared_add=shared, threads=1, timing=QUICK)
        made = prepare(*tiny, tmp_path / f"{shared}", options=options)
        assert PrecisionPlan.load(made.bundle / "plan.yaml").shared_add is shared
        found.append(len(_add_scales(made.bundle)))
    assert found == [1, 2]


def test_additions_stay_in_floating_point_where_that_is_asked_for(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    options = Options(allow=ALLOWED, float_adds=True, threads=1, timing=QUICK)
    made = prepare(*tiny, tmp_path / "bundle", options=options)
    assert made.float_additions == ("residual",)
    precisions = {d.layer: d.precision for d in PrecisionPlan.load(made.bundle / "plan.yaml").decisions}
    assert {precisions[name] for name in ("residual", "residual_relu")} == {Precision.FP16}
    assert {precisions[name] for name in ("stem", "depthwise", "pointwise")} == {Precision.INT8}


def test_the_stages_are_reported_in_order(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    model, pictures = tiny
    prepare(
        *(model, pictures, tmp_path / "bundle"),
        labelled=pictures,
        options=Options(allow=ALLOWED, threads=1, timing=QUICK),
        progress=lambda stage, done, total: heard.append((stage, done, total)),
    )
    stages = ["open", "export", "calibrate", "quantize", "judge", "judge other graphs"]
    assert list(dict.fromkeys(stage for stage, _, _ in heard)) == stages
    for stage in ("calibrate", "judge", "judge other graphs"):
        counted = [done for name, done, _ in heard if name == stage]
        assert counted == sorted(counted)
        assert (counted[0], counted[-1]) == (0, 24)


def test_no_more_images_are_used_than_asked_for(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    made = prepare(
        *tiny, tmp_path / "bundle", options=Options(allow=ALLOWED, calibration_images=6, threads=1, timing=QUICK)
    )
    assert made.calibration_images == 6


def test_output_that_exists_is_left_alone(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").write_text("kept")
    with pytest.raises(OutputError, match="exists already"):
        prepare(*tiny, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "mine").read_text() == "kept"


def test_folders_that_are_no_class(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    model, pictures = tiny
    for label in ("cats", "dogs"):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "a.jpg").write_bytes(next(pictures.rglob("*.jpg")).read_bytes())
    with pytest.raises(ImageError, match="2 of 2 folders are no class of the model: cats, dogs"):
        prepare(
            model, pictures, tmp_path / "bundle", labelled=tmp_path / "in", options=Options(allow=ALLOWED, threads=1)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def _initializers(bundle: Path) -> tuple[onnx.GraphProto, dict[str, onnx.TensorProto]]:
    graph = onnx.load(bundle / INT8).graph
    return graph, {tensor.name: tensor for tensor in graph.initializer}


def _weight_scales(bundle: Path) -> set[int]:
    """Ranks of the scales of all INT8 weights: 0 for one number, 1 for one per channel."""
    graph, constants = _initializers(bundle)
    return {
        len(constants[node.input[1]].dims)
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants and len(constants[node.input[0]].dims) == 4
    }


def _add_scales(bundle: Path) -> set[float]:
    """Scales of what goes into the residual addition."""
    graph, constants = _initializers(bundle)
    producer = {output: node for node in graph.node for output in node.output}
    (addition,) = (node for node in graph.node if node.name == "residual")
    return {float(numpy_helper.to_array(constants[producer[name].input[1]])) for name in addition.input}
