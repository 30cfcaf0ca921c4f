"""Open a bundle on a device and use it: ask about images, or name what is on them.

    python examples/ask_a_bundle.py BUNDLE IMAGE... --question "Is there a crack?"
    python examples/ask_a_bundle.py BUNDLE IMAGE...

BUNDLE is a directory made by `edgeq prepare`, or a store of `edgeq install`. Nothing of the workshop is needed: a
device has `edgeq[device]`, and `edgeq[language]` for vision-language models.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import edgeq


def main() -> int:
    """Print a line for each image; an error of edgeq says by itself what to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--question", default="What is in the image?")
    parser.add_argument("--key", type=Path, help="a public key; the bundle must be signed by it")
    given = parser.parse_args()

    try:
        with edgeq.open_bundle(given.bundle, keys=[given.key] if given.key else ()) as bundle:
            for image in given.images:
                if bundle.manifest.kind == "vision-language":
                    print(f"{image}: {bundle.ask(image, given.question).text}")
                else:
                    best = bundle.classify(image, top=1)[0]
                    print(f"{image}: {best.label or best.index} ({best.score:.1%})")
    except edgeq.EdgeqError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
