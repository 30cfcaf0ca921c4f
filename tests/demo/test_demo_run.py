"""The demo from its drawn scenes to its bundle, with fewer scenes than it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from networks import ALLOWED, QUICK

from edgeq.bundle.manifest import read_manifest
from edgeq.demo import run as demo
from edgeq.demo.run import BUNDLE, CALIBRATION, EVALUATION, MODEL, run_demo
from edgeq.errors import OutputError
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.classifier import Options, Prepared

CALIBRATION_PER_KIND, EVALUATION_PER_KIND = 10, 20


@dataclass(frozen=True)
class Shown:
    """What a demo left: its directory, the stages that it reported, what was made of the classifier."""

    output: Path
    stages: tuple[str, ...]
    made: Prepared


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The classifier's half; not to be written to."""
    stages: list[str] = []
    output = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_CALIBRATION_PER_KIND", CALIBRATION_PER_KIND)
        patch.setattr(demo, "_EVALUATION_PER_KIND", EVALUATION_PER_KIND)
        done = run_demo(
            output,
            options=Options(allow=ALLOWED, timing=QUICK),
            scenes=0,
            progress=lambda stage, _done, _total: stages.append(stage),
        )
    return Shown(output, tuple(stages), done.classifier)


def test_the_demo_goes_all_the_way(shown: Shown) -> None:
    output, made = shown.output, shown.made
    assert shown.stages[0] == "draw"
    assert {path.name for path in output.iterdir()} == {MODEL, CALIBRATION, EVALUATION, BUNDLE}
    assert made.bundle == output / BUNDLE
    assert read_manifest(made.bundle) == made.manifest
    labelled = ImageSet.open(output / EVALUATION, labelled=True)
    kinds = len(labelled.labels)
    assert (len(labelled), made.calibration_images) == (kinds * EVALUATION_PER_KIND, kinds * CALIBRATION_PER_KIND)
    answers = made.quality.answers
    assert answers is not None
    assert answers.images == len(labelled)
    assert answers.top1_reference > 85  # 97 on all 1,500 scenes; the standard error of 120 is 1.6 points
    assert abs(answers.drop) <= 3 * answers.drop_standard_error + 100 / answers.images  # paired; or one image
    assert made.export.batchnorm_before > 0
    assert made.export.batchnorm_after == 0


def test_calibration_and_evaluation_share_no_scene(shown: Shown) -> None:
    sets = [ImageSet.open(shown.output / name) for name in (CALIBRATION, EVALUATION)]
    digests = [{images.digest(item) for item in images.items} for images in sets]
    assert [len(found) for found in digests] == [len(images) for images in sets]
    assert digests[0].isdisjoint(digests[1])


def test_a_directory_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        run_demo(tmp_path / "demo", scenes=0)
    assert list((tmp_path / "demo").iterdir()) == []
