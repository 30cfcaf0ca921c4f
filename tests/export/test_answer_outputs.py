"""Answers written in other ways are exported as one number for each class, and proved to be the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from answers import WRITTEN, add_outputs, features_of, give, two_of, write_answering
from networks import CLASSES, SIDE, tiny_network
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ExportError, ModelError, ParityError
from edgeq.export.rewrites.answers import finish_outputs
from edgeq.export.stage import EXPORT, FP32, ExportReport, export_model, foresee_outputs
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.answers import Expected

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def images() -> Array:
    return np.random.default_rng(7).uniform(-2, 2, (5, 3, SIDE, SIDE)).astype(np.float32)


def exported(
    model: onnx.ModelProto, images: Array, folder: Path, labels: tuple[str, ...] | None = CLASSES, **expected: Any
) -> tuple[ExportReport, dict[str, NDArray[Any]]]:
    """The report, and what the graph made gives for the images, by output in its order."""
    source = open_model(write_answering(folder / "model", model, labels))
    (folder / "made").mkdir()
    asked = Expected(labels=len(labels) if labels else None, **expected)
    report = export_model(source, folder / "made", images, threads=1, expected=asked)
    return report, OnnxRuntimeEngine(folder / "made" / FP32, threads=1).run({"pixel_values": images})


def logits_of(model: onnx.ModelProto, images: Array) -> Array:
    found: Array = OnnxRuntimeEngine(model.SerializeToString(), threads=1).run({"pixel_values": images})["logits"]
    return found


@pytest.mark.parametrize("way", list(WRITTEN))
def test_the_answer_comes_first_as_one_number_for_each_class(way: str, images: Array, tmp_path: Path) -> None:
    report, made = exported(WRITTEN[way](tiny_network()), images, tmp_path)
    answer = next(iter(made.values()))
    assert answer.shape == (5, len(CLASSES))
    assert answer.dtype == np.float32
    logits = logits_of(tiny_network(), images)
    np.testing.assert_array_equal(answer.argmax(axis=1), logits.argmax(axis=1))
    if "as int32" not in way:  # which decides from shares
        np.testing.assert_allclose(answer, logits, atol=2e-3 if way == "float16" else 1e-5)
    assert report.parity.holds
    assert report.names_classes
    graph = onnx.load(tmp_path / "made" / FP32).graph
    assert [axis.dim_value for axis in graph.output[0].type.tensor_type.shape.dim] == [0, len(CLASSES)]


def test_other_outputs_are_behind_and_proved_too(images: Array, tmp_path: Path) -> None:
    network = tiny_network()
    features = features_of(network)
    report, made = exported(add_outputs(network, features), images, tmp_path)
    assert (list(made), report.answers) == (["logits", features], ("logits",))
    assert list(report.parities) == ["logits", features]
    assert max(parity.relative for parity in report.parities.values()) == report.parity.relative
    written = json.loads((tmp_path / "made" / EXPORT).read_text())
    assert set(written) & {"answers", "outputs", "parities", "names_classes"} == {"answers", "parities"}
    assert ExportReport.load(tmp_path / "made") == report


def test_a_plain_network_is_reported_as_before(images: Array, tmp_path: Path) -> None:
    exported(tiny_network(), images, tmp_path)
    written = json.loads((tmp_path / "made" / EXPORT).read_text())
    assert not set(written) & {"answers", "outputs", "parities", "names_classes"}


@pytest.mark.parametrize("labels", [("cat", "dog"), None])
def test_one_probability_becomes_two_classes(labels: tuple[str, ...] | None, images: Array, tmp_path: Path) -> None:
    report, made = exported(two_of(tiny_network(), sigmoid=True), images, tmp_path, labels)
    logits = logits_of(tiny_network(), images).astype(np.float64)
    p = 1.0 / (1.0 + np.exp(logits[:, 0] - logits[:, 2]))
    np.testing.assert_allclose(made["probability"], np.stack([1.0 - p, p], axis=1), atol=1e-6)
    assert "a probability p becomes two classes" in report.outputs["probability"]


@pytest.mark.parametrize(("op", "values"), [("Squeeze", (1,)), ("Reshape", (0, 1, 1, 1))])
def test_one_probability_of_any_rank_becomes_two_classes(
    op: str, values: tuple[int, ...], images: Array, tmp_path: Path
) -> None:
    held, nodes = {"axes": np.array(values, np.int64)}, [(op, ["probability", "axes"], ["p"])]
    network = give(two_of(tiny_network(), sigmoid=True), nodes, ["p"], constants=held)
    _, made = exported(network, images, tmp_path, ("cat", "dog"))
    logits = logits_of(tiny_network(), images)
    np.testing.assert_array_equal(made["p"].argmax(axis=1), logits[:, [0, 2]].argmax(axis=1))
    assert made["p"].shape == (5, 2)


def test_one_logit_becomes_two_classes(images: Array, tmp_path: Path) -> None:
    _, made = exported(two_of(tiny_network(), sigmoid=False), images, tmp_path, ("cat", "dog"))
    logits = logits_of(tiny_network(), images)
    np.testing.assert_array_equal(made["logits"][:, 0], 0.0)
    np.testing.assert_allclose(made["logits"][:, 1], logits[:, 2] - logits[:, 0], atol=1e-5)


def test_an_output_that_others_read_keeps_its_name(images: Array, tmp_path: Path) -> None:
    network = give(tiny_network(), [("Relu", ["pooled"], ["far"])], ["pooled", "far"])
    report, made = exported(network, images, tmp_path, None, outputs=("pooled",), classes=16)
    assert [(name, values.shape) for name, values in made.items()] == [("pooled", (5, 16)), ("far", (5, 16, 1, 1))]
    np.testing.assert_array_equal(made["far"][:, :, 0, 0], np.maximum(made["pooled"], 0.0))
    assert report.outputs == {"pooled": "pooled float [batch, 16, 1, 1]: becomes [batch, 16]"}


def test_integers_and_doubles_are_given_in_types_that_engines_have(images: Array, tmp_path: Path) -> None:
    nodes = [("Cast", ["logits"], ["wide"], {"to": 11}), ("Cast", ["logits"], ["short"], {"to": 6})]
    network = give(tiny_network(), nodes, ["logits", "wide", "short"])
    for value, kind in zip(network.graph.output[1:], (11, 6), strict=True):
        value.type.tensor_type.elem_type = kind
    _, made = exported(network, images, tmp_path)
    assert [values.dtype for values in made.values()] == [np.float32, np.float32, np.int64]


def test_a_second_output_that_is_another_is_refused(
    images: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parity looks at every output: here the boxes alone are spoilt, by a thousandth of their range."""
    network = give(tiny_network(), [("Relu", ["flat"], ["boxes"])], ["logits", "boxes"])

    def spoilt(model: onnx.ModelProto, outputs: Any) -> onnx.ModelProto:
        made = finish_outputs(model, outputs)
        last = next(node for node in made.graph.node if "boxes" in node.output)
        last.output[0] = "right"
        factor = onnx.numpy_helper.from_array(np.array(1.001, np.float32), "factor")
        made.graph.initializer.append(factor)
        made.graph.node.append(onnx.helper.make_node("Mul", ["right", "factor"], ["boxes"], name="spoilt"))
        return made

    monkeypatch.setattr("edgeq.export.stage.finish_outputs", spoilt)
    with pytest.raises(ParityError, match="of the output range of boxes"):
        exported(network, images, tmp_path)


def test_a_second_output_that_mixes_images_is_refused(images: Array, tmp_path: Path) -> None:
    nodes = [
        ("ReduceMean", ["flat"], ["mean"], {"axes": [0], "keepdims": 1}),
        ("Sub", ["flat", "mean"], ["apart"]),
        ("Add", ["apart", "mean"], ["same"]),
        ("Mul", ["mean", "same"], ["boxes"]),
    ]
    with pytest.raises(ExportError, match="three images at once give other answers"):
        exported(give(tiny_network(), nodes, ["logits", "boxes"]), images, tmp_path)


def test_a_list_that_mixes_images_is_refused(images: Array, tmp_path: Path) -> None:
    nodes = [
        ("ReduceMean", ["flat"], ["mean"], {"axes": [0], "keepdims": 1}),
        ("Mul", ["mean", "flat"], ["mixed"]),
        ("TopK", ["mixed", "k"], ["best", "places"], {"axis": 1}),
        ("Relu", ["best"], ["boxes"]),
    ]
    network = give(tiny_network(), nodes, ["logits", "boxes"], constants={"k": np.array([2], np.int64)})
    with pytest.raises(ExportError, match="three images at once give other answers"):
        exported(network, images, tmp_path)


def test_a_list_of_what_was_found_goes_through(images: Array, tmp_path: Path) -> None:
    nodes = [
        ("Greater", ["flat", "least"], ["large"]),
        ("NonZero", ["large"], ["places"]),
        ("Transpose", ["places"], ["found"], {"perm": [1, 0]}),
    ]
    network = give(
        tiny_network(), nodes, ["found", "logits"], constants={"least": np.array(0.2, np.float32)}, integers=["found"]
    )
    report, made = exported(network, images, tmp_path)
    assert (list(made), made["found"].ndim, report.answers) == (["logits", "found"], 2, ("logits",))


def test_what_does_not_match_is_refused_without_reading_a_weight(tmp_path: Path) -> None:
    network = add_outputs(tiny_network(), "flat")
    folder = write_answering(tmp_path / "model", network, [str(place) for place in range(5)])
    onnx.save_model(network, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    (folder / "weights").unlink()
    with pytest.raises(ModelError, match=r"config\.json names 5 classes") as caught:
        foresee_outputs(open_model(folder))
    assert caught.value.causes[0] == "the outputs are flat float [batch, 16]; logits float [batch, 3]"
