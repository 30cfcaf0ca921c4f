"""`pair.json`: what the device must know to join a bundle's vision graph and its language model."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeq.errors import ArtifactError
from edgeq.files import atomic_write

__all__ = ["LANGUAGE", "PAIR", "PairSettings"]

PAIR: Final = "pair.json"
LANGUAGE: Final = "language"
"""The directory of the language model in a bundle."""

PAIR_VERSION: Final = "edgeq.pair/1"


class PairSettings(BaseModel):
    """How the two halves of a model are joined.

    Attributes:
        model_type: of the whole model; it says how an image is written into the prompt.
        vision: file name of the vision graph.
        image_token: the token in whose places the features go.
        image_token_id: its number.
        tokens: features of one picture that the graph is given.
        context: most tokens of image, question and answer together: what the model was made for, or what memory was
            planned for if that is less.
        stop: tokens that end an answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.pair/1"] = PAIR_VERSION
    model_type: str
    vision: str
    image_token: str = Field(min_length=1)
    image_token_id: int
    tokens: int = Field(ge=1)
    context: int = Field(ge=1)
    stop: tuple[int, ...]

    def save(self, path: Path) -> None:
        """Write the settings as JSON, atomically."""
        atomic_write(path, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> PairSettings:
        """Read settings back.

        Raises:
            ArtifactError: the file is missing, or holds no settings of this version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(
                f"{path} does not say how vision and language are joined",
                expected=f"JSON with version {PAIR_VERSION}",
                causes=(" ".join(str(error).split())[:300],),
            ) from error
