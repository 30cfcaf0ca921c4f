"""A network with several labels for each image, from the command line: judged, searched, and refused at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command import ALLOW_FLAGS, Edgeq, assert_refused, listing
from labels import LABELS, labelled_by_csv, write_csv
from networks import PREPROCESSOR, write_model
from numpy.typing import NDArray
from onnx import numpy_helper
from pictures import draw_pictures
from PIL import Image

from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.quality.gate import Gate
from edgeq.quality.judge import Quality
from edgeq.runtime.canary.check import check_canaries

pytestmark = pytest.mark.usefixtures("quick_latency")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with logits around 0, so that it says yes to some labels and no to others."""
    directory = write_model(tmp_path_factory.mktemp("multilabel") / "model")
    graph = onnx.load(directory / "model.onnx")
    for tensor in graph.graph.initializer:
        if tensor.name == "head.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.array([-0.5, 0.2, 0.1], np.float32), "head.bias"))
    onnx.save(graph, directory / "model.onnx")
    return directory


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, ...]]]:
    """108 pictures with none, one or two labels in a CSV file."""
    folder = tmp_path_factory.mktemp("multilabel") / "labelled"
    return folder, labelled_by_csv(folder, each=36, seed=3)


def logits(graph: Path, folder: Path, names: Sequence[str]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    preprocess = read_preprocess(PREPROCESSOR)
    pixels = np.stack([preprocess(Image.open(folder / name).convert("RGB")) for name in names])
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    return found


def mean_precision(truth: Mapping[str, tuple[str, ...]], scores: NDArray[np.float32]) -> float:
    """In percent: precision at each image that has the label, since no two logits are equal."""
    means = []
    for column, label in enumerate(LABELS):
        right = np.array([label in labels for labels in truth.values()])[np.argsort(-scores[:, column])]
        means.append((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
    return 100.0 * float(np.mean(means))


def test_a_bundle_is_made_and_judged(
    edgeq: Edgeq, model: Path, tiny_pictures: Path, labelled: tuple[Path, dict[str, tuple[str, ...]]], tmp_path: Path
) -> None:
    folder, truth = labelled
    bundle = tmp_path / "bundle"
    done = edgeq(*("prepare", model, "--images", tiny_pictures, "--eval", folder, "--task", "multilabel", "-o", bundle))
    assert done.status == 0, done.err
    for words in ("mAP", "micro-F1", "same labels, 108 images", "relative logit error"):
        assert words in done.out
    assert "top-1" not in done.out
    quality = Quality.load(bundle / "quality.json")
    assert (quality.answers, quality.fidelity) == (None, None)
    headline = quality.headline
    assert headline is not None
    assert (headline.name, headline.examples) == ("mAP", 108)
    names = list(truth)
    ours, theirs = (logits(bundle / f"model.{kind}.onnx", folder, names) for kind in ("fp32", "int8.ort"))
    assert headline.reference == pytest.approx(mean_precision(truth, ours))
    assert headline.candidate == pytest.approx(mean_precision(truth, theirs))
    assert headline.agreement == pytest.approx(100.0 * ((ours > 0) == (theirs > 0)).all(axis=1).mean())
    assert headline.agreement
    assert 0 < (ours > 0).mean() < 1, "it says both yes and no"
    held = json.loads((bundle / "quality.json").read_text())
    assert (held["figures"]["task"], held["figures"]["version"]) == ("multilabel", "edgeq.multilabel/1")
    assert check_canaries(bundle).passed
    judged = edgeq("evaluate", bundle, "--eval", folder, "--json")
    assert judged.status == 0, judged.err
    assert json.loads(judged.out)["figures"] == held["figures"], "the bundle remembers its task"
    assert "mAP" in edgeq("evaluate", bundle, "--eval", folder).out


def test_a_config_chooses_it_and_a_search_reads_its_drop(
    edgeq: Edgeq, model: Path, tiny_pictures: Path, labelled: tuple[Path, dict[str, tuple[str, ...]]], tmp_path: Path
) -> None:
    said = write_model(tmp_path / "model")
    (said / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
    config = json.loads((said / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (said / "config.json").write_text(json.dumps(config))
    given = ("prepare", said, "--images", tiny_pictures, "--eval", labelled[0], *ALLOW_FLAGS)
    done = edgeq(*given, "--max-drop", "60", "-o", tmp_path / "bundle")
    assert done.status == 0, done.err
    assert "same labels" in done.out
    assert "54 images that were not searched" in done.out
    search = json.loads((tmp_path / "bundle" / "search.json").read_text())
    assert search["steps"][0]["figures"]["task"] == search["check"]["task"] == "multilabel"
    assert search["check"] == json.loads((tmp_path / "bundle" / "quality.json").read_text())["figures"]
    assert "points of mAP lost" in (tmp_path / "bundle" / "frontier.svg").read_text()
    again = edgeq("sensitivity", tmp_path / "bundle", "--images", labelled[0], "--search", "--max-drop", "60", "--json")
    assert again.status == 0, again.err
    assert json.loads(again.out)["steps"][0]["figures"]["task"] == "multilabel"
    table = edgeq("sensitivity", tmp_path / "bundle", "--images", tiny_pictures, "--json")
    assert json.loads(table.out)["int8"]["top1"] is None, "a folder is not the one right class"
    assert_refused(edgeq(*given, "--task", "classification", "-o", tmp_path / "no"), "--task multilabel")


def test_a_bundle_that_says_nothing_is_judged_as_the_flag_says(
    edgeq: Edgeq, model: Path, tiny_pictures: Path, labelled: tuple[Path, dict[str, tuple[str, ...]]], tmp_path: Path
) -> None:
    done = edgeq("prepare", model, "--images", tiny_pictures, "-o", tmp_path / "bundle")
    assert done.status == 0, done.err
    assert_refused(edgeq("evaluate", tmp_path / "bundle", "--eval", labelled[0]), "lie in no folder")
    judged = edgeq("evaluate", tmp_path / "bundle", "--eval", labelled[0], "--task", "multilabel")
    assert judged.status == 0, judged.err
    assert "mAP" in judged.out


def test_the_gate_reads_its_drop(
    edgeq: Edgeq, tiny_pictures: Path, labelled: tuple[Path, dict[str, tuple[str, ...]]], tmp_path: Path
) -> None:
    from vits import save_tiny_vit

    vit = save_tiny_vit(tmp_path / "vit")
    given = ("prepare", vit, "--images", tiny_pictures, "--eval", labelled[0], "--task", "multilabel")
    bounds = ("--method", "minmax", "--gate-speedup", "0", "--gate-drop", "50")
    done = edgeq(*given, *bounds, "-o", tmp_path / "bundle")
    assert done.status == 0, done.err
    gate = Gate.load(tmp_path / "bundle" / "gate.json")
    assert gate.passed
    assert gate.headline == Quality.load(tmp_path / "bundle" / "quality.json").headline
    assert gate.reasons[1].startswith("mAP drops by ")
    assert "on 108 images, at most 50 is allowed" in gate.reasons[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gone.jpg": ("red",)}, "there is no image gone.jpg"),
        ({"blue-000.jpg": ("mauve",)}, "no class of the model: mauve"),
        (None, "gives no image a label"),
    ],
)
def test_what_does_not_belong_together_is_refused_before_any_work(
    edgeq: Edgeq,
    model: Path,
    tiny_pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, tuple[str, ...]] | None,
    words: str,
) -> None:
    truth = labelled_by_csv(tmp_path / "labelled", each=2)
    changed = dict.fromkeys(truth, ()) if change is None else {**truth, **change}
    write_csv(tmp_path / "labelled" / "labels.csv", changed)
    monkeypatch.setattr("edgeq.pipeline.classifier.export_model", None)  # whatever is exported is too late
    before = listing(tmp_path)
    given = ("--images", tiny_pictures, "--eval", tmp_path / "labelled", "--task", "multilabel")
    assert_refused(edgeq("prepare", model, *given, "-o", tmp_path / "bundle"), words, "labels.csv")
    assert listing(tmp_path) == before


def test_wrong_flags_are_refused(edgeq: Edgeq, model: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    given = ("prepare", model, "--images", tiny_pictures, "-o", tmp_path / "bundle", "--eval")
    flat = tmp_path / "flat"
    labelled_by_csv(flat, each=1)
    (flat / "labels.csv").unlink()
    assert_refused(edgeq(*given, flat, "--task", "multilabel"), "lie in no folder", "labels.csv")
    assert_refused(edgeq(*given, flat, "--task", "tea"), "--task", "multilabel")
    one = draw_pictures(tmp_path / "one", each=1) / "red"
    assert_refused(edgeq(*given, one, "--task", "multilabel"), "lie in no folder")
    vlm = tmp_path / "vlm"
    vlm.mkdir()
    (vlm / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {}, "text_config": {}}))
    refused = edgeq("prepare", vlm, "--images", tiny_pictures, "--task", "multilabel", "-o", tmp_path / "bundle")
    assert_refused(refused, "--task", "is a vision-language model")
