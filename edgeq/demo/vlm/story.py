"""The story that edgeq is about, on a model small enough for any machine: quantize the language, leave the vision
encoder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from edgeq.demo.scenes import CALIBRATION_SEED, EVALUATION_SEED
from edgeq.demo.vlm.report import QUESTIONS, report
from edgeq.demo.vlm.scenes import draw_finding
from edgeq.files import atomic_write
from edgeq.pipeline.stages import Progress, counter
from edgeq.pipeline.vlm import PreparedVlm, VlmOptions, prepare_vlm
from edgeq.quality.estimate import Estimate
from edgeq.quality.tasks.answer_divergence import save_divergences
from edgeq.quality.tasks.answer_questions import Questions
from edgeq.quality.tasks.answers import VlmQuality, compare_answers

if TYPE_CHECKING:
    from edgeq.demo.vlm.variants import BundleVariant

__all__ = [
    "ASKED",
    "PHOTOGRAPHS",
    "QUESTIONS_FILE",
    "VLM",
    "VLM_BUNDLE",
    "VLM_WEIGHTS",
    "Row",
    "Story",
    "tell",
]

VLM_WEIGHTS: Final = Path(__file__).parent.parent / "weights-vlm"
VLM, VLM_BUNDLE, PHOTOGRAPHS, ASKED = "vlm-model", "vlm-bundle", "photographs", "asked"
"""What it adds to the demo's directory: model, bundle, photographs, and those that questions are asked about."""
QUESTIONS_FILE: Final = "questions.jsonl"

_PHOTOGRAPHS: Final = 64
_MOST_TOKENS: Final = 48


class Row(BaseModel):
    """One way to store the model, and what it does to the answers.

    Attributes:
        name: for people.
        vision, language: the precision of each half.
        bytes: of all weights as they are stored.
        right: percent of reports that are word for word right.
        agreement: percent of reports that are those of the whole model in FP32; None for that itself.
        kl: nats a token against it.
        cosine: of the image's features with its own, mean over patches.
        worst: the smallest of these.
        tokens_per_second: from photograph to last token, one photograph at a time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    vision: str
    language: str
    bytes: int
    right: Estimate
    agreement: Estimate | None = None
    kl: Estimate | None = None
    cosine: float = 1.0
    worst: float = 1.0
    tokens_per_second: float


class Story(BaseModel):
    """All rows, the whole model in FP32 first.

    Attributes:
        scenes: unseen ones that each was asked about.
        prepared: the bundle among the rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: int
    rows: tuple[Row, ...]
    prepared: PreparedVlm

    def moved(self, bundle: Path) -> Story:
        """The same after the bundle got its name."""
        return self.model_copy(update={"prepared": self.prepared.model_copy(update={"bundle": bundle})})


def tell(work: Path, scenes: int, *, threads: int = 1, progress: Progress | None = None) -> Story:
    """Draw scenes, make a bundle, and ask each variant about the same scenes.

    Args:
        work: an existing directory; model, bundle, photographs, questions and where the answers part go there.
        scenes: how many to ask about.
        threads: of one operator; a model this small is slower on two.
        progress: called as it goes on.

    Raises:
        EdgeqError: as `edgeq.pipeline.vlm.prepare_vlm`.
    """
    from edgeq.demo.vlm.variants import make_variants  # torch, which the classifier's half does without

    say = progress or (lambda _stage, _done, _total: None)
    say("draw reports", 0, 0)
    shutil.copytree(VLM_WEIGHTS, work / VLM)
    _draw(work / PHOTOGRAPHS, _PHOTOGRAPHS, CALIBRATION_SEED)
    questions = _write_questions(work / ASKED, scenes)
    options = VlmOptions(keep_fp32=True, question=QUESTIONS[0], max_new_tokens=_MOST_TOKENS, threads=threads)
    prepared = prepare_vlm(work / VLM, work / PHOTOGRAPHS, work / VLM_BUNDLE, options=options, progress=progress)
    say("variants", 0, 0)
    reference, *others = make_variants(work / VLM, prepared, work / PHOTOGRAPHS, threads)
    advance = counter(say, "ask", scenes * len(others))
    judged = [
        compare_answers(reference.answerer, other.answerer, questions, max_new_tokens=_MOST_TOKENS, advance=advance)
        for other in others
    ]
    for other, quality in zip(others, judged, strict=True):
        page = work / f"divergences-{other.vision.lower()}-{other.language.lower()}.html"
        save_divergences(quality.divergences, questions.read, page)
    rows = (_first(reference, judged[0]), *map(_row, others, judged))
    return Story(scenes=scenes, rows=rows, prepared=prepared)


def _draw(directory: Path, count: int, first_seed: int) -> list[str]:
    """Scenes as PNG files; the reports that belong to them, in order."""
    directory.mkdir()
    reports = []
    for number in range(count):
        image, finding = draw_finding(first_seed + number)
        image.save(directory / f"{number:04}.png")
        reports.append(report(finding))
    return reports


def _write_questions(directory: Path, count: int) -> Questions:
    """A question about each of `count` unseen scenes, with the right answer."""
    answers = _draw(directory, count, EVALUATION_SEED)
    lines = (
        {"image": f"{number:04}.png", "question": QUESTIONS[number % len(QUESTIONS)], "answer": answer}
        for number, answer in enumerate(answers)
    )
    file = directory / QUESTIONS_FILE
    atomic_write(file, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return Questions.open(file)


def _first(variant: BundleVariant, quality: VlmQuality) -> Row:
    assert quality.exact is not None, "every question has its answer"
    return Row(right=quality.exact.reference, **_what(variant))


def _row(variant: BundleVariant, quality: VlmQuality) -> Row:
    assert quality.exact is not None, "every question has its answer"
    return Row(
        right=quality.exact.candidate,
        agreement=quality.agreement,
        kl=quality.forced.kl,
        cosine=quality.features.cosine.value,
        worst=quality.features.worst,
        **_what(variant),
    )


def _what(variant: BundleVariant) -> dict[str, object]:
    return {
        "name": variant.name,
        "vision": variant.vision,
        "language": variant.language,
        "bytes": variant.bytes,
        "tokens_per_second": variant.answerer.tokens / variant.answerer.seconds,
    }
