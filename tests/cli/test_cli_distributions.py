"""`edgeq sensitivity --kind vit`: on a model, on what `edgeq export` leaves, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Edgeq, assert_refused
from vits import BLOCKS, save_tiny_vit

from edgeq.cli import run
from edgeq.quantize.distributions.measure import Distributions


@pytest.fixture(scope="module")
def exported(tiny_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT's exported directory, beside `model`; not to be written to."""
    folder = tmp_path_factory.mktemp("vit")
    model = save_tiny_vit(folder / "model")
    done = run(
        [
            "export",
            str(model),
            "--images",
            str(tiny_pictures),
            "-o",
            str(folder / "exported"),
            "--channel-equalization",
            "none",
        ]
    )
    assert done == 0
    return folder / "exported"


def test_a_model_and_its_export_show_the_same(
    edgeq: Edgeq, exported: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    flags = ("--kind", "vit", "--images", tiny_pictures)
    done = edgeq("sensitivity", exported, *flags, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    shown = Distributions.model_validate(json.loads(done.out))
    assert (shown.blocks, shown.images) == (BLOCKS, 102)
    assert Distributions.load(tmp_path / "out" / "distributions.json") == shown
    assert (tmp_path / "out" / "distributions.svg").read_text().startswith("<?xml")
    model = edgeq("sensitivity", exported.parent / "model", *flags, "--json")
    assert model.status == 0, model.err
    assert Distributions.model_validate(json.loads(model.out)).tensors == shown.tensors


def test_a_person_sees_a_table(edgeq: Edgeq, exported: Path, tiny_pictures: Path) -> None:
    done = edgeq("sensitivity", exported, "--kind", "vit", "--images", tiny_pictures)
    assert done.status == 0, done.err
    for word in (f"{BLOCKS} blocks on 102 images", "softmax", "GELU", "LayerNorm", "query", "folded", "twin"):
        assert word in done.out, word


def test_what_cannot_be_used_is_refused(
    edgeq: Edgeq, exported: Path, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    flags = ("--kind", "vit", "--images", tiny_pictures)
    assert_refused(edgeq("sensitivity", exported, *flags, "--scales", "scales.json"), "--scales and --kind vit")
    assert_refused(edgeq("sensitivity", exported, *flags, "--search", "--max-drop", "1"), "--kind vit")
    assert_refused(edgeq("sensitivity", exported, *flags, "-o", exported), "exists already")
    assert_refused(edgeq("sensitivity", tiny_model, *flags), "the graph has no attention", "--kind vit")
    assert_refused(edgeq("sensitivity", tmp_path / "nowhere", *flags), "nowhere")
