"""The language model alone, token for token against the whole model of transformers with the same 4-bit weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from talk import tiny_settings, write_processor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from vlm import IMAGE_TOKEN, PREFIXES, in_four_bits, tiny_vlm, write_vlm
from whole_vlms import write_whole_vlm

from edgeq.errors import EngineError, ModelError
from edgeq.families.base import ImageFeatures, Layout
from edgeq.families.modules import read_modules
from edgeq.families.registry import runnable
from edgeq.plan.rules import plan_modules
from edgeq.quantize.nf4.write import write_nf4
from edgeq.runtime.vlm.language import LanguageModel, open_language_model
from edgeq.runtime.vlm.prompt import Prompt, Prompter

IDS = np.array([1, 17, *[IMAGE_TOKEN] * 4, 23, 45, 8, 60], np.int64)
FAMILIES = ("llava", "idefics3", "paligemma")
STOP = 2


def prompt(family: str = "llava") -> Prompt:
    """IDS, where the family has them."""
    layouts = (Layout(4, 1, 5),)
    return Prompt(IDS, runnable(family).positions(IDS, IMAGE_TOKEN, layouts), layouts)


def features(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (4, 64)).astype(np.float32)


def written(directory: Path, family: str) -> Path:
    """A tiny model whose layers say more than its embedding, so that one token of the prompt changes the answer."""
    model = tiny_vlm(family)
    for name, weight in model.get_submodule(PREFIXES[family]).named_parameters():
        if name.endswith("proj.weight"):
            weight.data *= 8
    model.save_pretrained(directory)
    return directory


def alone(source: Path, family: str) -> LanguageModel:
    """The NF4 checkpoint of a model's language half, loaded without the rest."""
    target = source.with_name(f"{source.name}.nf4")
    write_nf4(source, plan_modules(read_modules(source)), target)
    return open_language_model(target, prompter(source, family), threads=1)


def prompter(source: Path, family: str) -> Prompter:
    """With the tokenizer that a directory is given here."""
    write_processor(source, family)
    settings = tiny_settings(family)
    return Prompter.open(source, settings)


def seen(family: str, values: NDArray[np.float32]) -> dict[str, Any]:
    """Features in the place of pixels, as each family's forward takes them, and what marks the prompt."""
    tensor = torch.from_numpy(values).half()[None]
    pooled = tensor if family == "paligemma" else list(tensor)
    given: dict[str, Any] = {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=pooled)}}
    if family == "paligemma":
        given["token_type_ids"] = torch.zeros(1, len(IDS), dtype=torch.long)
    return given


@dataclass(frozen=True)
class Both:
    """The language half alone, and the whole model."""

    family: str
    ours: LanguageModel
    theirs: Any


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    source = written(tmp_path_factory.mktemp("models") / "whole", request.param)
    return Both(request.param, alone(source, request.param), in_four_bits(source))


def test_token_for_token_as_generate_of_the_whole_model(both: Both) -> None:
    answers = set()
    for seed in range(3):
        given = seen(both.family, features(seed))
        ids = torch.from_numpy(IDS)[None]
        expected = both.theirs.generate(input_ids=ids, max_new_tokens=8, do_sample=False, **given)[0, len(IDS) :]
        images = [ImageFeatures(features(seed))]
        found = tuple(both.ours.generate(prompt(both.family), images, limit=8, stop=(STOP,)))
        assert found == tuple(expected.tolist())
        answers.add(found)
    assert len(answers) > 1, "the image makes a difference"


def test_forced_logits_are_those_of_the_whole_model(both: Both) -> None:
    answer = [5, 33, 71]
    ids = torch.from_numpy(np.concatenate([IDS, answer]))[None]
    given = seen(both.family, features())
    if both.family == "paligemma":
        given["token_type_ids"] = torch.tensor([[0] * len(IDS) + [1] * len(answer)])
    with torch.inference_mode():
        expected = both.theirs(input_ids=ids, **given).logits[0, len(IDS) - 1 : -1].float().numpy()
    found = both.ours.logits(prompt(both.family), [ImageFeatures(features())], answer)
    assert found.shape == (3, 96)
    assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_an_answer_may_have_the_image_token_in_it(both: Both) -> None:
    """Random models say it, and trained ones may: no feature stands there, and judging goes on."""
    found = both.ours.logits(prompt(both.family), [ImageFeatures(features())], [5, IMAGE_TOKEN, 33])
    plain = both.ours.logits(prompt(both.family), [ImageFeatures(features())], [5])
    assert found.shape == (3, 96)
    assert np.isfinite(found).all()
    assert np.abs(found[0] - plain[0]).max() <= 2e-2 * np.abs(plain).max()


def test_it_stops_where_it_is_told_to(tmp_path: Path) -> None:
    model = alone(write_vlm(tmp_path / "whole", "llava"), "llava")
    said = list(model.generate(prompt(), [ImageFeatures(features())], limit=12, stop=()))
    assert len(said) == 12
    last = said[5]
    expected = said[: said.index(last) + 1]
    assert list(model.generate(prompt(), [ImageFeatures(features())], limit=12, stop=(last,))) == expected


def test_features_that_do_not_fill_the_places(tmp_path: Path) -> None:
    model = alone(write_vlm(tmp_path / "whole", "llava"), "llava")
    with pytest.raises(EngineError, match="4 image tokens and 3 features"):
        list(model.generate(prompt(), [ImageFeatures(features()[:3])], limit=2, stop=()))


def test_a_class_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["AutoTokenizer"]}))
    with pytest.raises(ModelError, match="which is no model of transformers"):
        open_language_model(tmp_path, prompter(write_vlm(tmp_path / "whole", "llava"), "llava"))


def test_the_checkpoint_leaves_the_memory_where_its_weights_were_rearranged(tmp_path: Path) -> None:
    model = alone(written(tmp_path / "vlm", "llava"), "llava")
    states = [state for weight in model._model.parameters() if (state := getattr(weight, "quant_state", None))]
    assert states
    if not all(getattr(state, "packing_format_for_cpu", False) for state in states):
        pytest.skip("this processor has no AVX512-BF16: bitsandbytes leaves the weights where they are")
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert len(list(model.generate(prompt(), [ImageFeatures(features())], limit=2, stop=()))) == 2


def test_layers_of_cross_attention_are_packed_with_the_others(tmp_path: Path) -> None:
    """Else they would keep the file in memory, and be rearranged within the first answer about an image."""
    source, target = write_whole_vlm(tmp_path / "whole", "mllama"), tmp_path / "nf4"
    write_nf4(source, plan_modules(read_modules(source)), target)
    token = json.loads((source / "config.json").read_text())["image_token_index"]
    places = {"image_token": "<|image|>", "image_token_id": token}
    settings = tiny_settings("mllama", tokens=1).model_copy(update=places)
    model = open_language_model(target, Prompter.open(source, settings), threads=1).model
    states = {name: weight.quant_state for name, weight in model.named_parameters() if hasattr(weight, "quant_state")}
    crossing = [f".layers.{number}.mlp." for number in model.config.cross_attention_layers]
    assert all(any(layer in name for name in states) for layer in crossing)
    assert len({getattr(state, "packing_format_for_cpu", False) for state in states.values()}) == 1
