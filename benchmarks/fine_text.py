"""How small a text each resolution still shows: drawn digits, the demo's vision tower, one to sixteen tiles.

Run it with `make bench-fine-text`; `benchmarks/README.md` tells what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import nn

from benchmarks.fine_text_signs import CAPS, DIGITS, Sign, compressed, draw, shifted
from benchmarks.fine_text_tower import STAGES, Tower, at_digit, demo_tower, show
from edgeq.quality.estimate import wilson_limits

__all__ = ["Change", "Counts", "Reading", "least_height", "main", "measure", "name_digits"]

_HEIGHTS: Final = (6, 8, 12, 16, 24, 32, 48)
_ROTATIONS: Final = (0, 15, 30)
_CONTRASTS: Final = (1.0, 0.2)
_READ: Final = (0.8, 0.5)
"""Shares of digits named right from which a text counts as read, and as half read."""
_SURE: Final = 1.96
"""Standard errors to either side: 95 %."""
_DECAY: Final = 1e-2
_CHUNK: Final = 30
_TEST_SEED: Final = 100_000_000
_PAIR_SEED: Final = 200_000_000


class Cell(NamedTuple):
    """How digits are drawn: height in pixels of the whole image, degrees to either side, share of full contrast."""

    height: int
    rotation: int
    contrast: float


class Counts(NamedTuple):
    """Images for each height, rotation and contrast: to train the probes, to judge them, pairs that are compared."""

    train: int
    test: int
    pairs: int


@dataclass(frozen=True)
class Reading:
    """Digits that a linear probe named, of those drawn alike.

    Attributes:
        stage: what the features came out of.
        cap: the most tiles.
        height, rotation, contrast: as in `Cell`.
        right, signs: digits named right, and all.
    """

    stage: str
    cap: int
    height: int
    rotation: int
    contrast: float
    right: int
    signs: int


@dataclass(frozen=True)
class Change:
    """What another digit does to the patches it is on, beside what means nothing. Medians of 1 - cosine.

    Attributes:
        cap: the most tiles. Features are those of the tiles alone, behind the connector.
        height, rotation, contrast: as in `Cell`.
        digit: another digit in its place.
        shift: the same image one pixel further to the right.
        jpeg: the same image after JPEG at quality 90.
        stronger: pairs in which the digit changed more than shift and JPEG did.
        pairs: all of them.
    """

    cap: int
    height: int
    rotation: int
    contrast: float
    digit: float
    shift: float
    jpeg: float
    stronger: int
    pairs: int


def name_digits(train: torch.Tensor, digits: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Digits that logistic regression names.

    Args:
        train: features, float32 [signs, width]; scaled to deviation 1 here, as `test` is.
        digits: of the signs, int64 [signs].
        test: features to name, float32 [others, width].

    Returns:
        int64 [others].
    """
    mean, deviation = train.mean(dim=0), train.std(dim=0) + 1e-6
    train, test = (train - mean) / deviation, (test - mean) / deviation
    layer = nn.Linear(train.shape[1], DIGITS)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = nn.functional.cross_entropy(layer(train), digits) + _DECAY * layer.weight.square().sum() / 2
        torch.autograd.backward(found)
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        named: torch.Tensor = layer(test).argmax(dim=1)
    return named


def _signs(cell: Cell, count: int, first_seed: int) -> list[Sign]:
    """Digits in turn, turned to either side in turn, each on a surface of its own."""
    cells = [Cell(h, r, c) for h in _HEIGHTS for r in _ROTATIONS for c in _CONTRASTS]
    seed = first_seed + cells.index(cell) * 1_000_000
    return [
        Sign(i % DIGITS, cell.height, cell.rotation * (-1) ** (i // DIGITS), cell.contrast, seed + i)
        for i in range(count)
    ]


def _cells(height: int) -> list[Cell]:
    return [Cell(height, rotation, contrast) for contrast in _CONTRASTS for rotation in _ROTATIONS]


Key = tuple[str, int]
"""Stage and cap."""


@torch.no_grad()
def _features(tower: Tower, signs: Sequence[Sign]) -> dict[Key, torch.Tensor]:
    """What the probe is given of each sign: the tiles' features over it and, where there are several, the whole's."""
    parts: dict[Key, list[torch.Tensor]] = {}
    for start in range(0, len(signs), _CHUNK):
        drawn = [draw(sign) for sign in signs[start : start + _CHUNK]]
        for cap in CAPS:
            shown = [show(image, box, cap) for image, box in drawn]
            for stage, found in zip(STAGES, at_digit(tower, shown), strict=True):
                parts.setdefault((stage, cap), []).append(found.flatten(1))
    tiles = {key: torch.cat(found) for key, found in parts.items()}
    return {
        (stage, cap): found if cap == 1 else torch.cat([found, tiles[stage, 1]], dim=1)
        for (stage, cap), found in tiles.items()
    }


def _readings(tower: Tower, height: int, counts: Counts) -> Iterator[Reading]:
    """One probe for each stage and cap, on digits of one height; a reading for each rotation and contrast."""
    cells = _cells(height)
    lessons = [sign for cell in cells for sign in _signs(cell, counts.train, 0)]
    asked = [sign for cell in cells for sign in _signs(cell, counts.test, _TEST_SEED)]
    train, test = _features(tower, lessons), _features(tower, asked)
    known, true = (torch.tensor([sign.digit for sign in signs]) for signs in (lessons, asked))
    for (stage, cap), features in train.items():
        right = name_digits(features, known, test[stage, cap]) == true
        for cell, here in zip(cells, right.reshape(len(cells), counts.test), strict=True):
            yield Reading(stage, cap, *cell, int(here.sum()), counts.test)


@torch.no_grad()
def _changes(tower: Tower, cell: Cell, pairs: int) -> Iterator[Change]:
    """How far the features over a digit move, for each cap."""
    signs = _signs(cell, pairs, _PAIR_SEED)
    drawn = [draw(sign) for sign in signs]
    boxes = [box for _, box in drawn]
    versions = [
        [image for image, _ in drawn],
        [draw(replace(sign, digit=(sign.digit + 1 + i % (DIGITS - 1)) % DIGITS))[0] for i, sign in enumerate(signs)],
        [shifted(image) for image, _ in drawn],
        [compressed(image) for image, _ in drawn],
    ]
    for cap in CAPS:
        shown = [[show(image, box, cap) for image, box in zip(images, boxes, strict=True)] for images in versions]
        original, *others = [at_digit(tower, images)[1] for images in shown]
        digit, shift, jpeg = (_distances(original, other) for other in others)
        yield Change(
            cap,
            *cell,
            digit=float(digit.median()),
            shift=float(shift.median()),
            jpeg=float(jpeg.median()),
            stronger=int((digit > torch.maximum(shift, jpeg)).sum()),
            pairs=pairs,
        )


def _distances(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """1 - cosine point by point, its mean for each image."""
    return 1 - nn.functional.cosine_similarity(one, other, dim=2).mean(dim=1)


def measure(tower: Tower, heights: Sequence[int], counts: Counts) -> tuple[list[Reading], list[Change]]:
    """All readings and changes, height after height.

    Args:
        tower: what looks at the images.
        heights: of digits, in pixels.
        counts: of images.
    """
    readings: list[Reading] = []
    changes: list[Change] = []
    for height in heights:
        _tell(f"digits of {height} pixels")
        readings += _readings(tower, height, counts)
        for cell in _cells(height):
            changes += _changes(tower, cell, counts.pairs)
    return readings, changes


def least_height(shares: Mapping[int, float], asked: float) -> int | None:
    """The smallest height whose share is as asked, its own and every larger one's; None where the largest's is not."""
    found = None
    for height in sorted(shares, reverse=True):
        if shares[height] < asked:
            break
        found = height
    return found


def _share(readings: Sequence[Reading]) -> tuple[int, int]:
    """Digits named right, and all of them."""
    return sum(one.right for one in readings), sum(one.signs for one in readings)


def _accuracy_table(readings: Sequence[Reading]) -> list[str]:
    """By height and cap at full contrast, all rotations, with the 95 % interval in brackets."""
    lines = _head("height, px", *(f"cap {cap}" for cap in CAPS))
    for height in sorted({one.height for one in readings}):
        here = [one for one in readings if one.height == height and one.contrast == 1]
        lines.append(_line(str(height), *(_percent(*_share([one for one in here if one.cap == cap])) for cap in CAPS)))
    return lines


def _limit_table(readings: Sequence[Reading]) -> list[str]:
    """The smallest heights read and half read, by contrast and rotation, for each cap."""
    lines = _head("contrast", "rotation", *(f"cap {cap}, {asked:.0%}" for asked in _READ for cap in CAPS))
    for contrast in _CONTRASTS:
        for rotation in _ROTATIONS:
            alike = [one for one in readings if (one.contrast, one.rotation) == (contrast, rotation)]
            shares = [{one.height: one.right / one.signs for one in alike if one.cap == cap} for cap in CAPS]
            limits = [least_height(by_height, asked) for asked in _READ for by_height in shares]
            lines.append(_line(f"{contrast:g}", f"{rotation}°", *("-" if one is None else str(one) for one in limits)))
    return lines


def _change_table(changes: Sequence[Change]) -> list[str]:
    """Pairs in which the digit tells more than a pixel's shift or JPEG, by height and cap, for the ends of contrast."""
    lines = _head(
        "height, px", *(f"cap {cap}, contrast {c:g}" for c in (_CONTRASTS[0], _CONTRASTS[-1]) for cap in CAPS)
    )
    for height in sorted({one.height for one in changes}):
        cells = []
        for contrast in (_CONTRASTS[0], _CONTRASTS[-1]):
            for cap in CAPS:
                here = [one for one in changes if (one.height, one.contrast, one.cap) == (height, contrast, cap)]
                cells.append(f"{sum(one.stronger for one in here) / sum(one.pairs for one in here):.0%}")
        lines.append(_line(str(height), *cells))
    return lines


def _percent(right: int, total: int) -> str:
    low, high = wilson_limits(right / total, total, _SURE)
    return f"{right / total:.0%} ({low:.0%}-{high:.0%})"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|" + "---|" * len(cells)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _print(readings: Sequence[Reading], changes: Sequence[Change]) -> None:
    for stage in reversed(STAGES):
        alike = [one for one in readings if one.stage == stage]
        print(f"Features of the {stage}: digits named right at full contrast")
        print(*_accuracy_table(alike), sep="\n")
        print(f"\nFeatures of the {stage}: smallest height, px, of which so many are named right")
        print(*_limit_table(alike), sep="\n", end="\n\n")
    print("Pairs in which another digit changes the features more than a pixel's shift or JPEG at quality 90")
    print(*_change_table(changes), sep="\n")


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fine_text", description=__doc__.splitlines()[0])
    parser.add_argument("--heights", type=int, nargs="+", default=list(_HEIGHTS), choices=_HEIGHTS)
    alike = "for each height, rotation and contrast"
    parser.add_argument("--train", type=int, default=200, help=f"digits that train the probes, {alike}")
    parser.add_argument("--test", type=int, default=60, help=f"digits that judge them, {alike}")
    parser.add_argument("--pairs", type=int, default=20, help=f"pairs of images, {alike}")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more give other roundings")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    readings, changes = measure(demo_tower(), given.heights, Counts(given.train, given.test, given.pairs))
    if given.json:
        print(json.dumps({"readings": [asdict(one) for one in readings], "changes": [asdict(c) for c in changes]}))
    else:
        _print(readings, changes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
