"""The search as the main job runs it: one half of the labelled images is searched, the other judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import ALLOW_FLAGS, Edgeq, assert_refused
from networks import ALLOWED, QUICK
from pictures import draw_pictures

from edgeq.errors import GateError, ImageError
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.classifier import Options, prepare
from edgeq.pipeline.search import SEARCH, halves
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.logits import LogitFigures
from edgeq.quantize.search.bounds import SearchBounds
from edgeq.quantize.search.layer_search import Search

pytestmark = pytest.mark.usefixtures("quick_latency")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("search") / "labelled", each=36, seed=3)


def test_the_halves_share_no_image_and_leave_none_out(labelled: Path) -> None:
    whole = ImageSet.open(labelled, labelled=True)
    searched, unseen = halves(whole)
    assert len(searched) == len(unseen) == 54
    assert {item.name for item in searched.items} | {item.name for item in unseen.items} == {
        item.name for item in whole.items
    }


def test_too_few_labelled_images_are_refused(tiny_answers: Path) -> None:
    with pytest.raises(ImageError, match="24 labelled images"):
        halves(ImageSet.open(tiny_answers, labelled=True))


def test_the_result_is_judged_by_images_that_were_not_searched(
    tiny_model: Path, tiny_pictures: Path, labelled: Path, tmp_path: Path
) -> None:
    options = Options(search=SearchBounds(100.0, max_unseen_drop=1000.0), allow=ALLOWED, timing=QUICK, threads=1)
    prepared = prepare(tiny_model, tiny_pictures, tmp_path / "bundle", labelled=labelled, options=options)
    assert prepared.search is not None
    assert prepared.search.check is not None
    assert prepared.quality.answers is not None
    check = prepared.search.check.headline()
    assert prepared.search.steps[0].headline.examples == 54
    assert prepared.quality.answers.images == check.examples == 54
    assert prepared.quality.answers.drop == pytest.approx(check.drop)
    assert Search.load(tmp_path / "bundle" / SEARCH) == prepared.search


def test_layers_are_kept_where_the_bound_asks_for_it(
    tiny_model: Path, tiny_pictures: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeq.quantize.search.layer_search._lost", lambda figures: (figures.logit_error, 0.0))
    whole = prepare(
        *(tiny_model, tiny_pictures, tmp_path / "whole"),
        labelled=labelled,
        options=Options(search=SearchBounds(100.0), allow=ALLOWED, timing=QUICK, method="mse"),
    )
    assert whole.search is not None
    int8 = whole.search.steps[0].figures
    assert isinstance(int8, LogitFigures)
    bound = 0.7 * int8.logit_error  # stands in for top-1, which never drops here
    prepared = prepare(
        *(tiny_model, tiny_pictures, tmp_path / "kept"),
        labelled=labelled,
        options=Options(search=SearchBounds(bound, max_share=100.0), allow=ALLOWED, timing=QUICK, method="mse"),
    )
    assert prepared.search is not None
    assert prepared.search.kept
    plan = PrecisionPlan.load(tmp_path / "kept" / "plan.yaml")
    assert set(prepared.search.kept) <= plan.layers(Precision.FP16)
    assert (tmp_path / "kept" / "sensitivity.json").is_file()
    assert prepared.int8_layers == whole.int8_layers - len(prepared.search.kept)


def test_a_bound_out_of_reach_leaves_nothing(
    tiny_model: Path, tiny_pictures: Path, labelled: Path, tmp_path: Path
) -> None:
    options = Options(search=SearchBounds(0.1, min_speedup=1e9), allow=ALLOWED, timing=QUICK)
    with pytest.raises(GateError, match="no set of layers"):
        prepare(tiny_model, tiny_pictures, tmp_path / "bundle", labelled=labelled, options=options)
    assert not (tmp_path / "bundle").exists()


def test_the_command_line_searches(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, labelled: Path, tmp_path: Path
) -> None:
    flags = ("--images", tiny_pictures, "--eval", labelled, "--max-drop", "50", *ALLOW_FLAGS)
    done = edgeq("prepare", tiny_model, *flags, "-o", tmp_path / "bundle", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["search"]["chosen"] == 0
    shown = edgeq("prepare", tiny_model, *flags, "-o", tmp_path / "again")
    assert "images that were not searched" in shown.out
    slow = edgeq("prepare", tiny_model, *flags, "--min-speedup", "1e9", "-o", tmp_path / "slow")
    assert (slow.status, slow.out) == (1, "")
    assert "no set of layers" in slow.err


def test_a_bound_without_labelled_images_is_refused(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "--max-drop", "1", "-o", tmp_path / "bundle")
    assert_refused(done, "--eval")
    assert not (tmp_path / "bundle").exists()
