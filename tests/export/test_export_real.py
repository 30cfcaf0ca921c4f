"""The trained CIFAR-10 ResNets: simplified, folded, and proved on real images."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ParityError
from edgeq.export.fold import count_batchnorm, fold_batchnorm, require_folded
from edgeq.export.parity import Network, prove_parity
from edgeq.export.simplify import simplify

# preprocessor_config.json of these networks.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32).reshape(3, 1, 1)


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> NDArray[np.float32]:
    """64 test images, spread over all classes, as float32 [64, 3, 32, 32]."""
    with zipfile.ZipFile(shared_data / "cifar10" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".png", ".jpg", ".jpeg")))
        chosen = names[:: len(names) // 64][:64]
        pixels = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen]
    batch = np.stack(pixels).astype(np.float32).transpose(0, 3, 1, 2) / 255
    return np.ascontiguousarray((batch - MEAN) / DEVIATION)


def runner(model: onnx.ModelProto) -> Network:
    """ONNX Runtime without its own folding."""
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1, optimize=False)
    return lambda batch: engine.run({"pixel_values": batch})["logits"]


@pytest.mark.parametrize(("name", "layers"), [("cifar10-resnet20", 19), ("cifar10-resnet56", 55)])
def test_every_batchnorm_folds(shared_data: Path, photos: NDArray[np.float32], name: str, layers: int) -> None:
    model = onnx.load(shared_data / name / "model.onnx")
    made, report = fold_batchnorm(simplify(model))
    require_folded(report)
    assert (count_batchnorm(model), count_batchnorm(made)) == (layers, 0)
    assert (report.before, report.after, Counter(fold.rule for fold in report.folded)) == (
        *(layers, 0),
        {"after Conv": layers},
    )
    parity = prove_parity(runner(model), runner(made), [photos[:1], photos[1:]])
    assert parity.images == 64


@pytest.mark.parametrize("name", ["cifar10-resnet20", "cifar10-resnet56"])
def test_only_slice_and_pad_are_left_of_the_shortcuts(shared_data: Path, name: str) -> None:
    made = simplify(onnx.load(shared_data / name / "model.onnx"))
    constants = {tensor.name for tensor in made.graph.initializer}
    assert {node.op_type for node in made.graph.node} == {
        *("Conv", "BatchNormalization", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm", "Slice", "Pad"),
    }
    for node in made.graph.node:
        if node.op_type in ("Slice", "Pad"):
            assert all(tensor in constants for tensor in node.input[1:] if tensor)
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(made, full_check=True)


@pytest.mark.parametrize("layer", ["conv1.weight", "layer2.4.conv1.weight", "linear.weight"])
def test_a_weight_that_is_off_by_one_percent_is_caught(
    shared_data: Path, photos: NDArray[np.float32], layer: str
) -> None:
    model = onnx.load(shared_data / "cifar10-resnet56" / "model.onnx")
    made, _ = fold_batchnorm(simplify(model))
    tensor = next(tensor for tensor in made.graph.initializer if tensor.name == layer)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), layer))
    with pytest.raises(ParityError, match="of the output range"):
        prove_parity(runner(model), runner(made), [photos[:16]])
