"""The GPU's memory through torch and pycuda: refusals for real, the calls on simulated ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from simulated_gpu import HANDLE, simulated_pycuda, simulated_torch

from edgeq.errors import EngineError
from edgeq.tensorrt.memory import DeviceMemory, PycudaMemory, TorchMemory, open_memory

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture(autouse=True)
def no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "pycuda":
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def torch_memory(monkeypatch: pytest.MonkeyPatch) -> TorchMemory:
    monkeypatch.setitem(sys.modules, "torch", simulated_torch())
    return TorchMemory()


@pytest.fixture
def pycuda_memory(monkeypatch: pytest.MonkeyPatch) -> PycudaMemory:
    for name, module in simulated_pycuda().items():
        monkeypatch.setitem(sys.modules, name, module)
    return PycudaMemory()


@pytest.fixture(params=["torch_memory", "pycuda_memory"])
def memory(request: pytest.FixtureRequest) -> DeviceMemory:
    """Both, simulated."""
    found: DeviceMemory = request.getfixturevalue(request.param)
    return found


def test_torch_without_cuda_is_refused() -> None:
    """The real torch of a machine without a GPU."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match=r"torch .* (was built without CUDA|finds no GPU)"):
        open_memory("torch")


def test_a_missing_pycuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(EngineError, match="pycuda is not installed") as caught:
        open_memory("pycuda")
    assert "pip install pycuda" in caught.value.next_step


def test_a_missing_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(EngineError, match="torch is not installed"):
        open_memory("torch")


def test_with_neither_both_reasons_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(EngineError, match="no way to the GPU's memory") as caught:
        open_memory()
    assert caught.value.causes == ("torch is not installed", "pycuda is not installed")


@pytest.mark.usefixtures("torch_memory")
def test_torch_comes_first() -> None:
    assert isinstance(open_memory(), TorchMemory)


@pytest.mark.usefixtures("pycuda_memory")
def test_pycuda_where_torch_has_no_gpu() -> None:
    assert isinstance(open_memory(), PycudaMemory)


@pytest.mark.usefixtures("pycuda_memory")
def test_torch_is_refused_beside_pycuda() -> None:
    with pytest.raises(EngineError, match="torch is asked for the GPU's memory while pycuda uses it"):
        open_memory("torch")


def test_pycuda_is_refused_beside_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = simulated_torch()
    torch.cuda.is_initialized.return_value = True
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(EngineError, match="pycuda is asked for the GPU's memory while torch uses it"):
        open_memory("pycuda")


@pytest.mark.usefixtures("pycuda_memory")
def test_a_torch_that_uses_no_gpu_does_not_disturb_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = simulated_torch()
    torch.cuda.is_initialized.return_value = False
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert open_memory("pycuda").stream == HANDLE


@pytest.mark.usefixtures("pycuda_memory")
def test_a_context_apart_from_the_primary_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.autoinit", ModuleType("pycuda.autoinit"))
    with pytest.raises(EngineError, match="a CUDA context of its own") as caught:
        open_memory("pycuda")
    assert "pycuda.autoprimaryctx" in caught.value.next_step


def test_the_stream_is_not_the_default_one(memory: DeviceMemory) -> None:
    assert memory.stream == HANDLE


def test_values_go_in_and_come_back(memory: DeviceMemory) -> None:
    buffer = memory.allocate(VALUES.nbytes + 16)
    memory.copy_in(buffer, VALUES)
    back = np.empty_like(VALUES)
    memory.copy_out(buffer, back)
    memory.synchronize()
    np.testing.assert_array_equal(back, VALUES)


def test_an_array_that_must_not_be_written_to_goes_in(memory: DeviceMemory) -> None:
    fixed = VALUES.copy()
    fixed.flags.writeable = False
    buffer = memory.allocate(fixed.nbytes)
    memory.copy_in(buffer, fixed)
    back = np.empty_like(VALUES)
    memory.copy_out(buffer, back)
    np.testing.assert_array_equal(back, VALUES)


def test_what_does_not_fit_is_refused(memory: DeviceMemory) -> None:
    buffer = memory.allocate(VALUES.nbytes - 1)
    with pytest.raises(EngineError, match="96 bytes do not fit into a buffer of 95"):
        memory.copy_in(buffer, VALUES)
    with pytest.raises(EngineError, match="do not fit"):
        memory.copy_out(buffer, np.empty_like(VALUES))


def test_gaps_are_refused(memory: DeviceMemory) -> None:
    buffer = memory.allocate(VALUES.nbytes)
    with pytest.raises(EngineError, match="an array with gaps"):
        memory.copy_in(buffer, VALUES.transpose(2, 1, 0))


def test_a_freed_buffer_is_not_used(memory: DeviceMemory) -> None:
    buffer = memory.allocate(8)
    assert buffer.address
    memory.free(buffer)
    memory.free(buffer)
    assert buffer.address == 0
    with pytest.raises(EngineError, match="after it was freed"):
        memory.copy_in(buffer, VALUES)


def test_torch_waits_for_its_current_stream(torch_memory: TorchMemory) -> None:
    torch: Any = sys.modules["torch"]
    torch_memory.wait_for_caller()
    torch.stream.wait_stream.assert_called_once_with(torch.cuda.current_stream.return_value)


def test_torch_works_in_its_own_stream(torch_memory: TorchMemory) -> None:
    torch: Any = sys.modules["torch"]
    torch_memory.copy_in(torch_memory.allocate(VALUES.nbytes), VALUES)
    assert [call.args for call in torch.cuda.stream.call_args_list] == [(torch.stream,)] * 2
    torch_memory.synchronize()
    torch.stream.synchronize.assert_called_once_with()


def test_pycuda_leaves_the_stack_of_contexts_as_it_was(pycuda_memory: PycudaMemory) -> None:
    """Every simulated call demands that the context is current."""
    context: Any = sys.modules["pycuda.autoprimaryctx"].context
    buffer = pycuda_memory.allocate(VALUES.nbytes)
    pycuda_memory.copy_in(buffer, VALUES)
    pycuda_memory.wait_for_caller()
    pycuda_memory.synchronize()
    allocation = buffer.handle
    pycuda_memory.free(buffer)
    assert (context.depth, context.synchronized, allocation.freed) == (0, 1, 1)


def _torch_is_full() -> None:
    sys.modules["torch"].empty = _out_of_memory  # type: ignore[attr-defined]


def _pycuda_is_full() -> None:
    sys.modules["pycuda.driver"].full = True  # type: ignore[attr-defined]


def _out_of_memory(*arguments: Any, **options: Any) -> None:
    raise RuntimeError(f"CUDA out of memory {arguments} {options}")


@pytest.mark.parametrize(("name", "fill"), [("torch_memory", _torch_is_full), ("pycuda_memory", _pycuda_is_full)])
def test_a_full_memory_is_said(name: str, fill: Callable[[], None], request: pytest.FixtureRequest) -> None:
    memory: DeviceMemory = request.getfixturevalue(name)
    fill()
    with pytest.raises(EngineError, match="the GPU did not allocate 1,000 bytes") as caught:
        memory.allocate(1000)
    assert "out of memory" in caught.value.causes[0]
