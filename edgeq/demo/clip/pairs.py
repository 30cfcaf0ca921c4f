"""Scenes with their captions, laid out as `edgeq prepare` takes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from edgeq.demo.clip.captions import caption
from edgeq.demo.vlm.report import DefectFinding
from edgeq.demo.vlm.scenes import choose, draw_finding
from edgeq.files import atomic_write

__all__ = ["CAPTIONS", "CLIP", "CLIP_WEIGHTS", "PAIRS", "lay_out_clip", "write_captions", "write_pairs"]

CLIP_WEIGHTS: Final = Path(__file__).parent.parent / "weights-clip"
"""The model that comes along."""

CLIP, PAIRS, CAPTIONS = "clip-model", "pairs", "captions.txt"
"""What the small CLIP adds to the demo's directory: model, scenes with captions, texts to calibrate on."""

PAIRS_SEED: Final = 3_000_000
CAPTIONS_SEED: Final = 4_000_000
_PAIRS: Final = 400
_CAPTIONS: Final = 300


def lay_out_clip(work: Path, pairs: int = _PAIRS) -> None:
    """Put model, scenes and captions into the demo's directory; none of them was in the training."""
    shutil.copytree(CLIP_WEIGHTS, work / CLIP)
    (work / PAIRS).mkdir()
    write_pairs(work / PAIRS, pairs)
    write_captions(work / CAPTIONS, _CAPTIONS)


def write_pairs(folder: Path, count: int) -> Path:
    """Scenes, and `pairs.jsonl`: a caption for each, and all scenes of the same finding as right.

    Args:
        folder: an existing one.
        count: of scenes.

    Returns:
        The file.
    """
    findings, same = [], dict[DefectFinding, list[str]]()
    for number in range(count):
        picture, finding = draw_finding(PAIRS_SEED + number)
        picture.save(folder / f"{number:05d}.png")
        findings.append(finding)
        same.setdefault(finding, []).append(f"{number:05d}.png")
    lines = [
        {"image": f"{number:05d}.png", "captions": [caption(finding, PAIRS_SEED + number)], "relevant": same[finding]}
        for number, finding in enumerate(findings)
    ]
    atomic_write(folder / "pairs.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    return folder / "pairs.jsonl"


def write_captions(file: Path, count: int) -> None:
    """Captions of scenes that are not drawn, a line each.

    Args:
        file: is written.
        count: of captions.
    """
    lines = (caption(choose(CAPTIONS_SEED + number)[0], CAPTIONS_SEED + number) for number in range(count))
    atomic_write(file, "".join(f"{line}\n" for line in lines).encode())
