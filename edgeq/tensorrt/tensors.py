"""What an engine takes and gives: names, types, shapes, and tensors that are on the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import numpy as np

from edgeq.errors import EngineError, first_line

__all__ = ["DeviceTensor", "EngineTensor", "Shape", "check_feeds", "read_slots"]

Shape = tuple[int, ...]

_ALIGNMENT: Final = 256


@dataclass(frozen=True)
class DeviceTensor:
    """Values that are on the device, C-contiguous.

    torch, cupy and others take one as it is, without a copy: `torch.as_tensor(tensor, device="cuda")`.

    Attributes:
        address: of the first value; a multiple of 256 where an engine is to use it.
        shape: of the values.
        dtype: of the values.
        owner: what must live as long as the address is used.
    """

    address: int
    shape: Shape
    dtype: np.dtype[Any]
    owner: Any = field(default=None, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """The size of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The same for other libraries (CUDA Array Interface, version 3, numba.readthedocs.io)."""
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
        }

    @classmethod
    def of(cls, other: Any) -> DeviceTensor:
        """A CUDA tensor of torch, or another object with the CUDA Array Interface; nothing is copied.

        Raises:
            EngineError: it is not on a GPU, has gaps between its values, or has a type that the interface has not.
        """
        try:
            interface = other.__cuda_array_interface__
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise EngineError(
                f"this {type(other).__name__} cannot be used where it lies",
                expected="a tensor on the GPU, of a type that numpy has",
                causes=(first_line(error),),
            ) from error
        if interface.get("strides") is not None:
            raise EngineError("a tensor has gaps between its values", next_step="call .contiguous() on it")
        return cls(interface["data"][0], tuple(interface["shape"]), np.dtype(interface["typestr"]), other)


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine.

    Attributes:
        name: of the tensor.
        dtype: of its values.
        ranges: the smallest and the largest shape, for each optimization profile; of an output, empty.
        is_input: or an output.
    """

    name: str
    dtype: np.dtype[Any]
    ranges: tuple[tuple[Shape, Shape], ...]
    is_input: bool


def read_slots(trt: ModuleType, engine: Any) -> tuple[EngineTensor, ...]:
    """The inputs and outputs of an engine, in its order.

    Raises:
        EngineError: one has a type that numpy lacks, or is to be in the host's memory.
    """
    return tuple(_read_slot(trt, engine, engine.get_tensor_name(index)) for index in range(engine.num_io_tensors))


def check_feeds(slots: Iterable[EngineTensor], feeds: Mapping[str, Any]) -> int:
    """Compare what is fed (anything with `shape` and `dtype`) with an engine's inputs.

    Returns:
        The number of the first optimization profile that all shapes are within.

    Raises:
        EngineError: a name, type or shape is not the engine's, or a tensor's address is not one that it may use.
    """
    inputs = {slot.name: slot for slot in slots if slot.is_input}
    if set(feeds) != set(inputs):
        raise EngineError(
            f"the engine was given {_names(feeds) or 'no inputs'}", expected=f"exactly its inputs: {_names(inputs)}"
        )
    fitting = [_check_feed(slot, feeds[name]) for name, slot in inputs.items()]
    together = frozenset.intersection(*fitting)
    if not together:
        shapes = ", ".join(f"{name} {list(feeds[name].shape)}" for name in inputs)
        raise EngineError(
            f"the inputs have the shapes {shapes}",
            expected="all of them within one optimization profile of the engine",
            next_step="split the batch",
        )
    return min(together)


def _check_feed(slot: EngineTensor, feed: Any) -> frozenset[int]:
    """The numbers of the optimization profiles that a feed is within; one at least."""
    if feed.dtype != slot.dtype:
        raise EngineError(f"input {slot.name} was given as {feed.dtype}", expected=f"{slot.dtype}")
    shape = tuple(feed.shape)
    fitting = frozenset(number for number, (least, most) in enumerate(slot.ranges) if _within(least, shape, most))
    if not fitting:
        ranges = ", or ".join(f"{list(least)} to {list(most)}" for least, most in slot.ranges)
        raise EngineError(
            f"input {slot.name} has shape {list(shape)}",
            expected=f"within the engine's profile: {ranges}",
            next_step="split the batch, or build the engine with another profile (edgeq build --batch)",
        )
    if isinstance(feed, DeviceTensor) and feed.address % _ALIGNMENT:
        raise EngineError(
            f"input {slot.name} lies at an address that is not a multiple of {_ALIGNMENT}",
            causes=("it is a slice of a larger tensor",),
            next_step="copy it into a tensor of its own",
        )
    return fitting


def _within(least: Shape, shape: Shape, most: Shape) -> bool:
    return len(shape) == len(most) and all(a <= size <= z for a, size, z in zip(least, shape, most, strict=True))


def _read_slot(trt: ModuleType, engine: Any, name: str) -> EngineTensor:
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise EngineError(f"tensor {name} of the engine lies in the host's memory: shapes as values are not supported")
    try:
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
    except TypeError as error:
        raise EngineError(
            f"tensor {name} of the engine is {engine.get_tensor_dtype(name)}", expected="a type that numpy has"
        ) from error
    if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
        return EngineTensor(name, dtype, (), is_input=False)
    shapes = (engine.get_tensor_profile_shape(name, number) for number in range(engine.num_optimization_profiles))
    return EngineTensor(name, dtype, tuple((tuple(least), tuple(most)) for least, _, most in shapes), is_input=True)


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
