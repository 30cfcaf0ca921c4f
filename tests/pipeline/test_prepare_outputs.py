"""A network of scores, a map of boxes, and a list of what was found: every output is measured, kept and verified."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from answers import add_outputs, give, write_answering
from networks import ALLOWED, CHANNELS, CLASSES, QUICK, tiny_network
from numpy.typing import NDArray
from pictures import draw_pictures

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import GateError, ImageError, ModelError
from edgeq.pipeline.classifier import Options, Prepared, prepare
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.judge import Quality
from edgeq.runtime.canary.canaries import CANARY_LIST, ClassCanaries
from edgeq.runtime.canary.check import check_canaries

OPTIONS = Options(allow=ALLOWED, method="minmax", threads=1, timing=QUICK)


def detector() -> onnx.ModelProto:
    """The tiny network with boxes in pixels, [batch, 2, 256], and the places where they are far to the right."""
    rng = np.random.default_rng(3)
    constants: dict[str, NDArray[Any]] = {
        "boxes.weight": rng.standard_normal((2, CHANNELS, 3, 3)).astype(np.float32),
        "rows": np.array([0, 2, -1], np.int64),
        "pixels": np.array(300.0, np.float32),
        "far": np.array(500.0, np.float32),
    }
    nodes = [
        ("Conv", ["residual_relu", "boxes.weight"], ["shift"], {"pads": [1, 1, 1, 1]}),
        ("Reshape", ["shift", "rows"], ["each"]),
        ("Mul", ["each", "pixels"], ["boxes"]),
        ("Greater", ["boxes", "far"], ["large"]),
        ("NonZero", ["large"], ["places"]),
        ("Transpose", ["places"], ["found"], {"perm": [1, 0]}),
    ]
    return give(tiny_network(), nodes, ["boxes", "found", "logits"], constants=constants, integers=["found"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("outputs") / "pictures", each=4)


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("outputs")
    model = write_answering(folder / "model", detector(), CLASSES)
    return prepare(model, pictures, folder / "bundle", labelled=pictures, options=OPTIONS)


def test_the_scores_are_judged_and_every_other_output_has_a_figure(made: Prepared) -> None:
    assert made.export.answers == ("logits",)
    answers, (boxes, found) = made.quality.answers, made.quality.further
    assert answers is not None
    assert (answers.images, boxes.output, boxes.images, found.output) == (12, "boxes", 12, "found")
    assert 0 < boxes.error < 0.1
    assert boxes.agreement is None
    assert Quality.load(made.bundle / "quality.json") == made.quality


def test_the_convolution_of_the_boxes_and_what_decodes_them_stay_in_floating_point(made: Prepared) -> None:
    decisions = {decision.layer: decision for decision in PrecisionPlan.load(made.bundle / "plan.yaml").decisions}
    assert (decisions["shift"].component, decisions["shift"].precision) == ("head", Precision.FP32)
    assert {decisions[name].precision for name in ("each", "boxes")} == {Precision.FP32}
    assert decisions["stem"].precision is Precision.INT8


class Spoilt:
    """An engine of the bundle's graph whose outputs are changed."""

    def __init__(self, graph: Path, **changes: Any) -> None:
        self._engine, self._changes = OnnxRuntimeEngine(graph, threads=1), changes
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        made = self._engine.run(feeds, outputs)
        return {name: self._changes.get(name, lambda values: values)(values) for name, values in made.items()}


def test_the_device_verifies_every_output(made: Prepared) -> None:
    listed = ClassCanaries.load(made.bundle / CANARY_LIST)
    assert [each.output for each in listed.outputs] == ["logits", "boxes", "found"]
    assert [each.resized for each in listed.outputs] == [False, False, True]
    check_canaries(made.bundle, threads=1).raise_if_failed()
    graph = made.bundle / listed.int8
    spoilt = check_canaries(made.bundle, Spoilt(graph, boxes=lambda boxes: boxes * np.float32(1.5)))
    assert [check.failure.partition(" has ")[0] for check in spoilt.canaries] == [
        f"canary {n} ({n}.png): the output boxes" for n in range(8)
    ]
    with pytest.raises(GateError, match="8 of 8 canaries fail"):
        spoilt.raise_if_failed()


def test_a_list_of_what_was_found_may_be_of_another_length_and_not_empty(made: Prepared) -> None:
    graph = made.bundle / ClassCanaries.load(made.bundle / CANARY_LIST).int8
    assert check_canaries(made.bundle, Spoilt(graph, found=lambda found: found[: len(found) // 2 + 1])).passed
    empty = check_canaries(made.bundle, Spoilt(graph, found=lambda found: found[:0]))
    assert "the output found has nothing but zeros" in empty.failures[0]


@pytest.fixture(scope="module")
def plain(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("plain")
    model = write_answering(folder / "model", tiny_network(), CLASSES)
    return prepare(model, pictures, folder / "bundle", labelled=pictures, options=OPTIONS)


def test_one_output_is_written_as_before(plain: Prepared) -> None:
    assert not {"answer", "further"} & set(json.loads((plain.bundle / CANARY_LIST).read_text()))
    assert "further" not in json.loads((plain.bundle / "quality.json").read_text())


def test_a_map_alone_is_compared_and_verified(pictures: Path, tmp_path: Path) -> None:
    network = detector()
    del network.graph.output[1:]
    model = write_answering(tmp_path / "model", network, None)
    made = prepare(model, pictures, tmp_path / "bundle", options=OPTIONS)
    fidelity = made.quality.fidelity
    assert fidelity is not None
    assert (fidelity.agreement, fidelity.neighbours, fidelity.outputs) == (None, None, ())
    assert 0 < fidelity.error < 0.1
    report = check_canaries(made.bundle, threads=1)
    assert report.passed
    assert all(check.classes is None for check in report.canaries)
    graph = made.bundle / ClassCanaries.load(made.bundle / CANARY_LIST).int8
    assert not check_canaries(made.bundle, Spoilt(graph, boxes=lambda boxes: boxes[:, ::-1])).passed


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (None, ModelError, "the labelled images are of 3 classes, and no output has so many numbers for an image"),
        (("a", "b"), ModelError, "config.json names 2 classes, and no output has as many numbers"),
    ],
)
def test_labelled_images_of_no_output_are_refused_before_an_image_is_read(
    labels: tuple[str, ...] | None, error: type[Exception], words: str, pictures: Path, tmp_path: Path
) -> None:
    network = detector()
    del network.graph.output[1:]
    model, heard = write_answering(tmp_path / "model", network, labels), list[str]()
    with pytest.raises(error, match=words):
        prepare(
            *(model, pictures, tmp_path / "bundle"),
            labelled=pictures,
            options=OPTIONS,
            progress=lambda stage, _done, _total: heard.append(stage),
        )
    assert heard == ["open"]


def test_folders_of_other_names_are_refused_before_the_export(pictures: Path, tmp_path: Path) -> None:
    model, heard = write_answering(tmp_path / "model", tiny_network(), ("x", "y", "z")), list[str]()
    with pytest.raises(ImageError, match="3 of 3 folders are no class of the model"):
        prepare(
            *(model, pictures, tmp_path / "bundle"),
            labelled=pictures,
            options=OPTIONS,
            progress=lambda stage, _done, _total: heard.append(stage),
        )
    assert heard == ["open"]


def test_features_that_come_first_are_not_the_answer(pictures: Path, plain: Prepared, tmp_path: Path) -> None:
    """Without labels in a config.json the folders tell: there are three, and 8 features."""
    model = write_answering(tmp_path / "model", add_outputs(tiny_network(), "flat"), None)
    made = prepare(model, pictures, tmp_path / "bundle", labelled=pictures, options=OPTIONS)
    assert made.quality.answers == plain.quality.answers
