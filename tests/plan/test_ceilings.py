"""Ceilings by power mode: by hand, against published limits, and what binds where."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.device import PROFILES, device_profile
from edgeq.device.power_modes import POWER_MODES, PowerMode, board_device, power_mode
from edgeq.families.modules import read_vlm
from edgeq.model.graph.components import Component, Layer
from edgeq.plan.ceilings import Ceiling, ModelWork, decode_ceiling, device_ceiling, model_work
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.plan.precision import Precision
from edgeq.plan.weights import asymmetric

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
NX = "orin-nx-16gb"

WORK = ModelWork(
    nf4_weights=1000,
    weights_bytes=600,
    sequence_bytes=200,
    tokens=10,
    multiplied=1000,
    image_operations=8192,
    image_bytes=50,
)
MODE = PowerMode(name="made-up", multiprocessors=1, gpu_mhz=1, bytes_per_second=1e6)
"""1e6 clocks a second: 128e6 instructions and 2,048e6 FP16 operations, and 1e6 bytes."""


def plan(name: str, context: int = 640) -> MemoryPlan:
    return plan_memory(read_vlm(GOLDEN / name), device_profile(NX), context=context)


def bound(found: tuple[float, str], value: float, by: str) -> bool:
    """Whether this is the figure, and this what binds it."""
    return found[0] == pytest.approx(value) and found[1] == by


@pytest.fixture(scope="module")
def llava() -> dict[str, Ceiling]:
    """LLaVA-1.5-7B at 640 tokens."""
    work = model_work(plan("llava-1.5-7b"))
    assert work is not None
    return {mode.name: device_ceiling(work, mode) for mode in POWER_MODES[NX]}


def test_by_hand() -> None:
    """A step reads 600 + 200 bytes: 0.8 ms. 1,000 weights of 6.5 instructions take 0.05 ms."""
    found = device_ceiling(WORK, MODE)
    assert bound((found.decode_tokens_per_second, found.decode_bound), 1250, "bandwidth")
    assert found.prefill_tokens_per_second == pytest.approx(2048e6 / 2000)
    # 10 tokens: 20,000 operations, and 600 + 2 x 2 x 1,000 bytes: 9.77 us and 4.6 ms
    assert found.prefill_unpacked_tokens_per_second == pytest.approx(10 / (20_000 / 2048e6 + 4.6e-3))
    assert bound((found.image_ms, found.image_bound), 0.05, "bandwidth")


def test_sequences_share_the_weights_and_not_their_keys() -> None:
    """600 + 3 x 200 bytes for three tokens; 4 + 2.5 n instructions a weight bind a GPU of a thousandth."""
    assert bound(decode_ceiling(WORK, 1e6, None, 3), 2500, "bandwidth")
    assert bound(decode_ceiling(WORK, 1e6, 1e6, 1), 1e6 / 6500, "instructions")
    assert bound(decode_ceiling(WORK, 1e6, 1e6, 3), 3e6 / 11_500, "instructions")
    assert bound(decode_ceiling(WORK, 1e6, 1e6, 4), 4e6 / 1400, "bandwidth"), "another kernel"


def test_llava_at_full_clocks_is_bound_by_bandwidth(llava: dict[str, Ceiling]) -> None:
    """3.34 GB of NF4, 0.26 GB of head and 640 x 524,288 bytes of keys and values at 102.4 GB/s."""
    found = llava["40W"]
    assert found.decode_bound == "bandwidth"
    assert found.decode_tokens_per_second == pytest.approx(26.0, abs=0.05)
    assert 640 / found.prefill_tokens_per_second == pytest.approx(2 * 640 * 6476.0e6 / 19.22e12, rel=0.002)
    unpacked = 640 / found.prefill_unpacked_tokens_per_second - 640 / found.prefill_tokens_per_second
    assert unpacked == pytest.approx((3.604e9 + 4 * 6476.0e6) / 102.4e9, rel=0.002)
    # 303.5 M parameters for 577 patches, 21.0 M for 576 tokens
    assert found.image_ms == pytest.approx(2e3 * (303.5e6 * 577 + 21.0e6 * 576) / 19.22e12, rel=0.005)


def test_at_lower_clocks_instructions_bind(llava: dict[str, Ceiling]) -> None:
    """6,476 M weights of 6.5 instructions over 128 lanes: 328.9 M clocks a token, of 8 x 408 or 4 x 612 MHz."""
    for name, clocks in (("25W", 8 * 408e6), ("15W", 4 * 612e6), ("10W", 4 * 612e6)):
        found = llava[name]
        assert found.decode_bound == "instructions"
        assert found.decode_tokens_per_second == pytest.approx(clocks / (6476.0e6 * 6.5 / 128), rel=0.001)


def test_what_a_token_does_not_read_is_left_out() -> None:
    """A tied head is the embedding; an embedding that is not tied gives one row; cross-attention is not counted."""
    tied, crossing = plan("gemma3-4b"), plan("llama-3.2-11b-vision")
    parts = {part.name: part.bytes for part in tied.components}
    work = model_work(tied)
    assert work is not None
    assert work.weights_bytes == parts["language"] + parts["embedding"]
    parts = {part.name: part.bytes for part in crossing.components}
    work = model_work(crossing)
    assert work is not None
    assert work.weights_bytes == parts["language"] + parts["head"]
    assert work.sequence_bytes == crossing.kv.bytes(640, crossing.image.cross_tokens)


def test_of_a_mixture_of_experts_nothing_is_said() -> None:
    assert model_work(plan("llava-1.5-7b").model_copy(update={"model_type": "qwen3_vl_moe"})) is None


def test_every_device_has_its_modes() -> None:
    assert POWER_MODES.keys() == PROFILES.keys()
    for modes in POWER_MODES.values():
        clocks = [mode.clocks_per_second for mode in modes]
        assert clocks == sorted(clocks, reverse=True)


@pytest.mark.parametrize(
    ("device", "tflops"),
    # NVIDIA's sparse INT8 TOPS of the GPU alone are four times these: 67 for Orin Nano, 170 for AGX Orin 64 GB
    [("orin-nano-8gb", 67 / 4), ("agx-orin-64gb", 170 / 4), ("agx-thor-128gb", 1035 / 4)],
)
def test_the_fastest_modes_agree_with_nvidias_tops(device: str, tflops: float) -> None:
    assert POWER_MODES[device][0].fp16_per_second / 1e12 == pytest.approx(tflops, rel=0.005)


@pytest.mark.parametrize(
    ("compatible", "device"),
    [
        ("nvidia,p3768-0000+p3767-0000-super\0nvidia,p3767-0000\0nvidia,tegra234", "orin-nx-16gb"),
        ("nvidia,p3768-0000+p3767-0005-super", "orin-nano-8gb"),
        ("nvidia,p4071-0000+p3834-0008\0nvidia,tegra264", "agx-thor-128gb"),
        ("nvidia,p3509-0000+p3668-0000", None),
        ("", None),
    ],
)
def test_a_board_is_known_by_its_module(compatible: str, device: str | None) -> None:
    assert board_device(compatible) == device


def test_a_mode_is_known_by_its_name_on_its_device() -> None:
    found = power_mode(NX, "maxn_super")
    assert found is not None
    assert (found.multiprocessors, found.gpu_mhz) == (8, 1173)
    assert power_mode(NX, "MAXN") is None
    assert power_mode("orin-nx-8gb", "25W") is None
    assert power_mode(None, None) is None


def test_int8_is_unpacked_for_a_prompt_and_int4_is_not() -> None:
    """Beside 20,000 operations 600 bytes are read; 1,000 numbers in INT8 are also written and read in FP16."""
    int4 = WORK.model_copy(update={"nf4_weights": 0})
    int8 = int4.model_copy(update={"int8_weights": 1000})
    times = [10 / device_ceiling(work, MODE).prefill_unpacked_tokens_per_second for work in (int4, int8)]
    assert times == pytest.approx([20_000 / 2048e6 + 0.6e-3, 20_000 / 2048e6 + 4.6e-3])
    assert bound(decode_ceiling(int4, 1e6, 1.0, 1), 1250, "bandwidth"), "no instructions are counted"


@pytest.mark.parametrize(("precision", "share"), [(Precision.INT4, 0.515625), (Precision.INT8, 1.0)])
def test_bytes_of_a_token_of_integers(precision: Precision, share: float) -> None:
    """LLaVA-1.5-7B: 6,476.0 M weights, and a head of 131 M in FP16."""

    def choose(component: Component, layer: Layer) -> Precision:
        return precision if asymmetric(component, layer) is Precision.NF4 else Precision.FP16

    work = model_work(plan_memory(read_vlm(GOLDEN / "llava-1.5-7b"), device_profile(NX), context=640, precision=choose))
    assert work is not None
    assert work.weights_bytes == pytest.approx(share * 6476.0e6 + 2 * 131.1e6, rel=2e-3)
    assert work.nf4_weights == 0
    assert work.int8_weights == pytest.approx(6476.0e6 if precision is Precision.INT8 else 0, rel=1e-3)
