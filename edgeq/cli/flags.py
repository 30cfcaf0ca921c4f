"""Options that verbs of both halves have; the device's import nothing of the workshop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeq.cluster.connect import STALL_MINUTES
from edgeq.engine.registry import RUNNING
from edgeq.install.candidate_here import AUTO

__all__ = ["PATH", "cluster_options", "json_option", "output_option", "running_backend_option", "threads_option"]

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
output_option = click.option("-o", "--output", type=PATH, required=True, help="A directory to make; it must not exist.")
running_backend_option = click.option(
    "--backend",
    type=click.Choice([AUTO, *RUNNING]),
    default=AUTO,
    show_default=True,
    help="What runs the graphs; auto: TensorRT where an engine was built for this device, else ONNX Runtime.",
)
threads_option = click.option("--threads", type=click.IntRange(1), help="Threads of one operator.  [default: all]")

_CLUSTER = (
    click.option(
        "--on",
        type=click.Choice(["here", "ray"]),
        default="here",
        show_default=True,
        help="Ray: the images are gone through by a cluster that is there; each node must see the same paths.",
    ),
    click.option("--address", default="auto", show_default=True, metavar="auto|HOST:PORT", help="Of the Ray cluster."),
    click.option("--actors", type=click.IntRange(1), help="Of Ray.  [default: as many as leave one CPU free]"),
    click.option(
        "--cpus-per-actor",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Of one. To embed in a cluster with GPUs, it gets one of those instead.",
    ),
    click.option(
        "--stall-minutes",
        type=click.FloatRange(0, min_open=True),
        default=STALL_MINUTES,
        show_default=True,
        help="Give the cluster up when nothing was done for so long.",
    ),
)


def cluster_options(function: F) -> F:
    """--on, and what it needs to know of a cluster."""
    for option in reversed(_CLUSTER):
        function = option(function)
    return function
