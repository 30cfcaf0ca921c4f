"""edgeq: the main job as a user runs it, `auto` included; latency is hardly measured, for it is not asked here."""

from __future__ import annotations

from benchmarks.peers.task import Task, report
from edgeq import __version__
from edgeq.pipeline.classifier import Options, prepare
from edgeq.quality.latency import Timing


def main() -> None:
    """Make a bundle of the exported directory that the graph lies in."""
    task = Task.read()
    options = Options(
        calibration_images=task.count,
        method=task.setting,
        allow={"EQ107": "the benchmark says how many images each tool gets"},
        threads=task.threads,
        timing=Timing(rounds=1, block_seconds=0.0),
    )
    prepare(task.graph.parent, task.images, task.output, options=options)
    report(f"edgeq {__version__}", model=task.elapsed())


if __name__ == "__main__":
    main()
