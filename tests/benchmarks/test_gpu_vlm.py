"""What of the GPU benchmark needs no GPU: its arithmetic, its messages, and the model that it draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from vlm import FAMILIES

from benchmarks import gpu_vlm
from benchmarks.gpu_vlm import CONFIGS, MODELS, Row, bytes_per_token, decode, main, planned, table
from benchmarks.random_nf4 import load_nf4, random_nf4
from benchmarks.served_nf4 import serve, write_small_config
from edgeq.families.modules import read_modules, read_vlm
from edgeq.plan.rules import plan_modules
from edgeq.quantize.nf4.skip_list import verify_modules

CPU = torch.device("cpu")
NF4 = 0.515869


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a small LLaVA, without weights; its rows are whole blocks, as bitsandbytes' CPU kernels want."""
    directory = tmp_path_factory.mktemp("tiny")
    config = FAMILIES["llava"]()
    config.vision_config.hidden_size = 64
    config.save_pretrained(directory)
    return directory


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no CUDA GPU" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--models", "llava-1.5-70b"],
        ["--context", "600", "--new-tokens", "24"],
        ["--new-tokens", "1"],
        ["--cap", "0"],
        ["--slots", "0"],
    ],
)
def test_flags_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "linears", "head", "cached"), [(MODELS[0], 6476.0, 131.3, 524_288)])
def test_a_token_reads_the_language_model_and_its_cache(name: str, linears: float, head: float, cached: int) -> None:
    """Millions of parameters from the published table: linear layers in NF4, a head of 32,064 x 4,096 in FP16."""
    plan = planned(read_vlm(CONFIGS / name), 16 * 10**9, 2048)
    assert plan.image.tokens == gpu_vlm.IMAGE_TOKENS
    assert bytes_per_token(plan, 0) == pytest.approx(1e6 * (NF4 * linears + 2 * head), rel=1e-3)
    assert bytes_per_token(plan, 1000) - bytes_per_token(plan, 0) == 1000 * cached


def test_slots_are_planned_for() -> None:
    """2,048 tokens of 524,288 bytes in each."""
    one, four = (planned(read_vlm(CONFIGS / MODELS[0]), 16 * 10**9, 2048, slots) for slots in (1, 4))
    sizes = [{item.name: item.bytes for item in plan.phases[-1].items}["KV cache"] for plan in (one, four)]
    assert sizes == [2048 * 524_288, 4 * 2048 * 524_288]


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_counts_what_torch_counts(name: str) -> None:
    plan = planned(read_vlm(CONFIGS / name), 16 * 10**9, 2048)
    assert plan.fits
    answering = plan.phases[-1]
    assert answering.name == "answering"
    counted = {item.name: item.bytes for item in answering.items}
    assert counted["runtime"] == 0
    assert "engine workspace" not in counted
    assert plan.device.budget_bytes == 16 * 10**9


def test_the_drawn_model_is_as_planned_and_survives_the_disk(tiny: Path, tmp_path: Path) -> None:
    model = random_nf4(tiny, CPU)
    plan = plan_modules(read_modules(tiny))
    # Two layers of four attention and three feed-forward matrices.
    assert verify_modules(model, plan).parameters == 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    assert {tensor.device for tensor in (*model.parameters(), *model.buffers())} == {CPU}
    assert model.model.vision_tower.dtype == torch.float16
    model.save_pretrained(tmp_path / "saved", save_original_format=False)
    ours, theirs = model.state_dict(), load_nf4(tmp_path / "saved", CPU).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_runtimes_slots_answer_a_prompt_of_the_length_asked_for(tmp_path: Path) -> None:
    """Two slots, 5 tokens each: a first one when the prompt is read, and four steps for both together."""
    config = write_small_config(tmp_path)
    served = serve(random_nf4(config, CPU), config, 64)
    question, token = served.question(0, 12, 5), served.prompter.settings.image_token_id
    assert question.prompt.ids.tolist().count(token) == served.image_tokens == 4
    assert len(question.prompt.ids) == 12
    waits: list[None] = []
    decoder = served.decoder(2, 64)
    taken = decode(served, decoder, 12, 5, lambda: waits.append(None))
    assert taken.first > 0.0
    assert taken.steps > 0.0
    assert len(waits) == 2 * 2 + 1, "before and after each first token, and after the steps"
    assert (decoder.steps, decoder.busy, served.eyes.runs) == (4, False, 2)


def test_the_table_tells_planned_from_measured() -> None:
    head = {
        "card": "a card",
        "date": "2030-01-01",
        "versions": {"torch": "2"},
        "cap": 16 * 10**9,
        "bandwidth": 1e12,
        "context": 2048,
    }
    row = Row(
        *("small", True, 4 * 10**9, 5 * 10**9, 4_040_000_000, 4_900_000_000, 6 * 10**9, 4 * 10**9, 2.0, 4 * 10**9),
        prefill_seconds=0.25,
        tokens_per_second=30.0,
        limit=120.0,
    )
    text = table(head, [row, Row("large", False, 1, 1, failure="out of memory")])
    assert "weights     4.040 GB, planned 4.000 (+1.00 %)" in text
    assert "answering   4.900 GB, planned 5.000 (-2.00 %)" in text
    assert "30.0 tokens/s, limit 120.0 (25 % of it)" in text
    assert "large: planned to be too large\n  out of memory" in text
