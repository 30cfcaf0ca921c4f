"""The chart: the same bytes every time, with every large item and the device's memory in it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from edgeq.device import device_profile
from edgeq.families.modules import read_vlm
from edgeq.plan.memory import MemoryPlan, plan_memory
from edgeq.plan.waterfall import draw_waterfall, save_waterfall

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"


def plan(context: int = 2048) -> MemoryPlan:
    return plan_memory(read_vlm(GOLDEN / "llava-1.5-13b"), device_profile("orin-nx-16gb"), context=context)


def words(chart: bytes) -> set[str]:
    """The texts in an SVG."""
    return {" ".join("".join(text.itertext()).split()) for text in ElementTree.fromstring(chart).iter() if text.text}


def test_the_same_plan_is_the_same_picture(tmp_path: Path) -> None:
    save_waterfall(plan(), tmp_path / "chart.svg")
    assert (tmp_path / "chart.svg").read_bytes() == draw_waterfall(plan())


def test_what_is_large_is_named() -> None:
    shown = words(draw_waterfall(plan()))
    large = {item.name for item in plan().tightest.items if item.bytes > 0.002 * plan().device.total_bytes}
    assert large | {"system and others", "16.42 GB"} <= shown
    assert any(text.startswith("llava-1.5-13b fits Jetson Orin NX 16 GB") for text in shown)


def test_it_says_so_where_it_does_not_fit() -> None:
    assert any("does not fit" in text for text in words(draw_waterfall(plan(8192))))
