"""The film that is played to `edgeq watch`, and what comes of it, on a tiny classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
from classifier_bundle import classifier_bundle
from films import av

from benchmarks.film import SIZE, measure, write_film


def test_a_film_is_played(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    film = tmp_path / "a.mkv"
    write_film(film, 0.5, 20)
    with av.open(str(film)) as container:
        assert [(frame.width, frame.height) for frame in container.decode(video=0)] == [SIZE] * 10
    figures = measure(classifier_bundle(tmp_path_factory), film, ["--backend", "onnxruntime", "--threads", "1"])
    counts = figures.counts
    assert counts["seen"] == 10
    assert counts["answered"] + counts["dropped"] == 10
    assert 0 <= figures.longest_gap_s <= 0.45
