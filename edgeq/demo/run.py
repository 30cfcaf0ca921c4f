"""The whole way on the small network that comes with edgeq: nothing is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeq.demo.scenes import CALIBRATION_SEED, EVALUATION_SEED, write_scenes
from edgeq.files import new_directory
from edgeq.prepare import Options, Prepared, Progress, prepare

__all__ = ["BUNDLE", "CALIBRATION", "EVALUATION", "MODEL", "WEIGHTS", "run_demo"]

WEIGHTS = Path(__file__).parent / "weights"
MODEL, CALIBRATION, EVALUATION, BUNDLE = "model", "calibration.zip", "evaluation.zip", "bundle"
"""What the demo's directory holds."""

_CALIBRATION_PER_KIND = 50
_EVALUATION_PER_KIND = 250


def run_demo(output: Path, *, options: Options | None = None, progress: Progress | None = None) -> Prepared:
    """Draw the scenes, prepare the network, and leave all of it in `output`.

    Args:
        output: a directory to make; it must not exist.
        options: see `edgeq.prepare.Options`.
        progress: called as the stages go on.

    Raises:
        EdgeqError: as `edgeq.prepare.prepare`; nothing is left behind then.
    """
    with new_directory(output) as work:
        if progress:
            progress("draw", 0, 0)
        shutil.copytree(WEIGHTS, work / MODEL)
        write_scenes(work / CALIBRATION, _CALIBRATION_PER_KIND, CALIBRATION_SEED)
        write_scenes(work / EVALUATION, _EVALUATION_PER_KIND, EVALUATION_SEED)
        prepared = prepare(
            work / MODEL,
            work / CALIBRATION,
            work / BUNDLE,
            labelled=work / EVALUATION,
            options=options,
            progress=progress,
        )
    return prepared.model_copy(update={"bundle": output / BUNDLE})
