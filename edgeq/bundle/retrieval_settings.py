"""`retrieval.json`: what the device must know to embed texts and images with a bundle's two encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from edgeq.artifact import Artifact
from edgeq.bundle.contents import check_name
from edgeq.bundle.limits import DEFAULT_LIMITS
from edgeq.families.two_tower import Padding, Pooling

__all__ = ["RETRIEVAL_SETTINGS", "TEXT", "VISION", "RetrievalSettings"]

RETRIEVAL_SETTINGS: Final = "retrieval.json"
TEXT: Final = "text"
"""The text encoder, and the directory of its graphs in a bundle."""

VISION: Final = "vision"
"""The vision encoder."""

_VERSION: Final = "edgeq.retrieval/1"


class RetrievalSettings(Artifact):
    """How a model embeds.

    Attributes:
        model_type: of the whole model.
        dimension: of an embedding.
        vision: file name of the vision graph: pixels float32 [n, 3, H, W] to embeddings float32 [n, dimension]; None
            where the bundle is of a text encoder alone.
        text: name of the text graph below the bundle: token ids int64 [n, length] to embeddings float32 [n, dimension].
        context: tokens of a text, at most; its special tokens included.
        padding: `trim`: a text is as long as it is. `fixed`: it is padded to the whole context.
        pooling: whose place stands for a text: the largest token id's, the first end of text, or the last place.
        eos_id: the end of a text; None where nothing is looked for.
        pad_id: fills a text up.
        logit_scale: what cosines are multiplied with (not its logarithm); None for a text encoder alone.
        logit_bias: what is added then; None for models without.
    """

    otherwise = "does not say how texts and images are embedded"

    version: Literal["edgeq.retrieval/1"] = _VERSION
    model_type: str
    dimension: int = Field(ge=1)
    vision: str | None
    text: str
    context: int = Field(ge=1)
    padding: Padding
    pooling: Pooling
    eos_id: int | None
    pad_id: int
    logit_scale: float | None = Field(gt=0)
    logit_bias: float | None = None

    @property
    def graphs(self) -> dict[str, str]:
        """Encoder -> name of its graph below the bundle; raises UnsafeNameError where that leads elsewhere."""
        found = {TEXT: self.text} if self.vision is None else {TEXT: self.text, VISION: self.vision}
        for name in found.values():
            check_name(name, RETRIEVAL_SETTINGS, most_bytes=DEFAULT_LIMITS.name_bytes)
        return found

    @classmethod
    def of(cls, bundle: Path) -> RetrievalSettings:
        """Those of a bundle; raises ArtifactError as `load`."""
        return cls.load(bundle / RETRIEVAL_SETTINGS)
