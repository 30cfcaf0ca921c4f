"""Inspection photographs of concrete and steel, drawn from a seed: six kinds, labelled by what is on them.

`shadow` is the kind that makes the task worth judging: a soft dark patch, at times warm in tone, that is no defect.
The same kind and seed give the same pixels wherever numpy's PCG64 and Pillow's JPEG codec do.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from edgeq.demo import defects, surfaces
from edgeq.demo.camera import photograph
from edgeq.demo.texture import SIZE
from edgeq.errors import InputError, OutputError, shell_word

__all__ = [
    "CALIBRATION_SEED",
    "EVALUATION_SEED",
    "KINDS",
    "SEED_RANGE",
    "SIZE",
    "TRAIN_SEED",
    "draw_scene",
    "write_scenes",
]

KINDS: tuple[str, ...] = ("corrosion", "hairline_crack", "shadow", "sound", "spalling", "wide_crack")
"""The classes in sorted order, which is the order of the network's outputs."""

SEED_RANGE = 1_000_000
"""How many seeds belong to each of the starts below; none of them reaches into the next."""

TRAIN_SEED = 0
CALIBRATION_SEED = 1_000_000
EVALUATION_SEED = 2_000_000

CONCRETE_SHARE = {
    "corrosion": 0.3,
    "hairline_crack": 0.75,
    "shadow": 0.5,
    "sound": 0.55,
    "spalling": 1.0,
    "wide_crack": 0.75,
}
"""How often a kind is seen on concrete; otherwise it is on steel."""

MEMBER_DATE = (2020, 1, 1, 0, 0, 0)
"""One date for all members, so that the same scenes make the same ZIP."""


def draw_scene(kind: str, seed: int, site: defects.DefectSite | None = None) -> Image.Image:
    """One RGB photograph of SIZE x SIZE pixels.

    Args:
        kind: one of `KINDS`.
        seed: 0 or more; the same seed gives an unrelated picture for every kind.
        site: where the defect or shadow is and how large; left to the seed when not given.

    Raises:
        InputError: the kind is unknown or the seed negative.
    """
    check(kind, seed)
    rng = np.random.Generator(np.random.PCG64([KINDS.index(kind), seed]))
    surface = surfaces.concrete(rng) if rng.random() < CONCRETE_SHARE[kind] else surfaces.steel(rng)
    if kind != "shadow" and rng.random() < 0.35:
        surface = defects.shade(rng, surface)
    return photograph(rng, with_defect(kind, rng, surface, site))


def with_defect(
    kind: str, rng: np.random.Generator, surface: surfaces.Surface, site: defects.DefectSite | None
) -> surfaces.Surface:
    """The surface with what its kind stands for; a sound one stays as it is.

    Args:
        kind: one of `KINDS`.
        rng: draws the defect.
        surface: not changed.
        site: where the defect is and how large; None draws both.
    """
    if kind == "sound":
        return surface
    draw = {
        "corrosion": defects.corrosion,
        "hairline_crack": defects.hairline_crack,
        "shadow": defects.shadow,
        "spalling": defects.spalling,
        "wide_crack": defects.wide_crack,
    }[kind]
    return draw(rng, surface, site)


def check(kind: str, seed: int) -> None:
    """Refuses an unknown kind or a negative seed with an InputError."""
    if kind not in KINDS:
        raise InputError(f"no such kind of scene: {kind!r}", expected=f"one of {', '.join(KINDS)}")
    if seed < 0:
        raise InputError(f"a scene cannot be drawn from seed {seed}", expected="a seed of 0 or more")


def write_scenes(path: Path, per_kind: int, seed: int) -> None:
    """Writes a ZIP of labelled scenes, `<kind>/<index>.png`, in place of whatever was at `path`.

    The ZIP is there whole or not at all: it is written under another name, synced and then renamed.

    Args:
        path: the ZIP to write; its folder must exist.
        per_kind: how many scenes of each kind, 1 to SEED_RANGE; scene i of a kind is drawn from seed + i.
        seed: the first seed, as a rule TRAIN_SEED, CALIBRATION_SEED or EVALUATION_SEED.

    Raises:
        InputError: a number is out of range.
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    if not 1 <= per_kind <= SEED_RANGE:
        raise InputError(f"{per_kind} scenes of each kind cannot be drawn", expected=f"1 to {SEED_RANGE}")
    check(KINDS[0], seed)
    try:
        write_whole(path, members(per_kind, seed))
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}",
            causes=("the folder does not exist or is not yours", "the disk is full"),
            next_step=f"mkdir -p {shell_word(path.parent)}",
        ) from error


def members(per_kind: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Name and PNG bytes of every scene, kind after kind."""
    for kind in KINDS:
        for index in range(per_kind):
            png = io.BytesIO()
            draw_scene(kind, seed + index).save(png, "PNG", compress_level=1)
            yield f"{kind}/{index:05d}.png", png.getvalue()


def write_whole(path: Path, entries: Iterator[tuple[str, bytes]]) -> None:
    """Writes the ZIP beside `path`, syncs it and renames it; whatever interrupts it leaves nothing behind."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for member, content in entries:
                    archive.writestr(zipfile.ZipInfo(member, MEMBER_DATE), content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
