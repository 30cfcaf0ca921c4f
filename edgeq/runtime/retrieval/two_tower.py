"""A bundle's two encoders, in ONNX Runtime or in engines that are open already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle.retrieval_settings import TEXT, VISION, RetrievalSettings
from edgeq.engine.base import Engine
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import InputError
from edgeq.files import read_json_object
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.runtime.retrieval.encoders import ImageEncoder, TextEncoder
from edgeq.runtime.retrieval.tokenizer import TextTokenizer

__all__ = ["PREPROCESS", "TwoTowerModel", "open_two_tower"]

PREPROCESS: Final = "preprocessor_config.json"


@dataclass(frozen=True)
class TwoTowerModel:
    """Both encoders.

    Attributes:
        settings: of the model.
        tokenizer: texts to token ids.
        text: texts to embeddings.
        vision: images to embeddings; None for a text encoder alone.
    """

    settings: RetrievalSettings
    tokenizer: TextTokenizer
    text: TextEncoder
    vision: ImageEncoder | None

    @property
    def image(self) -> ImageEncoder:
        """Images to embeddings; raises InputError for a text encoder alone."""
        if self.vision is None:
            raise InputError(
                "the bundle is of a text encoder alone: it embeds texts, and no images",
                next_step="make one of the whole model, with edgeq prepare --images",
            )
        return self.vision

    def similarity(self, text_vectors: NDArray[np.float32], image_vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """How well texts and images go together: the model's logits.

        Args:
            text_vectors: float32 [texts, dimension], rows of length one.
            image_vectors: float32 [images, dimension], rows of length one.

        Returns:
            float32 [texts, images]: scale times cosine, plus bias where the model has one. CLIP was trained for the
            softmax of these over texts or images, SigLIP for the sigmoid of each.

        Raises:
            InputError: the bundle is of a text encoder alone, which has no scale.
        """
        if self.settings.logit_scale is None:
            raise InputError("the bundle is of a text encoder alone: it has no scale of logits")
        cosines = text_vectors @ image_vectors.T
        logits = np.float32(self.settings.logit_scale) * cosines + np.float32(self.settings.logit_bias or 0)
        return logits.astype(np.float32, copy=False)


def open_two_tower(
    bundle: Path, threads: int | None = None, *, engines: Mapping[str, Engine] | None = None
) -> TwoTowerModel:
    """Open a bundle's text graph, and its vision graph where it has one.

    Args:
        bundle: its directory.
        threads: of one operator; None takes every processor there is.
        engines: encoder -> what runs it; None takes both graphs in ONNX Runtime.

    Raises:
        ArtifactError: `retrieval.json` is missing or damaged, or names files outside the bundle.
        EngineError: ONNX Runtime refuses a graph, or the package `tokenizers` is missing.
        ModelError: the tokenizer or the preprocessing cannot be used.
    """
    settings = RetrievalSettings.of(bundle)
    tokenizer = TextTokenizer.open(bundle, settings)
    chosen = engines or {encoder: _engine(bundle, name, threads) for encoder, name in settings.graphs.items()}
    vision = None
    if VISION in chosen:
        vision = ImageEncoder(chosen[VISION], read_preprocess(read_json_object(bundle / PREPROCESS)), settings)
    return TwoTowerModel(settings, tokenizer, TextEncoder(chosen[TEXT], tokenizer, settings), vision)


def _engine(bundle: Path, name: str, threads: int | None) -> OnnxRuntimeEngine:
    """A graph of the bundle.

    Its memory is taken tensor by tensor, as batches and lengths differ from run to run. Its threads do not wait busily:
    others tokenize, decode, search and answer beside them.
    """
    return OnnxRuntimeEngine(bundle / name, threads=threads, memory_pattern=False, spinning=False)
