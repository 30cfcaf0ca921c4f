"""A graph open in one runtime, timed when it is asked to: one line on stdin is one block, one line on stdout its time.

Each runtime has a process of its own, which sleeps while another one is timed: two pools of threads in one process
would wait for work on the same processors.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from edgeq.engine.registry import NAMES, backend

WARM_UP = 3


def main() -> None:
    """Say `ready`, then answer each line with milliseconds a run, until stdin ends."""
    options = _options()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    engine = backend(options.backend).open(options.graph, threads=options.threads, batch=options.batch)
    pixels = np.random.default_rng(0).normal(size=(options.batch, 3, options.side, options.side)).astype(np.float32)
    feeds = {engine.inputs[0]: pixels}
    for _ in range(WARM_UP):
        engine.run(feeds)
    print("ready", flush=True)
    for _ in sys.stdin:
        engine.run(feeds)  # caches and threads are awake again
        start, runs = clock(), 0
        while clock() < start + options.seconds:
            engine.run(feeds)
            runs += 1
        print(1000 * (clock() - start) / runs, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--backend", choices=NAMES, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    for name in ("threads", "batch", "side"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
