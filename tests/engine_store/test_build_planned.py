"""Settings and key from a bundle, on a machine without TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import draw_pictures
from simulated import ORIN, engine_inputs, write_classifier, write_vision

from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.engine_store.key import KeyParts
from edgeq.engine_store.planned import PREPROCESS, build_key, plan_build
from edgeq.errors import ArtifactError, EngineError, InputError
from edgeq.files import sha256_file
from edgeq.tensorrt.inputs import ENGINE_INPUTS
from edgeq.tensorrt.loading import QuantizationMode


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "classifier")


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    return write_vision(tmp_path / "vision")


def key(bundle: Path, images: Path | None = None, *, quantization: QuantizationMode | None = None) -> KeyParts:
    settings = plan_build(bundle, tensorrt="10.3.0", images=images, quantization=quantization)
    return build_key(bundle, read_manifest(bundle), settings, ORIN, images=images)


@pytest.mark.parametrize("release", ["10.3.0", "10.16.1.11", "11.4.0", None])
def test_a_classifier_goes_the_explicit_road(classifier: Path, release: str | None) -> None:
    settings = plan_build(classifier, tensorrt=release)
    assert (settings.quantization, settings.network_flags, settings.builder_flags) == (
        "explicit",
        ("STRONGLY_TYPED",),
        (),
    )
    assert settings.calibration == "none"
    assert settings.quantization_reason.startswith("explicit: ")


@pytest.mark.parametrize("release", ["10.3.0", "10.16.1.11", None])
def test_implicit_quantization_is_there_on_request(classifier: Path, release: str | None) -> None:
    settings = plan_build(classifier, tensorrt=release, quantization="implicit")
    assert settings.builder_flags == ("INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS")
    assert settings.calibration == "cache"
    assert settings.quantization_reason.startswith("implicit: asked for")


def test_a_bundle_with_one_graph_takes_the_mode_of_that(classifier: Path) -> None:
    inputs = engine_inputs(classifier, "model.fp32.onnx")
    alone = inputs.model_copy(update={"graphs": {"implicit": inputs.graphs["implicit"]}})
    alone.save(classifier / ENGINE_INPUTS)
    assert plan_build(classifier, tensorrt="10.3.0").quantization == "implicit"


@pytest.mark.parametrize("release", ["10.3.0", "11.0.0", None])
def test_a_vision_encoder_goes_the_explicit_road(vision: Path, release: str | None) -> None:
    settings = plan_build(vision, tensorrt=release)
    assert (settings.quantization, settings.network_flags, settings.calibration) == (
        "explicit",
        ("STRONGLY_TYPED",),
        "none",
    )
    (pixels,) = settings.profile
    assert (pixels.min[0], pixels.opt[0], pixels.max[0]) == (1, 5, 5)  # all pictures of one image


def test_a_road_can_be_asked_for(classifier: Path, vision: Path) -> None:
    assert plan_build(classifier, tensorrt="10.3.0", quantization="explicit").network_flags == ("STRONGLY_TYPED",)
    weak = plan_build(vision, tensorrt="10.3.0", quantization="implicit")
    assert (weak.builder_flags, weak.calibration) == (("FP16", "OBEY_PRECISION_CONSTRAINTS"), "none")
    with pytest.raises(EngineError) as caught:
        plan_build(classifier, tensorrt="11.0.0", quantization="implicit")
    assert "explicit" in str(caught.value)


def test_without_a_release_the_choice_says_so(classifier: Path) -> None:
    settings = plan_build(classifier)
    assert settings.tensorrt is None
    assert settings.quantization_reason == "explicit: the default, no release of TensorRT was named"
    assert plan_build(classifier, quantization="implicit").quantization_reason == (
        "implicit: asked for, no release of TensorRT was named; TensorRT 11 has explicit quantization alone"
    )


def test_what_is_asked_for_is_set(classifier: Path) -> None:
    settings = plan_build(classifier, tensorrt="10.3", batch=(1, 4, 16), workspace_bytes=64 << 20)
    (pixels,) = settings.profile
    assert (pixels.min, pixels.opt, pixels.max) == ((1, 3, 4, 4), (4, 3, 4, 4), (16, 3, 4, 4))
    assert (settings.workspace_bytes, settings.tensorrt) == (64 << 20, "10.3.0")
    assert settings.peak_bytes - plan_build(classifier).peak_bytes == (64 - 256) << 20
    with pytest.raises(EngineError, match="4, 2 and 1"):
        plan_build(classifier, batch=(4, 2, 1))


def test_images_where_nothing_is_calibrated(classifier: Path, vision: Path, tmp_path: Path) -> None:
    assert plan_build(classifier, images=tmp_path, quantization="implicit").calibration == "images"
    with pytest.raises(InputError, match="its ranges are in the graph") as caught:
        plan_build(classifier, images=tmp_path)
    assert caught.value.next_step == "leave --images out, or add --quantization implicit"
    with pytest.raises(InputError, match="no INT8 layers"):
        plan_build(vision, images=tmp_path, quantization="implicit")


def test_a_bundle_of_an_older_edgeq(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not say what an engine is built from"):
        plan_build(tmp_path)


def test_the_key_has_every_file_of_the_graph(classifier: Path, vision: Path) -> None:
    files = ("vision.fp16.onnx", "vision.fp16.onnx.data")
    assert key(vision).graph == {name: sha256_file(vision / name) for name in files}
    assert key(classifier).calibration_sha256 == ""
    parts = key(classifier, quantization="implicit")
    assert parts.graph == {"model.fp32.onnx": sha256_file(classifier / "model.fp32.onnx")}
    assert parts.calibration_sha256 == sha256_file(classifier / "calibration.cache")
    assert parts.plan_sha256 == sha256_file(classifier / "plan.yaml")
    assert (parts.compute_capability, parts.platform) == ("8.7", "L4T 36.4.3")


@pytest.mark.parametrize("changed", ["model.fp32.onnx", "plan.yaml"])
def test_a_bundle_put_together_from_two(classifier: Path, changed: str) -> None:
    """Every file is as its manifest says, and engine.json is that of another bundle."""
    (classifier / changed).write_text("of another model")
    write_manifest(classifier)
    with pytest.raises(ArtifactError, match="speaks of another"):
        key(classifier)


def test_the_key_of_images_is_in_their_bytes_and_their_preprocessing(classifier: Path, tmp_path: Path) -> None:
    images = draw_pictures(tmp_path / "images", each=2)
    first = key(classifier, images, quantization="implicit").calibration_sha256
    (images / "red").rename(images / "crimson")
    assert key(classifier, images, quantization="implicit").calibration_sha256 == first
    (classifier / PREPROCESS).write_text((classifier / PREPROCESS).read_text().replace("0.25", "0.5"))
    write_manifest(classifier)
    second = key(classifier, images, quantization="implicit").calibration_sha256
    next(images.rglob("*.jpg")).unlink()
    third = key(classifier, images, quantization="implicit").calibration_sha256
    assert len({first, second, third, key(classifier, quantization="implicit").calibration_sha256}) == 4


def test_images_that_do_not_fill_a_batch_are_refused_before_the_build(classifier: Path, tmp_path: Path) -> None:
    """TensorRT would leave all of them out, and calibrate on none."""
    images = draw_pictures(tmp_path / "images", each=1)
    drawn = len(list(images.rglob("*.jpg")))
    for usual in (drawn, drawn + 1):
        settings = plan_build(
            classifier, tensorrt="10.3.0", images=images, quantization="implicit", batch=(1, usual, usual)
        )
        if usual == drawn:
            assert build_key(classifier, read_manifest(classifier), settings, ORIN, images=images).calibration_sha256
            continue
        with pytest.raises(
            InputError, match=f"holds {drawn} images, and TensorRT would calibrate on batches of {usual}"
        ):
            build_key(classifier, read_manifest(classifier), settings, ORIN, images=images)


def test_a_bundle_without_the_graph_of_a_road(classifier: Path) -> None:
    inputs = engine_inputs(classifier, "model.fp32.onnx")
    alone = inputs.model_copy(update={"graphs": {"implicit": inputs.graphs["implicit"]}})
    alone.save(classifier / ENGINE_INPUTS)
    with pytest.raises(ArtifactError, match="no graph for explicit quantization"):
        plan_build(classifier, tensorrt="11.0.0")
