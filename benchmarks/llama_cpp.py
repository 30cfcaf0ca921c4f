"""A language model in NF4, INT4 and INT8 by edgeq's runtime beside llama.cpp's 4 bits, on this machine's processor.

    python -m benchmarks.llama_cpp --llama-python ~/llama/bin/python

`benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.answer_clock import Size
from benchmarks.process import ROOT, processor
from edgeq.bundle.manifest import MANIFEST

if TYPE_CHECKING:
    from edgeq.plan.precision import Precision

__all__ = ["EDGEQ", "main", "table"]

EDGEQ: Final = "edgeq NF4"
_OURS: Final = {"nf4": EDGEQ, "int4": "edgeq INT4", "int8": "edgeq INT8"}
_KINDS: Final = {"q4_0": "llama.cpp Q4_0", "q4_k_m": "llama.cpp Q4_K_M", "q4_0-f16-head": "llama.cpp Q4_0, head FP16"}
_MODEL: Final = "tinyllama"
_NEITHER: Final = 2


class Side:
    """A process with a model, which sleeps while another one answers.

    Args:
        python: the interpreter that has what it needs.
        module: of `benchmarks.peers`.
        weights: a bundle, or a GGUF file.
        size: of what is asked.
    """

    def __init__(self, python: Path, module: str, weights: Path, size: Size) -> None:
        command = [str(python), "-m", f"benchmarks.peers.{module}", str(weights), json.dumps(asdict(size))]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.described: str = self._line()["ready"]

    def ask(self, seed: int) -> dict[str, float]:
        """As `AnswerClock.took`."""
        assert self._process.stdin is not None
        print(seed, file=self._process.stdin, flush=True)
        return self._line()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a side ended early: what it said is above")
        found: dict[str, Any] = json.loads(line)
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where llama.cpp is not there."""
    given = _parser().parse_args(arguments)
    if given.llama_python is None or not os.access(given.llama_python, os.X_OK):
        print("needed: --llama-python PYTHON with llama-cpp-python and gguf (benchmarks/README.md)", file=sys.stderr)
        return _NEITHER
    size = Size(given.prompt, given.tokens, given.threads)
    work = given.work.resolve()
    bundles = {_OURS[kind]: _bundle(work, kind) for kind in _OURS}
    _make_gguf(given.llama_python, work, given.kinds)
    found = measure(given.llama_python, bundles, work / "gguf", given.kinds, size, given.rounds)
    print(json.dumps(found, indent=1) if given.json else table(found))
    return 0


def measure(
    python: Path, bundles: Mapping[str, Path], ggufs: Path, kinds: Sequence[str], size: Size, rounds: int
) -> dict[str, Any]:
    """All sides in turn, each round on a prompt of its own; the first does not count.

    Returns:
        `processor`, `kernels` of llama.cpp, `size`, and by side the seconds of each round.
    """
    ours = Path(sys.executable)
    sides = {name: Side(ours, "edgeq_answer_run", bundle, size) for name, bundle in bundles.items()}
    for kind in kinds:
        sides[_KINDS[kind]] = Side(python, "llama_answer_run", ggufs / f"{kind}.gguf", size)
    heard: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            took = side.ask(number)
            if number:
                heard[name].append(took)
        print(f"round {number} of {rounds}", file=sys.stderr)
    kernels = next((side.described for name, side in sides.items() if name not in bundles), "")
    for side in sides.values():
        side.close()
    return {"processor": processor(), "kernels": kernels, "size": asdict(size), "sides": heard}


def table(found: Mapping[str, Any]) -> str:
    """The figures for people; a ratio is taken within a round.

    Args:
        found: of `measure`.
    """
    size, sides = found["size"], found["sides"]
    lines = [
        f"{found['processor']}, {size['threads']} threads, prompt of {size['prompt']}, {size['tokens']} tokens",
        f"llama.cpp: {found['kernels']}",
        "",
        "| | first token, ms | tokens/s | times NF4's, median (least to most) | of processor, ms: first | further |",
        "|---|---|---|---|---|---|",
    ]
    for name, turns in sides.items():
        ratios = sorted(ours["further"] / theirs["further"] for ours, theirs in zip(sides[EDGEQ], turns, strict=True))
        times = f"{median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        first, further, first_cpu, further_cpu = (
            1e3 * median(turn[key] for turn in turns) for key in ("first", "further", "first_cpu", "further_cpu")
        )
        ratio = "" if name == EDGEQ else times
        cpu = f"{first_cpu:,.0f} | {further_cpu:.1f}"
        lines.append(f"| {name} | {first:,.0f} | {1e3 / further:.1f} | {ratio} | {cpu} |")
    return "\n".join(lines)


def _bundle(work: Path, kind: str) -> Path:
    """A bundle of the random weights; kept. That in NF4 is made by `edgeq prepare`."""
    nf4 = work / "bundle"
    if not nf4.is_dir():
        _prepare_nf4(work, nf4)
    bundle = nf4 if kind == "nf4" else work / f"bundle-{kind}"
    if not bundle.is_dir():
        from edgeq.plan.precision import Precision

        _round_language(work / "model", nf4, bundle, Precision(kind))
    return bundle


def _prepare_nf4(work: Path, bundle: Path) -> None:
    from benchmarks.random_vlms import RANDOM_VLMS, write_random_vlm
    from edgeq.demo.vlm.scenes import draw_finding
    from edgeq.pipeline.vlm import VlmOptions, prepare_vlm

    model, photographs = work / "model", work / "photographs"
    if not model.is_dir():
        partial = work / "model.partial"
        write_random_vlm(partial, RANDOM_VLMS[_MODEL])
        partial.rename(model)
    photographs.mkdir(exist_ok=True)
    for seed in range(2):
        draw_finding(seed)[0].save(photographs / f"{seed}.png")
    options = VlmOptions(reference_answers=False, canaries=1, max_new_tokens=1)
    prepare_vlm(model, photographs, bundle, options=options)


def _round_language(model: Path, nf4: Path, target: Path, precision: Precision) -> None:
    """A bundle beside that in NF4: its language model in integers, rounded to nearest; without a manifest."""
    from edgeq.bundle.vlm_settings import LANGUAGE
    from edgeq.families.modules import read_modules
    from edgeq.files import new_directory
    from edgeq.plan.rules import plan_modules
    from edgeq.quantize.weight_only.write import write_packed

    plan = plan_modules(read_modules(model), language=precision)
    with new_directory(target) as directory:
        write_packed(model, plan, directory / LANGUAGE, precision=precision)
        for file in nf4.iterdir():
            if file.is_file() and file.name != MANIFEST:
                shutil.copyfile(file, directory / file.name)


def _make_gguf(python: Path, work: Path, kinds: Sequence[str]) -> None:
    command = [str(python), "-m", "benchmarks.peers.llama_gguf", str(work / "model"), str(work / "gguf"), *kinds]
    subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, check=True)


def _environment() -> dict[str, str]:
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])])}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llama_cpp", description=__doc__.splitlines()[0])
    parser.add_argument("--llama-python", type=Path, default=os.environ.get("LLAMA_PYTHON"))
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench-llama", help="where 9 GB of models are kept")
    parser.add_argument("--kinds", nargs="+", default=list(_KINDS), choices=list(_KINDS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each side")
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
