"""What the sight test asks, skill by skill; a new skill is a function here and a line in `SKILLS`.

Each question tells what may be answered, so that a model need not know the words of a trade, and has one right answer,
which follows from what was drawn. The pictures of a seed are the same wherever numpy's PCG64 and Pillow draw the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from edgeq.demo.defects import DefectSite
from edgeq.demo.scenes import draw_scene
from edgeq.errors import InputError
from edgeq.judge.bounds import DEFAULT_SEED
from edgeq.judge.questions import AskedQuestion
from edgeq.judge.sight.drawing import COLOURS, enlarged, painted, rivets, stencilled

__all__ = ["MOST_QUESTIONS", "SKILLS", "sight_questions"]

MOST_QUESTIONS: Final = 10_000
"""Of one skill."""

_What = TypeVar("_What", str, int)

_KINDS: Final = {
    "corrosion": "corrosion",
    "hairline_crack": "hairline crack",
    "shadow": "shadow",
    "sound": "sound",
    "spalling": "spalling",
    "wide_crack": "wide crack",
}
_HAIRLINE: Final = (26.0, 52.0)
"""Length of a hairline crack in pixels of a scene, 64 wide."""
_PATCH: Final = (12.0, 20.0)
"""Mean radius of a patch likewise."""
_MOST_RIVETS: Final = 6


class _Drawn(NamedTuple):
    """A picture to be drawn, what is asked, and what is right."""

    draw: Callable[[], Image.Image]
    question: str
    answer: str
    options: tuple[str, ...] = ()


def _damage(rng: np.random.Generator, seed: int) -> _Drawn:
    kind = str(rng.choice([*_KINDS]))
    options = tuple(_KINDS.values())
    question = f"What is on this surface: {', '.join(options[:-1])} or {options[-1]}?"
    return _Drawn(partial(_scene, kind, seed), question, _KINDS[kind], options)


def _shadow(rng: np.random.Generator, seed: int) -> _Drawn:
    kind = str(rng.choice(["corrosion", "shadow"]))
    site = DefectSite((rng.uniform(24, 40), rng.uniform(24, 40)), rng.uniform(*_PATCH))
    return _Drawn(partial(_scene, kind, seed, site), "Is this corrosion or a shadow?", kind, ("corrosion", "shadow"))


def _hairline(rng: np.random.Generator, seed: int) -> _Drawn:
    kind = str(rng.choice(["hairline_crack", "sound"]))
    site = DefectSite((rng.uniform(24, 40), rng.uniform(24, 40)), rng.uniform(*_HAIRLINE))
    options = ("hairline crack", "sound")
    return _Drawn(
        partial(_scene, kind, seed, None if kind == "sound" else site),
        "Is there a hairline crack in this surface, or is it sound?",
        _KINDS[kind],
        options,
    )


def _side(rng: np.random.Generator, seed: int) -> _Drawn:
    side = str(rng.choice(["left", "right"]))
    kind = str(rng.choice(["corrosion", "spalling"]))
    column = rng.uniform(12, 17) if side == "left" else rng.uniform(47, 52)
    site = DefectSite((rng.uniform(12, 52), column), rng.uniform(8, 12))
    return _Drawn(
        partial(_scene, kind, seed, site), "Is the damage on the left or on the right?", side, ("left", "right")
    )


def _colour(rng: np.random.Generator, seed: int) -> _Drawn:
    colour = str(rng.choice([*COLOURS]))
    options = tuple(COLOURS)
    question = f"Which colour has the square: {', '.join(options[:-1])} or {options[-1]}?"
    return _Drawn(partial(_drawn, painted, seed, colour), question, colour, options)


def _count(rng: np.random.Generator, seed: int) -> _Drawn:
    count = int(rng.integers(1, _MOST_RIVETS + 1))
    options = tuple(str(number) for number in range(1, _MOST_RIVETS + 1))
    question = f"How many dark discs are there, 1 to {_MOST_RIVETS}? Answer with a digit."
    return _Drawn(partial(_drawn, rivets, seed, count), question, str(count), options)


def _text(rng: np.random.Generator, seed: int) -> _Drawn:
    number = str(rng.integers(100, 1000))
    return _Drawn(partial(_drawn, stencilled, seed, number), "Which number is painted on the wall?", number)


SKILLS: Final[dict[str, Callable[[np.random.Generator, int], _Drawn]]] = {
    "kinds of damage": _damage,
    "shadow or corrosion": _shadow,
    "hairline cracks": _hairline,
    "left or right": _side,
    "colour": _colour,
    "counting": _count,
    "small text": _text,
}
"""Each skill by its name, with what draws one question of it: from a generator, and the seed of its picture."""


def sight_questions(per_skill: int, seed: int = DEFAULT_SEED) -> tuple[AskedQuestion, ...]:
    """The sight test; pictures are drawn when they are asked about.

    Args:
        per_skill: questions of each skill.
        seed: of all; another one gives other pictures of the same skills.

    Raises:
        InputError: a number is out of range.
    """
    if not 1 <= per_skill <= MOST_QUESTIONS or seed < 0:
        raise InputError(
            f"a sight test of {per_skill} questions a skill from seed {seed} cannot be drawn",
            expected=f"1 to {MOST_QUESTIONS:,} questions, and a seed of 0 or more",
        )
    return tuple(_asked(skill, place, seed + index) for index in range(per_skill) for place, skill in enumerate(SKILLS))


def _asked(skill: str, place: int, seed: int) -> AskedQuestion:
    rng = np.random.Generator(np.random.PCG64([place, seed]))
    drawn = SKILLS[skill](rng, seed)
    terms = () if drawn.options else (drawn.answer,)
    return AskedQuestion(
        skill, f"{skill} {seed}", drawn.question, drawn.draw, drawn.answer, key_terms=terms, options=drawn.options
    )


def _scene(kind: str, seed: int, site: DefectSite | None = None) -> Image.Image:
    return enlarged(draw_scene(kind, seed, site))


def _drawn(draw: Callable[[np.random.Generator, _What], Image.Image], seed: int, what: _What) -> Image.Image:
    return draw(np.random.Generator(np.random.PCG64([len(SKILLS), seed])), what)
