"""How each family of vision-language models puts an image before its language model.

Taken from the families' processors and models in transformers 5, with which the tests compare: where the image's
tokens stand in the text, which tokens see which, and where positions begin. Families whose language model needs more of
an image than its features (Qwen-VL's positions in two dimensions, Mllama's cross-attention) are not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from edgeq.errors import ModelError

__all__ = ["FAMILIES", "Family", "Grid", "family_of"]

Grid = tuple[int, int]
"""Rows and columns that an image was cut into; (0, 0) where it was not cut."""

Places = Callable[[str, int, int, Grid], str]
"""Token, tokens of one picture, pictures of the image, grid -> the text that stands for the image."""


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        places: what is written in the place of the image.
        attention: `causal`, or `prompt` where all tokens of image and question see each other.
        first_position: of the first token.
        processing: what the family's processor tells its image processor beside what the config says.
        template: the question goes through a chat template; otherwise it stands behind the image, with `<bos>` between
            them and a new line after it.
    """

    places: Places
    attention: Literal["causal", "prompt"] = "causal"
    first_position: int = 0
    processing: Mapping[str, bool] = field(default_factory=dict)
    template: bool = True


def family_of(model_type: str) -> Family:
    """The family of a `model_type` of config.json.

    Raises:
        ModelError: it is not known here.
    """
    family = FAMILIES.get(model_type)
    if family is None:
        raise ModelError(
            f"a {model_type} model cannot be run as vision engine and language model apart",
            expected=f"one of {', '.join(sorted(FAMILIES))}",
            causes=("its language model needs more of an image than its features, or the family is not known yet",),
            next_step="`edgeq plan` shows its parts and its memory all the same",
        )
    return family


def _plain(token: str, tokens: int, pictures: int, _grid: Grid) -> str:
    """The tokens, and nothing around them."""
    return token * (tokens * pictures)


def _framed(token: str, tokens: int, pictures: int, _grid: Grid) -> str:
    """InternVL's: all tiles in one frame."""
    return f"<img>{token * (tokens * pictures)}</img>"


def _tiled(token: str, tokens: int, _pictures: int, grid: Grid) -> str:
    """Idefics3's: each tile with its place, a new line after each row, and the whole picture last."""
    frame, picture = "<fake_token_around_image>", token * tokens
    rows = [
        "".join(f"{frame}<row_{row}_col_{column}>{picture}" for column in range(1, grid[1] + 1)) + "\n"
        for row in range(1, grid[0] + 1)
    ]
    return "".join(rows) + ("\n" if rows else "") + f"{frame}<global-img>{picture}{frame}"


FAMILIES: Final = {
    "llava": Family(_plain),
    "internvl": Family(_framed, processing={"crop_to_patches": True}),
    "idefics3": Family(_tiled, processing={"return_row_col_info": True}),
    "smolvlm": Family(_tiled, processing={"return_row_col_info": True}),
    "paligemma": Family(_plain, attention="prompt", first_position=1, template=False),
}
"""By `model_type`."""
