"""The vision half of tiny vision-language models as one graph, against transformers' whole models on photographs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from vision_graphs import MODELS, SIDE, TOKENS, edit_weights, hf_features, photographs, pixels, write_eyes
from vlm import TEXT, VISION

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, ExportError, ModelError
from edgeq.export.vision import VISION_FP32, VisionReport, export_vision
from edgeq.export.vision_module import load_vision_module

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A LLaVA for a test to break."""
    return write_eyes(tmp_path / "model")


def export(model: Path, directory: Path) -> VisionReport:
    directory.mkdir(exist_ok=True)
    return export_vision(model, directory, photographs(), threads=1)


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_that_the_language_model_gets(name: str, tmp_path: Path) -> None:
    model = write_eyes(tmp_path / "model", name)
    report = export(model, tmp_path / "made")
    given = np.concatenate([pixels(model, photograph) for photograph in photographs()])
    engine = OnnxRuntimeEngine(tmp_path / "made" / VISION_FP32, threads=1)
    found = engine.run({"pixel_values": given})["image_features"]  # all pictures in one batch
    wanted = hf_features(model, given)
    assert found.shape == (len(given), TOKENS[name], TEXT["hidden_size"])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert np.abs(wanted[0] - wanted[-1]).max() > 0.01 * np.abs(wanted).max()  # the photographs look different
    assert (report.image, report.image_tokens, report.hidden) == ((3, SIDE, SIDE), TOKENS[name], TEXT["hidden_size"])
    assert (report.parity.pictures, report.parity.tokens) == (len(given), len(given) * TOKENS[name])
    assert 1 - report.parity.worst_cosine <= 1e-5
    assert report.parity.worst_relative < 1e-4


def test_what_is_in_the_file(seeing_llava: Path, tmp_path: Path) -> None:
    report = export(seeing_llava, tmp_path / "made")
    graph = onnx.load(tmp_path / "made" / VISION_FP32)
    onnx.checker.check_model(graph, full_check=True)
    values = (*graph.graph.input, *graph.graph.output)
    shapes = [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values]
    assert [value.name for value in values] == ["pixel_values", "image_features"]
    assert shapes[0] == ["batch", 3, SIDE, SIDE]
    assert [value.type.tensor_type.elem_type for value in values] == [onnx.TensorProto.FLOAT] * 2
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 17)]
    assert graph.ir_version == report.ir_version <= 10
    assert {node.name.split("/")[1] for node in graph.graph.node} <= {"vision", "connector", "Slice"}
    assert report.fp32.bytes == (tmp_path / "made" / VISION_FP32).stat().st_size
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["vision.fp32.onnx", "vision.json"]


def test_layers_behind_the_features_are_not_in_the_graph(seeing_llava: Path, tmp_path: Path) -> None:
    """Feature layer -2 of two: the second block is not needed. The weights of the first are there, once."""
    export(seeing_llava, tmp_path / "made")
    graph = onnx.load(tmp_path / "made" / VISION_FP32)
    names = " ".join(node.name for node in graph.graph.node)
    assert "/encoder/layers.0/" in names
    assert "/encoder/layers.1/" not in names
    stored = load_file(seeing_llava / "model.safetensors")
    vision = [name for name in stored if "vision" in name and "layers.1" not in name and "post_layernorm" not in name]
    expected = sum(stored[name].numel() for name in stored if name in vision or "projector" in name)
    found = sum(
        int(np.prod(tensor.dims)) for tensor in graph.graph.initializer if len(tensor.dims) and tensor.dims != [1]
    )
    assert expected <= found < expected + 100  # and some shapes


def test_names_of_the_hub_and_shards_give_the_same_graph(seeing_llava: Path, tmp_path: Path) -> None:
    other = write_eyes(tmp_path / "hub", max_shard_size="50KB", save_original_format=True)
    assert len(list(other.glob("*.safetensors"))) > 1
    assert export(other, tmp_path / "a").fp32 == export(seeing_llava, tmp_path / "b").fp32


def test_weights_of_the_language_model_are_not_looked_at(seeing_llava: Path, model: Path, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    spoilt = {name: value * float("nan") if "language_model" in name else value for name, value in weights.items()}
    assert sum("language_model" in name for name in weights) > 10
    save_file(spoilt, model / "model.safetensors", metadata={"format": "pt"})
    assert export(model, tmp_path / "a").fp32 == export(seeing_llava, tmp_path / "b").fp32


def test_only_encoder_and_connector_are_loaded(tmp_path: Path) -> None:
    """Counted by hand, from the sizes in the config."""
    vision_encoder = load_vision_module(write_eyes(tmp_path / "model"))
    block = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 4 * 32
    vision = 32 + 32 * 3 * 14 * 14 + 17 * 32 + 2 * block + 4 * 32  # class, patches, positions, blocks, two norms
    connector = (32 * 64 + 64) + (64 * 64 + 64)
    assert vision_encoder.parameters == vision + connector


def test_a_family_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    transformers.AyaVisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION), text_config=transformers.Cohere2Config(**TEXT)
    ).save_pretrained(tmp_path / "model")
    with pytest.raises(ExportError, match="a aya_vision model cannot be exported"):
        export(tmp_path / "model", tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())


def test_a_number_that_is_not_one_is_found(model: Path, tmp_path: Path) -> None:
    edit_weights(model, class_embedding=float("nan"))
    with pytest.raises(ExportError, match="the reference computes NaN or infinity"):
        export(model, tmp_path / "made")


def test_weights_are_missing(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="such as model"):
        export(model, tmp_path / "made")


def test_a_quantized_checkpoint_is_refused(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"load_in_4bit": True, "quant_method": "bitsandbytes"}
    (model / "config.json").write_text(json.dumps(config))
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("linear_1.weight"))
    save_file({**weights, name: weights[name].to(torch.uint8)}, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"linear_1\.weight is torch\.uint8"):
        export(model, tmp_path / "made")


def test_no_image_processor(model: Path, tmp_path: Path) -> None:
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="has no image processor"):
        export(model, tmp_path / "made")


def test_image_processor_of_another_model(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(config | {"crop_size": {"height": 42, "width": 42}}))
    with pytest.raises(ExportError, match=r"does not take pictures of shape \[3, 42, 42\]"):
        export(model, tmp_path / "made")


def test_pictures_of_several_sizes(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(config | {"do_center_crop": False}))
    wide, tall = photographs()[0], photographs()[1].resize((56, 112))
    with pytest.raises(ExportError, match="makes pixel_values of 2 shapes"):
        export_vision(model, tmp_path, [wide, tall], threads=1)


def test_no_photographs(seeing_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no photographs"):
        export_vision(seeing_llava, tmp_path, [], threads=1)


def test_the_report_is_read_back_and_a_changed_graph_found(seeing_llava: Path, tmp_path: Path) -> None:
    report = export(seeing_llava, tmp_path)
    assert VisionReport.load(tmp_path) == report
    with (tmp_path / VISION_FP32).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="is not the graph"):
        VisionReport.load(tmp_path)
    (tmp_path / "vision.json").write_text("{}")
    with pytest.raises(ArtifactError, match="has no vision graph"):
        VisionReport.load(tmp_path)


def test_a_report_of_the_first_release_is_read() -> None:
    """It had a name and a shape for the one input and the one output."""
    report = VisionReport.load(Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0" / "vlm")
    assert [(one.name, one.dtype, one.axes) for one in (*report.inputs, *report.outputs)] == [
        ("pixel_values", "float32", ("batch", 3, 28, 28)),
        ("image_features", "float32", ("batch", 4, 64)),
    ]
    assert (report.image, report.image_tokens, report.lengths) == ((3, 28, 28), 4, {})


def test_a_damaged_report_of_the_first_release(tmp_path: Path) -> None:
    (tmp_path / "vision.json").write_text(json.dumps({"version": "edgeq.vision/1", "model_type": "llava"}))
    with pytest.raises(ArtifactError, match="has no vision graph"):
        VisionReport.load(tmp_path)


def test_what_the_family_tells_its_image_processor_is_told(tmp_path: Path) -> None:
    """InternVL's own processor cuts into tiles, whatever the config of the image processor says."""
    model = write_eyes(tmp_path / "model", "internvl")
    config = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(config | {"crop_to_patches": False}))
    report = export(model, tmp_path / "made")
    assert report.parity.pictures == 3 * len(photographs())  # two tiles of 120 x 80, and the whole


def test_stages_are_told(seeing_llava: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    export_vision(seeing_llava, tmp_path, photographs(), threads=1, report=lambda *said: told.append(said))
    assert ("vision: proof", 1, 2) in told
    assert all(done <= total for _, done, total in told)
