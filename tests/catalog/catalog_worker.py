"""One of several processes that make a catalog: `python catalog_worker.py IMAGES DIR LOG [FIRST LAST]`."""

from __future__ import annotations

import sys
from pathlib import Path

from small_catalogs import SimulatedEncoder, build

if __name__ == "__main__":
    images, directory, log, *shards = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()  # so that all begin together
    chosen = range(int(shards[0]), int(shards[1]) + 1) if shards else None
    done = build(Path(images), Path(directory), encoder=SimulatedEncoder(Path(log)), shards=chosen)
    print("whole" if done else "not yet")
