"""The simulated table of a tiny vision transformer, from its directory to the lines of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import CLASSES
from pictures import draw_pictures
from vits import save_tiny_vit

from benchmarks.simulate.schemes import SCHEMES, Bits
from benchmarks.simulated_vit import Simulation, simulate, simulated_table
from edgeq.errors import ImageError
from edgeq.export.torch_export import export_classifier
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import parity_images

CHOSEN = tuple(scheme for scheme in SCHEMES if scheme.name in ("base, min-max", "Hessian + both twins"))
WIDTHS = (Bits(8, 8), Bits(4, 4))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vit(tmp_path_factory.mktemp("simulated") / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return ImageSet.open(draw_pictures(tmp_path_factory.mktemp("simulated") / "pictures", each=4), labelled=True)


@pytest.fixture(scope="module")
def simulation(model: Path, pictures: ImageSet) -> Simulation:
    return simulate(model, pictures, pictures, bits=WIDTHS, schemes=CHOSEN)


def test_a_row_for_each_scheme_and_width(simulation: Simulation) -> None:
    wanted = [(scheme.name, str(width)) for width in WIDTHS for scheme in CHOSEN]
    assert [(row.scheme, row.bits) for row in simulation.rows] == wanted
    eight, four = simulation.rows[:2], simulation.rows[2:]
    assert all(0.0 < wide.logit_error < narrow.logit_error for wide, narrow in zip(eight, four, strict=True))


def test_fp32_is_the_network_as_it_is(model: Path, pictures: ImageSet, simulation: Simulation, tmp_path: Path) -> None:
    side = open_model(model).preprocess.height
    reference = export_classifier(model, tmp_path / "model.onnx", image_size=(side, side)).reference
    named = np.argmax(reference(parity_images(pictures, open_model(model))), axis=1)
    right = [CLASSES[place] == item.label for place, item in zip(named, pictures.items, strict=True)]
    assert simulation.images == len(right) == 12
    assert simulation.top1 == pytest.approx(100.0 * np.mean(right))


def test_every_line_says_that_it_is_simulated(simulation: Simulation) -> None:
    first, _, _, _, *lines = simulated_table(simulation).splitlines()
    assert first.startswith("FP32: top-1")
    assert len(lines) == len(simulation.rows)
    assert all(line.startswith("| simulated | W") for line in lines)


def test_images_of_other_classes_are_refused(model: Path, pictures: ImageSet, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "pictures", each=1)
    (tmp_path / "pictures" / "red").rename(tmp_path / "pictures" / "mauve")
    other = ImageSet.open(tmp_path / "pictures", labelled=True)
    with pytest.raises(ImageError, match="mauve"):
        simulate(model, pictures, other, bits=(), schemes=())
