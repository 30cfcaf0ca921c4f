"""The whole way on the small networks that come with edgeq: nothing is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from edgeq.demo.clip.pairs import lay_out_clip
from edgeq.demo.scenes import CALIBRATION_SEED, EVALUATION_SEED, write_scenes
from edgeq.demo.vlm.report import SCENES
from edgeq.demo.vlm.story import VLM_BUNDLE, Story, tell
from edgeq.files import new_directory
from edgeq.pipeline.classifier import Options, Prepared, Progress, prepare
from edgeq.runtime.vlm.language import require_packages

__all__ = ["BUNDLE", "CALIBRATION", "EVALUATION", "MODEL", "WEIGHTS", "Demo", "run_demo"]

WEIGHTS: Final = Path(__file__).parent / "weights"
MODEL, CALIBRATION, EVALUATION, BUNDLE = "model", "calibration.zip", "evaluation.zip", "bundle"
"""What the classifier's half leaves in the demo's directory."""

_CALIBRATION_PER_KIND = 50
_EVALUATION_PER_KIND = 250


class Demo(BaseModel):
    """Both halves.

    Attributes:
        classifier: what was done to the classifier.
        story: what became of the vision-language model; None where it was left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifier: Prepared
    story: Story | None


def run_demo(
    output: Path, *, options: Options | None = None, scenes: int = SCENES, progress: Progress | None = None
) -> Demo:
    """Draw the scenes, prepare both networks, ask the second, and leave all of it in `output`.

    Args:
        output: a directory to make; it must not exist.
        options: for the classifier, see `edgeq.pipeline.classifier.Options`.
        scenes: that the vision-language model is asked about; 0 leaves it out, and the small CLIP, which is only laid
            out.
        progress: called as the stages go on.

    Raises:
        EdgeqError: as `edgeq.pipeline.classifier.prepare` and `edgeq.pipeline.vlm.prepare_vlm`; nothing is left behind
            then.
    """
    options = options or Options()
    if scenes:
        require_packages()
    with new_directory(output) as work:
        if progress:
            progress("draw", 0, 0)
        shutil.copytree(WEIGHTS, work / MODEL)
        write_scenes(work / CALIBRATION, _CALIBRATION_PER_KIND, CALIBRATION_SEED)
        write_scenes(work / EVALUATION, _EVALUATION_PER_KIND, EVALUATION_SEED)
        prepared = prepare(
            work / MODEL,
            work / CALIBRATION,
            work / BUNDLE,
            labelled=work / EVALUATION,
            options=options,
            progress=progress,
        )
        story = tell(work, scenes, progress=progress) if scenes else None
        if scenes:
            lay_out_clip(work)
    moved = prepared.model_copy(update={"bundle": output / BUNDLE})
    return Demo(classifier=moved, story=story.moved(output / VLM_BUNDLE) if story else None)
