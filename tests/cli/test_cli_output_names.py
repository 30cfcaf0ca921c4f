"""`--output-name`, and what the verbs say of outputs."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from answers import WRITTEN, add_outputs, give, write_answering
from command import Edgeq, assert_refused
from networks import CHANNELS, CLASSES, tiny_network


def test_an_ambiguous_answer_is_refused_and_all_outputs_named(
    edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path
) -> None:
    network = give(tiny_network(), [("Relu", ["flat"], ["more"])], ["flat", "more"])
    model = write_answering(tmp_path / "model", network, [f"class {place}" for place in range(CHANNELS)])
    for verb, *flags in (("inspect",), ("plan",), ("export", "--images", tiny_pictures, "-o", tmp_path / "made")):
        done = edgeq(verb, model, *flags)
        assert_refused(
            done, "2 outputs may be the classes: flat, more", "flat float [batch, 16]; more float [batch, 16]"
        )
        assert "next: --output-name more" in done.err
    assert not (tmp_path / "made").exists()


def test_the_name_goes_into_the_graph_and_is_needed_once(edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path) -> None:
    model = write_answering(tmp_path / "model", add_outputs(tiny_network(), "flat"), None)
    made = tmp_path / "made"
    done = edgeq("export", model, "--images", tiny_pictures, "-o", made, "--output-name", "logits")
    assert done.status == 0, done.err
    assert "Answer: logits; behind it flat." in done.out
    assert [value.name for value in onnx.load(made / "model.fp32.onnx").graph.output] == ["logits", "flat"]
    assert json.loads((made / "export.json").read_text())["answers"] == ["logits"]
    assert "Answer: logits float [batch, 3]\nOutput: flat float [batch, 16]\n" in edgeq("inspect", made).out
    features = tmp_path / "features"
    assert edgeq("export", made, "--images", tiny_pictures, "-o", features, "--output-name", "flat").status == 0
    assert "Answer: flat float [batch, 16]\nOutput: logits" in edgeq("inspect", features).out
    assert_refused(edgeq("inspect", model, "--output-name", "scores"), "no output scores", "logits float [batch, 3]")


def test_what_becomes_of_an_output_is_told(edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path) -> None:
    model = write_answering(tmp_path / "model", WRITTEN["class number"](tiny_network()), CLASSES)
    told = "number: gives way to logits float [batch, 3], which it only decides from"
    assert told in edgeq("inspect", model).out
    assert told in edgeq("plan", model).out
    done = edgeq("export", model, "--images", tiny_pictures, "-o", tmp_path / "made")
    assert f"Output {told}." in done.out


def test_labelled_images_of_more_classes_are_refused_by_plan_check(
    edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path
) -> None:
    network = tiny_network()
    gemm = network.graph.node[-1]
    gemm.input[0], gemm.input[1] = "flat", "two"
    del gemm.input[2]
    held = next(tensor for tensor in network.graph.initializer if tensor.name == "head.weight")
    two = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(held)[:2], "two")
    network.graph.initializer.append(two)
    network.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    model = write_answering(tmp_path / "model", network, None)
    done = edgeq("plan", model, "--check", "--images", tiny_pictures, "--eval", tiny_pictures, "--allow", "EQ107",
                 "--because", "few", "--allow", "EQ108", "--because", "the same")  # fmt: skip
    assert_refused(done, "the labelled images are of 3 classes", "logits float [batch, 2]")
