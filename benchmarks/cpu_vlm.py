"""Vision-language models on this machine: memory planned against measured, what making NF4 takes, and what a second
question about an image and a further one of a conversation save.

Run it with `make bench-vlm-memory`; each step has a process of its own. `benchmarks/README.md` tells what is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.process import ROOT
from benchmarks.random_vlms import RANDOM_VLMS, write_random_vlm

if TYPE_CHECKING:
    from PIL import Image

    from edgeq.runtime.scheduler.runtime import Runtime
    from edgeq.runtime.vlm.api import Turn
    from edgeq.runtime.vlm.stream import Done

__all__ = ["STEPS", "SUBJECTS", "Subject", "main", "sixth_question", "table"]

_DEMO: Final = ROOT / "edgeq" / "demo" / "weights-vlm"
_QUESTION: Final = "What do you see?"
_OTHER: Final = "How bad is it?"
_TOKENS: Final = 8
_NF4_ROOM: Final = 300_000_000
"""What making NF4 may take beside the largest file of the source and the result."""
_PHOTOGRAPHS: Final = 2
_PAIRS: Final = 5
_CONVERSATIONS: Final = 3
_SAID: Final = 4
"""Tokens of each answer within a conversation."""


@dataclass(frozen=True)
class Subject:
    """A model that is measured.

    Attributes:
        photograph: width and height of what it is asked about; None for the demo's scenes as they are drawn.
        context: tokens that memory is planned for.
        pictures: in a conversation; 0 for a model that takes one in all.
    """

    photograph: tuple[int, int] | None = None
    context: int = 512
    pictures: int = 3

    def draw(self, seed: int) -> Image.Image:
        """A scene."""
        from edgeq.demo.vlm.scenes import draw_finding

        scene, _ = draw_finding(seed)
        return scene.resize(self.photograph) if self.photograph else scene


SUBJECTS: Final[Mapping[str, Subject]] = {
    "demo": Subject(),
    "1.1b": Subject(),
    "mllama-1b": Subject((1280, 720), pictures=0),
    "qwen3-vl-1b": Subject((1280, 720), context=1024),
}
"""The demo's model, and the random ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the models that are named, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_vlm")
    parser.add_argument("--models", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.step:
        (name,) = given.models
        print(json.dumps(STEPS[given.step](given.folder, name)))
        return 0
    for name in given.models:
        with tempfile.TemporaryDirectory(prefix="edgeq-vlm-memory-") as folder:
            print(table(name, _measure(name, Path(folder))), flush=True)
    return 0


def _measure(name: str, folder: Path) -> dict[str, Any]:
    """All steps on one model: the figures of each, in bytes and seconds."""
    steps = ["make", "nf4", "prepare", "plan", "ask", "twice"]
    steps += ["conversation"] if SUBJECTS[name].pictures else []
    return {step: _in_process(step, folder, name) for step in steps}


def _in_process(step: str, folder: Path, name: str) -> dict[str, Any]:
    """One step in a fresh process, whose memory is its own."""
    command = [sys.executable, "-m", "benchmarks.cpu_vlm", "--step", step, "--folder", str(folder), "--models", name]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _make(folder: Path, name: str) -> dict[str, Any]:
    """The demo's model as it is, or a random one."""
    if name in RANDOM_VLMS:
        return {"parameters": write_random_vlm(folder / "model", RANDOM_VLMS[name])}
    (folder / "model").symlink_to(_DEMO)
    return {}


def _nf4(folder: Path, _name: str) -> dict[str, Any]:
    """The language model as NF4: the peak, and what it is held against."""
    from edgeq.families.modules import read_vlm
    from edgeq.plan.rules import plan_modules
    from edgeq.quantize.nf4.write import write_nf4

    source = folder / "model"
    write_nf4(source, plan_modules(read_vlm(source).components), folder / "nf4")
    shards = [file.stat().st_size for file in source.glob("*.safetensors")]
    result = sum(file.stat().st_size for file in (folder / "nf4").glob("*.safetensors"))
    return {"peak": _memory("VmHWM"), "source": sum(shards), "largest_shard": max(shards), "result": result}


def _prepare(folder: Path, name: str) -> dict[str, Any]:
    from edgeq.pipeline.vlm import VlmOptions, prepare_vlm

    (folder / "photographs").mkdir()
    for seed in range(_PHOTOGRAPHS):
        SUBJECTS[name].draw(seed).save(folder / "photographs" / f"{seed}.png")
    options = VlmOptions(reference_answers=False, canaries=1, max_new_tokens=1)
    made = prepare_vlm(folder / "model", folder / "photographs", folder / "bundle", options=options)
    return {"peak": _memory("VmHWM"), "vision": made.vision_bytes, "language": made.language_bytes}


def _plan(folder: Path, name: str) -> dict[str, Any]:
    """What the plan says for this machine, before any weight is read."""
    from edgeq.device import THIS_MACHINE, device_profile
    from edgeq.families.modules import read_vlm
    from edgeq.plan.memory import plan_memory

    subject, device = SUBJECTS[name], device_profile(THIS_MACHINE)
    size = subject.photograph[::-1] if subject.photograph else None
    made = plan_memory(read_vlm(folder / "model"), device, context=subject.context, image_size=size)
    return {
        "parameters": made.parameters,
        "phases": {phase.name: phase.bytes for phase in made.phases},
        "items": {phase.name: {item.name: item.bytes for item in phase.items} for phase in made.phases},
    }


def _ask(folder: Path, _name: str) -> dict[str, Any]:
    """Resident memory when it waits for its first question and after an answer, and its peaks till then and since."""
    from PIL import Image

    from edgeq.runtime.vlm.model import open_vlm

    vlm = open_vlm(folder / "bundle")
    loaded, load_peak = _memory("VmRSS"), _memory("VmHWM")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is that of answering from now on
    with Image.open(folder / "photographs" / "0.png") as image:
        reply = vlm.ask(image.convert("RGB"), _QUESTION, _TOKENS)
    return {
        "loaded": loaded,
        "load_peak": load_peak,
        "answered": _memory("VmRSS"),
        "peak": _memory("VmHWM"),
        "tokens": reply.prompt_tokens + len(reply.token_ids),
    }


def _twice(folder: Path, name: str) -> dict[str, Any]:
    """Median seconds to the first token of a first and of a second question about one image, by the runtime's clock."""
    from edgeq.runtime.scheduler.runtime import open_runtime
    from edgeq.runtime.vlm.api import Turn

    times: list[float] = []
    with open_runtime(folder / "bundle") as runtime:
        for seed in range(_PHOTOGRAPHS, _PHOTOGRAPHS + 1 + _PAIRS):
            scene = SUBJECTS[name].draw(seed)
            for question in (_QUESTION, _OTHER):
                end = _ask_runtime(runtime, [scene], [Turn.said("user", question, images=1)], 1)
                times.append(end.usage.first_token_seconds)
    return {"first": median(times[2::2]), "second": median(times[3::2])}  # the first pair warms up


def _conversation(folder: Path, name: str) -> dict[str, Any]:
    """Median seconds to the first token of a conversation's sixth question, by the runtime's clock: in the runtime that
    answered the five before, and in one that keeps nothing.
    """
    subject = SUBJECTS[name]
    seeds = range(_PHOTOGRAPHS, _PHOTOGRAPHS + subject.pictures * (1 + _CONVERSATIONS), subject.pictures)
    scenes = [[subject.draw(first + number) for number in range(subject.pictures)] for first in seeds]
    talks = _talk(folder / "bundle", scenes)
    reread = _reread(folder / "bundle", scenes, [turns for _, turns in talks])
    last = {"kept": [end for end, _ in talks], "reread": reread}
    # the first conversation warms up
    return {how: median(end.usage.first_token_seconds for end in ends[1:]) for how, ends in last.items()}


def _talk(bundle: Path, scenes: Sequence[Sequence[Image.Image]]) -> list[tuple[Done, list[Turn]]]:
    """Conversations in one runtime."""
    from edgeq.runtime.scheduler.runtime import open_runtime

    with open_runtime(bundle) as runtime:
        return [sixth_question(runtime, shown) for shown in scenes]


def _reread(bundle: Path, scenes: Sequence[Sequence[Image.Image]], talks: Sequence[Sequence[Turn]]) -> list[Done]:
    """Their last questions in a runtime that keeps nothing."""
    from edgeq.runtime.scheduler.runtime import RuntimeOptions, open_runtime

    with open_runtime(bundle, RuntimeOptions(cache_bytes=0)) as runtime:
        return [_ask_runtime(runtime, shown, turns, 1) for shown, turns in zip(scenes, talks, strict=True)]


def sixth_question(runtime: Runtime, scenes: Sequence[Image.Image]) -> tuple[Done, list[Turn]]:
    """Have a conversation of six questions, of which every second one comes with a picture.

    Args:
        runtime: that is asked.
        scenes: the three pictures.

    Returns:
        The end of the last answer, and all that was said before it.
    """
    from edgeq.demo.vlm.report import QUESTIONS
    from edgeq.runtime.vlm.api import Turn

    turns: list[Turn] = []
    for number, question in enumerate(QUESTIONS):
        shown = 1 - number % 2
        turns.append(Turn.said("user", question, images=shown))
        end = _ask_runtime(runtime, scenes[: number // 2 + 1], turns, _SAID)
        if number + 1 < len(QUESTIONS):
            turns.append(Turn.said("assistant", end.text or "."))  # a random model may say nothing but spaces
    return end, turns


def _ask_runtime(runtime: Runtime, scenes: Sequence[Image.Image], turns: Sequence[Turn], tokens: int) -> Done:
    """The end of an answer."""
    from edgeq.runtime.vlm.api import GenerationRequest
    from edgeq.runtime.vlm.stream import Done

    *_, end = runtime.submit(GenerationRequest(tuple(scenes), tuple(turns), tokens))
    assert isinstance(end, Done), end
    return end


def _memory(field: str) -> int:
    """A figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


STEPS: Final[Mapping[str, Callable[[Path, str], dict[str, Any]]]] = {
    "make": _make,
    "nf4": _nf4,
    "prepare": _prepare,
    "plan": _plan,
    "ask": _ask,
    "twice": _twice,
    "conversation": _conversation,
}
"""Name -> what is done in a process of its own, in a folder, with a model: figures in bytes and seconds."""


def table(name: str, found: Mapping[str, Any]) -> str:
    """Planned beside measured, in MB, and what was saved.

    Args:
        name: of the model.
        found: step -> its figures.
    """
    plan, ask, nf4 = found["plan"], found["ask"], found["nf4"]
    bound = nf4["largest_shard"] + nf4["result"] + _NF4_ROOM
    rows = [
        ("while loading, at most", plan["phases"]["loading"], ask["load_peak"]),
        ("while answering", plan["phases"]["answering"], ask["peak"]),
    ]
    if nf4["source"] > _NF4_ROOM:  # of a smaller one it is Python and torch that is measured
        rows.append(("making NF4, at most", bound, nf4["peak"]))
    lines = [f"{name}: {plan['parameters']:,} parameters, {nf4['source'] / 1e6:,.0f} MB in FP16", ""]
    lines += ["| MB | planned | measured | measured / planned |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {planned / 1e6:,.0f} | {measured / 1e6:,.0f} | {measured / planned:.3f} |"
        for what, planned, measured in rows
    ]
    return "\n".join([*lines, "", *_times(found), ""])


def _times(found: Mapping[str, Any]) -> Iterator[str]:
    """What is kept of earlier questions saves a later one."""
    first, second = found["twice"]["first"], found["twice"]["second"]
    times = f"first token after {1e3 * first:.1f} ms, of a second question about an image after {1e3 * second:.1f} ms"
    yield f"{times}: {first / second:.1f} times sooner"
    if "conversation" in found:
        kept, reread = found["conversation"]["kept"], found["conversation"]["reread"]
        times = f"sixth question of a conversation, first token after {1e3 * kept:.1f} ms, {1e3 * reread:.1f} ms reread"
        yield f"{times}: {reread / kept:.1f} times sooner"


if __name__ == "__main__":
    raise SystemExit(main())
