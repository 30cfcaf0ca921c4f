"""The check for a GPU, rehearsed on a CPU: every section goes through, and what is not as it must be is seen."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import __main__ as check
from benchmarks.gpu_check import kernels, steps
from benchmarks.gpu_check.__main__ import SECTIONS, bounded, main
from benchmarks.gpu_check.findings import Finding, Scale
from benchmarks.random_nf4 import random_nf4
from benchmarks.served_nf4 import Served, serve, write_small_config
from edgeq.pipeline.vlm import PreparedVlm

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A small LLaVA that was drawn at random."""
    config = write_small_config(tmp_path_factory.mktemp("small"))
    return serve(random_nf4(config, torch.device("cpu")), config, 64)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_all_sections_go_through_on_a_cpu(prepared_vlm: PreparedVlm, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tiny", "--bundle", str(prepared_vlm.bundle)]) == 0
    found = lines(capsys)
    assert [name for name in SECTIONS if name in {line["check"] for line in found}] == list(SECTIONS)
    assert all(line["fine"] for line in found if "fine" in line)
    (stepped,) = (line for line in found if line["check"] == "steps")
    assert (stepped["graph_is_eager"], stepped["depends_on_others"]) == (True, [])
    here, cuda, _ = (line for line in found if line["check"] == "vision")
    assert here["because"] == "no TensorRT engine: there is no NVIDIA GPU"
    assert list(here["relative_error"].values()) == [0.0], "ONNX Runtime beside itself"
    assert not here["stays_on_gpu"]
    assert "has no CUDAExecutionProvider" in cuda["skipped"]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "_machine", lambda: None)
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no CUDA GPU" in said.err


def test_a_section_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_scale: Scale) -> Iterator[Finding]:
        yield {"first": 1}
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(kernels, "kernels", broken)
    assert main(["--tiny", "--only", "kernels", "faults"]) == 1
    first, failed, faults = lines(capsys)
    assert first == {"check": "kernels", "first": 1}
    assert failed["failed"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert (faults["status"], faults["said"]) == (3, ["last words"])


def test_a_kernel_that_is_wrong_is_not_fine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "_RIGHT", 1e-9)
    assert main(["--tiny", "--only", "kernels"]) == 1
    (line,) = lines(capsys)
    assert not line["fine"]
    assert all(1e-9 < one["error"] < 0.03 for one in line["rows"].values())


def test_an_answer_that_depends_on_the_others_is_named(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is alone is given another token in the place of the third."""
    alone = steps.alone

    def other(*given: Any) -> list[tuple[int, Any]]:
        found = alone(*given)
        return [*found[:2], (-5, None), *found[3:]] if given[2] == 1 else found

    monkeypatch.setattr(steps, "alone", other)
    found = steps._size(Scale(tiny=True, config=Path()), served, 2, 64)
    assert (found["depends_on_others"], found["fine"]) == ([1], False)


def test_a_slots_answers_are_as_long_as_the_script_says(served: Served) -> None:
    """Two slots: the second leaves after 8 of 16 steps, and a third question takes it for the rest."""
    answers = steps.scripted(served.decoder(2, 64), served)
    assert {seed: len(answer) for seed, answer in answers.items()} == {0: 1 + 16, 1: 1 + 8, 2: 1 + 8}
    assert len({tuple(token for token, _ in answer) for answer in answers.values()}) == 3


def test_features_of_the_drawn_model_go_from_tensor_to_tensor(served: Served) -> None:
    decoder = served.decoder(1, 64, cache_bytes=1 << 20)
    before = served.eyes.runs
    for _ in range(2):
        decoder.begin(0, served.question(0, served.image_tokens + 4, 2))
        decoder.release(0)
    assert served.eyes.runs == before + 1


def test_a_program_is_ended_when_its_time_is_over() -> None:
    said: list[str] = []
    code = "import time; print('begun', flush=True); time.sleep(600)"
    assert bounded([sys.executable, "-c", code], 2.0, said.append) is None
    assert said in (["begun\n"], [])
    assert bounded([sys.executable, "-c", "print('done'); raise SystemExit(7)"], 60.0, said.append) == 7
    assert said[-1] == "done\n"


def test_no_more_than_the_minutes_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: dict[str, float] = {}

    def apart(name: str, _given: Any, seconds: float) -> int:
        shares[name] = seconds
        return int(name == "faults")

    monkeypatch.setattr(check, "_apart", apart)
    monkeypatch.setattr(check, "_machine", lambda: {"card": "a card"})
    assert main(["--minutes", "10"]) == 1
    assert list(shares) == list(SECTIONS)
    assert sum(shares.values()) == pytest.approx(600)
