"""Layer precisions as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq.errors import ArtifactError
from edgeq.tensorrt.precisions import LayerPrecision, load_precisions, save_precisions

LAYERS = (
    LayerPrecision(name="conv1", op="Conv", precision="int8", outputs=("int8",)),
    LayerPrecision(name="best", op="TopK", precision="float32", outputs=("float32", None)),
)


def test_json_and_back(tmp_path: Path) -> None:
    save_precisions(LAYERS, tmp_path / "precisions.json")
    assert load_precisions(tmp_path / "precisions.json") == LAYERS
    raw = json.loads((tmp_path / "precisions.json").read_text())
    assert raw["layers"][0] == {"name": "conv1", "op": "Conv", "precision": "int8", "outputs": ["int8"]}


@pytest.mark.parametrize("text", ["", "{}", '{"version": "edgeq.trt-precisions/2", "layers": []}', "\xff"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "precisions.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match="no layer precisions"):
        load_precisions(tmp_path / "precisions.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        load_precisions(tmp_path / "none.json")
