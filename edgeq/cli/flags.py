"""Options that verbs of both halves have; the device's import nothing of the workshop."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.engine.registry import NAMES
from edgeq.install.candidate_here import AUTO

__all__ = ["PATH", "json_option", "output_option", "running_backend_option", "threads_option"]

PATH = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
output_option = click.option("-o", "--output", type=PATH, required=True, help="A directory to make; it must not exist.")
running_backend_option = click.option(
    "--backend",
    type=click.Choice([AUTO, *NAMES]),
    default=AUTO,
    show_default=True,
    help="What runs the encoders; auto: TensorRT where it is installed.",
)
threads_option = click.option("--threads", type=click.IntRange(1), help="Threads of one operator.  [default: all]")
