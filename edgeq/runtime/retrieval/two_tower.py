"""A bundle's two encoders in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle.contents import check_name
from edgeq.bundle.limits import DEFAULT_LIMITS
from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS, RetrievalSettings
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.files import read_json_object
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.runtime.retrieval.encoders import ImageEncoder, TextEncoder
from edgeq.runtime.retrieval.tokenizer import TextTokenizer

__all__ = ["TwoTowerModel", "open_two_tower"]

_PREPROCESS = "preprocessor_config.json"


@dataclass(frozen=True)
class TwoTowerModel:
    """Both encoders.

    Attributes:
        settings: of the model.
        tokenizer: texts to token ids.
        text: texts to embeddings.
        image: images to embeddings.
    """

    settings: RetrievalSettings
    tokenizer: TextTokenizer
    text: TextEncoder
    image: ImageEncoder

    def similarity(self, text_vectors: NDArray[np.float32], image_vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """How well texts and images go together: the model's logits.

        Args:
            text_vectors: float32 [texts, dimension], rows of length one.
            image_vectors: float32 [images, dimension], rows of length one.

        Returns:
            float32 [texts, images]: scale times cosine, plus bias where the model has one. CLIP was trained for the
            softmax of these over texts or images, SigLIP for the sigmoid of each.
        """
        cosines = text_vectors @ image_vectors.T
        logits = np.float32(self.settings.logit_scale) * cosines + np.float32(self.settings.logit_bias or 0)
        return logits.astype(np.float32, copy=False)


def open_two_tower(bundle: Path, threads: int | None = None) -> TwoTowerModel:
    """Open a bundle's text graph and vision graph.

    Args:
        bundle: its directory.
        threads: of one operator; None takes every processor there is.

    Raises:
        ArtifactError: `retrieval.json` is missing or damaged, or names files outside the bundle.
        EngineError: ONNX Runtime refuses a graph, or the package `tokenizers` is missing.
        ModelError: the tokenizer or the preprocessing cannot be used.
    """
    settings = RetrievalSettings.of(bundle)
    tokenizer = TextTokenizer.open(bundle, settings)
    preprocess = read_preprocess(read_json_object(bundle / _PREPROCESS))
    text, vision = (_engine(bundle, name, threads) for name in (settings.text, settings.vision))
    images = ImageEncoder(vision, preprocess, settings)
    return TwoTowerModel(settings, tokenizer, TextEncoder(text, tokenizer, settings), images)


def _engine(bundle: Path, name: str, threads: int | None) -> OnnxRuntimeEngine:
    """A graph of the bundle.

    Its memory is taken tensor by tensor, as batches and lengths differ from run to run. Its threads do not wait busily:
    others tokenize, decode, search and answer beside them.
    """
    check_name(name, str(bundle / RETRIEVAL_SETTINGS), most_bytes=DEFAULT_LIMITS.name_bytes)
    return OnnxRuntimeEngine(bundle / name, threads=threads, memory_pattern=False, spinning=False)
