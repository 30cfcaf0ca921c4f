"""Hugging Face directory to ONNX: the graph equals the network, and a directory that lies is found out."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_networks import CONFIGS, LABELS, SIDE, save_network
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ExportError, ModelError
from edgeq.export.fold import count_batchnorm, fold_batchnorm, require_folded
from edgeq.export.parity import Network, prove_parity
from edgeq.export.simplify import simplify
from edgeq.export.torch_export import export_classifier

SIZE = (SIDE, SIDE)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("resnet")
    save_network("resnet", directory)
    return directory


@pytest.fixture
def damaged(resnet: Path, tmp_path: Path) -> Path:
    """A copy of the ResNet for a test to break."""
    return Path(shutil.copytree(resnet, tmp_path / "damaged"))


@pytest.fixture
def chatter() -> Iterator[list[str]]:
    """What transformers logs: its own handler keeps the stderr of the day it was imported, out of reach of capfd."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    yield said
    logging.getLogger("transformers").removeHandler(handler)


def batches(*sizes: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(11)
    return [rng.standard_normal((size, 3, SIDE, SIDE)).astype(np.float32) for size in sizes]


def runner(model: onnx.ModelProto) -> Network:
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
    return lambda batch: engine.run({"pixel_values": batch})["logits"]


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", CONFIGS)
def test_graph_equals_network_exported_and_folded(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    batchnorms = save_network(name, tmp_path / "network")
    capfd.readouterr()
    exported = export_classifier(tmp_path / "network", tmp_path / "model.onnx", image_size=SIZE)
    model = onnx.load(exported.path)
    folded, report = fold_batchnorm(simplify(model))
    assert capfd.readouterr() == ("", "")
    assert (exported.labels, count_batchnorm(model)) == (LABELS, batchnorms)
    assert (report.before, report.after) == (batchnorms, 0)
    require_folded(report)
    onnx.checker.check_model(folded)
    # The batch that was traced is 2.
    for made in (model, folded):
        assert prove_parity(exported.reference, runner(made), batches(1, 2, 3)).images == 6


def test_what_was_asked_for_is_what_is_in_the_file(resnet: Path, tmp_path: Path) -> None:
    model = onnx.load(export_classifier(resnet, tmp_path / "model.onnx", image_size=(48, 64)).path)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    assert model.ir_version <= 10
    values = (model.graph.input[0], model.graph.output[0])
    shapes = [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values]
    assert [value.name for value in values] == ["pixel_values", "logits"]
    assert shapes == [["batch", 3, 48, 64], ["batch", LABELS]]
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]


def test_mobilenet_v2_pads_in_its_convolutions(tmp_path: Path) -> None:
    """Its padding depends on the image size, which tracing has fixed: of an even side, halved, on one side alone."""
    save_network("mobilenet_v2", tmp_path / "network")
    exported = export_classifier(tmp_path / "network", tmp_path / "model.onnx", image_size=SIZE)
    made = simplify(onnx.load(exported.path))
    kinds = Counter(node.op_type for node in made.graph.node)
    assert kinds.keys() == {"Conv", "BatchNormalization", "Clip", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    given = [
        {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        for node in made.graph.node
        if node.op_type == "Conv"
    ]
    assert given[0]["strides"] == [2, 2]
    assert given[0]["pads"] == [0, 0, 1, 1]
    assert all(one["pads"] == [1] * 4 for one in given if one["kernel_shape"] == [3, 3] and one["strides"] == [1, 1])


def test_missing_weight_is_not_made_up(damaged: Path, tmp_path: Path, chatter: list[str]) -> None:
    weights = load_file(damaged / "model.safetensors")
    del weights["classifier.1.weight"]
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="are not those of its config") as caught:
        export_classifier(damaged, tmp_path / "model.onnx", image_size=SIZE)
    assert caught.value.causes == ("missing: classifier.1.weight",)
    assert not (tmp_path / "model.onnx").exists()
    assert chatter == []


def test_weight_that_nothing_uses_is_named(damaged: Path, tmp_path: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    save_file({**weights, "extra.weight": torch.ones(3)}, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        export_classifier(damaged, tmp_path / "model.onnx", image_size=SIZE)
    assert caught.value.causes == ("not used: extra.weight",)


def test_weight_of_another_shape_is_an_error(damaged: Path, tmp_path: Path) -> None:
    edit_config(damaged, hidden_sizes=[8, 24])
    with pytest.raises(ModelError):
        export_classifier(damaged, tmp_path / "model.onnx", image_size=SIZE)


@pytest.mark.parametrize("length", [0, 4, 2000])
def test_weights_cut_short(damaged: Path, tmp_path: Path, length: int) -> None:
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match="cannot be loaded as an image classifier"):
        export_classifier(damaged, tmp_path / "model.onnx", image_size=SIZE)


def test_no_weights(damaged: Path, tmp_path: Path) -> None:
    (damaged / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded as an image classifier"):
        export_classifier(damaged, tmp_path / "model.onnx", image_size=SIZE)


def test_pickled_weights_are_never_opened(damaged: Path, tmp_path: Path) -> None:
    torch.save(load_file(damaged / "model.safetensors"), damaged / "pytorch_model.bin")
    (damaged / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded as an image classifier"):
        export_classifier(damaged, tmp_path / "model.onnx", image_size=SIZE)


def test_code_in_the_directory_is_never_run(damaged: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (damaged / "code.py").write_text(f"import pathlib\npathlib.Path({str(witness)!r}).touch()\n")
    auto = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    edit_config(damaged, model_type="unheard_of", auto_map=auto)
    with pytest.raises(ModelError, match="cannot be loaded as an image classifier"):
        export_classifier(damaged, tmp_path / "model.onnx", image_size=SIZE)
    assert not witness.exists()


@pytest.mark.parametrize(
    "config", ["", "[]", "{", '{"model_type": "llama"}', '{"model_type": 3}', '{"model_type": "unheard_of"}']
)
def test_config_that_is_no_classifier(damaged: Path, tmp_path: Path, config: str) -> None:
    (damaged / "config.json").write_text(config)
    with pytest.raises(ModelError, match="cannot be loaded as an image classifier"):
        export_classifier(damaged, tmp_path / "model.onnx", image_size=SIZE)


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_no_directory_to_speak_of(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        export_classifier(tmp_path / name, tmp_path / "model.onnx", image_size=SIZE)


@pytest.mark.parametrize(("size", "channels"), [((0, 64), 3), ((64, -1), 3), ((64, 64), 0)])
def test_image_without_content(resnet: Path, tmp_path: Path, size: tuple[int, int], channels: int) -> None:
    with pytest.raises(ExportError, match="has no content"):
        export_classifier(resnet, tmp_path / "model.onnx", image_size=size, channels=channels)


def test_image_that_the_network_does_not_take(resnet: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not take images of shape \[4, 64, 64\]"):
        export_classifier(resnet, tmp_path / "model.onnx", image_size=SIZE, channels=4)


def test_a_network_that_reads_colours_as_words(tmp_path: Path) -> None:
    """ImageGPT's input is `input_ids`: no size of image would do."""
    from transformers import ImageGPTConfig, ImageGPTForImageClassification

    config = ImageGPTConfig(vocab_size=9, n_positions=16, n_embd=8, n_layer=1, n_head=1, num_labels=LABELS)
    ImageGPTForImageClassification(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="takes input_ids, and no pixel_values"):
        export_classifier(tmp_path / "model", tmp_path / "model.onnx", image_size=SIZE)


def test_reference_is_the_network_in_eval_mode(resnet: Path, tmp_path: Path) -> None:
    """In training mode BatchNorm would make an image's logits depend on its neighbours."""
    exported = export_classifier(resnet, tmp_path / "model.onnx", image_size=SIZE)
    (pair,) = batches(2)
    alone = np.concatenate([exported.reference(pair[:1]), exported.reference(pair[1:])])
    np.testing.assert_allclose(exported.reference(pair), alone, rtol=0, atol=1e-5 * np.abs(alone).max())
