"""The Python API from a model to an answer, without the command line: classifier, encoder, vision-language model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from networks import ALLOWED, CLASSES, PARAMETERS, QUICK, SIDE
from numpy.typing import NDArray
from PIL import Image
from talk import QUESTION

import edgeq
from edgeq.bundle.keys import make_keys
from edgeq.bundle.manifest import write_manifest
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.transport import pack
from edgeq.errors import (
    ArtifactError,
    DeviceLostError,
    EngineError,
    GuardError,
    ImageError,
    InputError,
    OutOfMemoryError,
    OutputError,
)

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

OPTIONS = edgeq.Options(allow=ALLOWED, threads=1, timing=QUICK)
RED = (200, 50, 40)


@pytest.fixture(scope="module")
def exported(tiny_model: Path, tiny_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> edgeq.Exported:
    return edgeq.export_model(tiny_model, tiny_pictures, tmp_path_factory.mktemp("api") / "exported", threads=1)


@pytest.fixture(scope="module")
def calibrated(
    exported: edgeq.Exported, tiny_pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> edgeq.Calibrated:
    output = tmp_path_factory.mktemp("api") / "scales.json"
    found = edgeq.calibrate_model(exported.directory, tiny_pictures, output, method="mse", threads=1)
    assert edgeq.Scales.load(output) == found.scales
    return found


@pytest.fixture(scope="module")
def quantized(
    exported: edgeq.Exported, calibrated: edgeq.Calibrated, tmp_path_factory: pytest.TempPathFactory
) -> edgeq.Quantized:
    return edgeq.quantize_model(exported.directory, calibrated.scales, tmp_path_factory.mktemp("api") / "quantized")


@pytest.fixture(scope="module")
def prepared(
    tiny_model: Path, tiny_pictures: Path, tiny_answers: Path, tmp_path_factory: pytest.TempPathFactory
) -> edgeq.Prepared:
    output = str(tmp_path_factory.mktemp("api") / "bundle")
    return edgeq.prepare(str(tiny_model), str(tiny_pictures), output, evaluation=str(tiny_answers), options=OPTIONS)


def picture(colour: tuple[int, int, int] = RED) -> NDArray[np.uint8]:
    """uint8 [20, 30, 3] of one colour."""
    return np.full((20, 30, 3), colour, np.uint8)


def logits_of(bundle: Path, colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """ONNX Runtime on the bundle's INT8 graph, and the preprocessing by hand: a picture of one colour stays one."""
    pixels = (np.array(colour, np.float32) / 255 - 0.5) / 0.25
    session = onnxruntime.InferenceSession(str(bundle / "model.int8.ort.onnx"), providers=["CPUExecutionProvider"])
    shown = np.broadcast_to(pixels[None, :, None, None], (1, 3, SIDE, SIDE)).astype(np.float32)
    (logits,) = session.run(["logits"], {session.get_inputs()[0].name: shown})
    return np.asarray(logits[0], np.float64)


def test_inspect_and_plan(tiny_model: Path) -> None:
    assert edgeq.inspect(tiny_model).parameters == sum(PARAMETERS.values())
    planned = edgeq.plan_model(tiny_model)
    assert (planned.guards, planned.memory) == (None, None)
    assert len(planned.plan.layers(edgeq.Precision.INT8) & {"stem", "depthwise", "pointwise"}) == 3
    with pytest.raises(InputError, match="is not a vision-language model"):
        edgeq.plan_model(tiny_model, device="orin-nx-16gb")


def test_guards_see_the_images_of_a_plan(tiny_model: Path, tiny_pictures: Path) -> None:
    with pytest.raises(GuardError, match="EQ108"):
        edgeq.plan_model(tiny_model, check_guards=True, calibration=tiny_pictures, evaluation=tiny_pictures)
    allowed = edgeq.plan_model(
        tiny_model, check_guards=True, calibration=tiny_pictures, evaluation=tiny_pictures, options=OPTIONS
    )
    assert [finding.code for finding in allowed.guards or ()] == ["EQ108"]


def test_the_stages_hand_over(
    exported: edgeq.Exported, calibrated: edgeq.Calibrated, quantized: edgeq.Quantized, tiny_answers: Path
) -> None:
    assert (exported.report.batchnorm_before, exported.report.batchnorm_after, exported.channels) == (3, 0, None)
    assert (calibrated.scales.images, calibrated.skipped) == (102, ())
    assert quantized.guards == ()
    heard: list[tuple[str, int, int]] = []
    quality = edgeq.evaluate(
        quantized.directory, tiny_answers, threads=1, timing=QUICK, progress=lambda *step: heard.append(step)
    )
    assert quality.answers is not None
    assert heard[-1] == ("judge", 24, 24)


def test_an_interrupted_calibration_goes_on(exported: edgeq.Exported, tiny_pictures: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, _total: int) -> None:
        if (stage, done) == ("calibrate", 64):
            raise KeyboardInterrupt

    given = (exported.directory, tiny_pictures, tmp_path / "scales.json")
    with pytest.raises(KeyboardInterrupt):
        edgeq.calibrate_model(*given, method="mse", resume=True, threads=1, progress=stop)
    whole = edgeq.calibrate_model(*given, method="mse", resume=True, threads=1)
    assert whole.scales.images == 102
    assert [file.name for file in tmp_path.iterdir()] == ["scales.json"]
    with pytest.raises(OutputError, match="exists already"):
        edgeq.calibrate_model(*given)


def test_a_plan_is_followed(exported: edgeq.Exported, calibrated: edgeq.Calibrated, tmp_path: Path) -> None:
    keep = edgeq.Rule(name="keep-stem", layer="stem", precision=edgeq.Precision.FP32, reason="a try")
    options = edgeq.Options(rules=(keep,))
    by_rule = edgeq.quantize_model(exported.directory, calibrated.scales, tmp_path / "a", options=options)
    assert "stem" not in by_rule.plan.layers(edgeq.Precision.INT8)
    by_plan = edgeq.quantize_model(exported.directory, calibrated.scales, tmp_path / "b", plan=by_rule.plan)
    assert by_plan.plan.layers(edgeq.Precision.INT8) == by_rule.plan.layers(edgeq.Precision.INT8)


def test_sensitivity_tells_of_each_int8_layer(quantized: edgeq.Quantized, tiny_answers: Path, tmp_path: Path) -> None:
    said: list[str] = []
    table = edgeq.sensitivity(quantized.directory, tiny_answers, tmp_path / "table", threads=1, say=said.append)
    assert {line.layer for line in table.layers} == {"stem", "depthwise", "pointwise"}
    assert table.ranking()[0].alone.logit_error == max(line.alone.logit_error for line in table.layers)
    assert {file.suffix for file in (tmp_path / "table").iterdir()} == {".json", ".svg", ".png"}
    assert said == []
    cats = shutil.copytree(tiny_answers, tmp_path / "images") / "cats"
    (cats.parent / "red").rename(cats)
    (cats / "broken.jpg").write_bytes(b"no image")
    flat = edgeq.sensitivity(quantized.directory, cats.parent, threads=1, say=said.append)
    assert (flat.int8.top1, flat.int8.images) == (None, 24)
    assert said[0].startswith("no top-1: ")
    assert said[1:] == ["1 images cannot be read: cats/broken.jpg"]


def test_a_search_that_needs_no_layer(quantized: edgeq.Quantized, tiny_pictures: Path, tmp_path: Path) -> None:
    """These pictures are told apart by colour alone, in INT8 as well: a drop of 100 points is never reached."""
    found = edgeq.search_layers(quantized.directory, tiny_pictures, tmp_path / "found", max_drop=100, threads=1)
    assert (found.search.kept, found.table) == ((), None)
    assert edgeq.PrecisionPlan.load(tmp_path / "found" / "plan.yaml") == found.plan


def test_prepare_knows_a_classifier(prepared: edgeq.Prepared, tiny_pictures: Path, tmp_path: Path) -> None:
    assert isinstance(prepared, edgeq.Prepared)
    assert prepared.manifest.labels == CLASSES
    for wrong in ({"device": "orin-nx-16gb"}, {"context": 64}):
        with pytest.raises(InputError, match=rf"{next(iter(wrong))}: .* is no vision-language model"):
            edgeq.prepare(prepared.bundle, tiny_pictures, tmp_path / "b", **wrong)
    with pytest.raises(InputError, match="takes Options"):
        edgeq.prepare(prepared.bundle, tiny_pictures, tmp_path / "b", options=edgeq.VlmOptions())
    assert list(tmp_path.iterdir()) == []


def test_max_drop_is_searched_for(
    tiny_model: Path, tiny_pictures: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    from pictures import draw_pictures

    labelled = draw_pictures(tmp_path_factory.mktemp("labelled") / "pictures", each=40, seed=2)
    made = edgeq.prepare(
        tiny_model, tiny_pictures, tmp_path / "bundle", evaluation=labelled, max_drop=100, options=OPTIONS
    )
    assert made.search is not None
    assert (made.search.max_drop, made.search.kept) == (100, ())


def test_verify(prepared: edgeq.Prepared, tmp_path: Path) -> None:
    bundle = shutil.copytree(prepared.bundle, tmp_path / "bundle")
    assert edgeq.verify(bundle).signed_by is None
    keys = make_keys(tmp_path / "team")
    with pytest.raises(ArtifactError, match="not signed"):
        edgeq.verify(bundle, keys=[keys.public])
    sign_bundle(bundle, keys.private)
    pack(bundle, tmp_path / "b.edgeq.tar")
    heard: list[tuple[int, int]] = []
    for place in (bundle, str(tmp_path / "b.edgeq.tar")):
        verified = edgeq.verify(
            place, keys=[str(keys.public)], device=edgeq.this_device(), progress=lambda *b: heard.append(b)
        )
        assert verified.manifest == prepared.manifest
        assert verified.signed_by is not None
        assert heard[-1] == (prepared.manifest.total_bytes,) * 2


def test_build_for_onnx_runtime(prepared: edgeq.Prepared, tmp_path: Path) -> None:
    built = edgeq.build(prepared.bundle, backend="onnxruntime", store=tmp_path / "engines")
    assert isinstance(built, edgeq.BuiltEngine)
    assert (built.engine, built.reused) == (prepared.bundle / "model.int8.ort.onnx", True)


def test_install_and_open_what_is_in_use(prepared: edgeq.Prepared, tmp_path: Path) -> None:
    root = tmp_path / "installed"
    done = edgeq.install_bundle(prepared.bundle, root=root, backend="onnxruntime", threads=1)
    assert (done.checked, done.previous, done.id) == (True, None, edgeq.verify(prepared.bundle).digest)
    with edgeq.open_bundle(root, backend="onnxruntime", threads=1) as bundle:
        assert bundle.path == done.path
        assert bundle.classify(picture(), top=1)[0].label in CLASSES
    unchecked = edgeq.install_bundle(prepared.bundle, root=tmp_path / "other", check=False)
    assert not unchecked.checked


@pytest.fixture(scope="module")
def classifier(prepared: edgeq.Prepared) -> edgeq.Bundle:
    return edgeq.open_bundle(prepared.bundle, threads=1)


def test_classify_is_softmax_of_the_int8_graph(classifier: edgeq.Bundle) -> None:
    logits = logits_of(classifier.path, RED)
    scores = np.exp(logits) / np.exp(logits).sum()
    found = classifier.classify(picture())
    assert [one.index for one in found] == list(np.argsort(-logits))
    assert [one.label for one in found] == [CLASSES[index] for index in np.argsort(-logits)]
    assert [one.score for one in found] == pytest.approx(sorted(scores, reverse=True), rel=1e-4)
    assert classifier.classify(picture(), top=2) == found[:2]


def test_an_image_in_every_form(classifier: edgeq.Bundle, tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    Image.fromarray(picture()).save(file)
    forms: list[edgeq.ImageLike] = [file, str(file), file.read_bytes(), Image.fromarray(picture()), picture()]
    found = classifier.classify(forms)
    assert found == [classifier.classify(picture())] * 5
    assert classifier.classify(tuple(forms)) == found
    assert classifier.classify([]) == []


def test_what_is_no_image(classifier: edgeq.Bundle, tmp_path: Path) -> None:
    floats = np.zeros((4, 4, 3), np.float32)
    with pytest.raises(ImageError, match=r"ndarray of float32 \[4, 4, 3\]"):
        classifier.classify(floats)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"uint8 \[4, 4\]"):
        classifier.classify(np.zeros((4, 4), np.uint8))
    with pytest.raises(ImageError, match="cannot be read"):
        classifier.classify(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="cannot be decoded"):
        classifier.classify(b"no image")
    with pytest.raises(ImageError, match="an image cannot be int"):
        classifier.classify(7)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="top 0"):
        classifier.classify(picture(), top=0)


def test_the_wrong_question_to_a_classifier(classifier: edgeq.Bundle) -> None:
    with pytest.raises(ArtifactError, match="bundle of a classifier, which answers no questions"):
        classifier.ask(picture(), QUESTION)
    with pytest.raises(ArtifactError, match="ends in classes: it gives no vectors"):
        classifier.embed(picture())
    with pytest.raises(ArtifactError, match="answers no questions"):
        edgeq.open_bundle(classifier.path, kind="vision-language")


def test_a_closed_bundle(prepared: edgeq.Prepared) -> None:
    bundle = edgeq.open_bundle(prepared.bundle, threads=1, backend="onnxruntime")
    assert bundle.backend.startswith("onnxruntime ")
    bundle.close()
    bundle.close()
    with pytest.raises(InputError, match="was closed"):
        bundle.classify(picture())


def test_a_bundle_is_checked_before_it_is_loaded(prepared: edgeq.Prepared, tmp_path: Path) -> None:
    damaged = shutil.copytree(prepared.bundle, tmp_path / "damaged")
    with (damaged / "model.int8.ort.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="is not the file that the manifest lists"):
        edgeq.open_bundle(damaged)
    with pytest.raises(ArtifactError, match="is not signed"):
        edgeq.open_bundle(prepared.bundle, keys=[make_keys(tmp_path / "team").public])
    with pytest.raises(ArtifactError, match="is not a bundle"):
        edgeq.open_bundle(tmp_path)


def test_an_encoder_gives_vectors(prepared: edgeq.Prepared, tmp_path: Path) -> None:
    """The same graph without names of classes: what it gives is a vector."""
    nameless = shutil.copytree(prepared.bundle, tmp_path / "encoder")
    write_manifest(nameless)
    expected = logits_of(nameless, RED)
    with edgeq.open_bundle(nameless, threads=1) as encoder:
        vector = encoder.embed(picture())
        assert vector.dtype == np.float32
        assert vector.shape == (3,)
        assert vector == pytest.approx(expected, rel=1e-4)
        both = encoder.embed([picture(), picture((0, 0, 0))], normalize=True)
        assert both[0] == pytest.approx(expected / np.linalg.norm(expected), rel=1e-4)
        assert np.linalg.norm(both, axis=1) == pytest.approx([1, 1])
        assert [one.label for one in encoder.classify(picture())] == [None] * 3


def test_a_vision_language_model_from_plan_to_answer(
    tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    planned = edgeq.plan_model(tiny_vlm_model, device="orin-nx-16gb", context=64, photographs=tiny_photographs)
    assert planned.memory is not None
    assert planned.memory.fits
    made = edgeq.prepare(
        tiny_vlm_model,
        tiny_photographs,
        tmp_path / "bundle",
        evaluation=tiny_photographs / "questions.jsonl",
        device="orin-nx-16gb",
        context=64,
        options=edgeq.VlmOptions(max_new_tokens=4, canaries=1, photographs=2),
        threads=1,
    )
    assert made.memory == planned.memory
    assert made.quality is not None
    with edgeq.open_bundle(made.bundle, kind="vision-language", threads=1) as bundle:
        canary = made.canaries.canaries[0]
        reply = bundle.ask(made.bundle / "canaries" / canary.image, canary.question, 4)
        assert 1 <= len(reply.token_ids) <= 4


def test_prepare_knows_a_vision_language_model(tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_drop: .* is a vision-language model"):
        edgeq.prepare(tiny_vlm_model, tiny_photographs, tmp_path / "b", max_drop=1.0)
    with pytest.raises(InputError, match="takes VlmOptions"):
        edgeq.prepare(tiny_vlm_model, tiny_photographs, tmp_path / "b", options=OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_is_that_of_the_model_alone(prepared_vlm: PreparedVlm, tiny_photographs: Path) -> None:
    from edgeq.runtime.vlm.model import open_vlm

    photograph = tiny_photographs / "red" / "red-000.jpg"
    with Image.open(photograph) as image:
        expected = open_vlm(prepared_vlm.bundle, threads=1).ask(image.convert("RGB"), QUESTION, 4)
    with edgeq.open_bundle(prepared_vlm.bundle, threads=1) as bundle:
        assert bundle.ask(photograph, QUESTION, 4).token_ids == expected.token_ids
        assert bundle.ask(photograph.read_bytes(), QUESTION, 4).text == expected.text
        with pytest.raises(ArtifactError, match="vision-language model: it gives no classes"):
            bundle.classify(photograph)
        with pytest.raises(ArtifactError, match="it gives no vectors"):
            bundle.embed(photograph)
    with pytest.raises(ArtifactError, match="vision-language model"):
        edgeq.open_bundle(prepared_vlm.bundle, kind="classifier")
    with pytest.raises(InputError, match="was closed"):
        bundle.ask(photograph, QUESTION)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceLostError),
        (RuntimeError("expected scalar type Half but found Float"), EngineError),
        (InputError("the question is empty"), InputError),
    ],
)
def test_what_torch_raises_over_a_question_is_an_error_of_edgeq(
    prepared_vlm: PreparedVlm,
    tiny_photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[edgeq.EdgeqError],
) -> None:
    """The errors are torch's own classes; that the model raises them is simulated."""
    from edgeq.runtime.vlm.model import VisionLanguageModel

    def fail(*_: object) -> None:
        raise error

    with edgeq.open_bundle(prepared_vlm.bundle, threads=1) as bundle:
        monkeypatch.setattr(VisionLanguageModel, "ask", fail)
        with pytest.raises(kind) as raised:
            bundle.ask(tiny_photographs / "red" / "red-000.jpg", QUESTION, 4)
    assert raised.value is error or raised.value.__cause__ is error


def test_bench_measures_a_classifier(prepared: edgeq.Prepared, tmp_path: Path) -> None:
    heard: list[str] = []
    report = edgeq.bench_bundle(
        prepared.bundle, batches=(1, 2, 1), repeats=2, warmup=0, threads=1, progress=lambda *step: heard.append(step[0])
    )
    assert report.manifest_sha256 == edgeq.verify(prepared.bundle).digest
    assert report.asked.batches == (1, 2)
    assert (report.asked.repeats, report.asked.threads) == (2, 1)
    assert len(report.graphs) == 1
    assert "checking the bundle" in heard
    report.save(tmp_path / "bench.json")
    assert edgeq.BenchReport.load(tmp_path / "bench.json") == report


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tokens": 1}, "tokens: 1"),
        ({"clients": ()}, "clients: none"),
        ({"batches": (1, 1025)}, "batches: 1025"),
        ({"repeats": 0}, "repeats: 0"),
        ({"warmup": -1}, "warmup: -1"),
        ({"url": "http://127.0.0.1:1", "threads": 1}, "the service's own"),
        ({"url": "http://example.org"}, "no address of a service on this machine"),
        ({"question": "What?"}, "answers no questions"),
    ],
)
def test_bench_refuses_what_has_no_meaning(prepared: edgeq.Prepared, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        edgeq.bench_bundle(prepared.bundle, **wrong)


def test_a_config_alone_is_planned() -> None:
    """A directory with config.json and nothing else."""
    golden = Path(__file__).parent / "golden" / "vlm-configs"
    expected = json.loads((golden / "expected.json").read_text())["llava-1.5-13b"]["total"]
    planned = edgeq.plan_model(golden / "llava-1.5-13b", device="orin-nx-16gb", context=8192)
    assert planned.memory is not None
    assert (planned.memory.parameters, planned.memory.fits) == (expected, False)
