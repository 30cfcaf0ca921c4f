"""What the guards look at, gathered before any long work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from edgeq.errors import ImageError
from edgeq.model.images.image_set import ImageSet
from edgeq.plan.precision import PrecisionPlan

__all__ = ["Facts", "image_facts", "shared_images"]


@dataclass(frozen=True)
class Facts:
    """What is known. Where something is not, it is None or empty, and no guard speaks of it.

    Attributes:
        plan: the precision plan.
        config: the model's `config.json`.
        calibration_images: how many there are to calibrate on.
        shared_images: names of the evaluation images that are among the calibration images.
        calibration_preprocess: digest of the preprocessing that calibration images go through.
        evaluation_preprocess: likewise for what the network is judged and used on.
        pixel_deviation: of some images as the network takes them, the largest standard deviation of a channel.
    """

    plan: PrecisionPlan | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    calibration_images: int | None = None
    shared_images: tuple[str, ...] = ()
    calibration_preprocess: str | None = None
    evaluation_preprocess: str | None = None
    pixel_deviation: float | None = None


def image_facts(calibration: ImageSet | None, evaluation: ImageSet | None, config: Mapping[str, Any]) -> Facts:
    """What is known of a model and its images before anything is computed; every image is read, none decoded.

    Args:
        calibration: images to calibrate on; None where they are not known, and then nothing is said of any.
        evaluation: images to judge by; None for none.
        config: the model's `config.json`.
    """
    if calibration is None:
        return Facts(config=config)
    shared = () if evaluation is None else shared_images(calibration, evaluation)
    return Facts(config=config, calibration_images=len(calibration), shared_images=shared)


def shared_images(calibration: ImageSet, evaluation: ImageSet) -> tuple[str, ...]:
    """Names of the evaluation images whose bytes are those of a calibration image, whatever its name.

    An image that cannot be read is left out: the stages name it.
    """
    seen = {digest for _, digest in _digests(calibration)}
    return tuple(name for name, digest in _digests(evaluation) if digest in seen)


def _digests(images: ImageSet) -> Iterator[tuple[str, str]]:
    for item in images.items:
        with suppress(ImageError):
            yield item.name, images.digest(item)
