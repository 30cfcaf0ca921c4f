"""The calibration images of a job whose own images are for evaluation: their folder or zip is its setting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.peers.task import Task

__all__ = ["CALIBRATION_IMAGES", "calibration_of"]

CALIBRATION_IMAGES = 200


def calibration_of(task: Task) -> Task:
    """The same job over the calibration images."""
    return replace(task, images=Path(task.setting), count=CALIBRATION_IMAGES)
