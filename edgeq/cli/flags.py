"""Options that verbs of both halves have; the device's import nothing of the workshop."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["PATH", "json_option", "output_option", "threads_option"]

PATH = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
output_option = click.option("-o", "--output", type=PATH, required=True, help="A directory to make; it must not exist.")
threads_option = click.option("--threads", type=click.IntRange(1), help="Threads of one operator.  [default: all]")
