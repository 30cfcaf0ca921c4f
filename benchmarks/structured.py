"""How many tokens a second answers make that are held to a JSON schema, beside free answers of the same length.

Both kinds take turns, in one process with one model, each block with as many answers at once as there are slots. An
answer has as many tokens as are asked for: the schema is a list that never need end, and a free answer that ends sooner
counts with the tokens it has. Rates are told by the clock, and by processor time, which neighbours on a shared machine
disturb less.

    python -m benchmarks.structured demo/vlm/bundle picture.png
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.turns import quartiles
from edgeq.model.images.decode import decode_image
from edgeq.runtime.scheduler.runtime import Runtime, RuntimeOptions, open_runtime
from edgeq.runtime.vlm.api import GenerationRequest, SamplingParams, Turn
from edgeq.runtime.vlm.constrained.schema import schema_text
from edgeq.runtime.vlm.stream import Done

ENTRY = {
    "type": "object",
    "properties": {
        "damage": {"enum": ["crack", "corrosion", "spalling", None]},
        "place": {"type": "string", "maxLength": 20},
        "severity": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["damage", "place", "severity"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": ENTRY, "minItems": 1000}


CLOCKS = {"clock": time.perf_counter, "processor": time.process_time}


def rates_of(runtime: Runtime, asks: Sequence[GenerationRequest]) -> dict[str, float]:
    """Tokens of all answers in a second of each clock, from the first request to the last answer's end."""
    start, tokens = {name: clock() for name, clock in CLOCKS.items()}, 0
    for stream in [runtime.submit(ask) for ask in asks]:
        *_, last = stream
        assert isinstance(last, Done), last
        tokens += last.usage.answer_tokens
    return {name: tokens / (clock() - start[name]) for name, clock in CLOCKS.items()}


def main() -> None:
    """Print the rates of both kinds, and the quartiles of their ratio over the pairs of blocks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    picture = decode_image(given.image.read_bytes(), given.image.name)
    turn = Turn.said("user", "Describe the damage and say what to do.", images=1)

    def asks(schema: str | None) -> list[GenerationRequest]:
        return [
            GenerationRequest((picture,), (turn,), given.tokens, SamplingParams(1.0, seed=number), schema=schema)
            for number in range(given.slots)
        ]

    kinds = {"free": asks(None), "held": asks(schema_text(SCHEMA))}
    options = RuntimeOptions(slots=given.slots, threads=given.threads, reserve_bytes=64 << 20)
    rates: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with open_runtime(given.bundle, options) as runtime:
        for number in range(given.rounds + 1):
            for kind in sorted(kinds, reverse=bool(number % 2)):
                found = rates_of(runtime, kinds[kind])
                if number:  # the first round is to warm up
                    rates[kind].append(found)
    pairs = list(zip(rates["held"], rates["free"], strict=True))
    for clock in CLOCKS:
        middle = {kind: quartiles([found[clock] for found in values])[1] for kind, values in rates.items()}
        ratio = " ".join(f"{value:.2f}" for value in quartiles([held[clock] / free[clock] for held, free in pairs]))
        print(
            f"{clock}: {middle['free']:.0f} tokens/s free, {middle['held']:.0f} held, of each pair {ratio} (quartiles)"
        )


if __name__ == "__main__":
    main()
