"""`edgeq judge` against servers on this machine, honest ones and liars: is each told for what it is, and how soon?

    python -m benchmarks.judge out/demo/vlm-bundle --transformers-python PYTHON --llama-python PYTHON

`benchmarks/README.md` tells what each is. The demo's vision-language model in FP32 is the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.process import ROOT, free_port, processor, serving_process
from benchmarks.service_process import serving
from edgeq.demo.vlm.story import VLM_WEIGHTS
from edgeq.families.modules import read_vlm
from edgeq.judge.bounds import DEFAULT_SEED
from edgeq.judge.chat_server import ChatServer
from edgeq.judge.judgement import Judgement
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.run import JudgeOptions, judge_target
from edgeq.judge.sight import sight_questions
from edgeq.judge.target import LocalTarget
from edgeq.pipeline.vlm_reference import load_reference
from edgeq.runtime.vlm.model import load_vlm

__all__ = ["IMAGE_BEFORE", "ZEROED", "main", "table"]

_TOKENS: Final = 48
_SKILLS: Final = ("kinds of damage", "shadow or corrosion", "hairline cracks", "left or right")
"""Of which the demo's model has learned something."""

ZEROED: Final = """
from edgeq.runtime.vlm.vision_encoder import VisionEncoder
encode = VisionEncoder.encode
VisionEncoder.encode = lambda self, feeds: {name: 0 * value for name, value in encode(self, feeds).items()}
"""
"""A service that runs this first is blind: what the language model gets of every image is nought."""

IMAGE_BEFORE: Final = """
from edgeq.runtime.vlm.vision_encoder import VisionEncoder
encode, before = VisionEncoder.encode, []
def swapped(self, feeds):
    before.append(encode(self, feeds))
    return before.pop(0) if len(before) > 1 else before[0]
VisionEncoder.encode = swapped
"""
"""A service that runs this first answers about the image before."""


@dataclass(frozen=True)
class _Contender:
    """A server that is judged.

    Attributes:
        name: for people.
        honest: it is expected to see; None where that is the question.
        start: runs it, and gives its address.
        extra_body: what goes with every question.
    """

    name: str
    honest: bool | None
    start: Callable[[], AbstractContextManager[str]]
    extra_body: Mapping[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge every server that can run here, and print what came of it."""
    given = _parser().parse_args(arguments)
    if not (given.bundle / "manifest.json").is_file():
        print(
            f"needed: a bundle of the demo's vision-language model; {given.bundle} is none (make demo)", file=sys.stderr
        )
        return 2
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        reference = _reference(given.bundle, given.threads)
        for contender in (each for each in _contenders(given, work) if any(part in each.name for part in given.only)):
            asked = given.liars_questions if contender.honest is False else given.questions
            found.append(_judged(contender, reference, _questions(asked), given.answers or work / "reference.jsonl"))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"processor": processor(), "rows": found}, indent=1) if given.json else table(found))
    return 0 if all(row["honest"] in (None, row["verdict"] == "sees") for row in found) else 1


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For people.

    Args:
        rows: as `main` makes them.
    """
    lines = [
        "| server | right, % | lost, points (standard error) | same answer, % | verdict | after | asked |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        told = row["right"] is not None
        right, lost = (f"{row['right']:.1f}", f"{row['drop']:.1f} ({row['error']:.1f})") if told else ("", "")
        cells = (row["server"], right, lost, f"{row['same']:.1f}", row["verdict"], row["after"], row["asked"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _judged(
    contender: _Contender, reference: LocalTarget, questions: Sequence[AskedQuestion], answers: Path
) -> dict[str, Any]:
    with contender.start() as url:
        target = ChatServer(url, extra_body=contender.extra_body)
        options = JudgeOptions(_TOKENS, 1, reference_answers=answers)
        found = judge_target(target, reference, questions, options, lambda *_: None)
    return {"server": contender.name, "honest": contender.honest, "asked": len(questions), **_figures(found)}


def _figures(found: Judgement) -> dict[str, Any]:
    headline = found.headline
    same = sum(group.agreement.value * group.items for group in found.groups) / sum(g.items for g in found.groups)
    shifts = [group.logprob_shift.value for group in found.groups if group.logprob_shift]
    return {
        "right": headline and headline.candidate,
        "reference": headline and headline.reference,
        "drop": headline and headline.drop,
        "error": headline and headline.standard_error,
        "same": same,
        "logprob_shift": sum(shifts) / len(shifts) if shifts else None,
        "verdict": found.verdict,
        "after": found.enough,
        "reason": found.reasons[0],
    }


def _questions(count: int) -> list[AskedQuestion]:
    """So many of each skill, and the skills in turn: so the first ones are of all of them."""
    by_skill = [[each for each in sight_questions(count, DEFAULT_SEED) if each.group == skill] for skill in _SKILLS]
    return [each for turn in zip(*by_skill, strict=True) for each in turn]


def _reference(bundle: Path, threads: int) -> LocalTarget:
    prompter = load_vlm(bundle, threads=threads).prompter
    whole = load_reference(VLM_WEIGHTS, read_vlm(VLM_WEIGHTS), prompter)
    assert whole is not None, "22 MB fit everywhere"
    return LocalTarget("the demo's model in FP32", whole)


def _contenders(given: argparse.Namespace, work: Path) -> Iterator[_Contender]:
    edgeq = partial(_edgeq, given.bundle, given.threads)
    yield _Contender("`edgeq serve`", True, edgeq)
    yield _Contender("`edgeq serve`, features zeroed", False, partial(edgeq, before=ZEROED))
    yield _Contender("`edgeq serve`, the image before", False, partial(edgeq, before=IMAGE_BEFORE))
    if given.transformers_python is not None:
        served = partial(_transformers, given.transformers_python)
        yield _Contender("`transformers serve`, FP32", True, partial(served, VLM_WEIGHTS))
        nf4 = partial(served, VLM_WEIGHTS, "--quantization", "bnb-4bit")
        yield _Contender("`transformers serve`, all in NF4", None, nf4)
        yield _Contender("`transformers serve`, 2-bit eyes", False, partial(served, _two_bits(work / "two-bits")))
    if given.llama_python is not None:
        llama = partial(_llama, given.llama_python, work)
        yield _Contender("llama.cpp, FP16", True, llama, {"repeat_penalty": 1.0})


def _two_bits(directory: Path) -> Path:
    """The demo's model with eyes of two bits, simulated, as a checkpoint."""
    import torch
    import transformers

    from benchmarks.sight import rounded

    shutil.copytree(VLM_WEIGHTS, directory)
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        VLM_WEIGHTS, dtype=torch.float32, local_files_only=True
    )
    rounded(model, 2).save_pretrained(directory)  # type: ignore[operator]  # torch's Module knows no such method
    return directory


@contextmanager
def _edgeq(bundle: Path, threads: int, *, before: str = "") -> Iterator[str]:
    with serving(bundle, {"threads": threads}, before=before) as service:
        yield service.url


@contextmanager
def _transformers(python: Path, model: Path, *flags: str) -> Iterator[str]:
    run = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(python), "-c", run, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += [*flags, "--device", "cpu", "--dtype", "float32"]
    with tempfile.TemporaryDirectory() as cache:
        alone = _environment({"HF_HOME": cache, "HF_HUB_OFFLINE": "1"})
        with serving_process(command, lambda: _answers(f"{url}/health"), alone):
            yield url


@contextmanager
def _llama(python: Path, work: Path) -> Iterator[str]:
    subprocess.run(
        [str(python), "-m", "benchmarks.peers.llava_gguf", str(VLM_WEIGHTS), str(work)],
        cwd=ROOT,
        env=_environment({}),
        check=True,
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(python), "-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(work / "language.gguf"), "--clip_model_path", str(work / "mmproj.gguf")]
    command += ["--chat_format", "mtmd", "--n_ctx", "512", "--n_threads", "1", "--model_alias", "demo"]
    with serving_process(command, lambda: _answers(f"{url}/v1/models"), _environment({})):
        yield url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])]), **more}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="of the demo's vision-language model")
    parser.add_argument("--transformers-python", type=Path, help="with transformers[serving]; without it, not run")
    parser.add_argument("--llama-python", type=Path, help="with llama-cpp-python[server] and gguf; without it, not run")
    parser.add_argument("--questions", type=int, default=16, help="of each of four skills, to honest servers")
    parser.add_argument("--liars-questions", type=int, default=8, help="likewise, to the others")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="servers with one of these in their names"
    )
    parser.add_argument("--answers", type=Path, help="a file of the reference's answers, to go on with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
