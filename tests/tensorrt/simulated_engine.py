"""A TensorRT engine, simulated: autospecs of the bindings' real classes, so that a name they lack is an error.

The network in it gives `doubled` = 2 x `image` and `half` = `image` in FP16. It computes when execute_async_v3 is
called, from and to the addresses that were set. With `order`, int64 [n], it has a second input, and `half` has the
images in that order. With several optimization profiles each context runs shapes of its own profile alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from host_memory import STREAM, read

__all__ = ["PROFILE", "SimulatedTensorRt"]

PROFILE = [(1, 3, 2, 2), (4, 3, 2, 2), (8, 3, 2, 2)]
ORDER = [(1,), (4,), (8,)]


class SimulatedTensorRt:
    """Everything but Runtime is the real module.

    Args:
        trt: the bindings.
        order: the engine has the second input.
        profiles: shapes of `image` for each optimization profile: smallest, usual, largest.

    Attributes:
        module: to be given in the place of TensorRT.
        engine: what it deserializes; its properties and return values may be changed before it is.
        context: of the engine, the first.
        contexts: all that were made of an engine with several profiles.
        chosen: the profile of each of these, once it was told.
        said: what TensorRT logs while it deserializes.
        given: the bytes it was given.
    """

    def __init__(self, trt: Any, *, order: bool = False, profiles: Sequence[Any] = (PROFILE,)) -> None:
        self.trt = trt
        self._profiles = profiles
        self.contexts: list[Any] = []
        self.chosen: list[int] = []
        self._inputs = ("image", "order") if order else ("image",)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.said: list[str] = []
        self.given: Any = None
        self.context = self._context(0)
        self.engine: Any = self._engine()
        runtime = mock.create_autospec(trt.Runtime, spec_set=True)
        runtime.side_effect = self._start
        self._runtime = runtime.return_value
        self._runtime.deserialize_cuda_engine.side_effect = self._deserialize
        self.module: Any = SimpleNamespace(**{**vars(trt), "Runtime": runtime})
        self._addresses: dict[str, int] = {}

    def calls(self) -> list[str]:
        """The context's methods that were called since it was made, in order."""
        return [call[0] for call in self.context.mock_calls]

    def _engine(self) -> Any:
        trt = self.trt
        names = [*self._inputs, "doubled", "half"]
        engine = mock.create_autospec(trt.ICudaEngine, instance=True, spec_set=True)
        engine.num_io_tensors = len(names)
        engine.get_tensor_name.side_effect = names.__getitem__
        engine.get_tensor_mode.side_effect = lambda name: (
            trt.TensorIOMode.INPUT if name in self._inputs else trt.TensorIOMode.OUTPUT
        )
        types = {"image": trt.float32, "order": trt.int64, "doubled": trt.float32, "half": trt.float16}
        engine.get_tensor_dtype.side_effect = types.get
        engine.get_tensor_location.return_value = trt.TensorLocation.DEVICE
        engine.get_tensor_profile_shape.side_effect = self._profile
        engine.num_optimization_profiles = len(self._profiles)
        engine.create_execution_context.return_value = self.context
        if len(self._profiles) > 1:
            engine.create_execution_context.side_effect = self._next_context
        return engine

    def _next_context(self) -> Any:
        made = self._context(len(self.contexts)) if self.contexts else self.context
        self.contexts.append(made)
        self.chosen.append(0 if made is self.context else -1)  # TensorRT gives the first one the first profile
        return made

    def _context(self, number: int) -> Any:
        def choose(profile: int, stream: int) -> bool:
            assert stream == STREAM
            self.chosen[number] = profile
            return True

        def set_input_shape(name: str, shape: tuple[int, ...]) -> bool:
            if self.chosen and name == "image":
                least, _, most = self._profiles[self.chosen[number]]
                assert all(a <= size <= z for a, size, z in zip(least, shape, most, strict=True))
            return self._set_input_shape(name, shape)

        context = mock.create_autospec(self.trt.IExecutionContext, instance=True, spec_set=True)
        context.set_optimization_profile_async.side_effect = choose
        context.set_input_shape.side_effect = set_input_shape
        context.infer_shapes.return_value = []
        context.get_tensor_shape.side_effect = lambda _: self.trt.Dims(self._shapes["image"])
        context.set_tensor_address.side_effect = self._set_tensor_address
        context.execute_async_v3.side_effect = self._execute
        return context

    def _start(self, logger: Any) -> Any:
        assert isinstance(logger, self.trt.ILogger)
        self._logger = logger
        return self._runtime

    def _deserialize(self, data: Any) -> Any:
        self.given = data
        for text in self.said:
            self._logger.log(self.trt.ILogger.Severity.ERROR, text)
        self._logger.log(self.trt.ILogger.Severity.INFO, "loaded")
        return self.engine

    def _profile(self, name: str, index: int) -> list[Any]:
        shapes: list[tuple[int, ...]] = list(self._profiles[index]) if name == "image" else list(ORDER)
        return [self.trt.Dims(shape) for shape in shapes]

    def _set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in self._inputs
        self._shapes[name] = tuple(self.trt.Dims(shape))
        return True

    def _set_tensor_address(self, name: str, address: int) -> bool:
        assert address
        assert address % 256 == 0
        self._addresses[name] = address
        return True

    def _execute(self, stream: int) -> bool:
        assert stream == STREAM
        shape = self._shapes["image"]
        image = np.frombuffer(read(self._addresses["image"], int(np.prod(shape)) * 4), np.float32).reshape(shape)
        half = image.astype(np.float16)
        if "order" in self._inputs:
            assert self._shapes["order"] == shape[:1]
            half = half[np.frombuffer(read(self._addresses["order"], shape[0] * 8), np.int64)]
        _write(self._addresses["doubled"], image * 2)
        _write(self._addresses["half"], half)
        return True


def _write(address: int, values: Any) -> None:
    ctypes.memmove(address, values.ctypes.data, values.nbytes)
