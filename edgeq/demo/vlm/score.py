"""How often a model directory reports right on scenes it has not seen, in float32, by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from edgeq.demo.vlm.report import QUESTIONS, DefectFinding, parse, report
from edgeq.demo.vlm.scenes import draw_finding
from edgeq.demo.vlm.tokens import prompt

__all__ = ["ReportScore", "answer", "load", "score"]

_BATCH = 50


@dataclass(frozen=True)
class ReportScore:
    """Shares of all scenes, 0 to 1; an answer that is no report is wrong in every field.

    Attributes:
        scenes: how many were looked at.
        first_seed: seed of the first scene.
        report: word for word right.
        kind: right kind.
        place: right place, or rightly none.
        severity: right severity, or rightly none.
        action: right action.
    """

    scenes: int
    first_seed: int
    report: float
    kind: float
    place: float
    severity: float
    action: float


def load(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model of a directory in float32, ready to answer, and its processor."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def score(folder: Path, scenes: int, seed: int) -> ReportScore:
    """Draws scenes from `seed` on and asks about them, another wording for each batch.

    Args:
        folder: of the model.
        scenes: how many are drawn.
        seed: of the first scene; those that follow count up from it.
    """
    model, processor = load(folder)
    right: Counter[str] = Counter()
    for batch, start in enumerate(range(0, scenes, _BATCH)):
        drawn = [draw_finding(seed + index) for index in range(start, min(start + _BATCH, scenes))]
        answers = answer(model, processor, [image for image, _ in drawn], QUESTIONS[batch % len(QUESTIONS)])
        for text, (_, finding) in zip(answers, drawn, strict=True):
            right.update(_right_fields(text, finding))
    fields = ("report", "kind", "place", "severity", "action")
    return ReportScore(scenes, seed, **{field: right[field] / scenes for field in fields})


@torch.inference_mode()
def answer(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, images: list[object], question: str
) -> list[str]:
    """What the model says to one question about each of the images, decoded greedily.

    Args:
        model: asked.
        processor: its tokenizer and image processor.
        images: asked about, as the processor takes them.
        question: one for all of them.
    """
    texts = [prompt(processor, question)] * len(images)
    inputs = processor(images=images, text=texts, return_tensors="pt")
    tokens = model.generate(**inputs)[:, inputs.input_ids.shape[1] :]
    decoded: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in decoded]


def _right_fields(text: str, finding: DefectFinding) -> Iterator[str]:
    """The names of what is right in an answer."""
    if text == report(finding):
        yield "report"
    if reading := parse(text):
        yield from (field for field in ("kind", "place", "severity") if _same(reading.finding, finding, field))
        yield from ("action",) if reading.action == finding.action else ()


def _same(first: DefectFinding, second: DefectFinding, field: str) -> bool:
    """Whether two findings agree in a field."""
    return bool(getattr(first, field) == getattr(second, field))
