"""The INT8 calibrator of TensorRT 10: a subclass of IInt8EntropyCalibrator2 over a stream of batches.

TensorRT swallows what a calibrator raises: it prints it, ends calibration early and builds an engine from the batches
so far. It copies as many addresses as the network has inputs, however many it is given. It says nowhere whether it
took a cache. So everything that happens is noted here, and `check` speaks up after the build:

    calibrator = entropy_calibrator(trt, batches, shapes={"input": (8, 3, 32, 32)}, memory=memory, cache=path)
    ...                    # config.int8_calibrator = calibrator; build
    calibrator.check()     # raises what went wrong on the way
    calibrator.close()     # the device's buffers must live until the build is over

Batches have the calibration profile's shape, which is OPT for all of MIN, OPT and MAX; a short last one is left out.
TensorRT's source is closed, but its Python bindings' is not (`python/src/infer/pyInt8.cpp` in NVIDIA/TensorRT): that
is where the above can be read, and the tests go through the same virtual methods as TensorRT.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import CalibrationError, EdgeqError, InputError, first_line
from edgeq.files import atomic_write
from edgeq.tensorrt.buffer import Buffer, DeviceMemory
from edgeq.tensorrt.calibration_input import Batch, batch_size, count_images, read_cache
from edgeq.tensorrt.loading import quiet_deprecations

__all__ = ["CalibrationFeed", "entropy_calibrator"]

_LOG: Final = logging.getLogger(__name__)


class CalibrationFeed:
    """What the calibrator does, without TensorRT's base class: `entropy_calibrator` joins the two.

    Args:
        batches, shapes, memory, cache, fewest, say: as for `entropy_calibrator`.

    Attributes:
        batches: how many TensorRT was given.
        left_out: images of a short last batch, which TensorRT was not given.
        failure: the first exception of one of the methods, also KeyboardInterrupt; None so far.
        cache_offered: whether there was a cache to give.
        cache_rejected: whether TensorRT asked for batches although it had been given a cache.
        cache_made: what TensorRT wrote after a complete calibration; None so far.
        notes: what a person should know, in sentences.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        shapes: Mapping[str, tuple[int, ...]],
        memory: DeviceMemory,
        cache: bytes | Path | None,
        fewest: int,
        say: Callable[[str], None],
    ) -> None:
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._batch_size = batch_size(self._shapes)
        self._source = iter(batches)
        self._memory = memory
        self._buffers: dict[str, Buffer] = {}
        self._path = cache if isinstance(cache, Path) else None
        self._cache = read_cache(cache)
        self._fewest = fewest
        self._tell = say
        self._failed_in = ""
        self.batches = 0
        self.left_out = 0
        self.failure: BaseException | None = None
        self.cache_offered = False
        self.cache_rejected = False
        self.cache_made: bytes | None = None
        self.notes: list[str] = []

    def get_batch_size(self) -> int:
        """Images in a batch."""
        return self._batch_size

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        """The addresses of the next batch, one for each of `names` in their order; None when there is none left."""
        with self._noted("get_batch"):
            return self._next_addresses(names) if self.failure is None else None
        return None

    def read_calibration_cache(self) -> bytes | None:
        """The cache that stands for calibration; None asks for batches."""
        self.cache_offered = self._cache is not None
        return self._cache

    def write_calibration_cache(self, cache: Any) -> None:
        """Keep what TensorRT found, and write it where the cache was looked for; not if batches were missing."""
        with self._noted("write_calibration_cache"):
            if self.failure is None and self.batches >= self._fewest:
                self.cache_made = bytes(cache)  # a view over memory that TensorRT frees behind this call
                if self._path is not None:
                    atomic_write(self._path, self.cache_made)

    def check(self) -> None:
        """Raise what went wrong; to be called when the build is over, whatever came of it.

        Raises:
            CalibrationError: a method failed (the cause is chained), or TensorRT was given fewer batches than it must.
            KeyboardInterrupt: it was pressed during calibration.
        """
        if isinstance(self.failure, Exception):
            raise self._failed(self.failure) from self.failure
        if self.failure is not None:
            raise self.failure
        if self.cache_offered and not self.cache_rejected:
            return
        if self.batches < self._fewest:
            raise self._too_few()

    def close(self) -> None:
        """Free the device's buffers and end the stream of batches; not before the build is over."""
        for buffer in self._buffers.values():
            self._memory.free(buffer)
        self._buffers = {}
        end = getattr(self._source, "close", None)  # a generator may hold threads
        if end is not None:
            end()

    @contextmanager
    def _noted(self, method: str) -> Iterator[None]:
        """Keep the first exception: TensorRT would print it and go on."""
        try:
            yield
        except BaseException as error:  # KeyboardInterrupt is swallowed like the others
            if self.failure is None:
                self.failure, self._failed_in = error, method

    def _next_addresses(self, names: Sequence[str]) -> list[int] | None:
        """Copy the next batch to the device."""
        self._notice_rejection()
        unknown = sorted(set(names) - set(self._shapes))
        if unknown:
            raise CalibrationError(
                f"TensorRT asks for values of {', '.join(unknown)}", expected=f"inputs {', '.join(self._shapes)}"
            )
        batch = self._next_full()
        if batch is None:
            return None
        arrays = {name: np.ascontiguousarray(batch[name]) for name in names}
        addresses = [self._copy(name, arrays[name]) for name in names]
        self._memory.synchronize()
        self.batches += 1
        return addresses

    def _notice_rejection(self) -> None:
        if self.cache_offered and not self.cache_rejected:
            self.cache_rejected = True
            header = (self._cache or b"").partition(b"\n")[0].decode("ascii")
            self._say(f"TensorRT rejected the calibration cache ({header}): it calibrates again, on images")

    def _next_full(self) -> Batch | None:
        """The next batch; None behind the last full one."""
        batch = next(self._source, None)
        if batch is None:
            return None
        images = count_images(batch, self._shapes)
        if images == self._batch_size:
            return batch
        if next(self._source, None) is not None:
            raise CalibrationError(
                f"batch {self.batches + 1} has {images} images and is not the last",
                expected=f"batches of {self._batch_size}",
            )
        self.left_out = images
        self._say(f"{images} images are left out of calibration: they do not fill a batch of {self._batch_size}")
        return None

    def _copy(self, name: str, array: NDArray[np.float32]) -> int:
        """The address of one input's values on the device."""
        if name not in self._buffers:
            self._buffers[name] = self._memory.allocate(array.nbytes)
        self._memory.copy_in(self._buffers[name], array)
        return self._buffers[name].address

    def _say(self, note: str) -> None:
        self.notes.append(note)
        self._tell(note)

    def _failed(self, failure: Exception) -> CalibrationError:
        known = failure if isinstance(failure, EdgeqError) else None
        return CalibrationError(
            f"calibration failed after {self.batches} batches, in {self._failed_in}: {first_line(failure)}",
            expected=known.expected if known else "",
            causes=known.causes if known else (),
            next_step=known.next_step if known else "",
        )

    def _too_few(self) -> CalibrationError:
        causes = [f"{self.left_out} images did not fill a batch"] if self.left_out else []
        if self.cache_rejected:
            causes.append("TensorRT rejected the calibration cache")
        elif not (self.batches or self.left_out):
            causes.append("TensorRT never asked for a batch: INT8 is not set, or there are no images")
        return CalibrationError(
            f"TensorRT was calibrated on {self.batches} batches of {self._batch_size} images",
            expected=f"at least {self._fewest}",
            causes=causes,
            next_step="give more calibration images, or a cache that this release of TensorRT wrote",
        )


def entropy_calibrator(
    trt: ModuleType,
    batches: Iterable[Batch],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    memory: DeviceMemory,
    cache: bytes | Path | None = None,
    fewest: int = 1,
    say: Callable[[str], None] = _LOG.warning,
) -> CalibrationFeed:
    """A calibrator for `config.int8_calibrator`.

    Args:
        trt: TensorRT 10.
        batches: what the network is calibrated on, preprocessed; gone through once.
        shapes: of each input, the OPT shape of the calibration profile; the first axis counts the images.
        memory: where batches are copied to.
        cache: a calibration cache to offer. A path is read if it exists, and written after a calibration.
        fewest: batches that TensorRT must have taken unless it took the cache; at least 1.
        say: is told in a sentence when a cache is rejected and when images are left out.

    Raises:
        CalibrationError: this TensorRT has no calibrators.
        ArtifactError: the cache cannot be read or is none of IInt8EntropyCalibrator2.
        InputError: a shape is not fixed, inputs have different numbers of images, or `fewest` is below 1.
    """
    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        raise CalibrationError(
            f"TensorRT {trt.__version__} has no calibrators: release 11 removed them",
            next_step="build with explicit quantization, from the graph with Q/DQ pairs",
        )
    if fewest < 1:
        raise InputError(f"{fewest} calibration batches were asked for, expected at least 1")
    with quiet_deprecations():
        return _subclass(trt)(batches, shapes, memory, cache, fewest, say)


def _subclass(trt: Any) -> type[CalibrationFeed]:
    """The feed joined with TensorRT's base class. The feed stands first: its methods override the others."""

    class EntropyCalibrator(CalibrationFeed, trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)  # without it the bindings refuse the object
            CalibrationFeed.__init__(self, *arguments)

    return EntropyCalibrator
