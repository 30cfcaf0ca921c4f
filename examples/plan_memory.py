"""Does a vision-language model fit a device? Its config.json is enough; no weights are read.

    python examples/plan_memory.py llava-hf/llava-1.5-13b-hf --device orin-nx-16gb --context 4096

MODEL is a Hugging Face id, of which only config.json and headers are fetched, or a directory with config.json. The exit
status is 1 where it does not fit.
"""

from __future__ import annotations

import argparse
import sys

import edgeq


def main() -> int:
    """Print what takes how much memory, and what would make it fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", default="orin-nx-16gb")
    parser.add_argument("--context", type=int, default=2048, help="tokens of images, question and answer")
    parser.add_argument("--images", type=int, default=1, help="in a sequence")
    given = parser.parse_args()

    planned = edgeq.plan_model(given.model, device=given.device, context=given.context, images=given.images)
    memory = planned.memory
    assert memory is not None, "a device was named"
    for part in memory.components:
        print(f"{part.name:<16} {part.parameters:>16,} parameters {part.bytes / 1e9:>8.2f} GB")
    print(f"{'all of it':<16} at its largest moment {memory.needed_bytes / 1e9:>17.2f} GB")
    print(memory.reason)
    for change in memory.changes:
        print(f"it would fit with {change.what} {change.value}: {change.needed_bytes / 1e9:.2f} GB")
    return 0 if memory.fits else 1


if __name__ == "__main__":
    sys.exit(main())
