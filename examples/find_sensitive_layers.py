"""Which layers does INT8 harm most? And which should stay in floating point, to lose no more than a bound?

    python examples/find_sensitive_layers.py BUNDLE LABELLED
    python examples/find_sensitive_layers.py BUNDLE LABELLED --max-drop 0.5 --output found

BUNDLE is a classifier's, made by `edgeq prepare`, or a directory made by `edgeq quantize`. LABELLED is a folder or zip
with one folder for each class. With --max-drop, found/plan.yaml is for `edgeq prepare --plan`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edgeq


def main() -> None:
    """Print the ten worst layers; search for the ones to keep where a bound is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("--max-drop", type=float, help="points of top-1 that may be lost")
    parser.add_argument("--output", type=Path, help="a directory to make, with the revised plan")
    given = parser.parse_args()

    table = edgeq.sensitivity(given.bundle, given.labelled, say=print)
    for line in table.ranking()[:10]:
        print(f"{line.alone.logit_error:.4f} ± {line.alone.logit_error_se:.4f}  {line.layer}")
    print(f"{table.int8.logit_error:.4f} ± {table.int8.logit_error_se:.4f}  all of them in INT8")

    if given.max_drop is not None:
        found = edgeq.search_layers(given.bundle, given.labelled, given.output, max_drop=given.max_drop)
        kept = ", ".join(found.search.kept) or "none has to"
        print(f"to stay in floating point: {kept}")


if __name__ == "__main__":
    main()
