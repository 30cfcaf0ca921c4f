"""Vision-language models on this machine: memory planned against measured, what making NF4 takes, and what the second
question about an image saves.

Run it with `make bench-vlm-memory`; each step has a process of its own. `benchmarks/README.md` tells what is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.process import ROOT

__all__ = ["main"]

_DEMO: Final = ROOT / "edgeq" / "demo" / "weights-vlm"
_QUESTION: Final = "What do you see?"
_OTHER: Final = "How bad is it?"
_TOKENS: Final = 8
_NF4_ROOM: Final = 300_000_000
"""What making NF4 may take beside the largest file of the source and the result."""
_PHOTOGRAPHS: Final = 2
_PAIRS: Final = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the demo's model and a random one, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_vlm")
    parser.add_argument("--models", nargs="*", default=["demo", "1.1b"], choices=["demo", "1.1b"])
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.step:
        print(json.dumps(_STEPS[given.step](given.folder)))
        return 0
    for name in given.models:
        with tempfile.TemporaryDirectory(prefix="edgeq-vlm-memory-") as folder:
            print(_table(name, _measure(name, Path(folder))), flush=True)
    return 0


def _measure(name: str, folder: Path) -> dict[str, Any]:
    """All steps on one model: the figures of each, in bytes."""
    if name == "demo":
        (folder / "model").symlink_to(_DEMO)
    else:
        _in_process("make", folder)
    return {step: _in_process(step, folder) for step in ("nf4", "prepare", "plan", "ask", "twice")}


def _in_process(step: str, folder: Path) -> dict[str, Any]:
    """One step in a fresh process, whose memory is its own."""
    command = [sys.executable, "-m", "benchmarks.cpu_vlm", "--step", step, "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _make(folder: Path) -> dict[str, Any]:
    """A LLaVA of 1.1 billion random parameters in FP16, in files of at most 1 GB, with the demo's tokenizer."""
    import torch
    import transformers

    from edgeq.demo.vlm.tokens import build_processor

    processor = build_processor()
    tokenizer = processor.tokenizer
    vision = transformers.CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=224,
        patch_size=14,
    )
    text = transformers.LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=20,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=processor.image_token_id,
        image_seq_length=256,
        tie_word_embeddings=False,
    )
    torch.set_default_dtype(torch.float16)
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    model.save_pretrained(folder / "model", max_shard_size="1GB")
    processor.image_processor.size = {"height": 224, "width": 224}
    processor.image_processor.crop_size = {"height": 224, "width": 224}
    processor.patch_size = 14
    processor.save_pretrained(folder / "model")
    processor.image_processor.save_pretrained(folder / "model")
    return {"parameters": sum(weight.numel() for weight in model.parameters())}


def _nf4(folder: Path) -> dict[str, Any]:
    """The language model as NF4: the peak, and what it is held against."""
    from edgeq.families.modules import read_vlm
    from edgeq.plan.rules import plan_modules
    from edgeq.quantize.nf4.write import write_nf4

    source = folder / "model"
    write_nf4(source, plan_modules(read_vlm(source).components), folder / "nf4")
    shards = [file.stat().st_size for file in source.glob("*.safetensors")]
    result = sum(file.stat().st_size for file in (folder / "nf4").glob("*.safetensors"))
    return {"peak": _memory("VmHWM"), "source": sum(shards), "largest_shard": max(shards), "result": result}


def _prepare(folder: Path) -> dict[str, Any]:
    from edgeq.demo.vlm.scenes import draw_finding
    from edgeq.pipeline.vlm import VlmOptions, prepare_vlm

    (folder / "photographs").mkdir()
    for seed in range(_PHOTOGRAPHS):
        draw_finding(seed)[0].save(folder / "photographs" / f"{seed}.png")
    options = VlmOptions(reference_answers=False, canaries=1, max_new_tokens=1)
    made = prepare_vlm(folder / "model", folder / "photographs", folder / "bundle", options=options)
    return {"peak": _memory("VmHWM"), "vision": made.vision_bytes, "language": made.language_bytes}


def _plan(folder: Path) -> dict[str, Any]:
    """What the plan says for this machine, before any weight is read."""
    from edgeq.device import THIS_MACHINE, device_profile
    from edgeq.families.modules import read_vlm
    from edgeq.plan.memory import plan_memory

    made = plan_memory(read_vlm(folder / "model"), device_profile(THIS_MACHINE), context=512)
    return {
        "parameters": made.parameters,
        "phases": {phase.name: phase.bytes for phase in made.phases},
        "items": {phase.name: {item.name: item.bytes for item in phase.items} for phase in made.phases},
    }


def _ask(folder: Path) -> dict[str, Any]:
    """Resident memory before the bundle is opened, when it waits for its first question, and after an answer."""
    from PIL import Image

    from edgeq.runtime.vlm.model import open_vlm

    vlm = open_vlm(folder / "bundle")
    loaded, load_peak = _memory("VmRSS"), _memory("VmHWM")
    with Image.open(folder / "photographs" / "0.png") as image:
        reply = vlm.ask(image.convert("RGB"), _QUESTION, _TOKENS)
    return {
        "loaded": loaded,
        "load_peak": load_peak,
        "answered": _memory("VmRSS"),
        "peak": _memory("VmHWM"),
        "tokens": reply.prompt_tokens + len(reply.token_ids),
    }


def _twice(folder: Path) -> dict[str, Any]:
    """Median seconds to the first token of a first and of a second question about one image, by the runtime's clock."""
    from edgeq.demo.vlm.scenes import draw_finding
    from edgeq.runtime.scheduler.runtime import open_runtime
    from edgeq.runtime.vlm.api import GenerationRequest
    from edgeq.runtime.vlm.stream import Done

    times: list[float] = []
    with open_runtime(folder / "bundle") as runtime:
        for seed in range(_PHOTOGRAPHS, _PHOTOGRAPHS + 1 + _PAIRS):
            for question in (_QUESTION, _OTHER):
                *_, end = runtime.submit(GenerationRequest.about(draw_finding(seed)[0], question, 1))
                assert isinstance(end, Done), end
                times.append(end.usage.first_token_seconds)
    return {"first": median(times[2::2]), "second": median(times[3::2])}  # the first pair warms up


def _memory(field: str) -> int:
    """A figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


_STEPS: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {
    "make": _make,
    "nf4": _nf4,
    "prepare": _prepare,
    "plan": _plan,
    "ask": _ask,
    "twice": _twice,
}


def _table(name: str, found: dict[str, Any]) -> str:
    """Planned beside measured, in MB."""
    plan, ask, nf4 = found["plan"], found["ask"], found["nf4"]
    bound = nf4["largest_shard"] + nf4["result"] + _NF4_ROOM
    rows = [
        ("while loading, at most", plan["phases"]["loading"], ask["load_peak"]),
        ("while answering", plan["phases"]["answering"], ask["answered"]),
    ]
    if nf4["source"] > _NF4_ROOM:  # of a smaller one it is Python and torch that is measured
        rows.append(("making NF4, at most", bound, nf4["peak"]))
    lines = [f"{name}: {plan['parameters']:,} parameters, {nf4['source'] / 1e6:,.0f} MB in FP16", ""]
    lines += ["| MB | planned | measured | measured / planned |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {planned / 1e6:,.0f} | {measured / 1e6:,.0f} | {measured / planned:.3f} |"
        for what, planned, measured in rows
    ]
    first, second = found["twice"]["first"], found["twice"]["second"]
    times = f"first token after {1e3 * first:.1f} ms, of a second question about an image after {1e3 * second:.1f} ms"
    return "\n".join([*lines, "", f"{times}: {first / second:.1f} times sooner", ""])


if __name__ == "__main__":
    raise SystemExit(main())
