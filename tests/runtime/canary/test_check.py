"""An engine that is wrong on purpose fails, with the right canary named; one that rounds does not."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from classifier_bundle import classifier_bundle
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from edgeq.bundle.manifest import Manifest, write_manifest
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, EngineError, GateError, InputError
from edgeq.runtime.canary.canaries import CANARY_LIST
from edgeq.runtime.canary.canary_set import CanarySet, KnownCanary
from edgeq.runtime.canary.check import check_canaries, compare_canaries
from edgeq.runtime.canary.report import DEFAULT_BOUNDS, CanaryBounds, CanaryReport

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

Array = NDArray[np.float32]
FP32, INT8, FP16 = "model.fp32.onnx", "model.int8.ort.onnx", "vision.fp16.onnx"


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny network; not to be written to."""
    return classifier_bundle(tmp_path_factory)


class Bent:
    """A real engine, what it gives for some canaries being changed."""

    def __init__(self, graph: Path, bend: Mapping[int, Callable[[Array], Any]]) -> None:
        self._engine = OnnxRuntimeEngine(graph, threads=1)
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs
        self._bend, self._seen = bend, 0

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        found = self._engine.run(feeds, outputs)
        bend = self._bend.get(self._seen)
        self._seen += 1
        return {name: bend(values) for name, values in found.items()} if bend else found


def at(*place: int | slice, value: float) -> Callable[[Array], Array]:
    """Puts `value` into one place."""

    def bend(values: Array) -> Array:
        changed = values.copy()
        changed[place] = value
        return changed

    return bend


def swapped(values: Array) -> Array:
    """Features with the first two tokens exchanged."""
    return values[:, [1, 0, *range(2, values.shape[1])]]


def failing(report: CanaryReport) -> list[int]:
    return [number for number, canary in enumerate(report.canaries) if canary.failure]


def rewritten(source: Path, target: Path, name: str, change: Callable[[Array], Array]) -> Path:
    """A graph with one of its weights changed."""
    model = onnx.load(source)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), name))
    onnx.save(model, target)
    return target


# ---- a classifier


def test_the_bundles_own_graph_computes_what_the_workshop_saw(bundle: Path, tmp_path: Path) -> None:
    report = check_canaries(bundle, threads=1)
    assert report.passed
    report.raise_if_failed()
    assert len(report.canaries) == 8
    assert all(canary.same_pixels for canary in report.canaries)
    for canary in report.canaries:
        assert canary.int8 is not None
        assert canary.int8.worst_relative < 1e-5
        assert canary.classes is not None
        assert canary.classes.engine == canary.classes.int8
    report.save(tmp_path / "r.json")
    assert CanaryReport.load(tmp_path / "r.json") == report


def test_fp32_is_no_error(bundle: Path) -> None:
    report = check_canaries(bundle, OnnxRuntimeEngine(bundle / FP32, threads=1))
    assert report.passed
    assert all(canary.parity and canary.parity.worst_relative < 1e-5 for canary in report.canaries)


def test_scaled_weights_fail_on_every_canary_though_each_cosine_is_nearly_one(bundle: Path, tmp_path: Path) -> None:
    """Weight and bias of the head times 2: logits times 2, so the relative error is 1 and the cosine 1."""
    graph = rewritten(bundle / FP32, tmp_path / "a.onnx", "head.weight", lambda weight: 2 * weight)
    graph = rewritten(graph, graph, "head.bias", lambda bias: 2 * bias)
    report = check_canaries(bundle, OnnxRuntimeEngine(graph, threads=1))
    assert failing(report) == list(range(8))
    for canary in report.canaries:
        assert canary.parity is not None
        assert canary.parity.worst_cosine == pytest.approx(1)
        assert canary.parity.worst_relative == pytest.approx(1, abs=1e-5)
    with pytest.raises(GateError, match="8 of 8 canaries fail") as caught:
        report.raise_if_failed()
    assert "the logits have the cosine 1.0000 to FP32" in str(caught.value)
    assert "the largest relative error is 1, at most 0.3 is" in str(caught.value)


def test_a_channel_that_overflows_fails(bundle: Path, tmp_path: Path) -> None:
    graph = rewritten(bundle / FP32, tmp_path / "a.onnx", "head.bias", at(1, value=np.inf))
    report = check_canaries(bundle, OnnxRuntimeEngine(graph, threads=1))
    assert failing(report) == list(range(8))
    assert all(canary.parity is None for canary in report.canaries)
    with pytest.raises(GateError, match="NaN or infinity"):
        report.raise_if_failed()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_none_fails_on_its_canary(bundle: Path, value: float) -> None:
    report = check_canaries(bundle, Bent(bundle / INT8, {5: at(0, 2, value=value)}))
    assert failing(report) == [5]
    assert report.failures[0].startswith("canary 5 (5.png): the candidate computes NaN or infinity")


def test_an_engine_that_gives_nothing_fails(bundle: Path) -> None:
    report = check_canaries(bundle, Bent(bundle / INT8, dict.fromkeys(range(8), np.zeros_like)))
    assert failing(report) == list(range(8))


def test_another_shape_fails(bundle: Path) -> None:
    report = check_canaries(bundle, Bent(bundle / INT8, {2: lambda values: values[:, :2]}))
    assert failing(report) == [2]
    assert report.failures == ("canary 2 (2.png): the engine gave the shape [1, 2], not [1, 3]",)


def test_the_engine_of_another_graph(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / FP32)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(EngineError, match=r"outputs \['scores'\]"):
        check_canaries(bundle, OnnxRuntimeEngine(tmp_path / "a.onnx", threads=1))


def test_a_classifier_is_not_asked(bundle: Path) -> None:
    with pytest.raises(InputError, match="a model without language answers no questions"):
        check_canaries(bundle, answers=True)


# ---- the arithmetic, on numbers made up


def canaries(*logits: Sequence[float], int8: Sequence[Sequence[float]] | None = None) -> CanarySet:
    """A classifier's canaries with these logits of FP32; those of INT8 are the same where they are not given."""
    known = tuple(
        KnownCanary(
            f"{number}.png",
            Image.new("RGB", (1, 1)),
            {"pixel_values": np.zeros((1, 3, 1, 1), np.float32)},
            np.array([fp32], np.float32),
            np.array([(int8 or logits)[number]], np.float32),
        )
        for number, fp32 in enumerate(logits)
    )
    manifest = Manifest(kind="classifier", made_by="a test", labels=(), files=())
    return CanarySet(manifest, Path("int8"), Path("fp32"), ("logits",), known)


def seen(*logits: Sequence[float]) -> tuple[Array, ...]:
    return tuple(np.array([one], np.float32) for one in logits)


@pytest.mark.parametrize(("error", "failed"), [(0.29, []), (0.31, [0])])
def test_a_canary_may_be_off_by_three_tenths(error: float, failed: list[int]) -> None:
    """sqrt(2 x 0.045) = 0.3; the other two are exact, so that the mean is within its own bound."""
    wanted = [(4.0, 0.0)] * 3
    report = compare_canaries(canaries(*wanted), seen((4, 4 * error), *wanted[1:]))
    assert failing(report) == failed
    assert report.passed is not bool(failed)


@pytest.mark.parametrize(("error", "passed"), [(0.14, True), (0.15, False)])
def test_all_canaries_together_may_be_off_by_less(error: float, passed: bool) -> None:
    """sqrt(2 x 0.01) = 0.1414, and no canary fails by itself."""
    report = compare_canaries(canaries((4, 0), (4, 0)), seen((4, 4 * error), (4, -4 * error)))
    assert failing(report) == []
    assert report.passed is passed
    assert all("on average" in failure for failure in report.failures)
    if not passed:
        with pytest.raises(GateError, match="does not do what the workshop saw"):
            report.raise_if_failed()


@pytest.mark.parametrize(("error", "failed"), [(0.39, []), (0.41, [0])])
def test_a_workshop_that_was_off_itself_excuses_twice_its_error(error: float, failed: list[int]) -> None:
    """INT8 had 0.2 in the workshop, upwards; the engine is off downwards, and so nowhere near it."""
    wanted, int8 = [(4.0, 0.0)] * 2, [(4.0, 0.8)] * 2
    report = compare_canaries(canaries(*wanted, int8=int8), seen((4, -4 * error), (4, 0)))
    assert failing(report) == failed


def test_no_workshop_excuses_an_error_of_more_than_a_half() -> None:
    report = compare_canaries(canaries((4, 0), int8=[(4, 4)]), seen((4, -2.4)))
    assert failing(report) == [0]
    assert "at most 0.5" in report.failures[0]


def test_near_int8_is_near_enough() -> None:
    """The engine does exactly what the workshop's INT8 did, which was 0.8 away from FP32."""
    report = compare_canaries(canaries((4, 0), int8=[(4, 3.2)]), seen((4, 3.2)))
    assert report.passed


def test_the_worst_canary_is_named_first() -> None:
    """Cosines 0.8 and 0.6, and one that is NaN."""
    report = compare_canaries(canaries((1, 0), (1, 0), (1, 0)), seen((0.8, 0.6), (0.6, 0.8), (math.nan, 0)))
    assert [failure.split()[1] for failure in report.failures[:3]] == ["2", "1", "0"]


def test_a_quarter_of_the_canaries_may_have_a_class_of_their_own() -> None:
    """Logits nearly alike: rounding chooses; the error stays far below the bound."""
    wanted, flipped = (4.0, 3.9, 0.0), (3.9, 4.0, 0.0)
    for flips, passed in ((2, True), (3, False)):
        report = compare_canaries(canaries(*[wanted] * 8), seen(*[flipped] * flips, *[wanted] * (8 - flips)))
        assert failing(report) == []
        assert report.passed is passed
    assert "3 of 8 canaries get a class" in report.failures[0]
    assert "at most 2 may" in report.failures[0]


def test_int8s_class_counts_as_known() -> None:
    report = compare_canaries(canaries((4, 3.9), int8=[(3.9, 4)]), seen((3.9, 4)))
    assert report.passed
    assert report.canaries[0].classes is not None
    assert (report.canaries[0].classes.engine, report.canaries[0].classes.fp32) == (1, 0)


def test_bounds_can_be_chosen() -> None:
    bounds = CanaryBounds(logits=2e-4, mean_logits=2e-4, times_workshop=0)  # a relative error of 0.02
    assert compare_canaries(canaries((4, 0)), seen((4, 0.07)), bounds).passed
    assert not compare_canaries(canaries((4, 0)), seen((4, 0.09)), bounds).passed


# ---- a vision-language model


def test_the_vision_graph_sees_what_the_workshop_saw(prepared_vlm: PreparedVlm) -> None:
    report = check_canaries(prepared_vlm.bundle, threads=1)
    assert report.passed
    assert report.kind == "vision-language"
    for canary in report.canaries:
        assert canary.parity is not None
        assert canary.parity.tokens == 4
        assert 0.999 < canary.parity.worst_cosine <= 1 + 1e-9
        assert canary.parity.bound == DEFAULT_BOUNDS.features == 0.01
        assert (canary.classes, canary.answer, canary.same_pixels) == (None, None, None)


def test_two_tokens_exchanged_fail_on_their_canary(prepared_vlm: PreparedVlm) -> None:
    bundle = prepared_vlm.bundle
    report = check_canaries(bundle, Bent(bundle / FP16, {1: swapped}))
    assert failing(report) == [1]
    parity = report.canaries[1].parity
    assert parity is not None
    assert parity.worst_token in (0, 1)
    assert report.failures[0].startswith(f"canary 1 (1.png): token {parity.worst_token} of tile 0 has the cosine")


@pytest.mark.parametrize(("factor", "failed"), [(1.13, []), (1.15, [2])])
def test_a_token_that_is_too_long_fails_though_its_cosine_is_one(
    prepared_vlm: PreparedVlm, factor: float, failed: list[int]
) -> None:
    """sqrt(2 x 0.01) = 0.1414; FP16 adds less than 0.005."""
    bundle = prepared_vlm.bundle

    def longer(values: Array) -> Array:
        return np.concatenate([values[:, :3], values[:, 3:] * np.float32(factor)], axis=1)

    report = check_canaries(bundle, Bent(bundle / FP16, {2: longer}))
    assert failing(report) == failed


def test_a_token_that_overflows_in_fp16_fails(prepared_vlm: PreparedVlm) -> None:
    bundle = prepared_vlm.bundle
    report = check_canaries(bundle, Bent(bundle / FP16, {0: at(0, 2, slice(None), value=np.inf)}))
    assert failing(report) == [0]
    assert "NaN or infinity in 1 of 4 tokens, the first is token 2" in report.failures[0]


def test_answers_are_compared_token_by_token(prepared_vlm: PreparedVlm) -> None:
    """The workshop answered with the whole model, in FP32: 4 bits choose most of its tokens as well."""
    report = check_canaries(prepared_vlm.bundle, answers=True, threads=1, bounds=CanaryBounds(tokens=0.5))
    assert report.passed
    for canary, known in zip(report.canaries, prepared_vlm.canaries.canaries, strict=True):
        assert canary.answer is not None
        assert canary.answer.tokens == len(known.token_ids)
        assert 0 <= canary.answer.chosen <= canary.answer.tokens
        assert canary.answer.wanted == known.answer
        assert not canary.answer.same or canary.answer.chosen == canary.answer.tokens


def test_answers_of_another_model_fail(prepared_vlm: PreparedVlm, tmp_path: Path) -> None:
    """The canaries' answers are replaced by six times the token for padding, which no answer has."""
    bundle = shutil.copytree(prepared_vlm.bundle, tmp_path / "b")
    canaries = tuple(canary.model_copy(update={"token_ids": (0,) * 6}) for canary in prepared_vlm.canaries.canaries)
    prepared_vlm.canaries.model_copy(update={"canaries": canaries}).save(bundle / CANARY_LIST)
    write_manifest(bundle, kind="vision-language")
    report = check_canaries(bundle, answers=True, threads=1)
    assert failing(report) == []
    assert report.failures == ("0 of the 18 tokens of the workshop's answers are chosen here, 75% are demanded",)
    assert not any(canary.answer and canary.answer.same for canary in report.canaries)


def test_a_canary_that_fails_is_not_asked_about(prepared_vlm: PreparedVlm) -> None:
    bundle = prepared_vlm.bundle
    engine = Bent(bundle / FP16, {0: at(0, 0, 0, value=np.nan)})
    report = check_canaries(bundle, engine, answers=True, threads=1)
    assert [canary.answer is None for canary in report.canaries] == [True, False, False]
    assert not report.passed


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        check_canaries(tmp_path)
