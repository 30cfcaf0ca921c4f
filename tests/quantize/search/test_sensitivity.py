"""The table against whole graphs, its statistics against what is worked out by hand, and who needs how many images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from chains import CLASSES, SIDE, pooled_chain
from networks import export_tiny
from numpy.typing import NDArray
from pictures import draw_pictures
from text_towers import answers, captions, clip_tower

from edgeq.calibrate.samples import CaptionSamples, ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, ImageError, QuantizeError
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quality.logits import judge_answers, root_ratio
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.verify import int8_layers
from edgeq.quantize.search.bounds import RaceBounds
from edgeq.quantize.search.racing import RunningEstimate, images_needed
from edgeq.quantize.search.sensitivity import Sensitivity, measure_sensitivity

PREPROCESS = Preprocess.from_flags((0.5,) * 3, (0.25,) * 3, (SIDE, SIDE))
TRUTH = {"blue": 0, "green": 1, "red": 2}
EVERYTHING = RaceBounds(worst=1e-9, others=1e-9)


@dataclass(frozen=True)
class Case:
    """A graph with its plan, its scales, and images that it was calibrated on."""

    model: onnx.ModelProto
    plan: PrecisionPlan
    scales: Scales
    images: ImageSet

    def measure(self, **options: object) -> Sensitivity:
        samples = ImageSamples(self.images, PREPROCESS)
        return measure_sensitivity(self.model, self.plan, self.scales, samples, **options)[0]  # type: ignore[arg-type]

    def logits(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """What a whole graph says of all images."""
        engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
        found = [
            engine.run({engine.inputs[0]: pixels})[engine.outputs[0]]
            for _, pixels in ImageStream(self.images, PREPROCESS, batch_size=8)
        ]
        return np.concatenate(found)

    def whole(self, layers: Callable[[str], bool], pixels: PixelInput | None = None) -> onnx.ModelProto:
        """The whole graph with the INT8 layers for which `layers` says so, and the others in FP32."""
        decisions = (
            decision if layers(decision.layer) else decision.model_copy(update={"precision": Precision.FP32})
            for decision in self.plan.decisions
        )
        plan = self.plan.model_copy(update={"decisions": tuple(decisions)})
        return lower(self.model, plan, self.scales, USUAL, pixels=pixels)


def case(graph: Path, images: ImageSet) -> Case:
    model = onnx.load(graph)
    plan = plan_classifier(model, shared_add=False)
    scales, _ = calibrate(graph, calibrated_tensors(model, plan), ImageSamples(images, PREPROCESS), method="minmax")
    return Case(model, plan, scales, images)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return ImageSet.open(draw_pictures(tmp_path_factory.mktemp("few") / "pictures", each=8))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, few: ImageSet) -> Case:
    path = tmp_path_factory.mktemp("chain") / "chain.onnx"
    onnx.save(pooled_chain(), path)
    return case(path, few)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory, few: ImageSet) -> Case:
    graph, _ = export_tiny(tmp_path_factory.mktemp("residual"), few)
    return case(graph, few)


def error(found: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - reference) / np.linalg.norm(reference.astype(np.float64)))


APPLIED = {"one": "one_relu", "two": "two_relu", "stem": "stem_relu", "depthwise": "depthwise_clip"}
"""The activation that each layer's kernel applies."""


@pytest.mark.parametrize("name", ["chain", "residual"])
@pytest.mark.parametrize("with_pixels", [False, True])
def test_each_figure_is_that_of_a_whole_graph(name: str, with_pixels: bool, request: pytest.FixtureRequest) -> None:
    given: Case = request.getfixturevalue(name)
    options = {"pixels": PixelInput.of(PREPROCESS)} if with_pixels else {}
    table = given.measure(bounds=EVERYTHING, **options)
    reference = given.logits(given.model)
    assert [line.layer for line in table.layers] == [decision.layer for decision in int8_layers(given.plan)]
    everything = error(given.logits(given.whole(lambda _: True, **options)), reference)
    assert table.int8.logit_error == pytest.approx(everything, rel=0.02)
    for line in table.layers:
        own = {line.layer, APPLIED.get(line.layer)}
        alone = error(given.logits(given.whole(own.__contains__, **options)), reference)
        assert line.alone.logit_error == pytest.approx(alone, rel=0.02), line.layer
        others = {decision.layer for decision in given.plan.decisions} - own
        left = error(given.logits(given.whole(others.__contains__, **options)), reference)
        assert line.released.logit_error == pytest.approx(left, rel=0.02), line.layer
        assert line.gain == pytest.approx(1.0 - left / everything, abs=0.03), line.layer


def test_captions_of_any_length_are_samples_too(tmp_path: Path) -> None:
    """Each figure is that of a whole graph over the same captions, one by one."""
    model, ids = clip_tower(), captions(20)
    onnx.save(model, tmp_path / "tower.onnx")
    plan = plan_classifier(model)
    samples = CaptionSamples(ids, "tokens")
    scales, _ = calibrate(tmp_path / "tower.onnx", calibrated_tensors(model, plan), samples, method="minmax")
    table, skipped = measure_sensitivity(model, plan, scales, samples, bounds=EVERYTHING, threads=2)
    assert (skipped, table.int8.images, len(table.layers)) == ((), 20, 12)
    reference = answers(model, ids)
    assert table.int8.logit_error == pytest.approx(
        error(answers(lower(model, plan, scales, USUAL), ids), reference), rel=0.02
    )
    line = table.ranking()[0]
    decisions = tuple(
        each if each.layer == line.layer else each.model_copy(update={"precision": Precision.FP32})
        for each in plan.decisions
    )
    alone = lower(model, plan.model_copy(update={"decisions": decisions}), scales, USUAL)
    assert line.alone.logit_error == pytest.approx(error(answers(alone, ids), reference), rel=0.02)


def test_labels_give_top1(chain: Case) -> None:
    table = chain.measure(truth={item.name: TRUTH[str(item.label)] for item in chain.images.items})
    reference, found = chain.logits(chain.model), chain.logits(chain.whole(lambda _: True))
    labels = np.array([TRUTH[str(item.label)] for item in chain.images.items])
    right, still = ((logits.argmax(axis=1) == labels).mean() for logits in (reference, found))
    assert table.int8.top1 == pytest.approx(100.0 * still)
    assert table.int8.drop == pytest.approx(100.0 * (right - still))
    without = chain.measure()
    assert (without.int8.top1, without.int8.drop, without.layers[0].alone.drop) == (None, None, None)


def test_threads_change_nothing(residual: Case) -> None:
    assert residual.measure(threads=1) == residual.measure(threads=3)


def test_a_layer_sees_only_the_images_that_it_needs(chain: Case, tmp_path: Path) -> None:
    images = ImageSet.open(draw_pictures(tmp_path / "many", each=60))
    many = Case(chain.model, chain.plan, chain.scales, images)
    loose, tight = many.measure(bounds=RaceBounds(10.0, 10.0)), many.measure(bounds=EVERYTHING)
    assert {line.alone.images for line in loose.layers} == {line.released.images for line in loose.layers} == {48}
    assert {line.alone.images for line in tight.layers} == {line.released.images for line in tight.layers} == {180}
    for early, late in zip(loose.layers, tight.layers, strict=True):
        distance = abs(early.alone.logit_error - late.alone.logit_error)
        assert distance < 5.0 * early.alone.logit_error_se, early.layer


def test_the_worst_comes_first(residual: Case) -> None:
    ranking = residual.measure().ranking()
    errors = [line.alone.logit_error for line in ranking]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 3


def test_the_table_is_read_back(chain: Case, tmp_path: Path) -> None:
    table = chain.measure()
    table.save(tmp_path / "t.json")
    assert Sensitivity.load(tmp_path / "t.json") == table
    for content in ("", "{}", '{"version": "edgeq.sensitivity/9"}', (tmp_path / "t.json").read_text()[:90]):
        (tmp_path / "wrong.json").write_text(content)
        with pytest.raises(ArtifactError, match="is not a sensitivity table"):
            Sensitivity.load(tmp_path / "wrong.json")


def test_a_plan_without_int8_is_refused(chain: Case) -> None:
    decisions = tuple(d.model_copy(update={"precision": Precision.FP32}) for d in chain.plan.decisions)
    plan = chain.plan.model_copy(update={"decisions": decisions})
    with pytest.raises(QuantizeError, match="no INT8 layer"):
        Case(chain.model, plan, chain.scales, chain.images).measure()


def test_one_image_is_not_enough(chain: Case) -> None:
    with pytest.raises(ImageError, match="fewer than 2 images"):
        Case(chain.model, chain.plan, chain.scales, chain.images.sample(1)).measure()


def test_a_damaged_image_is_named(chain: Case, tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "pictures", each=8)
    (folder / "red" / "red-003.jpg").write_bytes(b"\xff\xd8\xff")
    samples = ImageSamples(ImageSet.open(folder), PREPROCESS)
    table, skipped = measure_sensitivity(chain.model, chain.plan, chain.scales, samples, bounds=EVERYTHING)
    assert skipped == ("red/red-003.jpg",)
    assert table.int8.images == 23


def test_progress_ends_where_it_said(chain: Case) -> None:
    told: list[tuple[str, int, int]] = []
    chain.measure(report=lambda *step: told.append(step))
    assert told[-1][1] == told[-1][2] == 2 * 3 * 24  # two halves, three layers, 24 images
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_equal_answers_differ_in_nothing() -> None:
    logits = np.array([[1.0, 2.0, -1.0], [0.0, -3.0, 5.0]], np.float32)
    figures = judge_answers(logits, logits, np.array([1, 0])).figures()
    assert (figures.logit_error, figures.kl, figures.agreement, figures.top1, figures.drop) == (0, 0, 100, 50, 0)


def test_figures_of_two_images_by_hand() -> None:
    ours = np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    theirs = np.array([[math.log(3.0), 0.0], [3.0, 1.0]], np.float32)
    figures = judge_answers(ours, theirs, np.array([0, 1])).figures()
    assert figures.logit_error == pytest.approx(math.sqrt((math.log(3.0) ** 2 + 9.0) / 25.0))
    # Halves against 3/4 and 1/4; then a sigmoid of 1 against one of -2.
    sure, doubtful = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(2.0))
    first = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    second = sure * math.log(sure / doubtful) + (1 - sure) * math.log((1 - sure) / (1 - doubtful))
    assert figures.kl == pytest.approx((first + second) / 2, rel=1e-6)
    assert figures.kl_se == pytest.approx(abs(second - first) / 2, rel=1e-6)
    # Of two equal logits the first counts. FP32 is right twice, the other once.
    assert (figures.agreement, figures.top1, figures.drop, figures.drop_se) == (50.0, 50.0, 50.0, 50.0)


def test_the_error_of_a_ratio_is_that_of_many_samples() -> None:
    rng = np.random.default_rng(0)
    below = rng.uniform(1.0, 3.0, (4000, 100))
    above = below * rng.uniform(0.0, 0.2, below.shape)
    found = np.array([root_ratio(a, b) for a, b in zip(above, below, strict=True)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.05)


def test_a_ratio_without_spread_is_exact() -> None:
    assert root_ratio(np.array([1.0, 4.0]), np.array([4.0, 16.0])) == (0.5, 0.0)
    assert root_ratio(np.zeros(3), np.ones(3)) == (0.0, 0.0)


def test_how_many_images_an_error_needs() -> None:
    wide = RunningEstimate(value=1.0, spread=0.10, images=100, total=1_000_000, unit=1.0)
    assert wide.images_for(0.05) == 400  # a quarter of the variance: four times as many
    assert wide.images_for(0.10) == 100
    small = RunningEstimate(value=1.0, spread=0.10, images=100, total=400, unit=1.0)
    assert small.images_for(0.05) == 200  # 400 / (1 + 400 / 400)
    assert small.images_for(1e-9) == 400
    assert RunningEstimate(value=1.0, spread=0.10, images=400, total=400, unit=1.0).error == 0.0


def test_the_worst_must_be_known_better() -> None:
    def layer(value: float) -> RunningEstimate:
        return RunningEstimate(value, spread=0.08 * value, images=50, total=1_000_000, unit=value)

    layers = {f"bad{i}": layer(1.0 + 0.01 * i) for i in range(10)} | {f"good{i}": layer(0.1) for i in range(20)}
    assert images_needed(layers, RaceBounds(worst=0.04, others=0.10)) == {f"bad{i}": 200 for i in range(10)}
    # One that stands alone has its place: it needs no more than the others.
    apart = layers | {"bad0": layer(9.0)}
    assert (
        set(images_needed(apart, RaceBounds(worst=0.04, others=0.10))) == {f"bad{i}": 200 for i in range(1, 10)}.keys()
    )
    assert images_needed({}, RaceBounds()) == {}


def test_rounds_are_spread_over_the_folders(tmp_path: Path, chain: Case) -> None:
    images = ImageSet.open(draw_pictures(tmp_path / "many", each=60))
    seen: list[ImageItem] = []
    read = images.read

    class Watched(ImageSet):
        def read(self, item: ImageItem):  # type: ignore[no-untyped-def]
            seen.append(item)
            return read(item)

    watched = ImageSamples(Watched(**vars(images)), PREPROCESS)
    measure_sensitivity(chain.model, chain.plan, chain.scales, watched, bounds=RaceBounds(10.0, 10.0))
    first = [item.label for item in seen[:48]]
    assert {label: first.count(label) for label in TRUTH} == dict.fromkeys(TRUTH, 16)
    assert len(TRUTH) == CLASSES
