"""Channel equalization as a stage: what is chosen, what is recorded, and what is left as it is to the byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import blocks
import networks
import numpy as np
import onnx
import pictures
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from edgeq.calibrate.samples import ImageSamples
from edgeq.errors import ParityError, PlanError
from edgeq.export.stage import FP32, ExportReport, export_model
from edgeq.files import sha256_file
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.stages import Options, parity_images, plan_graph
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.equalize import choose as channel_equalization
from edgeq.quantize.equalize.choose import choose_equalization, count_trials
from edgeq.quantize.equalize.record import CHANNEL_EQUALIZATION, EqualizationRecord
from edgeq.quantize.equalize.stage import equalize_channels
from edgeq.quantize.equalize.trial import TrialSetup, trial_setup


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return ImageSet.open(pictures.draw_pictures(tmp_path_factory.mktemp("drawn") / "pictures", each=16))


def exported(directory: Path, model: onnx.ModelProto, images: ImageSet) -> tuple[Path, ExportReport, PrecisionPlan]:
    """An exported directory, its report and its plan."""
    source = open_model(blocks.write_model(directory / "model", model))
    made = directory / "exported"
    made.mkdir()
    report = export_model(source, made, parity_images(images, source, count=4), threads=1)
    return made, report, plan_graph(made / FP32, report, Options())


def folded(
    directory: Path, model: onnx.ModelProto, images: ImageSet, asked: str, told: list[int] | None = None
) -> tuple[Path, ExportReport, ExportReport, PrecisionPlan, EqualizationRecord | None]:
    """The directory, its report before, and what the stage gave; `told` gets the trials to come, then those done."""
    made, before, plan = exported(directory, model, images)
    source = open_model(made / FP32)
    proof, done = parity_images(images, source, count=4), [] if told is None else told

    def begin(total: int) -> Callable[[int], None]:
        done.append(-total)
        return done.append

    after, plan, record = equalize_channels(
        made,
        before,
        plan,
        ImageSamples(images, source.preprocess),
        np.split(proof, len(proof)),
        asked,
        threads=1,
        begin=begin,
    )
    return made, before, after, plan, record


def test_auto_takes_what_disturbs_the_output_least(tmp_path: Path, images: ImageSet) -> None:
    told: list[int] = []
    model = blocks.unbalance(blocks.transformer())
    made, before, after, plan, record = folded(tmp_path, model, images, "auto", told)
    assert record is not None
    errors = {trial.fold: trial.logit_error for trial in record.trials}
    assert errors[record.fold] == min(errors.values())
    assert errors[record.fold] < errors["none"] / 3  # channels a hundred times apart
    assert told == [-len(record.trials), *[1] * len(record.trials)]
    assert plan.channel_equalization == after.channel_equalization == record.fold != "none"
    assert record.parity is not None
    assert record.parity == after.rescaled
    assert record.parity.holds
    assert before.graph_sha256 != after.graph_sha256 == sha256_file(made / FP32)
    assert ExportReport.load(made) == after
    assert EqualizationRecord.load(made / CHANNEL_EQUALIZATION) == record
    kinds = [point.kind for point in record.points]
    assert kinds.count("normalization") == 4
    assert all(point.largest > 2 * point.smallest for point in record.points if point.kind == "normalization")
    assert {place.layer: place.reason for place in record.left}["last"] == "ReduceMean pooled reads it"


def test_the_plan_fits_the_graph_that_it_is_for_then(tmp_path: Path, images: ImageSet) -> None:
    made, _, after, plan, _ = folded(tmp_path, blocks.transformer(), images, "repq-smooth:0.5")
    assert plan_graph(made / FP32, after, Options()) == plan
    saved = tmp_path / "plan.yaml"
    plan.save(saved)
    again = PrecisionPlan.load(saved)
    assert again == plan
    assert Options(plan=again).settled().channel_equalization == "repq-smooth:0.5"
    assert plan.model_copy(update={"channel_equalization": "none"}).diff(plan) == (
        "channel_equalization: none -> repq-smooth:0.5",
    )


def test_a_network_without_normalization_stays_as_it_is(tmp_path: Path, images: ImageSet) -> None:
    made, before, after, plan, record = folded(tmp_path, networks.tiny_network(), images, "auto")
    assert record is None
    assert after == before
    assert after.graph_sha256 == sha256_file(made / FP32)
    assert plan.channel_equalization == "none"
    assert not (made / CHANNEL_EQUALIZATION).exists()


def test_a_way_that_was_asked_for_must_have_a_place(tmp_path: Path, images: ImageSet) -> None:
    with pytest.raises(PlanError, match="no layer's channels can be rescaled"):
        folded(tmp_path, networks.tiny_network(), images, "smooth:0.5")


def setup(images: ImageSet, few: int | None = None) -> TrialSetup:
    model = blocks.transformer(layers=1)
    preprocess = Preprocess.from_flags((0.5,) * 3, (0.25,) * 3, (blocks.SIDE, blocks.SIDE))
    samples = ImageSamples(images, preprocess)
    return trial_setup(model, plan_classifier(model), samples.sample(few) if few else samples, threads=1)


def proof() -> list[NDArray[np.float32]]:
    drawn = np.random.default_rng(0).standard_normal((2, 3, blocks.SIDE, blocks.SIDE)).astype(np.float32)
    return [drawn]


@pytest.mark.parametrize(
    ("asked", "taken"), [("auto", "smooth:0.5"), ("repq-smooth", "repq-smooth:0.5"), ("repq", "repq")]
)
def test_with_too_few_images_nothing_is_tried(images: ImageSet, asked: str, taken: str) -> None:
    few = setup(images, few=16)
    _, record = choose_equalization(few, asked, proof())
    assert (record.fold, record.trials, count_trials(few, asked)) == (taken, (), 0)


def test_a_way_without_a_strength_gets_the_best_one(images: ImageSet) -> None:
    _, record = choose_equalization(setup(images), "smooth", proof())
    assert [trial.fold for trial in record.trials] == ["smooth:0.3", "smooth:0.5", "smooth:0.7", "smooth:0.85"]
    assert record.fold == min(record.trials, key=lambda trial: trial.logit_error).fold


def test_a_graph_that_computes_something_else_is_refused(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialSetup, "folded", lambda *_: (blocks.transformer(seed=9, layers=1), ()))
    with pytest.raises(ParityError, match=r"of its range, 0\.0001 is allowed"):
        choose_equalization(setup(images), "repq", proof())
    monkeypatch.setattr(channel_equalization, "_choose", lambda *_: ((), "repq"))
    asked = setup(images)
    model, record = choose_equalization(asked, "auto", proof())
    assert model is asked.model
    assert record.fold == "none"
    assert "0.0001 is allowed" in record.refused


@pytest.mark.parametrize("fold", ["smooth:2", "smooth:", "repq:0.5", "awq", "smooth:0.5 "])
def test_a_plan_knows_the_ways(fold: str) -> None:
    with pytest.raises(ValidationError):
        PrecisionPlan(decisions=(), channel_equalization=fold)
