"""The calibration stage: an exported graph, a plan and images to `scales.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from edgeq.calibrate.diagnose import drift
from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.observe import Arrival, Observer
from edgeq.calibrate.scales import Scales, TensorScale
from edgeq.calibrate.thresholds import METHODS
from edgeq.errors import ArtifactError, CalibrationError
from edgeq.files import sha256_file
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream

__all__ = ["AUTO", "CALIBRATION_IMAGES", "SCALES", "SEARCH", "WITHOUT_TRIALS", "calibrate", "hold_back"]

SCALES = "scales.json"
AUTO = "auto"
"""The method that tries the others, and the default."""
SEARCH = "search"
"""`auto`, and then a search for each tensor's own range, which starts from what `auto` chose."""
WITHOUT_TRIALS = "mse"
"""What `auto` stands for where there are too few images to try anything on."""
CALIBRATION_IMAGES = 512
"""How many images of a larger set are taken."""

_HELD_BACK = 64
_FEWEST_HELD_BACK = 8
_SMALL_IMAGE = 96 * 96  # up to this size 64 images are held back; fewer of larger ones, 12 at the least
_HELD_BACK_LARGE = 12
_WORKERS = 2
_CHECKPOINT_IMAGES = 64


def hold_back(images: ImageSet, preprocess: Preprocess, method: str) -> tuple[ImageSet, ImageSet | None]:
    """Part a calibration set into what is counted and what `auto` judges by.

    A quarter is held back, at most 64 images of up to 96 x 96 pixels or 12 of 224 x 224, which take `auto` as long;
    nothing where that would be fewer than eight, or for another method.

    Args:
        images: the calibration set.
        preprocess: its height and width say how large an image is.
        method: of calibration; nothing is held back unless it is `auto`.
    """
    affordable = _HELD_BACK * _SMALL_IMAGE // (preprocess.height * preprocess.width)
    count = min(_HELD_BACK, max(_HELD_BACK_LARGE, affordable), len(images) // 4)
    if method != AUTO or count < _FEWEST_HELD_BACK:
        return images, None
    held = images.sample(count, seed=1)
    return images.without(held.items), held


def calibrate(
    graph: Path,
    tensors: Sequence[str],
    images: ImageSet,
    preprocess: Preprocess,
    *,
    method: str = WITHOUT_TRIALS,
    threads: int | None = None,
    checkpoint: Path | None = None,
    total: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[Scales, tuple[str, ...]]:
    """The scales, and the names of the images that could not be read.

    Args:
        graph: the FP32 file.
        tensors: those that need a scale.
        images: the calibration images, all of which are used.
        preprocess: as the network was trained with.
        method: whose range is used; every method's is stored. `auto` counts as the one it falls back to.
        threads: of one operator.
        checkpoint: a file to go on from where it exists, and to save to on the way.
        total: size of the set that `images` is a part of; the share of unusable images is that of the whole.
        advance: called with the number of images just seen.

    Raises:
        ImageError: too many images cannot be read.
        CalibrationError: a tensor holds NaN or infinity, no image was seen, or the checkpoint is of another run.
    """
    with ThreadPoolExecutor(1) as pool:  # the file is hashed while ONNX Runtime opens it
        hashed = pool.submit(sha256_file, graph)
        observer = Observer(graph, tensors, threads=threads)
        started = Scales(
            graph_sha256=hashed.result(),
            preprocess_sha256=preprocess.digest,
            images=0,
            method=WITHOUT_TRIALS if method == AUTO else method,
            tensors={},
        )
    seen, resumed = _go_on(checkpoint, started, tensors)
    observer.histograms.update(resumed or {})
    left = images.without(_already(images, seen))
    if advance and len(left) < len(images):
        advance(len(images) - len(left))
    stream = ImageStream(left, preprocess, batch_size=1, total=total or len(images))
    digests: dict[str, str] = {}
    arrivals = _arrivals(images, stream, digests)
    portion = _CHECKPOINT_IMAGES if checkpoint else None
    while counted := _count(observer, islice(arrivals, portion), advance):
        seen += (digests.pop(name) for name in counted)
        if checkpoint and len(counted) == portion:
            _scales(started, observer, seen, methods=()).save(checkpoint)  # it needs the histograms alone
    if not seen:
        raise CalibrationError(
            "no calibration image was seen",
            causes=("the folder holds no readable image",),
            next_step="give a folder or zip of images with --images",
        )
    scales = _scales(started, observer, seen)
    if resumed is None and any(map(_in_last_tenth, seen)):
        scales = scales.model_copy(update={"drift": drift(observer.histograms, observer.late)})
    return scales, tuple(image.name for image in stream.skipped)


def _arrivals(images: ImageSet, stream: ImageStream, digests: dict[str, str]) -> Iterator[Arrival]:
    """The images of the stream; notes the digest of each under its name."""
    for item, pixels in stream.singles():
        digests[item.name] = _digest(images, item)
        yield item.name, pixels, _in_last_tenth(digests[item.name])


def _count(observer: Observer, arrivals: Iterable[Arrival], advance: Callable[[int], None] | None) -> list[str]:
    """Count images; gives their names."""
    counted = []
    for name in observer.count(arrivals):
        counted.append(name)
        if advance:
            advance(1)
    return counted


def _in_last_tenth(digest: str) -> bool:
    """Whether an image is of the tenth that is compared with the rest: by its digest, so that no order matters."""
    return int(digest[:8], 16) % 10 == 0


def _scales(started: Scales, observer: Observer, seen: Sequence[str], methods: Iterable[str] = METHODS) -> Scales:
    merged = observer.merged()
    with ThreadPoolExecutor(_WORKERS) as pool:
        made = pool.map(lambda histogram: TensorScale.from_histogram(histogram, methods), merged.values())
        tensors = dict(zip(merged, made, strict=True))
    return started.model_copy(update={"images": len(seen), "image_digests": tuple(sorted(seen)), "tensors": tensors})


def _digest(images: ImageSet, item: ImageItem) -> str:
    return images.digest(item)[:32]


def _already(images: ImageSet, seen: Iterable[str]) -> list[ImageItem]:
    """The images that an interrupted run has counted."""
    digests = set(seen)
    return [item for item in images.items if _digest(images, item) in digests] if digests else []


def _go_on(
    checkpoint: Path | None, started: Scales, tensors: Sequence[str]
) -> tuple[list[str], dict[str, Histogram] | None]:
    """What an interrupted run has counted: the images' digests and the histograms."""
    if checkpoint is None or not checkpoint.exists():
        return [], None
    found = Scales.load(checkpoint)
    same = found.graph_sha256 == started.graph_sha256 and found.preprocess_sha256 == started.preprocess_sha256
    if not same or set(found.tensors) != set(tensors):
        raise CalibrationError(
            f"{checkpoint} was left by a run on another graph or with another preprocessing",
            next_step=f"remove {checkpoint} to begin anew",
        )
    histograms = {}
    for name in tensors:
        tensor = found.tensors[name]
        if tensor.histogram is None:
            raise ArtifactError(f"{checkpoint} holds no histograms", next_step=f"remove {checkpoint} to begin anew")
        histograms[name] = tensor.histogram.unpack(tensor.minimum, tensor.maximum)
    return list(found.image_digests), histograms
