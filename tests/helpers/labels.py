"""Drawn pictures with several labels each: a CSV file, and copies in folders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pictures import COLOURS, draw_pictures

LABELS = tuple(sorted(COLOURS))


def labelled_by_csv(folder: Path, each: int = 8, *, seed: int = 1) -> dict[str, tuple[str, ...]]:
    """Pictures in one folder and `labels.csv` beside them: the own colour, the next one for two of three, or none."""
    draw_pictures(folder / "drawn", each, seed=seed)
    found: dict[str, tuple[str, ...]] = {}
    for number, picture in enumerate(sorted((folder / "drawn").rglob("*.jpg"))):
        own = LABELS.index(picture.parent.name)
        labels = (LABELS[own], LABELS[(own + 1) % 3])[: number % 3]
        shutil.move(picture, folder / picture.name)
        found[picture.name] = labels
    shutil.rmtree(folder / "drawn")
    write_csv(folder / "labels.csv", found)
    return found


def write_csv(path: Path, labels: Mapping[str, Sequence[str]]) -> Path:
    """`image,labels` with `;` between labels."""
    lines = ["image,labels", *(f"{name},{';'.join(found)}" for name, found in labels.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
