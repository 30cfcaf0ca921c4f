"""A probe: import a backend's library, and ask it what it can use.

Run as `python -m edgeq.doctor.engine_probe NAME`, by `edgeq.doctor.child.run_probe`.
"""

from __future__ import annotations

import sys

from edgeq.doctor.child import tell
from edgeq.engine.registry import backend
from edgeq.engine_store.machine import ask_driver

__all__ = ["main"]


def main(name: str) -> None:
    """Tell what a backend can use; of one whose engines are built, the GPU as well, by its driver."""
    asked = backend(name)
    if asked.built:
        gpu = ask_driver()
        tell("gpu", gpu.model_dump() if gpu else None)
    for fact, value in asked.facts().items():
        tell(fact, value)


if __name__ == "__main__":
    main(sys.argv[1])
