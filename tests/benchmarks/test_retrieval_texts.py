"""The benchmark of text encoders: models with outliers, ONNX Runtime's quantizers, the table."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from benchmarks import retrieval
from benchmarks.retrieval import Row, inject_outliers, main, measure, table
from edgeq.demo.clip.pairs import CLIP_WEIGHTS
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.quality.tasks.retrieval import Embedded, compare_retrieval


def test_outliers_change_nothing_but_ranges(tmp_path: Path) -> None:
    inject_outliers(CLIP_WEIGHTS, tmp_path / "outliers")
    ids = torch.tensor([[0, 40, 17, 90, 1], [0, 3, 8, 200, 1]])
    texts, widest = [], []
    for folder in (CLIP_WEIGHTS, tmp_path / "outliers"):
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        seen: list[float] = []
        model.text_model.encoder.layers[1].layer_norm1.register_forward_hook(
            lambda _module, _given, made, seen=seen: seen.append(float(made.abs().max()))
        )
        with torch.inference_mode():
            texts.append(model.get_text_features(input_ids=ids).pooler_output.numpy())
        widest.append(seen[0])
    np.testing.assert_allclose(texts[1], texts[0], rtol=1e-3, atol=1e-3 * np.abs(texts[0]).max())
    assert widest[1] > 5 * widest[0]


def test_every_way_is_measured_beside_the_same_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 40 scenes; what ONNX Runtime's static quantizer does to the whole graph shows on any number."""
    monkeypatch.setattr(retrieval, "_CAPTIONS", 40)
    monkeypatch.setattr(retrieval, "RetrievalOptions", partial(RetrievalOptions, photographs=8, canaries=2))
    rows = list(measure(40, tmp_path, ["plain"], threads=1))
    assert [row.model for row in rows] == ["plain"] * 5
    assert len({row.who for row in rows}) == 5
    references = {row.figures.text_to_image.at1.reference for row in rows}
    assert max(references) - min(references) < 6, "FP16 and FP32: one text of 40 or two"
    lost = {row.who: row.figures.text_to_image.at1.drop.value for row in rows}
    assert lost["ONNX Runtime quantize_static as it is"] > 30
    assert lost["edgeq without equalization"] < 6


def test_the_table_tells_drops_with_their_doubt() -> None:
    images = np.eye(4, dtype=np.float32)
    worse = images.copy()
    worse[0] = images[1]
    figures = compare_retrieval([frozenset({item}) for item in range(4)], Embedded(images, worse, images))
    text = table([Row("plain", "somebody", figures, "floating point")])
    assert "4 texts in 4 groups, 4 images." in text
    assert "| plain | somebody | 75.00 / 100.00 / 100.00 | 25.00 ± 25.00 (" in text
    assert "|  | floating point |" in text, "no images in INT8"
    assert text.endswith("FP16 texts find 100.00 / 100.00 / 100.00 %.")


def test_a_number_of_pairs_is_needed() -> None:
    with pytest.raises(SystemExit):
        main(["--pairs", "many"])
