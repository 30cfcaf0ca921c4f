"""Checkpoints handed over to other runtimes, loaded by these runtimes' own code on the CPU: what each of them said.

    python -m benchmarks.loaders --transformers PYTHON --vllm PYTHON --edge-llm PYTHON --llama.cpp SERVER [--json FILE]

Each interpreter is that of an environment with the runtime, llama-server a program of its own; benchmarks/README.md
says how they are made. The demo's LLaVA and a drawn Qwen2.5-VL are prepared with INT4 by AWQ and handed over in every
form that a runtime takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.process import ROOT

__all__ = ["LoaderRow", "main", "table"]

_QUESTION: Final = "What do you see?"
_SHOWN: Final = 160
_TORCHVISION: Final = """import torch

_declared = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
    for _each in (_name, f"_{_name}_backward"):
        _declared.define(f"{_each}(Tensor x) -> Tensor")
"""
"""Names of operators that torchvision's build for CUDA cannot load beside a CPU build of torch; none is called."""

_HEADS: Final = ("form", "runtime", "release", "code that was run", "what it said")


@dataclass(frozen=True)
class LoaderRow:
    """What one runtime said to one checkpoint.

    Attributes:
        form: of the weights.
        runtime: that was run.
        release: of it.
        code: of it that was run.
        said: what it said; the reason where it failed.
    """

    form: str
    runtime: str
    release: str
    code: str
    said: str


@dataclass(frozen=True)
class _Case:
    """A checkpoint for a runtime, and the peer that loads it: by a runtime's interpreter, or by this one."""

    runtime: str
    form: str
    model: str
    peer: str
    program: bool = False


_CASES: Final = (
    _Case("transformers", "compressed-tensors", "llava", "checkpoint_transformers_run"),
    _Case("vllm", "compressed-tensors", "llava", "checkpoint_vllm_run"),
    _Case("vllm", "awq", "llava", "checkpoint_vllm_run"),
    _Case("edge-llm", "awq", "qwen2.5-vl-7m", "checkpoint_edge_llm_run"),
    _Case("edge-llm", "modelopt", "qwen2.5-vl-7m", "checkpoint_edge_llm_run"),
    _Case("llama.cpp", "GGUF Q4_0", "llava", "checkpoint_llama_cpp_run", program=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, hand over, load, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loaders")
    for runtime, program in {case.runtime: case.program for case in _CASES}.items():
        told = ("SERVER", "llama-server.") if program else ("PYTHON", f"Interpreter that has {runtime}.")
        parser.add_argument(f"--{runtime}", type=Path, metavar=told[0], help=told[1])
    parser.add_argument("--json", type=Path, help="Write the rows there as well.")
    given = vars(parser.parse_args(arguments))
    pythons = {case.runtime: given[case.runtime.replace("-", "_")] for case in _CASES}
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(_rows(Path(scratch), pythons))
    print(table(rows))
    if given["json"]:
        given["json"].write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


def table(rows: Sequence[LoaderRow]) -> str:
    """One line for each checkpoint and runtime, tab by tab: the last column is as long as it is."""
    cells = [(row.form, row.runtime, row.release, row.code, row.said) for row in rows]
    widths = [max(len(line[column]) for line in (_HEADS, *cells)) for column in range(len(_HEADS) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])
        for line in (_HEADS, *cells)
    )


def _rows(scratch: Path, pythons: dict[str, Path | None]) -> Iterator[LoaderRow]:
    from edgeq.handover.write import write_handover

    bundles: dict[str, tuple[Path, Path]] = {}
    for number, case in enumerate(_CASES):
        python = pythons[case.runtime]
        if python is None:
            yield LoaderRow(case.form, case.runtime, "", "", f"left out: --{case.runtime} was not given")
            continue
        if case.model not in bundles:
            bundles[case.model] = _prepared(scratch / case.model, case.model)
        model, bundle = bundles[case.model]
        checkpoint = scratch / f"{number}"
        write_handover(bundle, case.runtime, checkpoint, model=model, form=None if case.program else case.form)
        photograph = bundle / "canaries" / "0.png"
        asked = [str(photograph), _QUESTION]
        if case.runtime == "edge-llm":
            asked = [str(bundle / "language"), str(scratch / f"{number}-onnx")]
        given = [str(checkpoint), *asked]
        run = (Path(sys.executable), [str(python), *given]) if case.program else (python, given)
        yield _loaded(run[0], case, run[1], _expected(bundle))


def _prepared(place: Path, name: str) -> tuple[Path, Path]:
    """A model and its bundle in INT4."""
    from benchmarks.random_vlms import RANDOM_VLMS, write_random_vlm
    from edgeq.demo.scenes import KINDS, draw_scene
    from edgeq.demo.vlm.story import VLM_WEIGHTS
    from edgeq.pipeline.vlm import prepare_vlm
    from edgeq.pipeline.vlm_options import VlmOptions

    images = place / "images"
    images.mkdir(parents=True)
    for seed in range(16):
        draw_scene(list(KINDS)[seed % len(KINDS)], seed).resize((224, 224)).save(images / f"{seed}.png")
    model = VLM_WEIGHTS
    if name != "llava":
        model = place / "model"
        write_random_vlm(model, RANDOM_VLMS[name])
    options = VlmOptions(language="int4-awq", question=_QUESTION)
    prepare_vlm(model, images, place / "bundle", options=options)
    return model, place / "bundle"


def _expected(bundle: Path) -> str:
    """What edgeq answers with the bundle itself about its first canary."""
    from PIL import Image

    from edgeq.runtime.vlm.model import load_vlm

    with Image.open(bundle / "canaries" / "0.png") as image:
        return load_vlm(bundle).answer(image.convert("RGB"), _QUESTION, max_new_tokens=48).text.strip()


def _loaded(python: Path, case: _Case, arguments: Sequence[str], expected: str) -> LoaderRow:
    with tempfile.TemporaryDirectory() as declared:
        (Path(declared) / "sitecustomize.py").write_text(_TORCHVISION, encoding="utf-8")
        path = [str(ROOT), *([declared] if case.runtime == "vllm" else [])]
        done = subprocess.run(
            [python, "-m", f"benchmarks.peers.{case.peer}", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"release"')]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return LoaderRow(case.form, case.runtime, "", case.peer, f"failed: {last[:_SHOWN]}")
    told = json.loads(lines[-1])
    said = told["said"]
    if "answer" in told:
        same = "edgeq's answer" if told["answer"] == expected else f"edgeq answers {expected!r}"
        said = f"{said}; {told['answer']!r}, {same}"
    return LoaderRow(case.form, case.runtime, told["release"], told["code"], said)


if __name__ == "__main__":
    sys.exit(main())
