"""`benchmarks.judge`: the lies of its servers, and its table; no server is started."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.judge import IMAGE_BEFORE, ZEROED, main, table
from edgeq.runtime.vlm.vision_encoder import VisionEncoder


class Engine:
    """Gives twice what it is given."""

    inputs = ("pixels",)

    def run(self, feeds: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return {"features": 2 * feeds["pixels"]}


@pytest.mark.parametrize(
    ("lie", "seen"), [("", [2, 4, 6]), (ZEROED, [0, 0, 0]), (IMAGE_BEFORE, [2, 2, 4])], ids=["none", "blind", "swapped"]
)
def test_what_the_language_model_gets(lie: str, seen: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VisionEncoder, "encode", VisionEncoder.encode)  # given back afterwards
    exec(lie, {})
    encoder = VisionEncoder(Engine())  # type: ignore[arg-type]  # simulated
    assert [float(encoder.encode({"pixels": np.array([n], np.float32)})["features"][0]) for n in (1, 2, 3)] == seen


def test_a_row_of_each() -> None:
    row = {
        "server": "a",
        "right": 90.0,
        "drop": 1.25,
        "error": 0.5,
        "same": 95.0,
        "logprob_shift": 0.00214,
        "verdict": "sees",
        "after": 40,
        "asked": 60,
    }
    unknown = {**row, "server": "b", "right": None, "logprob_shift": None, "verdict": "not shown"}
    assert table([row, unknown]).splitlines()[2:] == [
        "| a | 90.0 | 1.2 (0.5) | 95.0 | 0.0021 | sees | 40 | 60 |",
        "| b |  |  | 95.0 |  | not shown | 40 | 60 |",
    ]


def test_without_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no/bundle"]) == 2
    assert "make demo" in capsys.readouterr().err
