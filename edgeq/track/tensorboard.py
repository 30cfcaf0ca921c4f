"""TensorBoard: a folder of event files for each run, by `tensorboardX`.

`tensorboard --logdir DIR` shows scalars, series, the HParams table over all runs, texts and pictures.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

import numpy as np
from PIL import Image

from edgeq.errors import InputError
from edgeq.track.base import Record

__all__ = ["DIRECTORY", "TensorBoardTracker"]

DIRECTORY: Final = "runs"
"""Where no directory is named; TensorBoard's own habit."""


class TensorBoardTracker:
    """A directory that TensorBoard looks into.

    Args:
        directory: made where it is not there; empty takes `runs`.
    """

    name = "TensorBoard"

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory or DIRECTORY)

    def check(self) -> None:
        """As for `Tracker.check`; the directory is made."""
        import tensorboardX  # noqa: F401

        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self._directory):
                pass
        except OSError as error:
            raise InputError(
                f"TensorBoard's directory {self._directory} cannot be written to: {error.strerror or error}",
                next_step="name another with tensorboard:DIR",
            ) from error

    def write(self, record: Record) -> None:
        """As for `Tracker.write`."""
        from tensorboardX import SummaryWriter

        with closing(SummaryWriter(str(self._new(record.name)))) as writer:
            for name, value in record.metrics.items():
                writer.add_scalar(name, value)
            for name, values in record.series.items():
                for step, value in enumerate(values):
                    writer.add_scalar(name, value, step)
            if record.summary:
                writer.add_text("summary", record.summary)
            for name, text in record.texts.items():
                writer.add_text(name, f"```\n{text}\n```")
            for picture in record.pictures:
                with Image.open(picture) as image:
                    writer.add_image(picture.stem, np.asarray(image.convert("RGB")), dataformats="HWC")
            _add_hparams(writer, record)

    def _new(self, name: str) -> Path:
        """A folder of this run's own: TensorBoard takes all event files of a folder for one run."""
        stem, count = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}", 1
        while True:
            path = self._directory / (stem if count == 1 else f"{stem}-{count}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                count += 1
            else:
                return path


def _add_hparams(writer: Any, record: Record) -> None:
    """The params, and which metrics stand beside them; `SummaryWriter.add_hparams` would make another run of them."""
    from tensorboardX.summary import hparams

    for summary in hparams(dict(record.params), dict(record.metrics)):
        writer.file_writer.add_summary(summary)
