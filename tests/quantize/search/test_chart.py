"""The picture of a sensitivity table: the same bytes each time, the ten worst by name, a colour for each precision."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgeq.errors import OutputError
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.quality.logits import LogitFigures
from edgeq.quantize.search.chart import COLOURS, draw_sensitivity
from edgeq.quantize.search.sensitivity import LayerSensitivity, Sensitivity


def figures(error: float) -> LogitFigures:
    return LogitFigures(
        images=64, logit_error=error, logit_error_se=error / 20, kl=0.0, kl_se=0.0, agreement=100.0, agreement_se=0.0
    )


def table(errors: dict[str, float]) -> Sensitivity:
    lines = tuple(
        LayerSensitivity(
            layer=layer,
            op="Conv",
            kind="convolution",
            parameters=10,
            bytes=40,
            alone=figures(error),
            released=figures(0.02),
            gain=0.0,
            gain_se=0.01,
        )
        for layer, error in errors.items()
    )
    return Sensitivity(
        graph_sha256="0" * 64,
        method="minmax",
        weights="per-channel",
        worst_precision=0.03,
        precision=0.1,
        int8=figures(0.05),
        layers=lines,
    )


def drawn(errors: dict[str, float], path: Path, plan: PrecisionPlan | None = None) -> bytes:
    draw_sensitivity(table(errors), path, plan=plan)
    return path.read_bytes()


TWELVE = {f"layer-{index:02d}": 0.001 * (index + 1) for index in range(12)}


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_table_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    first = drawn(TWELVE, tmp_path / f"a.{suffix}")
    assert first == drawn(TWELVE, tmp_path / f"b.{suffix}")
    assert first != drawn(TWELVE | {"layer-03": 0.5}, tmp_path / f"c.{suffix}")


def test_the_ten_worst_are_named(tmp_path: Path) -> None:
    text = drawn(TWELVE, tmp_path / "chart.svg").decode()
    assert [name for name in TWELVE if name not in text] == ["layer-00", "layer-01"]


def test_the_end_of_a_long_name_is_shown(tmp_path: Path) -> None:
    text = drawn({"/stage/" + "deep/" * 8 + "conv_$x$": 0.1, "b": 0.2}, tmp_path / "chart.svg").decode()
    assert "conv_$x$" in text
    assert "/stage/" not in text


def test_a_plan_gives_each_bar_its_colour(tmp_path: Path) -> None:
    precisions = {"layer-00": Precision.FP32, "layer-01": Precision.INT8, "layer-02": Precision.FP16}
    decisions = tuple(
        Decision(layer=layer, op="Conv", precision=precision, rule="given", reason="given")
        for layer, precision in precisions.items()
    )
    three = {layer: TWELVE[layer] for layer in precisions}
    text = drawn(three, tmp_path / "planned.svg", PrecisionPlan(decisions=decisions)).decode()
    assert [precision for precision in COLOURS if COLOURS[precision] in text] == list(COLOURS)[:3]
    without = drawn(three, tmp_path / "plain.svg").decode()
    assert [precision for precision in COLOURS if COLOURS[precision] in without] == [Precision.INT8]


def test_layers_without_any_error_can_be_drawn(tmp_path: Path) -> None:
    drawn({"a": 0.0, "b": 0.0}, tmp_path / "none.png")
    with Image.open(tmp_path / "none.png") as picture:
        assert picture.format == "PNG"
    drawn({"a": 0.0, "b": 0.1}, tmp_path / "one.png")


def test_a_chart_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        drawn(TWELVE, tmp_path / "file" / "chart.svg")
