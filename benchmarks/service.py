"""`edgeq serve` under load, beside scripts that call `generate` of transformers: speed, memory, equal answers.

    python -m benchmarks.service BUNDLE
    python -m benchmarks.service BUNDLE --soak 300
    python -m benchmarks.service BUNDLE --tight
    python -m benchmarks.service BUNDLE --kill

`benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks.process import processor
from benchmarks.service_budget import Tight, measure_tight
from benchmarks.service_clients import Case, Heard, ask_all, ask_in_turn, encoded
from benchmarks.service_killed import Killed, measure_killed
from benchmarks.service_process import Script, Serving, script, serving
from benchmarks.service_soak import SLOW_S, Soak, soak
from edgeq.demo.vlm.report import QUESTIONS
from edgeq.demo.vlm.scenes import draw_finding
from edgeq.engine.onnxruntime import default_threads

__all__ = ["Load", "Report", "Row", "cases", "main", "summarize"]

MIN_SPEED: Final = 2.0
MIN_SOONER: Final = 3.0
MAX_GROWTH: Final = 0.02
_QUEUE: Final = 256


@dataclass(frozen=True)
class Load:
    """How much is asked.

    Attributes:
        rounds: in each, all numbers of clients take their turn.
        requests: of each turn.
        tokens: of an answer, at most.
        clients: how many at once.
        pairs: images that are asked about twice.
        equal: answers that are compared with those of a quiet service.
    """

    rounds: int = 3
    requests: int = 32
    tokens: int = 48
    clients: tuple[int, ...] = (1, 4, 16)
    pairs: int = 60
    equal: int = 500


@dataclass(frozen=True)
class Row:
    """One number of clients, or one script, over all rounds; times in seconds.

    Attributes:
        who: in words.
        requests_per_second, tokens_per_second: medians over rounds.
        speed: tokens a second over those of the quickest script in the same round, the median over rounds.
        first, total: percentiles 50, 95 and 99 of all requests, to the first piece of text and to the end.
    """

    who: str
    requests_per_second: float
    tokens_per_second: float
    speed: float
    first: tuple[float, ...]
    total: tuple[float, ...]


@dataclass
class Report:
    """Everything.

    Attributes:
        processor: its name.
        rows: by number of clients.
        first_question, second_question: median seconds to the first piece, of two questions about one image.
        compared, equal: answers under load, and how many of them are those of the quiet service.
        resident: bytes of the service's own memory, before and after.
    """

    processor: str = ""
    rows: list[Row] = field(default_factory=list)
    first_question: float = 0.0
    second_question: float = 0.0
    compared: int = 0
    equal: int = 0
    resident: tuple[int, int] = (0, 0)

    @property
    def passed(self) -> bool:
        """Whether what the service is for is reached."""
        speed = {row.who: row.speed for row in self.rows}.get(_named(4), MIN_SPEED)
        sooner = self.first_question >= MIN_SOONER * self.second_question
        return speed >= MIN_SPEED and sooner and self.equal == self.compared


def cases(tokens: int, seed: int) -> Iterator[Case]:
    """Requests about scenes that nobody has asked about before, for ever."""
    while True:
        image, _ = draw_finding(seed)
        yield Case(encoded(image), QUESTIONS[seed % len(QUESTIONS)], tokens)
        seed += 1


def _take(fresh: Iterator[Case], count: int) -> list[Case]:
    return [next(fresh) for _ in range(count)]


def measure(service: Serving, scripts: Mapping[int, Script], load: Load, fresh: Iterator[Case]) -> list[Row]:
    """Let everyone take turns, round by round, each on images of its own.

    Args:
        service: that is asked.
        scripts: by their number of threads.
        load: how much is asked.
        fresh: requests that nobody has seen.
    """
    whos = (*(-threads for threads in scripts), *load.clients)
    heard: dict[int, list[tuple[list[Heard], float]]] = {who: [] for who in whos}
    for number in range(load.rounds):
        order = list(heard)
        for who in order[number % len(order) :] + order[: number % len(order)]:
            asked = _take(fresh, load.requests)
            if who < 0:
                start = time.perf_counter()
                answers = [scripts[-who].ask(case) for case in asked]
                heard[who].append((answers, time.perf_counter() - start))
            else:
                heard[who].append(asyncio.run(ask_all(service.url, service.model, asked, who)))
            _say(f"round {number + 1}: {_named(who)}")
    return summarize(heard)


def summarize(heard: dict[int, list[tuple[list[Heard], float]]]) -> list[Row]:
    """Rows of what was heard: a turn of each round with its seconds.

    Args:
        heard: by number of clients, and of scripts by their number of threads below zero.
    """
    tokens = {
        who: [sum(one.tokens for one in turn) / seconds for turn, seconds in turns] for who, turns in heard.items()
    }
    scripts = zip(*(speeds for who, speeds in tokens.items() if who < 0), strict=True)
    quickest = [max(turns) for turns in scripts]
    rows = []
    for who, turns in heard.items():
        everyone = [one for turn, _ in turns for one in turn]
        failed = [one.status for one in everyone if one.status != 200]
        if failed:
            raise SystemExit(f"{_named(who)}: {len(failed)} requests were not answered: {sorted(set(failed))}")
        rows.append(
            Row(
                who=_named(who),
                requests_per_second=median(len(turn) / seconds for turn, seconds in turns),
                tokens_per_second=median(tokens[who]),
                speed=median(ours / theirs for ours, theirs in zip(tokens[who], quickest, strict=True)),
                first=_percentiles([one.first for one in everyone]),
                total=_percentiles([one.total for one in everyone]),
            )
        )
    return rows


def _percentiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.percentile(values, (50, 95, 99)))


def ask_twice(service: Serving, load: Load, fresh: Iterator[Case]) -> tuple[float, float]:
    """Median seconds to the first piece of a first and of a second question about the same image."""
    asked: list[Case] = []
    for case in _take(fresh, 1 + load.pairs):  # the first pair opens the connection
        again = Case(case.image, QUESTIONS[(QUESTIONS.index(case.question) + 1) % len(QUESTIONS)], case.tokens)
        asked += case, again
    times = [heard.first for heard in ask_in_turn(service.url, service.model, asked)][2:]
    return median(times[::2]), median(times[1::2])


def compare(service: Serving, load: Load, fresh: Iterator[Case]) -> int:
    """How many answers under load are those of the quiet service, word for word."""
    asked = _take(fresh, load.equal)
    quiet, _ = asyncio.run(ask_all(service.url, service.model, asked, 1))
    loud, _ = asyncio.run(ask_all(service.url, service.model, asked, max(load.clients)))
    return sum(
        one.status == other.status == 200 and one.text == other.text for one, other in zip(quiet, loud, strict=True)
    )


def run(bundle: Path, load: Load, threads: int | None) -> Report:
    """All of it, on a service that is started for it."""
    report, fresh = Report(processor()), cases(load.tokens, seed=0)
    counts = [threads] if threads else sorted({1, default_threads()})
    with serving(bundle, _settings(threads)) as service, ExitStack() as stack:
        scripts = {count: stack.enter_context(script(bundle, count)) for count in counts}
        asyncio.run(ask_all(service.url, service.model, _take(fresh, 4 * max(load.clients)), max(load.clients)))
        before = service.resident
        report.rows = measure(service, scripts, load, fresh)
        report.first_question, report.second_question = ask_twice(service, load, fresh)
        report.compared, report.equal = load.equal, compare(service, load, fresh)
        report.resident = (before, service.resident)
    return report


def _settings(threads: int | None) -> dict[str, Any]:
    return {"threads": threads, "queue": _QUEUE, "request_seconds": 600, "reserve_mib": 256}


def _named(who: int) -> str:
    count = f"{abs(who)} {'thread' if who < 0 else 'client'}{'s' if abs(who) > 1 else ''}"
    return f"generate, {count}" if who < 0 else count


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> int:
    """Measure, print, and say with the exit status whether the bounds are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="of a vision-language model, such as the demo's")
    parser.add_argument("--rounds", type=int, default=Load.rounds)
    parser.add_argument("--requests", type=int, default=Load.requests, help="of each turn")
    parser.add_argument("--tokens", type=int, default=Load.tokens, help="of an answer, at most")
    parser.add_argument("--clients", type=int, nargs="+", default=Load.clients)
    parser.add_argument("--pairs", type=int, default=Load.pairs, help="images that are asked about twice")
    parser.add_argument("--equal", type=int, default=Load.equal, help="answers compared with a quiet service's")
    parser.add_argument("--threads", type=int, help="of both sides; by default the service finds out by itself")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="instead: mixed load of 64 clients for so long")
    parser.add_argument("--tight", action="store_true", help="instead: a budget for 2 requests, and 20 at once")
    parser.add_argument("--kill", action="store_true", help="instead: kill -9 within an answer, and start again")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.kill:
        return _kill(given.bundle, given.threads, as_json=given.json)
    if given.tight:
        return _tight(given.bundle, given.threads, as_json=given.json)
    if given.soak:
        return _soak(given.bundle, given.soak, given.threads, as_json=given.json)
    load = Load(given.rounds, given.requests, given.tokens, tuple(given.clients), given.pairs, given.equal)
    report = run(given.bundle, load, given.threads)
    if given.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        _print(report)
    return 0 if report.passed else 1


def _print(report: Report) -> None:
    print(report.processor)
    header = f"{'':<24}{'requests/s':>11}{'tokens/s':>10}{'x generate':>11}"
    print(f"{header}   first token p50/p95/p99 ms   total p50/p95/p99 ms")
    for row in report.rows:
        first, total = (" / ".join(f"{1000 * value:.0f}" for value in times) for times in (row.first, row.total))
        figures = f"{row.requests_per_second:>11.2f}{row.tokens_per_second:>10.1f}{row.speed:>11.2f}"
        print(f"{row.who:<24}{figures}   {first:>26}   {total:>20}")
    ratio = report.first_question / report.second_question
    times = f"{1000 * report.first_question:.1f} ms, then {1000 * report.second_question:.1f} ms"
    print(f"first token about an image: {times}, {ratio:.1f} times sooner")
    print(f"answers equal to those of the quiet service: {report.equal} of {report.compared}")
    before, after = report.resident
    print(f"memory of its own: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after ({after / before - 1:+.1%})")


def _tight(bundle: Path, threads: int | None, *, as_json: bool) -> int:
    """A budget for two requests."""
    found = measure_tight(bundle, _settings(threads), cases(24, seed=200_000))
    peak = f"{found.peak / 1e6:.1f} MB ({found.peak / found.budget - 1:+.1%})"
    budget = f"budget {found.budget / 1e6:.1f} MB, {found.slots} requests at once, peak {peak}"
    return _told(found, f"{budget}\nanswers by status: {found.statuses}", as_json=as_json)


def _kill(bundle: Path, threads: int | None, *, as_json: bool) -> int:
    """Killed, and started again."""
    found = measure_killed(bundle, _settings(threads), cases(48, seed=300_000))
    ready = f"ready after {found.usual:.2f} s, and after kill -9 within an answer after {found.again:.2f} s"
    left = f"same answer as before: {found.equal}; bundle as it was: {found.untouched}"
    return _told(found, f"{ready}\n{left}", as_json=as_json)


def _told(found: Tight | Killed, words: str, *, as_json: bool) -> int:
    """Print it, and give the exit status."""
    print(json.dumps(asdict(found), indent=1) if as_json else words)
    return 0 if found.passed else 1


def _soak(bundle: Path, seconds: float, threads: int | None, *, as_json: bool) -> int:
    """Mixed load, and what must hold after it."""
    settings = {
        **_settings(threads),
        "queue": 16,
        "request_seconds": 60,
        "body_seconds": SLOW_S,
        "image_mib": 1,
        "images_mib": 1,
    }
    with serving(bundle, settings) as service:
        found: Soak = asyncio.run(soak(service, cases(24, seed=100_000), seconds))
    growth = found.resident[1] / found.resident[0] - 1
    failures = [*found.failures, *([f"memory grew by {growth:.1%}"] if growth > MAX_GROWTH else [])]
    if as_json:
        print(json.dumps({**asdict(found), "growth": growth, "failures": failures}, indent=1))
    else:
        for what, statuses in sorted(found.answers.items()):
            print(f"{what:<22}{sum(statuses.values()):>7}  {dict(sorted(statuses.items()))}")
        warm, end = (size / 1e6 for size in found.resident)
        print(f"memory of its own: {warm:.1f} MB, then {end:.1f} MB ({growth:+.1%})")
        print("\n".join(failures) or "all invariants hold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
