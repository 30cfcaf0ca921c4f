"""Captions tell their finding and no other, in wordings that a seed draws; relevance is a matter of the finding."""

from __future__ import annotations

from collections import Counter

import pytest

from edgeq.demo.clip.captions import WORDINGS, caption, captions, relevant, understand
from edgeq.demo.scenes import KINDS
from edgeq.demo.vlm.report import FINDINGS, DefectFinding, report
from edgeq.demo.vlm.scenes import choose
from edgeq.errors import InputError


@pytest.mark.parametrize("finding", FINDINGS, ids=str)
def test_every_wording_of_a_finding_tells_it_and_no_other(finding: DefectFinding) -> None:
    texts = captions(finding)
    assert len(set(texts)) == WORDINGS
    assert [understand(text) for text in texts] == [finding] * WORDINGS
    for text in texts:
        assert finding.place in text
        assert finding.severity in text


def test_a_caption_is_what_people_write() -> None:
    corrosion = captions(DefectFinding("corrosion", "top left", "severe"))
    crack = captions(DefectFinding("hairline_crack", "centre", "minor"))
    assert "severe corrosion at the top left" in corrosion
    assert "a photograph of a minor hairline crack in the centre" in crack
    assert report(DefectFinding("sound")) in captions(DefectFinding("sound"))


def test_the_seed_alone_decides_the_wording() -> None:
    finding = DefectFinding("spalling", "right", "moderate")
    first = [caption(finding, seed) for seed in range(300)]
    assert first == [caption(finding, seed) for seed in range(300)]
    assert set(first) == set(captions(finding))
    assert min(Counter(first).values()) > 300 / WORDINGS - 4 * (300 / WORDINGS) ** 0.5


def test_the_wording_tells_nothing_of_the_scene() -> None:
    """Were both drawn from one stream, a kind of damage would have wordings of its own."""
    met: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for seed in range(400):
        finding, _ = choose(seed)
        met[finding.kind].add(captions(finding).index(caption(finding, seed)))
    assert met == {kind: set(range(WORDINGS)) for kind in KINDS}


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        caption(DefectFinding("sound"), -1)


@pytest.mark.parametrize(
    "text", ["", "severe corrosion", "severe sound at the top", "Severe corrosion at the top left"]
)
def test_what_is_no_caption_tells_nothing(text: str) -> None:
    assert understand(text) is None


def test_relevant_is_what_agrees_in_all_three() -> None:
    asked = DefectFinding("corrosion", "top", "minor")
    assert relevant(asked, DefectFinding("corrosion", "top", "minor"))
    assert not relevant(asked, DefectFinding("spalling", "top", "minor"))
    assert not relevant(asked, DefectFinding("corrosion", "left", "minor"))
    assert not relevant(asked, DefectFinding("corrosion", "top", "severe"))
    assert not relevant(DefectFinding("sound"), DefectFinding("shadow", "top"))
