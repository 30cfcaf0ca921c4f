"""Canaries: a few images with what is to be seen on them, for a device to check itself by."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeq.errors import ArtifactError
from edgeq.files import atomic_write

__all__ = ["CANARIES", "Canaries", "Canary"]

CANARIES: Final = "canaries"
"""The directory of the canaries in a bundle."""

CANARIES_VERSION: Final = "edgeq.canaries/1"
_LIST: Final = "canaries.json"


class Canary(BaseModel):
    """One image and what belongs to it.

    Attributes:
        image: file name of a PNG.
        features: file name of its features from the FP32 graph, NumPy [tokens, hidden], float16 where that holds them.
        question: asked about it.
        answer: what was said.
        token_ids: the same as tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    features: str
    question: str
    answer: str
    token_ids: tuple[int, ...]


class Canaries(BaseModel):
    """All of a bundle's.

    Attributes:
        answered_by: `reference`, the whole model without 4 bits; or `bundle`, where that was not loaded: then the
            answers say only that a device does what the workshop did.
        max_new_tokens: the longest answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.canaries/1"] = CANARIES_VERSION
    answered_by: Literal["reference", "bundle"]
    max_new_tokens: int
    canaries: tuple[Canary, ...]

    def save(self, bundle: Path) -> None:
        """Write the list into a bundle, atomically."""
        atomic_write(bundle / CANARIES / _LIST, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, bundle: Path) -> Canaries:
        """Read a bundle's list back.

        Raises:
            ArtifactError: there is none of this version.
        """
        try:
            return cls.model_validate_json((bundle / CANARIES / _LIST).read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(
                f"{bundle} has no canaries", expected=f"{CANARIES}/{_LIST} with version {CANARIES_VERSION}"
            ) from error
