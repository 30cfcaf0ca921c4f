"""What a scene is said to have on it can be measured on its pixels: the same scene is drawn without it and compared."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.demo import defects
from edgeq.demo.scenes import EVALUATION_SEED, KINDS, SIZE, draw_scene
from edgeq.demo.texture import blob
from edgeq.demo.vlm.report import PLACES, SEVERITIES, DefectFinding
from edgeq.demo.vlm.scenes import choose, draw_finding
from edgeq.errors import InputError

DRAW = {
    "corrosion": defects.corrosion,
    "hairline_crack": defects.hairline_crack,
    "spalling": defects.spalling,
    "wide_crack": defects.wide_crack,
    "shadow": defects.shadow,
}


def changed(seed: int) -> tuple[DefectFinding, NDArray[np.bool_]]:
    """The finding of a seed, and the pixels [SIZE, SIZE] that its defect changes on a flat grey surface."""
    finding, site = choose(seed)
    grey = np.full((SIZE, SIZE, 3), 0.6, np.float32)
    drawn = DRAW[finding.kind](np.random.default_rng(seed), grey, site)
    return finding, np.abs(drawn - grey).max(axis=2) > 0.1


def cases(kind: str, count: int) -> list[tuple[DefectFinding, NDArray[np.bool_]]]:
    seeds = [seed for seed in range(EVALUATION_SEED, EVALUATION_SEED + 40 * count) if choose(seed)[0].kind == kind]
    return [changed(seed) for seed in seeds[:count]]


@pytest.mark.parametrize("kind", sorted(DRAW))
def test_the_middle_of_the_defect_lies_in_the_place_named(kind: str) -> None:
    """The middle of what is dark lies in the third that is named, or next to its border by a few pixels."""
    slack = 4.0  # streaks run down, branches wander, and a border cuts off
    for finding, mask in cases(kind, 30):
        third = divmod(PLACES.index(finding.place), 3)
        low, high = np.array(third) * SIZE / 3 - slack, (np.array(third) + 1) * SIZE / 3 + slack
        middle = np.argwhere(mask).mean(axis=0)
        assert (low <= middle).all(), (finding, middle)
        assert (middle <= high).all(), (finding, middle)


@pytest.mark.parametrize("kind", ["corrosion", "hairline_crack", "spalling", "wide_crack"])
def test_the_severity_is_the_extent_that_is_drawn(kind: str) -> None:
    """Without streaks and branches, which come on top, the areas changed are in the order of the severities."""
    areas: dict[str, list[int]] = {severity: [] for severity in SEVERITIES}
    for finding, mask in cases(kind, 60):
        areas[finding.severity].append(int(mask.sum()))
    minor, moderate, severe = (np.array(areas[severity]) for severity in SEVERITIES)
    assert np.median(minor) * 1.4 < np.median(moderate)
    assert np.median(moderate) * 1.3 < np.median(severe)


@pytest.mark.parametrize("radius", [6.0, 7.5, 11.0, 12.5, 18.0, 21.0])
def test_a_patch_is_as_large_as_its_site_says_however_ragged(radius: float) -> None:
    for seed in range(10):
        field = blob(np.random.default_rng(seed), radius, 0.12, (32.0, 32.0))
        assert np.sqrt((field > 0).sum() / np.pi) == pytest.approx(radius, rel=0.12)


def test_a_crack_fits_its_site() -> None:
    points, _ = defects.crack_path(np.random.default_rng(0), 1.0)
    placed = defects.fitted(points, (12.0, 50.0), 30.0)
    low, high = placed.min(axis=0), placed.max(axis=0)
    assert (low + high) / 2 == pytest.approx((12.0, 50.0))
    assert np.hypot(*(high - low)) == pytest.approx(30.0)


def test_a_scene_is_the_kind_it_is_said_to_be_and_the_same_every_time() -> None:
    for seed in range(12):
        finding, site = choose(seed)
        image, found = draw_finding(seed)
        assert found == finding
        assert image.tobytes() == draw_scene(finding.kind, seed, site).tobytes()
        assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))


def test_kinds_places_and_severities_are_equally_frequent() -> None:
    """Each count is within five standard deviations of what it would be on average."""
    findings = [choose(seed)[0] for seed in range(6000)]
    kinds = Counter(finding.kind for finding in findings)
    places = Counter(finding.place for finding in findings if finding.place)
    severities = Counter(finding.severity for finding in findings if finding.severity)
    for counts, names in ((kinds, KINDS), (places, PLACES), (severities, SEVERITIES)):
        assert set(counts) == set(names)
        expected = counts.total() / len(names)
        assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in counts.values())


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        draw_finding(-1)
