"""Which errors mean that memory ran out, which that the accelerator is lost, and which only sound like it."""

from __future__ import annotations

import pytest
import torch
from cuda_errors import LOST, NO_MEMORY

from edgeq.errors import (
    ArtifactError,
    DeviceLostError,
    EdgeqError,
    EngineError,
    ImageError,
    InputError,
    LimitError,
    ModelError,
    OutOfMemoryError,
)
from edgeq.faults import is_device_lost, is_out_of_memory, known_fault, stopped_for_memory


def raised(error: Exception, cause: BaseException | None = None) -> Exception:
    """An error as it is caught, raised from another."""
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize("error", LOST, ids=str)
def test_the_accelerator_is_lost(error: Exception) -> None:
    assert (is_device_lost(error), is_out_of_memory(error)) == (True, False)
    fault = known_fault(error)
    assert isinstance(fault, DeviceLostError)
    assert fault.passing
    assert type(error).__name__ in fault.causes[0]


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_memory_ran_out(error: Exception) -> None:
    assert (is_device_lost(error), is_out_of_memory(error)) == (False, True)
    fault = known_fault(error)
    assert isinstance(fault, OutOfMemoryError)
    assert fault.passing


@pytest.mark.parametrize(
    ("logged", "stopped"),
    [
        ("[allocator] Out of memory: 2147483648 bytes", True),
        ("Error Code 2: OutOfMemory (Requested size was 402653184 bytes.)", True),
        ("Error Code 1: Cuda Runtime (cudaErrorMemoryAllocation)", False),
        ("Memory allocation failed", True),
        ("Skipping tactic 0x2 due to insufficient memory on requested size of 4294967296", False),
        ("Could not find any implementation for node conv1 due to insufficient workspace", False),
    ],
)
def test_a_build_that_ended_for_want_of_memory(logged: str, stopped: bool) -> None:
    """Of a kernel that wanted more workspace than there is another one takes the place; the last two say no more."""
    assert stopped_for_memory(["another error", logged]) is stopped


@pytest.mark.parametrize("wrapper", [EngineError, ModelError])
def test_an_engine_or_a_model_passes_on_what_a_library_said(wrapper: type[EdgeqError]) -> None:
    assert is_device_lost(raised(wrapper("it failed"), LOST[0]))
    assert is_out_of_memory(raised(wrapper("it failed"), raised(RuntimeError("it failed"), NO_MEMORY[0])))


def test_the_first_that_says_anything_counts() -> None:
    """An error over memory that ran out, and memory that ran out over an error."""
    assert is_device_lost(raised(torch.AcceleratorError("CUDA error: unknown error"), NO_MEMORY[0]))
    assert is_out_of_memory(raised(torch.OutOfMemoryError("CUDA out of memory"), LOST[0]))


@pytest.mark.parametrize(
    "error",
    [
        InputError("CUDA error.jpg cannot be read: out of memory"),
        ArtifactError("CUDA error"),
        EngineError("/models/CUDA error: out of memory/model.onnx is refused"),
        ValueError("CUDA error: this is a user's text"),
        KeyError("out of memory"),
        RuntimeError("a bug"),
        FileNotFoundError(2, "No such file or directory", "/CUDA error/out of memory"),
        RuntimeError("cannot schedule new futures after shutdown"),
        torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
        torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture"),
    ],
    ids=str,
)
def test_what_is_neither(error: Exception) -> None:
    assert known_fault(error) is None


@pytest.mark.parametrize("error", [ImageError("it is too large"), LimitError("it is too large"), ModelError("damaged")])
def test_a_file_that_asks_for_too_much_is_no_fault_of_the_machine(error: EdgeqError) -> None:
    assert known_fault(raised(error, MemoryError())) is None


def test_an_error_of_edgeq_stays_what_it_is() -> None:
    for error in (DeviceLostError("lost"), OutOfMemoryError("none left")):
        assert known_fault(error) is error


def test_errors_that_were_raised_from_each_other() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert known_fault(first) is None
