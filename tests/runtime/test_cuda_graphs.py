"""Capturing a step as a CUDA graph: what is done where that fails, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from language_halves import LongPrompt, pieces, tiny_half, words
from simulated_graphs import SimulatedGraphs

from edgeq.errors import EngineError
from edgeq.runtime.cuda_graphs import CudaGraphs
from edgeq.runtime.vlm.decode_step import DecodeStep, StepOptions


def works() -> None:
    """A GPU that is well."""


def failing(text: str) -> Callable[[], str]:
    def record() -> str:
        raise torch.AcceleratorError(text)

    return record


UNSUPPORTED = failing("CUDA error: operation not permitted when stream is capturing")


def test_a_graph_is_taken() -> None:
    graphs = CudaGraphs()
    assert graphs.state == "none"
    assert graphs.capture(lambda: "graph", "eager", works) == "graph"
    assert (graphs.state, graphs.reason) == ("captured", "")


def test_a_capture_that_fails_is_told_and_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    graphs, tries = CudaGraphs(), []

    def record() -> str:
        tries.append(1)
        return UNSUPPORTED()

    with caplog.at_level("WARNING", "edgeq.runtime"):
        assert [graphs.capture(record, "eager", works) for _ in range(2)] == ["eager"] * 2
    assert (graphs.state, len(tries), len(caplog.records)) == ("failed", 1, 1)
    assert "not permitted when stream is capturing" in caplog.text
    assert "not permitted when stream is capturing" in graphs.reason


def test_off_does_not_try() -> None:
    assert CudaGraphs("off").capture(UNSUPPORTED, "eager", works) == "eager"


def test_required_is_an_error() -> None:
    with pytest.raises(EngineError, match="cannot be captured") as told:
        CudaGraphs("required").capture(UNSUPPORTED, "eager", works)
    assert "stream is capturing" in told.value.causes[0]
    with pytest.raises(EngineError, match="cannot be captured"):
        CudaGraphs("required").without_gpu()
    CudaGraphs("auto").without_gpu()


def test_a_gpu_that_is_lost_in_the_capture_is_no_fallback() -> None:
    graphs = CudaGraphs()
    lost = failing("CUDA error: an illegal memory access was encountered")

    def broken() -> None:
        lost()

    with pytest.raises(torch.AcceleratorError, match="illegal"):
        graphs.capture(lost, "eager", broken)
    assert graphs.state == "none"


def test_a_step_that_cannot_be_captured_decodes_all_the_same() -> None:
    def refused(run: Callable[[], None]) -> Callable[[], None]:
        raise torch.AcceleratorError(f"CUDA error: operation not permitted when stream is capturing {run.__name__}")

    def said(step: DecodeStep) -> torch.Tensor:
        first, last = pieces(model, LongPrompt(words(9, 1), 5))
        step.read(first, 0)
        logits = step.read(last, 0)
        assert logits is not None
        step.occupy(0, int(logits.argmax()), 9, 9)
        return step.forward()[:1].clone()

    model = tiny_half("llama")
    expected = said(DecodeStep(model, slots=2, context=40, options=StepOptions(masked=True)))
    step = DecodeStep(model, slots=2, context=40, options=StepOptions(capture=refused))
    assert torch.equal(said(step), expected)
    assert step.graphs.state == "failed"
    with pytest.raises(EngineError, match="cannot be captured"):
        DecodeStep(model, slots=2, context=40, options=StepOptions(capture=refused, cuda_graphs="required"))


def test_one_graph_that_fails_leaves_none() -> None:
    """The first shape is recorded and the next is not: steps then run in one way, which is told."""
    simulated, tries = SimulatedGraphs(), []

    def capture(run: Callable[[], None]) -> Callable[[], None]:
        tries.append(1)
        return simulated(run) if len(tries) == 1 else UNSUPPORTED()  # type: ignore[return-value]

    step = DecodeStep(tiny_half("llama"), slots=2, context=40, options=StepOptions(capture=capture))
    assert (step.graphs.state, len(tries), simulated.count) == ("failed", 2, 1)
    step.occupy(0, 3, 1, 1)
    recorded = step.forward()
    assert recorded.data_ptr() != step.forward().data_ptr()  # a graph writes into the same buffer each time
