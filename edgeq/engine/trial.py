"""A first run of a graph that nobody vouches for, in a child with limits.

What a graph costs is not to be read from its file: a loop goes round as often as its own numbers say, and a few bytes
may ask for an image of terabytes. ONNX Runtime hears no signal while it computes. So a graph is run once where it can
be killed, before this process runs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeq.confined.limits import Limits, Made
from edgeq.confined.worker import run_confined
from edgeq.errors import LimitError
from edgeq.faults import is_out_of_memory
from edgeq.files import sha256_file

__all__ = ["trial_limits", "trial_run"]

_LEAST_S, _S_PER_GB = 90.0, 120.0
_LEAST_BYTES, _TIMES_ITS_SIZE = 6 << 30, 6
_LARGEST: Final = 8 << 30
_AXES: Final = 8
_REMEMBERED_BYTES: Final = 64 << 20
"""Of a directory, at most: reading more would cost as much as the run."""
_PASSED: Final[set[tuple[str, tuple[int, int, int], Limits]]] = set()
"""Graphs that this process has seen pass: one model is often prepared several times, with other options."""
_SCALARS: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def trial_run(path: Path, image: tuple[int, int, int], *, limits: Limits | None = None) -> None:
    """Run an ONNX file once, on a grey image; not again for the same bytes in its directory.

    What goes wrong but for its costs is left to those who run it in earnest: they say it better.

    Args:
        path: of the file.
        image: channels, height and width, which stand for its open axes.
        limits: of the run; None takes `trial_limits`.

    Raises:
        LimitError: it takes more time or memory, or it ends the process.
    """
    plain = {"path": str(path.resolve()), "image": image}
    given = limits or trial_limits(path.parent)
    digest = _digest(path)
    if digest and (digest, image, given) in _PASSED:
        return
    try:
        run_confined(f"{__name__}:run", plain, limits=given, what=str(path), modules=["onnxruntime"])
    except LimitError as error:
        raise LimitError(
            error.what,
            expected=f"a run on one image within {given}",
            causes=("it has a loop that does not end", "it makes tensors of a size that no image asks for"),
        ) from error
    if digest:
        _PASSED.add((digest, image, given))


def _digest(path: Path) -> str | None:
    """Of a graph and all files beside it, its weights among them; None where these are large, or more than files."""
    try:
        files = sorted(path.parent.iterdir())
        if not all(file.is_file() for file in files) or sum(file.stat().st_size for file in files) > _REMEMBERED_BYTES:
            return None
        whole = hashlib.sha256(path.name.encode())
        for file in files:
            whole.update(f"\n{file.name}\n{sha256_file(file)}".encode())
    except OSError:
        return None
    return whole.hexdigest()


def trial_limits(directory: Path) -> Limits:
    """By the bytes of the files in a directory, which hold a graph and its weights."""
    size = min(_LARGEST, sum(file.stat().st_size for file in directory.iterdir() if file.is_file()))
    seconds = _LEAST_S + _S_PER_GB * size / 1e9
    return Limits(seconds, _LEAST_BYTES + _TIMES_ITS_SIZE * size, cpu_seconds=8 * seconds)


def run(plain: Mapping[str, Any], _data: bytearray) -> Made:
    """Called in the child."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(plain["path"], options, providers=["CPUExecutionProvider"])
        session.run(None, {each.name: _grey(each.type, each.shape, plain["image"]) for each in session.get_inputs()})
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        if is_out_of_memory(error):
            raise MemoryError from error
    return Made({})


def _grey(kind: str, shape: list[Any], image: list[int]) -> np.ndarray[Any, Any]:
    """An input of ones: open axes of an image [batch, C, H, W] as the preprocessing makes it, all others 1."""
    axes = [1, *image] if len(shape) == 1 + len(image) else [1] * len(shape)
    sizes = [axis if isinstance(axis, int) and axis > 0 else known for axis, known in zip(shape, axes, strict=True)]
    return np.ones(sizes[:_AXES], _SCALARS.get(kind, np.float32))
