"""How fast a large bundle is verified, beside `sha256sum` over the same file.

A bundle with one sparse file is made, so that neither side waits for a disk. Then `edgeq.bundle.verify` in a process of
its own and `sha256sum` take turns; the median of the ratios within a round is shown, and the peak memory of edgeq's
process as the kernel counts it (`VmHWM`).

    python -m benchmarks.verify_bundle --gigabytes 8
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from edgeq.bundle.manifest import write_manifest
from edgeq.bundle.verify import verify_bundle

__all__ = ["Round", "Summary", "main", "measure", "summarize"]

MIN_RATIO: Final = 0.7
MAX_PEAK_BYTES: Final = 200_000_000
_WEIGHTS: Final = "weights.bin"


@dataclass(frozen=True)
class Round:
    """One turn of each.

    Attributes:
        edgeq: seconds of the verification, without the start of Python.
        sha256sum: seconds of the whole program.
        peak: bytes of memory that edgeq's process held at the most.
    """

    edgeq: float
    sha256sum: float
    peak: int


@dataclass(frozen=True)
class Summary:
    """Figures of all rounds.

    Attributes:
        gigabytes: of the file, in units of 10^9 bytes.
        edgeq, sha256sum: 10^9 bytes a second, by the median time.
        ratio: median over rounds of edgeq's speed over that of sha256sum.
        peak: bytes, the largest of all rounds.
        passed: the ratio is at least 0.7, and the peak below 200 MB.
    """

    gigabytes: float
    rounds: int
    edgeq: float
    sha256sum: float
    ratio: float
    peak: int
    passed: bool


def measure(bundle: Path, rounds: int) -> list[Round]:
    """Let both take turns over a bundle."""
    return [_round(bundle) for _ in range(rounds)]


def summarize(rounds: list[Round], size: int) -> Summary:
    """Medians, and whether they are good enough; `size` is in bytes."""
    ratio = median(turn.sha256sum / turn.edgeq for turn in rounds)
    peak = max(turn.peak for turn in rounds)
    return Summary(
        gigabytes=size / 1e9,
        rounds=len(rounds),
        edgeq=size / 1e9 / median(turn.edgeq for turn in rounds),
        sha256sum=size / 1e9 / median(turn.sha256sum for turn in rounds),
        ratio=ratio,
        peak=peak,
        passed=ratio >= MIN_RATIO and peak < MAX_PEAK_BYTES,
    )


def _round(bundle: Path) -> Round:
    command = [sys.executable, "-m", "benchmarks.verify_bundle", "--child", str(bundle)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    start = time.perf_counter()
    subprocess.run(["sha256sum", bundle / _WEIGHTS], check=True, stdout=subprocess.DEVNULL)
    return Round(told["seconds"], time.perf_counter() - start, told["peak"])


def _child(bundle: Path) -> None:
    """Verify once, and tell how long that took and how much memory the process held at the most."""
    start = time.perf_counter()
    verify_bundle(bundle)
    seconds = time.perf_counter() - start
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print(json.dumps({"seconds": seconds, "peak": int(found[1]) * 1024}))


def main() -> int:
    """Measure, print, and say with the exit status whether the bounds are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=8.0, help="size of the file, in units of 10^9 bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where the sparse file is made")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child)
        return 0
    size = int(given.gigabytes * 1e9)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        bundle = Path(scratch)
        with (bundle / _WEIGHTS).open("wb") as file:
            file.truncate(size)
        write_manifest(bundle)
        summary = summarize(measure(bundle, given.rounds), size)
    _print(summary, as_json=given.json)
    return 0 if summary.passed else 1


def _print(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(summary), indent=1))
        return
    print(f"{summary.gigabytes:g} GB, {summary.rounds} rounds, alternating")
    print(f"edgeq      {summary.edgeq:6.2f} GB/s, peak memory {summary.peak / 1e6:.0f} MB")
    print(f"sha256sum  {summary.sha256sum:6.2f} GB/s")
    print(f"edgeq at {summary.ratio:.0%} of sha256sum's speed; {MIN_RATIO:.0%} and {MAX_PEAK_BYTES / 1e6:.0f} MB asked")


if __name__ == "__main__":
    sys.exit(main())
