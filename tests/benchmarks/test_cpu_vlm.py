"""The benchmark of vision-language models on a CPU: the models that it draws, its conversation, and its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks import random_vlms
from benchmarks.cpu_vlm import STEPS, SUBJECTS, main, sixth_question, table
from benchmarks.random_vlms import RANDOM_VLMS, build_tokenizer
from edgeq.demo.vlm.report import QUESTIONS
from edgeq.families.registry import family_of, runnable
from edgeq.pipeline.vlm import VlmOptions, prepare_vlm
from edgeq.runtime.scheduler.runtime import RuntimeOptions, open_runtime
from edgeq.runtime.vlm.api import Turn
from edgeq.runtime.vlm.prompt import render

pytestmark = pytest.mark.usefixtures("one_torch_thread")


LARGE = [name for name in SUBJECTS if name != "demo"]


@pytest.mark.parametrize("name", LARGE)
def test_a_drawn_model_is_of_a_known_family_and_of_about_a_billion_parameters(name: str) -> None:
    tokenizer = build_tokenizer(RANDOM_VLMS[name])
    config = RANDOM_VLMS[name].config(tokenizer)
    assert family_of(config.model_type) is not None
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(1.1e9, rel=0.05)
    assert len(tokenizer) <= model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("name", RANDOM_VLMS)
def test_its_template_has_the_image_token_once_for_each_image(name: str) -> None:
    kind = RANDOM_VLMS[name]
    tokenizer = build_tokenizer(kind)
    config = kind.config(tokenizer)
    number = getattr(config, "image_token_id", None) or config.image_token_index
    token = tokenizer.convert_ids_to_tokens(number)
    text = render(tokenizer, runnable(config.model_type), token, "what?", 2)
    assert tokenizer(text, add_special_tokens=False)["input_ids"].count(number) == 2


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo's model was made a bundle of."""
    folder = tmp_path_factory.mktemp("demo")
    for step in ("make", "prepare"):
        STEPS[step](folder, "demo")
    return folder


def roles(turns: Sequence[Turn]) -> list[str]:
    return [turn.role for turn in turns]


def test_the_sixth_question_finds_all_that_the_fifth_had_read(demo: Path) -> None:
    scenes = [SUBJECTS["demo"].draw(seed) for seed in range(3)]
    with open_runtime(demo / "bundle", RuntimeOptions(threads=1)) as runtime:
        end, turns = sixth_question(runtime, scenes)
    assert roles(turns) == ["user", "assistant"] * 5 + ["user"]
    assert [turn.texts[0] for turn in turns[::2]] == list(QUESTIONS)
    assert [turn.images for turn in turns[::2]] == [1, 0] * 3
    # Three pictures of 64 tokens; behind the fifth question's prompt stand its answer and the sixth question.
    assert end.usage.image_tokens == 3 * 64
    assert end.usage.encoder_cache_hit
    assert end.usage.prompt_tokens - end.usage.cached_tokens < 40
    assert end.usage.cached_tokens > 3 * 64


def test_without_caches_it_reads_everything(demo: Path) -> None:
    scenes = [SUBJECTS["demo"].draw(seed) for seed in range(3)]
    with open_runtime(demo / "bundle", RuntimeOptions(threads=1, cache_bytes=0)) as runtime:
        end, _ = sixth_question(runtime, scenes)
    assert (end.usage.cached_tokens, end.usage.encoder_cache_hit) == (0, False)


def test_memory_is_planned_for_the_picture_that_is_asked_about(tmp_path: Path) -> None:
    """1280 x 720 pixels in 22 rows of 40 tokens, and the cross-attention's states in the place of tokens."""
    kind = RANDOM_VLMS["qwen3-vl-1b"]
    kind.config(build_tokenizer(kind)).save_pretrained(tmp_path / "model")
    items = STEPS["plan"](tmp_path, "qwen3-vl-1b")["items"]["answering"]
    assert items["image features"] == 2 * 4 * 22 * 40 * 2048, "FP16, behind three layers as well"


def test_the_table_tells_planned_from_measured() -> None:
    found = {
        "plan": {"parameters": 1_100_000_000, "phases": {"loading": 2_000_000_000, "answering": 1_600_000_000}},
        "ask": {"load_peak": 1_900_000_000, "peak": 1_680_000_000},
        "nf4": {"source": 2_200_000_000, "largest_shard": 10**9, "result": 7 * 10**8, "peak": 1_500_000_000},
        "twice": {"first": 1.2, "second": 0.06},
        "conversation": {"kept": 0.1, "reread": 4.0},
    }
    text = table("1.1b", found)
    assert "| while loading, at most | 2,000 | 1,900 | 0.950 |" in text
    assert "| while answering | 1,600 | 1,680 | 1.050 |" in text
    assert "| making NF4, at most | 2,000 | 1,500 | 0.750 |" in text
    assert "first token after 1200.0 ms, of a second question about an image after 60.0 ms: 20.0 times sooner" in text
    assert "first token after 100.0 ms, 4000.0 ms reread: 40.0 times sooner" in text
    assert "sixth question" not in table("mllama-1b", {step: found[step] for step in ("plan", "ask", "nf4", "twice")})


def test_a_small_model_is_written_and_becomes_a_bundle(demo: Path, tmp_path: Path) -> None:
    assert random_vlms.main(["onevision-7m", str(tmp_path / "model")]) == 0
    (tmp_path / "photographs").symlink_to(demo / "photographs")
    options = VlmOptions(reference_answers=False, canaries=1, max_new_tokens=1, threads=1)
    prepare_vlm(tmp_path / "model", tmp_path / "photographs", tmp_path / "bundle", options=options)
    with open_runtime(tmp_path / "bundle", RuntimeOptions(threads=1)) as runtime:
        end, turns = sixth_question(runtime, [SUBJECTS["demo"].draw(seed) for seed in range(3)])
    assert all(turn.texts[0].strip(".") for turn in turns[1::2]), "it says words"
    assert end.usage.image_tokens == 3 * (8 * 8 + 8 * 9), "the image, and rows that end in a new line"


def test_a_model_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--models", "9b"])
    assert "invalid choice" in capsys.readouterr().err
