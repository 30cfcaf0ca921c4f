"""How well a model directory finds scenes it has not seen by their captions, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase

from edgeq.demo.clip.captions import caption, relevant
from edgeq.demo.clip.pairs import CLIP_WEIGHTS
from edgeq.demo.vlm.pool import Pool, draw_pool, normalized
from edgeq.demo.vlm.report import DefectFinding

__all__ = ["CLIP_WEIGHTS", "RetrievalScore", "embed_pictures", "embed_texts", "load", "recall", "relevance", "score"]

_BATCH = 100
_NEAREST = 10


@dataclass(frozen=True)
class RetrievalScore:
    """Shares of all captions, 0 to 1; a picture is right when its finding is the caption's.

    Attributes:
        pairs: how many scenes, and captions, one of each scene; every caption is compared with every scene.
        first_seed: seed of the first scene and caption.
        recall_at_1, recall_at_5, recall_at_10: one of so many nearest pictures is right.
        precision_at_10: share of right pictures among the ten nearest.
        kind: the nearest picture has the right kind.
        place: the nearest picture has the right place, or rightly none.
        severity: the nearest picture has the right severity, or rightly none.
    """

    pairs: int
    first_seed: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    precision_at_10: float
    kind: float
    place: float
    severity: float


def load(folder: Path) -> tuple[CLIPModel, PreTrainedTokenizerBase]:
    """The model of a directory in float32, ready to embed, and its tokenizer."""
    return CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)


def score(folder: Path, pairs: int, seed: int, workers: int = 1) -> RetrievalScore:
    """Draws scenes and captions from `seed` on and looks for each caption among all scenes.

    Args:
        folder: of the model.
        pairs: how many are drawn.
        seed: of the first pair; those that follow count up from it.
        workers: processes that draw.
    """
    return score_pool(folder, draw_pool(seed, pairs, workers), seed)


def score_pool(folder: Path, pool: Pool, seed: int) -> RetrievalScore:
    """As `score`, of scenes that are drawn already.

    Args:
        folder: of the model.
        pool: the scenes.
        seed: of the first of them.
    """
    model, tokenizer = load(folder)
    findings = pool.findings
    texts = [caption(finding, seed + index) for index, finding in enumerate(findings)]
    cosines = embed_texts(model, tokenizer, texts) @ embed_pictures(model, pool).T
    right = relevance(findings, findings)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :_NEAREST]
    first = [findings[index] for index in nearest[:, 0]]
    return RetrievalScore(
        pairs=len(findings),
        first_seed=seed,
        recall_at_1=recall(nearest, right, 1),
        recall_at_5=recall(nearest, right, 5),
        recall_at_10=recall(nearest, right, 10),
        precision_at_10=float(np.take_along_axis(right, nearest, axis=1).mean()),
        **{field: _same(first, findings, field) for field in ("kind", "place", "severity")},
    )


@torch.inference_mode()
def embed_pictures(model: CLIPModel, pool: Pool) -> NDArray[np.float32]:
    """Features float32 [n, FEATURES] of scenes, of length 1."""
    batches = (normalized(pool.pixels[start : start + _BATCH]) for start in range(0, len(pool.findings), _BATCH))
    features = [normalize(model.get_image_features(pixels).pooler_output, dim=1) for pixels in batches]
    return _as_array(features)


@torch.inference_mode()
def embed_texts(model: CLIPModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> NDArray[np.float32]:
    """Features float32 [n, FEATURES] of texts, of length 1.

    Args:
        model: with the text tower.
        tokenizer: the model's; what is longer than its context is cut off.
        texts: any.
    """
    batches = (list(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH))
    inputs = (tokenizer(batch, padding=True, truncation=True, return_tensors="pt") for batch in batches)
    features = [normalize(model.get_text_features(**given).pooler_output, dim=1) for given in inputs]
    return _as_array(features)


def relevance(asked: Sequence[DefectFinding], shown: Sequence[DefectFinding]) -> NDArray[np.bool_]:
    """Which of the scenes shown are relevant to each of those asked for: bool [asked, shown]."""
    numbers = {finding: number for number, finding in enumerate(dict.fromkeys([*asked, *shown]))}
    table = np.array([[relevant(first, second) for second in numbers] for first in numbers])
    rows, columns = ([numbers[finding] for finding in findings] for findings in (asked, shown))
    found: NDArray[np.bool_] = table[np.ix_(rows, columns)]
    return found


def recall(nearest: NDArray[np.int64], right: NDArray[np.bool_], count: int) -> float:
    """Share of captions for which one of the `count` nearest pictures is relevant.

    Args:
        nearest: int64 [captions, at least count], the pictures nearest to each caption, in order.
        right: bool [captions, pictures], which are relevant.
        count: how many of the nearest are looked at.
    """
    return float(np.take_along_axis(right, nearest[:, :count], axis=1).any(axis=1).mean())


def _same(first: Sequence[DefectFinding], second: Sequence[DefectFinding], field: str) -> float:
    """Share of findings that agree in a field."""
    return float(
        np.mean([getattr(one, field) == getattr(other, field) for one, other in zip(first, second, strict=True)])
    )


def _as_array(features: list[torch.Tensor]) -> NDArray[np.float32]:
    """Batches of features in one float32 [n, features]."""
    array: NDArray[np.float32] = torch.cat(features).numpy()
    return array
