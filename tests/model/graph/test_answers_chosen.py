"""Which output is the answer, and what becomes of it, on small graphs that are never run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ModelError
from edgeq.model.graph.answers import Expected, Outputs, choose_outputs

SIDE = 4


def graph(*nodes: tuple[Any, ...], outputs: Sequence[str], **weights: tuple[int, ...]) -> onnx.ModelProto:
    """Nodes (op, inputs, outputs, attributes) on `x`, float32 [batch, 3, height, width]; `flat` is [batch, 3]."""
    pooled = (("GlobalAveragePool", ["x"], ["pooled"]), ("Flatten", ["pooled"], ["flat"]))
    made = helper.make_graph(
        [helper.make_node(op, given, made, **dict(*rest)) for op, given, made, *rest in (*pooled, *nodes)],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def chosen(model: onnx.ModelProto, **expected: Any) -> Outputs:
    return choose_outputs(model, Expected(**expected), (SIDE, SIDE))


TEN = ("MatMul", ["flat", "ten"], ["logits"])
ONE = ("MatMul", ["flat", "one"], ["logit"])
BOXES = ("Conv", ["x", "boxes"], ["map"])
MASK = ("Conv", ["x", "k"], ["mask"])


def test_the_answer_has_as_many_numbers_as_there_are_labels() -> None:
    model = graph(TEN, outputs=["flat", "logits"], ten=(3, 10))
    found = chosen(model, labels=10)
    assert (found.names, found.answers, found.changes) == (("logits", "flat"), 1, {})
    assert chosen(model, classes=10).names == ("logits", "flat")
    assert chosen(model, classes=7).names == ("logits", "flat"), "the folders may be some of the classes"
    assert chosen(model).names == ("flat", "logits"), "nothing is known: the first"


def test_an_output_that_was_named_is_the_answer() -> None:
    model = graph(TEN, ("Relu", ["flat"], ["features"]), outputs=["features", "flat", "logits"], ten=(3, 10))
    assert chosen(model, outputs=("flat",)).names == ("flat", "features", "logits")
    found = chosen(model, outputs=("logits", "flat"), labels=10)
    assert (found.names, found.answers) == (("logits", "flat", "features"), 2)
    assert not chosen(model, outputs=("flat",), labels=10).claims_labels
    with pytest.raises(ModelError, match="the graph has no output nowhere") as caught:
        chosen(model, outputs=("nowhere",))
    assert "features float [batch, 3]; flat float [batch, 3]; logits float [batch, 10]" in caught.value.causes[0]


def test_two_outputs_of_the_same_number_are_ambiguous() -> None:
    model = graph(("Relu", ["flat"], ["features"]), outputs=["features", "flat"])
    with pytest.raises(ModelError, match="2 outputs may be the classes: features, flat") as caught:
        chosen(model, labels=3)
    assert caught.value.next_step == "--output-name flat"
    shares = graph(("Softmax", ["flat"], ["shares"], {"axis": 1}), outputs=["shares", "flat"])
    assert chosen(shares, labels=3).names == ("shares", "flat"), "both say the same"


@pytest.mark.parametrize(
    ("expected", "what"),
    [
        ({"labels": 9}, "config.json names 9 classes, and no output has as many numbers for an image"),
        ({"classes": 11}, "the labelled images are of 11 classes, and no output has so many numbers for an image"),
        ({"labels": 10, "classes": 11}, "the labelled images are of 11 classes, and logits has 10 for an image"),
    ],
)
def test_other_numbers_of_classes_are_refused(expected: dict[str, int], what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        chosen(graph(TEN, outputs=["logits"], ten=(3, 10)), **expected)
    assert caught.value.causes[0] == "the outputs are logits float [batch, 10]"


def test_what_is_no_classifier_is_refused_with_labelled_classes_only() -> None:
    model = graph(MASK, outputs=["mask"], k=(5, 3, 1, 1))
    found = chosen(model, labels=5)
    assert (found.names, found.claims_labels) == (("mask",), False)
    with pytest.raises(ModelError, match="no output has as many numbers"):
        chosen(model, labels=5, classes=5)
    assert chosen(model, labels=5, classes=5, one_vector=False).names == ("mask",)


@pytest.mark.parametrize("shape", [(0, 3, 1, 1), (0, 1, 1, 3), (0, 1, 3)])
def test_axes_of_length_one_are_left_out(shape: tuple[int, ...]) -> None:
    model = graph(("Reshape", ["flat", "shape"], ["logits"]), outputs=["logits"])
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "shape"))
    for expected in ({}, {"labels": 3}, {"classes": 2}):
        found = chosen(model, **expected).chosen[0]
        assert (found.form, found.numbers) == ("vector", 3)
    assert chosen(model, one_vector=False).chosen[0].form == "as it is"


def test_a_row_of_boxes_beside_others_stays_as_it_is() -> None:
    model = graph(TEN, ("Unsqueeze", ["flat", "last"], ["scores"]), outputs=["scores", "logits"], ten=(3, 10))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "last"))
    assert [each.form for each in chosen(model).chosen] == ["as it is", "as it is"]


def test_one_probability_becomes_two_classes() -> None:
    model = graph(ONE, ("Sigmoid", ["logit"], ["p"]), outputs=["p"], one=(3, 1))
    for expected in ({}, {"labels": 2}, {"classes": 2}, {"labels": 2, "classes": 2}):
        found = chosen(model, **expected).chosen[0]
        assert (found.form, found.numbers) == ("probability", 2)
    assert chosen(model, labels=1, one_class=False).chosen[0].form == "as it is", "yes or no to one label"
    with pytest.raises(ModelError, match="of 3 classes"):
        chosen(model, classes=3)


def test_one_logit_becomes_two_classes_where_there_are_two_labels() -> None:
    model = graph(ONE, outputs=["logit"], one=(3, 1))
    assert chosen(model, labels=2).chosen[0].form == "logit"
    assert chosen(model, classes=2).chosen[0].form == "logit"
    assert chosen(model).chosen[0].form == "as it is", "a network may give one number that is no class"


def test_what_is_decided_gives_way_to_the_scores() -> None:
    number = ("ArgMax", ["logits"], ["number"], {"axis": 1})
    found = chosen(graph(TEN, number, outputs=["number"], ten=(3, 10)), labels=10)
    assert found.names == ("logits",)
    assert found.changes == {"number": "gives way to logits float [batch, 10], which it only decides from"}
    whole = graph(TEN, number, ("Cast", ["number"], ["whole"], {"to": 6}), outputs=["logits", "whole"], ten=(3, 10))
    assert chosen(whole, labels=10).names == ("logits",)
    mask = graph(MASK, ("ArgMax", ["mask"], ["number"], {"axis": 1}), outputs=["number"], k=(5, 3, 1, 1))
    assert chosen(mask).names == ("mask",)


def test_a_threshold_gives_way_to_the_probability() -> None:
    nodes = (ONE, ("Sigmoid", ["logit"], ["p"]), ("Greater", ["p", "half"], ["yes"]))
    model = graph(*nodes, ("Cast", ["yes"], ["answer"], {"to": 7}), outputs=["answer"], one=(3, 1), half=())
    found = chosen(model).chosen[0]
    assert (found.output.name, found.form) == ("p", "probability")


def test_probabilities_of_several_labels_give_way_to_logits() -> None:
    model = graph(TEN, ("Sigmoid", ["logits"], ["p"]), outputs=["p"], ten=(3, 10))
    found = chosen(model, labels=10, one_class=False)
    assert (found.names, found.changes) == (("logits",), {"p": "gives way to logits float [batch, 10], its logits"})
    assert chosen(model, outputs=("p",), labels=10, one_class=False).names == ("logits",)
    assert chosen(model, labels=10).names == ("p",), "of classes that exclude each other the largest is taken"


def test_what_a_detector_goes_on_with_stays() -> None:
    nodes = (
        TEN,
        ("TopK", ["logits", "k"], ["best", "places"], {"axis": 1}),
        ("GatherElements", ["logits", "places"], ["boxes"], {"axis": 1}),
    )
    model = graph(*nodes, outputs=["best", "places", "boxes"], ten=(3, 10))
    model.graph.initializer.append(numpy_helper.from_array(np.array([3], np.int64), "k"))
    assert chosen(model).names == ("best", "places", "boxes")


def test_a_shape_that_is_not_known_is_measured() -> None:
    model = graph(("NonZero", ["flat"], ["found"]), TEN, outputs=["found"], ten=(3, 10))
    found = chosen(model, labels=10)
    assert not found.settled
    measured = choose_outputs(model, Expected(labels=10), (SIDE, SIDE), measured={"found": (2, 3)})
    assert (measured.settled, measured.claims_labels) == (True, False)


def test_what_is_no_tensor_is_left_out_where_the_answer_was_named() -> None:
    model = graph(TEN, ("SequenceConstruct", ["flat"], ["list"]), outputs=["list", "logits"], ten=(3, 10))
    with pytest.raises(ModelError, match="the output list is no tensor"):
        chosen(model, labels=10)
    found = chosen(model, outputs=("logits",), labels=10)
    assert (found.names, found.changes) == (("logits",), {"list": "left out: it is no tensor"})
