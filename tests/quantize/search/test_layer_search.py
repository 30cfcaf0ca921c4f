"""The search: its order, its budget, how few evaluations it needs, and what luck is worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import networks
import onnx
import pictures
import pytest

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate
from edgeq.errors import ArtifactError
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import planned_tensors
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quality.logits import LogitFigures
from edgeq.quality.tasks.base import Examples
from edgeq.quality.tasks.classification import ClassificationTask
from edgeq.quantize.search.bounds import SearchBounds
from edgeq.quantize.search.frontier import draw_frontier
from edgeq.quantize.search.layer_search import (
    Evaluation,
    ImageEvaluation,
    Search,
    SearchStep,
    float_share,
    keep_layers,
    search,
    worst_first,
)
from edgeq.quantize.search.sensitivity import LayerSensitivity, Sensitivity

LAYERS = ("stem", "depthwise", "pointwise")


@pytest.fixture
def exported(tmp_path: Path) -> tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet]:
    images = ImageSet.open(pictures.draw_pictures(tmp_path / "pictures"), labelled=True)
    graph, source = networks.export_tiny(tmp_path, images)
    model = onnx.load(graph)
    scales, _ = calibrate(graph, planned_tensors(graph), ImageSamples(images, source.preprocess))
    return model, plan_classifier(model), scales, source, images


def figures(drop: float = 0.0, error: float = 0.01, drop_se: float = 0.0) -> LogitFigures:
    return LogitFigures(
        images=100,
        logit_error=error,
        logit_error_se=0.0,
        kl=0.0,
        kl_se=0.0,
        agreement=100.0,
        agreement_se=0.0,
        top1=50.0,
        drop=drop,
        drop_se=drop_se,
    )


class Scripted:
    """A simulated evaluation: what a network loses depends on how many of its convolutions are INT8."""

    def __init__(self, answer: Callable[[int], LogitFigures]) -> None:
        self.answer = answer
        self.asked: list[int] = []

    def figures(self, graph: onnx.ModelProto) -> LogitFigures:
        kept = len(LAYERS) - sum(tensor.name.endswith(".weight.q") for tensor in graph.graph.initializer)
        self.asked.append(kept)
        return self.answer(kept)


def run(
    exported: tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet],
    scripted: Scripted,
    bounds: SearchBounds,
) -> Search:
    model, plan, scales, _, _ = exported
    return search(model, plan, scales, LAYERS, cast(Evaluation, scripted), bounds)


def test_the_fewest_layers_that_suffice_are_kept(
    exported: tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet],
) -> None:
    for enough in range(4):
        scripted = Scripted(lambda kept, enough=enough: figures(0.0 if kept >= enough else 1.0))  # type: ignore[misc]
        found = run(exported, scripted, SearchBounds(0.1, max_share=100.0))
        assert found.kept == LAYERS[:enough]
        assert len(scripted.asked) == len(set(scripted.asked)), "nothing is evaluated twice"


def test_nothing_is_kept_beyond_the_byte_budget(
    exported: tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet],
) -> None:
    # Bytes of the weighted layers, biases from the folded BatchNorm among them: stem (432 + 16), depthwise (144 + 16),
    # pointwise (256 + 16), head (48 + 3), four bytes each.
    whole = 448 + 160 + 272 + 51
    scripted = Scripted(lambda _: figures(1.0))
    found = run(exported, scripted, SearchBounds(0.1, max_share=100.0 * (51 + 448 + 160) / whole))
    assert found.chosen is None
    assert max(scripted.asked) == 2
    assert [step.share for step in found.steps] == pytest.approx(
        [100.0 * 51 / whole, 100.0 * (51 + 448) / whole, 100.0 * (51 + 448 + 160) / whole]
    )


def test_luck_does_not_count(exported: tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet]) -> None:
    # Half a point better than FP32, with an error of 0.25: the 95 % limit above nothing lost is 0.41, over 3 x 0.1.
    scripted = Scripted(lambda kept: figures(-0.5, drop_se=0.25) if kept < 2 else figures(0.0, drop_se=0.1))
    assert len(run(exported, scripted, SearchBounds(0.1, max_share=100.0)).kept) == 2
    generous = SearchBounds(0.1, max_unseen_drop=0.5, max_share=100.0)
    assert run(exported, scripted, generous).kept == ()


def test_a_network_that_is_too_slow_ends_the_search(
    exported: tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet],
) -> None:
    model, plan, scales, _, _ = exported
    scripted = Scripted(lambda kept: figures(0.0 if kept == 3 else 1.0))
    speeds = iter([2.0, 1.4, 9.0])
    found = search(
        model,
        plan,
        scales,
        LAYERS,
        cast(Evaluation, scripted),
        SearchBounds(0.1, max_share=100.0, min_speedup=1.5),
        speed=lambda _: next(speeds),
    )
    assert found.chosen is None
    assert [step.speedup for step in found.steps] == [2.0, 1.4]


def test_a_real_evaluation_compares_with_fp32(
    exported: tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet],
) -> None:
    model, plan, scales, source, images = exported
    task = ClassificationTask()
    examples = Examples(images, {item.name: str(item.label) for item in images.items})
    evaluation = ImageEvaluation(model, task, examples, source, 3, 1)
    same = evaluation.figures(model)
    assert isinstance(same, LogitFigures)
    assert (same.images, same.logit_error, same.drop, same.agreement) == (len(images), 0.0, 0.0, 100.0)
    found = search(model, plan, scales, LAYERS, evaluation, SearchBounds(100.0))
    assert found.kept == ()
    int8 = found.steps[0].figures
    assert isinstance(int8, LogitFigures)
    assert 0.0 < int8.logit_error < 0.2


def test_layers_kept_are_in_fp16_by_a_rule_of_their_own(
    exported: tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet],
) -> None:
    model, plan, _, _, _ = exported
    settled = {"allowed": {"EQ107": "few"}, "channel_equalization": "repq"}
    made = keep_layers(model, plan.model_copy(update=settled), ("pointwise",))
    by_name = {decision.layer: decision for decision in made.decisions}
    assert by_name["pointwise"].precision is Precision.FP16
    assert by_name["pointwise"].rule == "fp16-kept-pointwise"
    assert by_name["residual"].precision is Precision.FP16, "an addition of one INT8 tensor has no integer kernel"
    assert by_name["stem"].precision is by_name["depthwise"].precision is Precision.INT8
    assert (made.allowed, made.channel_equalization) == ({"EQ107": "few"}, "repq")
    assert keep_layers(model, plan, ()) is plan


def test_the_share_is_that_of_what_is_not_int8(
    exported: tuple[onnx.ModelProto, PrecisionPlan, Scales, ModelSource, ImageSet],
) -> None:
    model, plan, _, _, _ = exported
    assert float_share(keep_layers(model, plan, ("stem",))) == pytest.approx(float_share(plan, ("stem",)))


def table(lines: dict[str, tuple[float, int]]) -> Sensitivity:
    return Sensitivity(
        graph_sha256="",
        method="mse",
        weights="per-channel",
        worst_precision=0.03,
        precision=0.1,
        int8=figures(),
        layers=tuple(
            LayerSensitivity(
                layer=name,
                op="Conv",
                kind="convolution",
                parameters=size // 4,
                bytes=size,
                alone=figures(error=error),
                released=figures(),
                gain=0.0,
                gain_se=0.0,
            )
            for name, (error, size) in lines.items()
        ),
    )


def test_the_order_is_squared_error_for_each_byte() -> None:
    # 0.04^2 / 1600 = 1e-6, 0.01^2 / 10 = 1e-5, 0.03^2 / 9000 = 1e-7
    assert worst_first(table({"large": (0.03, 9000), "middle": (0.04, 1600), "small": (0.01, 10)})) == (
        "small",
        "middle",
        "large",
    )


def test_what_was_found_can_be_saved_and_drawn(tmp_path: Path) -> None:
    steps = tuple(
        SearchStep(
            kept=LAYERS[:count], share=10.0 * count, figures=figures(0.3 - 0.1 * count), speedup=2.0 - 0.1 * count
        )
        for count in range(3)
    )
    found = Search(max_drop=0.1, max_unseen_drop=0.3, max_share=15.0, min_speedup=None, steps=steps, chosen=2)
    found.save(tmp_path / "search.json")
    assert Search.load(tmp_path / "search.json") == found
    for name in ("a.svg", "b.svg", "c.png"):
        draw_frontier(found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "chosen" in (tmp_path / "a.svg").read_text()
    with pytest.raises(ArtifactError):
        Search.load(tmp_path / "a.svg")
