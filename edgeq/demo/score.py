"""How often a model directory's ONNX file names the right kind of scene, through ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from edgeq.demo.scenes import KINDS, draw_scene

__all__ = ["ClassifierScore", "score"]


@dataclass(frozen=True)
class ClassifierScore:
    """Accuracy on freshly drawn scenes.

    Attributes:
        scenes: how many were looked at.
        first_seed: seed of the first scene of each kind.
        accuracy: share of all scenes whose kind was named, 0 to 1.
        per_kind: the same for each kind.
        confusion: for each kind, how many of its scenes were given each name, in the order of `KINDS`.
    """

    scenes: int
    first_seed: int
    accuracy: float
    per_kind: dict[str, float]
    confusion: dict[str, list[int]]


def score(folder: Path, per_kind: int, seed: int) -> ClassifierScore:
    """Draws scenes of each kind and asks the network about them, a kind at a time.

    Args:
        folder: with `model.onnx` and `preprocessor_config.json`.
        per_kind: scenes of each kind.
        seed: of the first scene of each kind; those that follow count up from it.
    """
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    mean, deviation = (np.array(preprocessor[key], np.float32) for key in ("image_mean", "image_std"))
    confusion = {}
    for kind in KINDS:
        pixels = np.stack([np.asarray(draw_scene(kind, seed + index), np.float32) for index in range(per_kind)])
        normalized = (pixels * np.float32(preprocessor["rescale_factor"]) - mean) / deviation
        (logits,) = session.run(["logits"], {"pixel_values": normalized.transpose(0, 3, 1, 2)})
        confusion[kind] = np.bincount(logits.argmax(axis=1), minlength=len(KINDS)).tolist()
    right = {kind: confusion[kind][index] for index, kind in enumerate(KINDS)}
    return ClassifierScore(
        scenes=per_kind * len(KINDS),
        first_seed=seed,
        accuracy=sum(right.values()) / (per_kind * len(KINDS)),
        per_kind={kind: count / per_kind for kind, count in right.items()},
        confusion=confusion,
    )
