"""LLaVA-1.5 in 7 and 13 billion parameters under 16 GB of a GPU: planned against measured memory, load time, and the
runtime's own slots and decode step.

Run it with `make bench-gpu-vlm`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
import transformers

from benchmarks.process import ROOT
from benchmarks.random_nf4 import load_nf4, random_nf4
from benchmarks.served_nf4 import Served, serve
from edgeq.device import DeviceProfile
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.runtime.vlm.batch_decoder import BatchDecoder

__all__ = ["Row", "Times", "bytes_per_token", "decode", "main", "planned", "table"]

CONFIGS = ROOT / "tests" / "golden" / "vlm-configs"
MODELS = ("llava-1.5-7b", "llava-1.5-13b")
IMAGE_TOKENS = 576
MOST_SLOTS = 8
GIGABYTE = 10**9
COPIED = 1 << 28
COPIES = 20


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        fits: the plan says that it fits under the cap.
        planned_weights, weights: bytes.
        planned_peak, peak: bytes while answering with the context full, without CUDA's own.
        reserved: what torch took of the card for that, with its unused rest.
        checkpoint: bytes on disk.
        load_seconds: from the checkpoint, whose pages are in memory, to the device.
        load_peak: bytes on the device meanwhile.
        prefill_seconds: image and prompt, to the first token.
        tokens_per_second: of all slots' answers together, after their first tokens.
        limit: what the card's bandwidth allows, by the bytes that one step needs.
        failure: why there are no figures; empty where there are.
    """

    model: str
    fits: bool
    planned_weights: int
    planned_peak: int
    weights: int = 0
    peak: int = 0
    reserved: int = 0
    checkpoint: int = 0
    load_seconds: float = 0.0
    load_peak: int = 0
    prefill_seconds: float = 0.0
    tokens_per_second: float = 0.0
    limit: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Times:
    """What an answer took, in seconds.

    Attributes:
        first: from pixels and tokens to the first token.
        steps: all steps after it.
    """

    first: float
    steps: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a model did not run, 2 where there is no GPU."""
    options = _options(arguments)
    if not torch.cuda.is_available():
        _say("no CUDA GPU is at hand, and this benchmark measures nothing else; run it where torch sees one")
        return 2
    device = torch.device("cuda", 0)
    cap, total = int(options.cap * GIGABYTE), torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(cap / total, 1.0), device)
    bandwidth = _bandwidth(device)
    rows = [_row(name, device, min(cap, total), bandwidth, options) for name in options.models]
    head = _machine(device) | {"cap": min(cap, total), "bandwidth": bandwidth, "context": options.context}
    if options.json:
        print(json.dumps(head | {"rows": [dataclasses.asdict(row) for row in rows]}, indent=1))
    else:
        print(table(head, rows))
    return 1 if any(row.failure for row in rows) else 0


def planned(model: VlmDescription, cap: int, context: int, slots: int = 1) -> MemoryPlan:
    """edgeq's plan for a card of `cap` bytes, counted as torch counts: without CUDA's context and the libraries."""
    card = DeviceProfile(
        name="card",
        title="the card's cap",
        memory="system",
        total_bytes=cap,
        reserve_bytes=0,
        runtime_bytes=0,
        source="--cap",
    )
    return plan_memory(model, card, context=context, batch=slots)


def bytes_per_token(plan: MemoryPlan, tokens: float) -> float:
    """What the device must read for one token of the answer: the language model's weights and the KV cache.

    Args:
        plan: of a model without cross-attention.
        tokens: in the cache.
    """
    read = ("language", "head", *(["embedding"] if plan.tied_head else []))
    weights = sum(part.bytes for part in plan.components if part.name in read)
    return weights + tokens * plan.kv.bytes_per_token


def decode(served: Served, decoder: BatchDecoder, tokens: int, answer: int, wait: Callable[[], None]) -> Times:
    """Let every slot of the runtime answer a question of its own, greedily.

    Args:
        served: the model.
        decoder: its slots, all of them free; they are so afterwards.
        tokens: of each prompt, an image first.
        answer: tokens of each answer; at least 2.
        wait: returns when the device has done its work.
    """
    questions = [served.question(slot, tokens, answer + 1) for slot in range(decoder.slots)]
    for slot, question in enumerate(questions):
        wait()
        start = time.perf_counter()
        decoder.begin(slot, question)
        wait()
        first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(answer - 1):
        decoder.step()
    wait()
    steps = time.perf_counter() - start
    for slot in range(decoder.slots):
        decoder.release(slot)
    return Times(first, steps)


def table(head: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The figures for people."""
    lines = [
        f"{head['card']}, {head['date']}, " + ", ".join(f"{name} {text}" for name, text in head["versions"].items()),
        f"cap {head['cap'] / 1e9:.1f} GB, copies at {head['bandwidth'] / 1e9:.0f} GB/s, context {head['context']:,}",
    ]
    for row in rows:
        lines += ["", f"{row.model}: planned to {'fit' if row.fits else 'be too large'}"]
        lines += [f"  {row.failure}"] if row.failure else _lines(row)
    return "\n".join(lines)


def _lines(row: Row) -> list[str]:
    return [
        f"  weights   {row.weights / 1e9:7.3f} GB, planned {row.planned_weights / 1e9:.3f}"
        f" ({100 * (row.weights / row.planned_weights - 1):+.2f} %)",
        f"  answering {row.peak / 1e9:7.3f} GB, planned {row.planned_peak / 1e9:.3f}"
        f" ({100 * (row.peak / row.planned_peak - 1):+.2f} %), reserved {row.reserved / 1e9:.3f}",
        f"  loading   {row.load_peak / 1e9:7.3f} GB in {row.load_seconds:.1f} s, from {row.checkpoint / 1e9:.3f} GB",
        f"  prompt    {row.prefill_seconds:7.3f} s",
        f"  decoding  {row.tokens_per_second:7.1f} tokens/s, limit {row.limit:.1f}"
        f" ({100 * row.tokens_per_second / row.limit:.0f} % of it)",
    ]


def _row(name: str, device: torch.device, cap: int, bandwidth: float, options: argparse.Namespace) -> Row:
    """One model, measured if it runs at all."""
    _say(f"{name}: drawing and quantizing its weights")
    model = read_vlm(CONFIGS / name)
    plan = planned(model, cap, options.context, options.slots)
    row = Row(name, plan.fits, plan.weights_bytes, plan.phases[-1].bytes)
    options.scratch.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            random_nf4(CONFIGS / name, device).save_pretrained(scratch, save_original_format=False)
            _release()
            row, loaded = _load(row, Path(scratch), device)
        return _answer(row, loaded, plan, bandwidth, options)
    except torch.OutOfMemoryError as error:
        return dataclasses.replace(row, failure=str(error).splitlines()[0])
    finally:
        _release()


def _load(row: Row, directory: Path, device: torch.device) -> tuple[Row, Any]:
    _say(f"{row.model}: loading")
    torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    loaded = load_nf4(directory, device)
    torch.cuda.synchronize(device)
    found = dataclasses.replace(
        row,
        load_seconds=time.perf_counter() - start,
        load_peak=torch.cuda.max_memory_allocated(device),
        weights=torch.cuda.memory_allocated(device),
        checkpoint=sum(path.stat().st_size for path in directory.glob("*.safetensors")),
    )
    return found, loaded


def _answer(
    row: Row,
    loaded: Any,
    plan: MemoryPlan,
    bandwidth: float,
    options: argparse.Namespace,
) -> Row:
    """Answer until the context is full: once to warm up, once for the figures."""
    _say(f"{row.model}: answering")
    device, start, slots = loaded.device, options.context - options.new_tokens, options.slots
    served = serve(loaded, CONFIGS / row.model, options.context)
    torch.cuda.reset_peak_memory_stats(device)
    decoder = served.decoder(slots, options.context)
    decode(served, decoder, start, 2, torch.cuda.synchronize)
    taken = decode(served, decoder, start, options.new_tokens, torch.cuda.synchronize)
    needed = bytes_per_token(plan, slots * (start + options.new_tokens / 2))
    return dataclasses.replace(
        row,
        peak=torch.cuda.max_memory_allocated(device),
        reserved=torch.cuda.max_memory_reserved(device),
        prefill_seconds=taken.first,
        tokens_per_second=slots * (options.new_tokens - 1) / taken.steps,
        limit=slots * bandwidth / needed,
    )


def _bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy within the card's memory reads and writes."""
    source = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(COPIES):
        target.copy_(source)
    torch.cuda.synchronize(device)
    return 2.0 * COPIED * COPIES / (time.perf_counter() - start)


def _release() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "card": torch.cuda.get_device_name(device),
        "versions": {
            "torch": torch.__version__,
            "CUDA": torch.version.cuda,
            "transformers": transformers.__version__,
            "bitsandbytes": bitsandbytes.__version__,
        },
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_vlm", description=__doc__)
    add: Callable[..., Any] = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=MODELS, help="default: both")
    add("--cap", type=float, default=16.0, help="GB of the card's memory that may be used")
    add("--context", type=int, default=2048, help="tokens in all: image, question and answer")
    add("--new-tokens", type=int, default=64, help="tokens of the answer")
    add("--slots", type=int, default=1, help="answers at once")
    add("--scratch", type=Path, default=ROOT / "out" / "bench", help="where a checkpoint lies for a while: 8 GB")
    add("--json", action="store_true", help="print one JSON object on stdout")
    options = parser.parse_args(arguments)
    if options.new_tokens < 2 or options.context - options.new_tokens <= IMAGE_TOKENS:
        parser.error(f"the context must hold an image of {IMAGE_TOKENS} tokens, a question and 2 tokens of an answer")
    if not 1 <= options.slots <= MOST_SLOTS:
        parser.error(f"1 to {MOST_SLOTS} answers at once")
    if options.cap <= 0:
        parser.error("the cap must be more than 0 GB")
    return options


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
