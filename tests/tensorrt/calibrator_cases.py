"""What happens to a calibrator under the real bindings: calibrator_cases.py PICTURES SCRATCH [CASE ...] prints JSON."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from as_tensorrt import AsTensorRt
from host_memory import HostMemory, read

from edgeq.errors import EdgeqError
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream
from edgeq.tensorrt.calibration_input import Batch
from edgeq.tensorrt.calibrator import CalibrationFeed, entropy_calibrator
from edgeq.tensorrt.loading import load_tensorrt, quiet_deprecations

trt: Any = load_tensorrt()

PICTURES, SCRATCH = Path(sys.argv[1]), Path(sys.argv[2])
SIDE, BATCH = 16, 4
SHAPE = (BATCH, 3, SIDE, SIDE)
OLD = b"TRT-100300-EntropyCalibration2\nimage: 3c010a14\n"
NEW = b"TRT-100300-EntropyCalibration2\nimage: 3d000000\n"
ONES = np.ones(SHAPE, np.float32)

Case = Callable[[], dict[str, Any]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def preprocess() -> Preprocess:
    return Preprocess.from_flags((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), (SIDE, SIDE))


def pictures() -> Iterator[Batch]:
    for _, pixels in ImageStream(ImageSet.open(PICTURES), preprocess(), batch_size=BATCH):
        yield {"image": pixels}


def made(batches: Any, memory: HostMemory | None = None, **options: Any) -> CalibrationFeed:
    options.setdefault("shapes", {"image": SHAPE})
    options.setdefault("say", [].append)
    return entropy_calibrator(trt, batches, memory=memory or HostMemory(), **options)


def verdict(calibrator: CalibrationFeed) -> dict[str, Any]:
    """What the calibrator says of itself after the build."""
    found: dict[str, Any] = {
        "batches": calibrator.batches,
        "left_out": calibrator.left_out,
        "offered": calibrator.cache_offered,
        "rejected": calibrator.cache_rejected,
        "made": calibrator.cache_made and calibrator.cache_made.decode(),
        "notes": calibrator.notes,
        "error": None,
    }
    try:
        calibrator.check()
    except BaseException as error:
        found["error"] = type(error).__name__
        found["said"] = str(error)
        found["cause"] = repr(error.__cause__)
        found["next"] = error.next_step if isinstance(error, EdgeqError) else ""
    return found


@case
def photographs() -> dict[str, Any]:
    """A whole calibration; the digest of each batch as it lies on the device when TensorRT would read it."""
    memory, cache = HostMemory(), SCRATCH / "new.cache"
    calibrator = made(pictures(), memory, cache=cache)
    digests: list[str] = []
    side = AsTensorRt(calibrator)

    def look(addresses: list[int]) -> None:
        digests.append(hashlib.sha256(read(addresses[0], ONES.nbytes)).hexdigest())

    side.calibrate(["image"], made=NEW, look=look)
    found = verdict(calibrator)
    live = len(memory.live)
    calibrator.close()
    return {
        **found,
        "digests": digests,
        "size": side.batch_size(),
        "algorithm": side.algorithm(),
        "is_one": isinstance(calibrator, trt.IInt8EntropyCalibrator2),
        "log": memory.log,
        "live": [live, len(memory.live)],
        "file": cache.read_text(),
    }


@case
def get_batch_raises() -> dict[str, Any]:
    def broken() -> Iterator[Batch]:
        yield {"image": ONES}
        raise OSError("the card was pulled out")

    calibrator = made(broken(), cache=SCRATCH / "partial.cache")
    AsTensorRt(calibrator).calibrate(["image"], made=NEW)
    return {**verdict(calibrator), "written": (SCRATCH / "partial.cache").exists()}


@case
def interrupted() -> dict[str, Any]:
    def pressed() -> Iterator[Batch]:
        yield {"image": ONES}
        raise KeyboardInterrupt

    calibrator = made(pressed())
    AsTensorRt(calibrator).calibrate(["image"])
    return verdict(calibrator)


@case
def two_inputs() -> dict[str, Any]:
    """Asked for in both orders: each address holds the values of the name at its place."""
    shapes = {"image": (2, 3), "mask": (2, 5)}
    values = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in shapes.items()}
    values["mask"] += 100
    calibrator = made([values, values], shapes=shapes)
    side, firsts = AsTensorRt(calibrator), []
    for names in (["image", "mask"], ["mask", "image"]):
        addresses = side.get_batch(names) or []
        firsts.append([float(np.frombuffer(read(address, 4), np.float32)[0]) for address in addresses])
    returned = calibrator.__class__.get_batch(made([values], shapes=shapes), ["mask"])
    return {**verdict(calibrator), "firsts": firsts, "one_asked": len(returned or [])}


@case
def strided() -> dict[str, Any]:
    """Channels last in memory: the device gets C order."""
    values = np.arange(ONES.size, dtype=np.float32).reshape(BATCH, SIDE, SIDE, 3).transpose(0, 3, 1, 2)
    side = AsTensorRt(made([{"image": values}]))  # its memory goes with it
    addresses = side.get_batch(["image"]) or [0]
    return {"same": read(addresses[0], values.nbytes) == values.tobytes()}


@case
def cache_accepted() -> dict[str, Any]:
    path = SCRATCH / "old.cache"
    path.write_bytes(OLD)
    calibrator = made(pictures(), cache=path)
    side = AsTensorRt(calibrator)
    side.calibrate(["image"], made=NEW)
    return {**verdict(calibrator), "given": (side.read_cache() or b"").decode(), "file": path.read_text()}


@case
def cache_rejected() -> dict[str, Any]:
    path = SCRATCH / "rejected.cache"
    path.write_bytes(OLD)
    said: list[str] = []
    calibrator = made(pictures(), cache=path, say=said.append)
    AsTensorRt(calibrator).calibrate(["image"], takes_cache=False, made=NEW)
    return {**verdict(calibrator), "said_aloud": said, "file": path.read_text()}


@case
def cache_rejected_without_images() -> dict[str, Any]:
    calibrator = made([], cache=OLD)
    AsTensorRt(calibrator).calibrate(["image"], takes_cache=False)
    return verdict(calibrator)


@case
def no_cache() -> dict[str, Any]:
    side = AsTensorRt(made([], cache=SCRATCH / "missing.cache"))
    return {"read": side.read_cache()}


@case
def too_few() -> dict[str, Any]:
    calibrator = made([{"image": ONES}] * 2, fewest=3)
    AsTensorRt(calibrator).calibrate(["image"], made=NEW)
    return verdict(calibrator)


@case
def never_asked() -> dict[str, Any]:
    return verdict(made([{"image": ONES}]))


@case
def short_in_the_middle() -> dict[str, Any]:
    calibrator = made([{"image": ONES[:3]}, {"image": ONES}])
    AsTensorRt(calibrator).calibrate(["image"])
    return verdict(calibrator)


@case
def wrong_values() -> dict[str, Any]:
    """What each wrong batch is refused with."""
    wrong = {
        "double": ONES.astype(np.float64),
        "bytes": ONES.astype(np.uint8),
        "larger": np.ones((BATCH, 3, SIDE, SIDE + 1), np.float32),
        "more images": np.ones((BATCH + 1, 3, SIDE, SIDE), np.float32),
        "nan": ONES * np.float32("nan"),
    }
    calibrators = {name: made([{"image": values}]) for name, values in wrong.items()}
    calibrators["other input"] = made([{"picture": ONES}])
    for calibrator in calibrators.values():
        AsTensorRt(calibrator).calibrate(["image"])
    asked_for_more = calibrators["other name"] = made([{"image": ONES}])
    AsTensorRt(asked_for_more).calibrate(["image", "mask"])
    return {name: verdict(calibrator) for name, calibrator in calibrators.items()}


@case
def unwritable_cache() -> dict[str, Any]:
    (SCRATCH / "file").write_text("")
    calibrator = made(pictures(), cache=SCRATCH / "file" / "a.cache")
    AsTensorRt(calibrator).calibrate(["image"], made=NEW)
    return verdict(calibrator)


@case
def deprecated() -> dict[str, Any]:
    """A deprecation that -W error turns into an exception makes the bindings call Python with it, which fails."""
    calibrator = made([{"image": ONES}])
    of_base = trt.IInt8EntropyCalibrator2.get_batch_size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loud = of_base(calibrator)
        with quiet_deprecations():
            quiet = of_base(calibrator)
        return {"loud": loud, "quiet": quiet, "as_tensorrt_does": AsTensorRt(calibrator).batch_size()}


@case
def bindings_alone() -> dict[str, Any]:
    """What the traps are: the bindings swallow what is raised, and get_batch is over."""

    class Careless(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def get_batch(self, names: list[str]) -> list[int]:
            raise OSError(f"lost {names}")

    return {"swallowed": AsTensorRt(Careless()).get_batch(["image"])}


if __name__ == "__main__":
    print(json.dumps({name: CASES[name]() for name in sys.argv[3:] or CASES}))
