"""Fifteen minutes on a GPU that settle what reading cannot: one JSON line for each finding, on stdout.

    python -m benchmarks.gpu_check [--only kernels attention steps faults vision] [--minutes 15]

Each section is a process of its own, which is ended when its time is over: a fault in one leaves the others alone. The
exit status is 0 where every section went through and found what the runtime counts on, 1 otherwise, 2 without a GPU.
With --tiny all of it runs on a CPU, in this process, on a small model: that shows that the check itself works.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu_check.findings import Finding, Scale, Section
from benchmarks.process import ROOT

__all__ = ["SECTIONS", "bounded", "main"]

SECTIONS: Final[Mapping[str, float]] = {"kernels": 2.0, "attention": 1.0, "steps": 5.0, "faults": 3.0, "vision": 4.0}
"""Name, which is also that of its module and of the function in it -> its share of the time, in minutes."""

_CONFIG: Final = ROOT / "tests" / "golden" / "vlm-configs" / "llava-1.5-7b"
_NO_GPU: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, and print."""
    options = _options(arguments)
    scale = Scale(options.tiny, options.config, options.bundle)
    if options.section:
        return _print(options.section, _section(options.section)(scale))
    if options.tiny:
        return max([_print(name, _section(name)(scale)) for name in options.only])
    machine = _machine()
    if machine is None:
        print("torch finds no CUDA GPU, and only one can answer; --tiny tries the check itself", file=sys.stderr)
        return _NO_GPU
    _say("machine", machine)
    shares = {name: SECTIONS[name] * 60 * options.minutes / sum(SECTIONS.values()) for name in options.only}
    given = ["--config", str(scale.config), *(["--bundle", str(scale.bundle)] if scale.bundle else [])]
    return max([_apart(name, given, seconds) for name, seconds in shares.items()])


def bounded(command: Sequence[str], seconds: float, take: Callable[[str], None]) -> int | None:
    """Run a program, hand on each line of its stdout, and end it when its time is over.

    Args:
        command: the program.
        seconds: that it may take.
        take: called with each line.

    Returns:
        Its exit status; None where its time was over.
    """
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        killer = _Killer(child, seconds)
        with killer:
            for line in child.stdout:
                take(line)
            status = child.wait()
    return None if killer.fired else status


class _Killer:
    """Ends a child when its time is over."""

    def __init__(self, child: subprocess.Popen[str], seconds: float) -> None:
        self.fired = False
        self._child = child
        self._timer = threading.Timer(seconds, self._fire)

    def _fire(self) -> None:
        self.fired = True
        self._child.kill()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _apart(name: str, given: Sequence[str], seconds: float) -> int:
    """One section in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--section", name, *given]
    status = bounded(command, seconds, lambda line: print(line, end="", flush=True))
    taken: Finding = {"section": name, "seconds": round(time.perf_counter() - start), "status": status}
    _say("took", taken | ({"failed": f"more than {seconds:.0f} s"} if status is None else {}))
    return 0 if status == 0 else 1


def _print(name: str, findings: Iterator[Finding]) -> int:
    """Print what a section finds; 1 where something is not as the runtime counts on."""
    failed = False
    try:
        for finding in findings:
            failed |= finding.get("fine") is False
            _say(name, finding)
    except Exception as error:  # the other sections are asked all the same
        failed = True
        _say(name, {"failed": f"{type(error).__name__}: {error}"[:500], "fine": False})
    return int(failed)


def _say(check: str, finding: Finding) -> None:
    print(json.dumps({"check": check, **finding}), flush=True)


def _section(name: str) -> Section:
    found: Section = getattr(importlib.import_module(f"benchmarks.gpu_check.{name}"), name)
    return found


def _machine() -> Finding | None:
    """The GPU and what is installed, asked in a process of its own: this one takes none of the GPU's memory."""
    code = (
        "import json, torch\n"
        "if torch.cuda.is_available():\n"
        "    card = torch.cuda.get_device_properties(0)\n"
        "    print(json.dumps({'card': card.name, 'capability': [card.major, card.minor], 'memory': card.total_memory,"
        " 'multiprocessors': card.multi_processor_count, 'integrated': bool(card.is_integrated),"
        " 'torch': torch.__version__, 'cuda': torch.version.cuda}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        return None
    found: Finding = json.loads(done.stdout)
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="sections; default: all")
    add("--minutes", type=float, default=15.0, help="for all sections together; default: 15")
    add("--config", type=Path, default=_CONFIG, help="directory of the config.json of a LLaVA, for the steps")
    add("--bundle", type=Path, help="of a vision-language model, for the vision engine; default: the demo's, made here")
    add("--tiny", action="store_true", help="on a CPU, on a small model, in this process")
    add("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error("--minutes must be more than 0")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
