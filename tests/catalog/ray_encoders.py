"""Simulated encoders in Ray's actors, and a driver to be killed: `python ray_encoders.py ADDRESS IMAGES DIR LOG`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from small_catalogs import BATCH, BUNDLE, SHARD, SimulatedEncoder

from edgeq.catalog.build import Progress
from edgeq.catalog.layout import Catalog
from edgeq.catalog.on_ray import build_on_ray
from edgeq.cluster.connect import Cluster

DEADLY = (1, 1)
ENDLESS = (2, 2)
"""Sizes of images: at one its process dies, at the other it waits for ever."""

SLOW = 0.1


class ActorEncoder(SimulatedEncoder):
    """Takes a while for a batch, and does what images of certain sizes tell it."""

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """Float32 [3, 8, 8]."""
        if image.size == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        if image.size == ENDLESS:
            time.sleep(600)
        return super().preprocess(image)

    def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 [n, 16]."""
        time.sleep(SLOW)
        return super().embed(pixels)


@dataclass(frozen=True)
class Opener:
    """Opens the encoder in an actor, and leaves a file there whose name is the process's number.

    Attributes:
        log: a directory.
        bundle: the digest it tells.
        refuse: called first.
    """

    log: Path
    bundle: str = BUNDLE
    refuse: Callable[[], object] | None = None

    def __call__(self) -> tuple[ActorEncoder, str]:
        if self.refuse is not None:
            self.refuse()
        log = self.log / str(os.getpid())
        log.touch()
        return ActorEncoder(log), self.bundle


def index(
    address: str,
    images: Path,
    directory: Path,
    opener: Opener,
    *,
    actors: int | None = 2,
    cpus: int = 1,
    stall_minutes: float = 1,
    progress: Progress | None = None,
) -> Catalog:
    """As `small_catalogs.build`, by a cluster."""
    return build_on_ray(
        opener,
        [images],
        directory,
        Cluster(address, actors, cpus, stall_minutes),
        bundle_digest=BUNDLE,
        shard_size=SHARD,
        batch=BATCH,
        progress=progress,
    )


if __name__ == "__main__":
    _, where, pictures, catalog, told = sys.argv
    index(where, Path(pictures), Path(catalog), Opener(Path(told)))
