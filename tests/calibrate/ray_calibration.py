"""A driver to be killed: `python ray_calibration.py ADDRESS EXPORTED IMAGES OUTPUT`; it waits after a part."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeq.api.workshop.stages import calibrate_model


def wait(_stage: str, done: int, _total: int) -> None:
    """For a line that never comes, once a part is counted."""
    if done:
        print(done, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    address, exported, images, output = sys.argv[1:]
    calibrate_model(
        Path(exported), Path(images), Path(output), resume=True, on="ray", address=address, actors=2, progress=wait
    )
