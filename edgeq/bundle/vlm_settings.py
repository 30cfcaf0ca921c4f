"""`vlm.json`: what the device must know to join a bundle's vision graph and its language model."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from edgeq.artifact import Artifact
from edgeq.old_names import current_file

__all__ = ["LANGUAGE", "VLM_SETTINGS", "VlmSettings"]

VLM_SETTINGS: Final = "vlm.json"
LANGUAGE: Final = "language"
"""The directory of the language model in a bundle."""

VLM_VERSION: Final = "edgeq.vlm/1"


class VlmSettings(Artifact):
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

    otherwise = "does not say how vision and language are joined"

    version: Literal["edgeq.vlm/1"] = VLM_VERSION
    model_type: str
    vision: str
    image_token: str = Field(min_length=1)
    image_token_id: int
    tokens: int = Field(ge=1)
    context: int = Field(ge=1)
    stop: tuple[int, ...]

    @classmethod
    def of(cls, bundle: Path) -> VlmSettings:
        """Those of a bundle; raises ArtifactError as `load`."""
        return cls.load(current_file(bundle, VLM_SETTINGS))
