"""Calls a calibrator as TensorRT does: through the virtual methods of the C++ object below the Python one.

The bindings' own code is on the way then: it looks up the Python method, converts what it returns, and swallows what it
raises. `calibrator.get_batch(...)` from Python would call the Python method and nothing else. The order of the methods
is that of NvInfer.h (release 10) in the table that the Itanium C++ ABI prescribes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["AsTensorRt"]

_METHODS = (
    *("getAPILanguage", "getInterfaceInfo", "destructor", "deleting destructor"),
    *("getBatchSize", "getBatch", "readCalibrationCache", "writeCalibrationCache", "getAlgorithm"),
)

_POINTER = ctypes.sizeof(ctypes.c_void_p)
_VALUE = object.__basicsize__  # pybind11 keeps the C++ object's address right behind Python's own fields


class AsTensorRt:
    """TensorRT's side of a calibrator."""

    def __init__(self, calibrator: Any) -> None:
        self._calibrator = calibrator  # kept alive
        self._object = _pointer(id(calibrator) + _VALUE)
        self._table = _pointer(self._object)

    def batch_size(self) -> int:
        return int(self._method("getBatchSize", ctypes.c_int32)(self._object))

    def algorithm(self) -> int:
        return int(self._method("getAlgorithm", ctypes.c_int32)(self._object))

    def read_cache(self) -> bytes | None:
        length = ctypes.c_size_t(0)
        method = self._method("readCalibrationCache", ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t))
        data = method(self._object, ctypes.byref(length))
        return None if data is None else ctypes.string_at(data, length.value)

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        """The addresses; None where there is no batch."""
        array = ctypes.POINTER(ctypes.c_char_p)
        method = self._method("getBatch", ctypes.c_bool, ctypes.POINTER(ctypes.c_void_p), array, ctypes.c_int32)
        addresses = (ctypes.c_void_p * len(names))()
        encoded = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
        if not method(self._object, addresses, encoded, len(names)):
            return None
        return [int(address or 0) for address in addresses]

    def write_cache(self, data: bytes) -> None:
        """The memory is overwritten afterwards, as freed memory is."""
        memory = ctypes.create_string_buffer(data, len(data))
        self._method("writeCalibrationCache", None, ctypes.c_void_p, ctypes.c_size_t)(
            self._object, ctypes.addressof(memory), len(data)
        )
        ctypes.memset(memory, 0, len(data))

    def calibrate(
        self,
        names: Sequence[str],
        *,
        takes_cache: bool = True,
        made: bytes = b"",
        look: Callable[[list[int]], object] = len,
    ) -> None:
        """What a build does: offer, then batches until there are none, then the cache."""
        self.batch_size()
        self.algorithm()
        if self.read_cache() is not None and takes_cache:
            return
        while (addresses := self.get_batch(names)) is not None:
            look(addresses)
        self.write_cache(made)

    def _method(self, name: str, result: Any, *arguments: Any) -> Any:
        address = _pointer(self._table + _METHODS.index(name) * _POINTER)
        return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(address)  # without the GIL, as in a build


def _pointer(address: int) -> int:
    found = ctypes.c_void_p.from_address(address).value
    assert found, "a null pointer where the C++ object should be"
    return found
