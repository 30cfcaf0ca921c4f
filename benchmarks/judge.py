"""`edgeq judge` against servers on this machine, honest ones and liars: is each told for what it is, and how soon?

    python -m benchmarks.judge out/demo/vlm-bundle --transformers-python PYTHON --llama-server PATH --gguf-python PYTHON

`benchmarks/README.md` tells what each is. The demo's vision-language model in FP32 is the reference, also of servers of
the model with outlier channels, which computes the same in FP32. Exit status 1: one was told for what it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.outlier_eyes import WIDE_WEIGHTS, inject_outliers
from benchmarks.process import ROOT, free_port, processor, serving_process, url_answers
from benchmarks.service_process import serving
from edgeq.demo.scenes import CALIBRATION_SEED
from edgeq.demo.vlm.story import VLM_WEIGHTS, _draw
from edgeq.families.modules import read_vlm
from edgeq.judge.bounds import DEFAULT_SEED
from edgeq.judge.chat_server import ChatServer
from edgeq.judge.judgement import Judgement, Verdict
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.run import JudgeOptions, judge_target
from edgeq.judge.sight import sight_questions
from edgeq.judge.target import LocalTarget
from edgeq.pipeline.vlm import VlmOptions, prepare_vlm
from edgeq.pipeline.vlm_reference import load_reference
from edgeq.runtime.vlm.model import load_vlm

__all__ = ["IMAGE_BEFORE", "ZEROED", "main", "table"]

_TOKENS: Final = 48
_PHOTOGRAPHS: Final = 64
_NF4: Final = ("--quantization", "bnb-4bit")
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
        expected: the verdict; None where that is the question.
        start: runs it, and gives its address.
        close: what it loses is near the bound, so that it takes as many questions to tell as of an honest one.
    """

    name: str
    expected: Verdict | None
    start: Callable[[], AbstractContextManager[str]]
    close: bool = False


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
            few = contender.expected == "sees less" and not contender.close
            asked = given.liars_questions if few else given.questions
            found.append(_judged(contender, reference, _questions(asked), given.answers or work / "reference.jsonl"))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"processor": processor(), "rows": found}, indent=1) if given.json else table(found))
    return 0 if all(row["expected"] in (None, row["verdict"]) for row in found) else 1


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For people.

    Args:
        rows: as `main` makes them.
    """
    lines = [
        "| server | right, % | lost, points (standard error) | same answer, % | nats apart | verdict | after | asked |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        told = row["right"] is not None
        right, lost = (f"{row['right']:.1f}", f"{row['drop']:.1f} ({row['error']:.1f})") if told else ("", "")
        apart = "" if row["logprob_shift"] is None else f"{row['logprob_shift']:.2g}"
        cells = (row["server"], right, lost, f"{row['same']:.1f}", apart, row["verdict"], row["after"], row["asked"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _judged(
    contender: _Contender, reference: LocalTarget, questions: Sequence[AskedQuestion], answers: Path
) -> dict[str, Any]:
    with contender.start() as url:
        target = ChatServer(url)
        options = JudgeOptions(_TOKENS, 1, reference_answers=answers)
        found = judge_target(target, reference, questions, options, lambda *_: None)
    return {"server": contender.name, "expected": contender.expected, "asked": len(questions), **_figures(found)}


def _figures(found: Judgement) -> dict[str, Any]:
    headline = found.headline
    shift = found.logprob_shift
    return {
        "right": headline and headline.candidate,
        "reference": headline and headline.reference,
        "drop": headline and headline.drop,
        "error": headline and headline.standard_error,
        "same": found.agreement.value,
        "logprob_shift": shift and shift.value,
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
    yield _Contender("`edgeq serve`", "sees", edgeq)
    yield _Contender("`edgeq serve`, features zeroed", "sees less", partial(edgeq, before=ZEROED))
    yield _Contender("`edgeq serve`, the image before", "sees less", partial(edgeq, before=IMAGE_BEFORE))
    outliers = partial(_outliers, work / "outliers")
    yield _Contender("`edgeq serve`, outlier weights", "sees", partial(_edgeq_outliers, outliers, given.threads))
    if given.transformers_python is not None:
        served = partial(_transformers, given.transformers_python)
        yield _Contender("`transformers serve`, FP32", "sees", partial(served, lambda: VLM_WEIGHTS))
        yield _Contender("`transformers serve`, all in NF4", None, partial(served, lambda: VLM_WEIGHTS, *_NF4))
        yield _Contender("`transformers serve`, FP32, outlier weights", "sees", partial(served, outliers))
        lost = partial(served, outliers, *_NF4)
        yield _Contender("`transformers serve`, all in NF4, outlier weights", "sees less", lost)
        two_bits = partial(served, partial(_two_bits, work / "two-bits"))
        yield _Contender("`transformers serve`, 2-bit eyes", "sees less", two_bits)
    if given.gguf_python is not None:
        llama = partial(_llama, given.gguf_python, work)
        if given.llama_server is not None:
            yield _Contender("llama-server, FP16", "sees", partial(llama, given.llama_server))
        if given.shifted_llama_server is not None:
            shifted = partial(llama, given.shifted_llama_server)
            yield _Contender("llama-server, FP16, patches shifted", "sees less", shifted, close=True)


def _outliers(directory: Path) -> Path:
    """The demo's model with weights put in by hand that NF4 does not survive; made once."""
    if not directory.is_dir():
        inject_outliers(VLM_WEIGHTS, directory, WIDE_WEIGHTS)
    return directory


def _two_bits(directory: Path) -> Path:
    """The demo's model with eyes of two bits, simulated, as a checkpoint; made once."""
    import torch
    import transformers

    from benchmarks.sight import rounded

    if directory.is_dir():
        return directory
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
def _edgeq_outliers(model: Callable[[], Path], threads: int) -> Iterator[str]:
    """A bundle that `edgeq prepare` makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _draw(work / "photographs", _PHOTOGRAPHS, CALIBRATION_SEED)
        options = VlmOptions(threads=threads, max_new_tokens=_TOKENS)
        prepared = prepare_vlm(model(), work / "photographs", work / "bundle", options=options)
        with _edgeq(prepared.bundle, threads) as url:
            yield url


@contextmanager
def _transformers(python: Path, model: Callable[[], Path], *flags: str) -> Iterator[str]:
    run = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(python), "-c", run, "serve", str(model()), "--host", "127.0.0.1", "--port", str(port)]
    command += [*flags, "--device", "cpu", "--dtype", "float32"]
    with tempfile.TemporaryDirectory() as cache:
        alone = _environment({"HF_HOME": cache, "HF_HUB_OFFLINE": "1"})
        with serving_process(command, lambda: url_answers(f"{url}/health"), alone):
            yield url


@contextmanager
def _llama(python: Path, work: Path, server: Path) -> Iterator[str]:
    subprocess.run(
        [str(python), "-m", "benchmarks.peers.llava_gguf", str(VLM_WEIGHTS), str(work)],
        cwd=ROOT,
        env=_environment({}),
        check=True,
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(server), "--model", str(work / "language.gguf"), "--mmproj", str(work / "mmproj.gguf")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--alias", "demo", "--ctx-size", "512"]
    command += ["--threads", "1", "--parallel", "1"]
    with serving_process(command, lambda: url_answers(f"{url}/health"), _environment({})):
        yield url


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])]), **more}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="of the demo's vision-language model")
    parser.add_argument("--transformers-python", type=Path, help="with transformers[serving]; without it, not run")
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's; without it, not run")
    parser.add_argument(
        "--shifted-llama-server", type=Path, help="one that shifts the patches of LLaVA's CLIP (llama.cpp issue 25814)"
    )
    parser.add_argument("--gguf-python", type=Path, help="with gguf, to write what llama.cpp runs; without it, not run")
    parser.add_argument("--questions", type=int, default=30, help="of each of four skills, to honest servers")
    parser.add_argument("--liars-questions", type=int, default=10, help="likewise, to the others")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="servers with one of these in their names"
    )
    parser.add_argument("--answers", type=Path, help="a file of the reference's answers, to go on with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
