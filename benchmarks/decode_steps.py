"""Tokens of a language model's decode steps by the processor's second, beside another checkout of edgeq.

    python -m benchmarks.decode_steps BUNDLE
    python -m benchmarks.decode_steps BUNDLE --beside ../edgeq-before

Each side is a process of its own that stays; for each number of clients they take turns, so that a busy minute of the
machine meets both. `benchmarks/README.md` tells what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.process import ROOT

__all__ = ["Side", "main", "measure", "table"]

_QUESTION: Final = "What do you see?"
_CACHES: Final = 256_000_000


class Side:
    """A process that decodes, from one checkout.

    Args:
        checkout: of edgeq.
        bundle: of a vision-language model.
        given: slots, threads, tokens and requests.
    """

    def __init__(self, checkout: Path, bundle: Path, given: Mapping[str, int]) -> None:
        # This file, but all that it imports from the checkout; as a script it would have its own folder on the path.
        code = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
        command = [sys.executable, "-c", code, str(bundle), "--side", json.dumps(given)]
        self._process = subprocess.Popen(
            command,
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self, clients: int) -> dict[str, float]:
        """So many clients at once: tokens of steps, and the processor's seconds, of all threads."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(clients, file=self._process.stdin, flush=True)
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_steps")
    parser.add_argument("bundle", type=Path, help="of a vision-language model, such as the demo's")
    parser.add_argument("--beside", type=Path, help="another checkout of edgeq, measured in turns")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=48, help="of an answer, at most")
    parser.add_argument("--requests", type=int, default=16, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.side:
        _decode(given.bundle, given.side)
        return 0
    rows = measure(given)
    print(json.dumps(rows, indent=1) if given.json else table(rows))
    return 0


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    """For each number of clients, tokens a processor's second of each side in each round."""
    checkouts = {"this": ROOT, **({"beside": given.beside.resolve()} if given.beside else {})}
    figures = {name: getattr(given, name) for name in ("slots", "threads", "tokens", "requests")}
    bundle = given.bundle.resolve()
    sides = {name: Side(checkout, bundle, figures) for name, checkout in checkouts.items()}
    rows = []
    for clients in given.clients:
        for side in sides.values():
            side.turn(clients)
        turns = [{name: side.turn(clients) for name, side in sides.items()} for _ in range(given.rounds)]
        speeds = {name: [turn[name]["tokens"] / turn[name]["seconds"] for turn in turns] for name in sides}
        rows.append({"clients": clients, "speeds": speeds})
    for side in sides.values():
        side.close()
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The figures for people.

    Args:
        rows: of `measure`.
    """
    lines = ["| clients | tokens/s | beside | times, median (least to most) |", "|---|---|---|---|"]
    for row in rows:
        this, beside = row["speeds"]["this"], row["speeds"].get("beside")
        ratios = sorted(ours / theirs for ours, theirs in zip(this, beside, strict=True)) if beside else []
        times = f"{median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})" if ratios else ""
        other = f"{median(beside):.1f}" if beside else ""
        lines.append(f"| {row['clients']} | {median(this):.1f} | {other} | {times} |")
    return "\n".join(lines)


def _decode(bundle: Path, given: Mapping[str, int]) -> None:
    """One side: for each line of stdin, a turn."""
    from edgeq.demo.vlm.scenes import draw_finding
    from edgeq.runtime.vlm.api import GenerationRequest
    from edgeq.runtime.vlm.batch_decoder import BatchDecoder
    from edgeq.runtime.vlm.model import open_vlm
    from edgeq.runtime.vlm.tokenize import PromptBuilder

    vlm = open_vlm(bundle, threads=given["threads"])
    context = vlm.prompter.settings.context
    halves = (vlm.prompter, vlm.vision_encoder, vlm.language)
    decoder = BatchDecoder(*halves, slots=given["slots"], context=context, cache_bytes=_CACHES)
    builder = PromptBuilder(vlm.prompter, context)
    asks = [
        GenerationRequest.about(draw_finding(seed)[0], _QUESTION, given["tokens"]) for seed in range(given["requests"])
    ]
    questions = [builder.question(ask) for ask in asks]
    for line in sys.stdin:
        print(json.dumps(_turn(decoder, questions, int(line))), flush=True)


def _turn(decoder: Any, questions: Sequence[Any], clients: int) -> dict[str, float]:
    """All questions, so many at once: what steps said and took, and a sum of all tokens, to compare turns by."""
    waiting, running = list(questions), set[int]()
    tokens, seconds, said = 0, 0.0, 0
    while waiting or running:
        while waiting and len(running) < min(clients, decoder.slots):
            slot = min(set(range(decoder.slots)) - running)
            first = decoder.begin(slot, waiting.pop(0)).said
            said += first.token_id
            if first.ended is None:
                running.add(slot)
        start = time.process_time()
        events = decoder.step() if running else []
        seconds += time.process_time() - start
        tokens += len(events)
        said += sum(event.token_id for event in events)
        running -= {event.slot for event in events if event.ended is not None}
    return {"tokens": tokens, "seconds": seconds, "said": said}


if __name__ == "__main__":
    raise SystemExit(main())
