"""Checkpoints of integers: what is stored, what a block is given, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from vlm import FAMILIES, write_vlm

from edgeq.errors import EdgeqError, ModelError, OutputError, QuantizeError
from edgeq.families.modules import read_modules
from edgeq.model.checkpoint.packed_weights import packed_scheme, unpack_integers
from edgeq.plan.precision import PACKED_BITS, Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_modules
from edgeq.plan.weights import layer_bytes
from edgeq.quantize.language.source import open_language
from edgeq.quantize.weight_only.blocks import load_block, open_walk
from edgeq.quantize.weight_only.round import round_weight
from edgeq.quantize.weight_only.verify import verify_packed
from edgeq.quantize.weight_only.write import write_packed

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LINEARS = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
KINDS = (Precision.INT4, Precision.INT8)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def source(family: str) -> Path:
        if family not in made:
            made[family] = write_vlm(tmp_path_factory.mktemp(family) / "model", family)
        return made[family]

    return source


def planned(source: Path, precision: Precision, *rules: Rule, embeddings: Precision = Precision.FP16) -> PrecisionPlan:
    return plan_modules(read_modules(source), rules=rules, language=precision, embeddings=embeddings)


def prompts(model: Any, count: int = 3) -> None:
    """Random embeddings, another length each, and for Mllama something to look at."""
    drawn = torch.Generator().manual_seed(0)
    for number in range(count):
        states = 0.5 * torch.randn(1, 11 + number, 64, generator=drawn)
        words: dict[str, Any] = {}
        if getattr(model.config, "cross_attention_layers", None):
            words["cross_attention_states"] = torch.randn(1, 5, 64, generator=drawn)
        model(inputs_embeds=states.half(), **words)


def stored(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in directory.glob("*.safetensors"):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("precision", KINDS)
def test_integers_are_those_nearest(sources: Callable[[str], Path], precision: Precision, tmp_path: Path) -> None:
    source = sources("llava")
    share = write_packed(source, planned(source, precision), tmp_path / "made", precision=precision)
    assert share.parameters == LINEARS
    found, language = stored(tmp_path / "made"), open_language(source)
    weights = stored(source)
    for layer in share.modules:
        weight = weights[language.tensors[f"{layer}.weight"].name].float()
        scheme = packed_scheme(PACKED_BITS[precision], weight.shape[1])
        assert scheme is not None
        expected = round_weight(weight, scheme, torch.float16)
        assert torch.equal(unpack_integers(found[f"{layer}.weight_packed"], scheme.bits), expected.values)
        assert torch.equal(found[f"{layer}.weight_scale"], expected.scales)
        assert found[f"{layer}.weight_shape"].tolist() == list(weight.shape)
        assert f"{layer}.weight" not in found
    assert torch.equal(found["lm_head.weight"], weights[language.tensors["lm_head.weight"].name])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("embeddings", [Precision.FP16, Precision.INT8])
def test_bytes_are_those_planned(
    sources: Callable[[str], Path], family: str, precision: Precision, embeddings: Precision, tmp_path: Path
) -> None:
    source = sources(family)
    plan = planned(source, precision, embeddings=embeddings)
    write_packed(source, plan, tmp_path / "made", precision=precision)
    wanted = sum(
        layer_bytes(layer, decision.precision)
        for component in read_modules(source)
        if component.name not in ("vision", "connector")
        for layer in component.layers
        for decision in plan.decisions
        if decision.layer == layer.name
    )
    assert sum(value.numel() * value.element_size() for value in stored(tmp_path / "made").values()) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_walk_comes_to_what_the_model_comes_to(sources: Callable[[str], Path], family: str) -> None:
    """Block by block with the checkpoint's own weights, hidden states are those before the model's last norm."""
    language = open_language(sources(family))
    walk = open_walk(language, "float16", prompts)
    for number in range(2):
        name = f"model.layers.{number}"
        load_block(language, walk.block(number), name, "float16")
        with torch.no_grad():
            walk.advance(number)
    if family == "mllama":
        load_block(language, walk.block(2), "model.layers.2", "float16")
        with torch.no_grad():
            walk.advance(2)
    expected: list[torch.Tensor] = []
    model: Any = type(language.model)(language.config).float().eval()
    state = stored(sources(family))
    model.load_state_dict({name: state[at.name].float() for name, at in language.tensors.items()}, strict=False)
    model.model.norm.register_forward_pre_hook(lambda _, args: expected.append(args[0]))
    with torch.no_grad():
        prompts(_Wide(model))
    assert len(expected) == walk.count == 3
    for index, hidden in enumerate(expected):
        torch.testing.assert_close(walk._prompts[index].hidden, hidden, rtol=1e-3, atol=1e-3)


class _Wide(nn.Module):
    """The model, given float32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, inputs_embeds: torch.Tensor, **words: torch.Tensor) -> Any:
        return self.model(inputs_embeds=inputs_embeds.float(), **words)


def test_what_is_added_between_blocks_is_added() -> None:
    """As Qwen3-VL adds features of deeper vision layers behind its first blocks, in place."""
    from edgeq.quantize.weight_only.blocks import BlockWalk

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            for number, layer in enumerate(self.layers):
                hidden = layer(hidden)
                if number == 0:
                    hidden[:, 1] += 3.0
            return hidden

    model, given = Model().requires_grad_(False), torch.randn(1, 3, 4)
    expected = model(given)
    walk = BlockWalk(model, ["layers.0", "layers.1"], lambda model: model(given))
    walk.advance(0)
    walk.advance(1)
    torch.testing.assert_close(walk._prompts[0].hidden, expected)


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_awq_and_gptq_leave_what_is_outside_the_blocks(
    sources: Callable[[str], Path], family: str, feedback: bool, tmp_path: Path
) -> None:
    source = sources(family)
    share = write_packed(
        source,
        planned(source, Precision.INT4),
        tmp_path / "made",
        precision=Precision.INT4,
        prompts=prompts,
        error_feedback=feedback,
    )
    found, weights, language = stored(tmp_path / "made"), stored(source), open_language(source)
    assert {name.removesuffix(".weight_packed") for name in found if name.endswith("_packed")} == set(share.modules)
    for name, at in language.tensors.items():
        if "layers" not in name:
            assert torch.equal(found[name], weights[at.name].half()), name
    assert all(value.isfinite().all() for value in found.values() if value.is_floating_point())


def test_progress_and_shards(sources: Callable[[str], Path], tmp_path: Path) -> None:
    source, told = sources("llava"), list[tuple[str, int, int]]()
    plan = planned(source, Precision.INT4)
    for name, shard_bytes in (("one", 1 << 30), ("many", 20_000)):
        write_packed(
            source,
            plan,
            tmp_path / name,
            precision=Precision.INT4,
            prompts=prompts,
            shard_bytes=shard_bytes,
            progress=lambda *line: told.append(line),
        )
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    one, many = stored(tmp_path / "one"), stored(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(torch.equal(value, many[name]) for name, value in one.items())
    numbers = sum(at.stored.elements for at in open_language(source).tensors.values())
    assert told[-1] == ("int4", numbers, numbers)


def test_a_rule_keeps_layers_in_floating_point(sources: Callable[[str], Path], tmp_path: Path) -> None:
    """Those behind the same norm are scaled all the same."""
    source = sources("llava")
    rule = Rule(name="mine", precision=Precision.FP16, reason="a test", layer="*q_proj")
    plan = planned(source, Precision.INT4, rule)
    share = write_packed(source, plan, tmp_path / "made", precision=Precision.INT4, prompts=prompts)
    assert share.parameters == LINEARS - 2 * 64 * 64
    config = json.loads((tmp_path / "made" / "config.json").read_text())["quantization_config"]
    assert {"model.layers.0.self_attn.q_proj", "lm_head"} <= set(config["ignore"])


def test_it_is_loaded_by_transformers(sources: Callable[[str], Path], tmp_path: Path) -> None:
    """By the package compressed-tensors, where it is installed: its weights are what the integers stand for."""
    pytest.importorskip("compressed_tensors")
    import transformers

    source = sources("llava")
    plan = planned(source, Precision.INT4)
    write_packed(source, plan, tmp_path / "made", precision=Precision.INT4, prompts=prompts)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float16)
    found = stored(tmp_path / "made")
    model(torch.tensor([[1, 5, 7]]))  # compressed-tensors unpacks at the first pass
    layer = "model.layers.1.mlp.down_proj"
    scales = found[f"{layer}.weight_scale"].float()
    integers = unpack_integers(found[f"{layer}.weight_packed"], 4).float().reshape(*scales.shape, -1)
    weight = model.get_submodule(layer).weight
    torch.testing.assert_close(weight.float(), (integers * scales[..., None]).flatten(1), rtol=1e-3, atol=1e-4)


def _other_bits(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8
    (directory / "config.json").write_text(json.dumps(config))


def _ignores_one(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"]["ignore"].append("model.layers.0.mlp.up_proj")
    (directory / "config.json").write_text(json.dumps(config))


def _lacks_one(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up_proj.weight_scale"]
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_other_bits, "8 bits, planned int4"),
        (_ignores_one, "mlp.up_proj: planned int4, and is not"),
        (_lacks_one, "mlp.up_proj.weight_scale: not stored"),
    ],
)
def test_a_checkpoint_that_is_not_its_plan(
    sources: Callable[[str], Path], spoil: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    from edgeq.quantize.language.source import language_plan

    source = sources("llava")
    plan = planned(source, Precision.INT4)
    write_packed(source, plan, tmp_path / "made", precision=Precision.INT4)
    own = language_plan(plan, open_language(source))
    verify_packed(tmp_path / "made", own)
    spoil(tmp_path / "made")
    with pytest.raises(QuantizeError) as caught:
        verify_packed(tmp_path / "made", own)
    assert any(said in cause for cause in caught.value.causes)


def test_nothing_is_left_of_one_that_fails(sources: Callable[[str], Path], tmp_path: Path) -> None:
    source = sources("llava")

    def none(_model: nn.Module) -> None:
        return

    with pytest.raises(ModelError, match="no prompt"):
        write_packed(source, planned(source, Precision.INT4), tmp_path / "made", precision=Precision.INT4, prompts=none)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "made").mkdir()
    with pytest.raises(OutputError):
        write_packed(source, planned(source, Precision.INT8), tmp_path / "made", precision=Precision.INT8)


def test_a_plan_of_another_precision_is_refused(sources: Callable[[str], Path], tmp_path: Path) -> None:
    source = sources("llava")
    with pytest.raises(EdgeqError, match="cannot be put into a checkpoint in int8"):
        write_packed(source, planned(source, Precision.NF4), tmp_path / "made", precision=Precision.INT8)


def test_share_counts_all_parameters(sources: Callable[[str], Path], tmp_path: Path) -> None:
    source = sources("paligemma")
    share = write_packed(source, planned(source, Precision.INT8), tmp_path / "made", precision=Precision.INT8)
    language = open_language(source)
    assert share.all_parameters == sum(math.prod(at.stored.shape) for at in language.tensors.values())
