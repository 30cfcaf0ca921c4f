"""A classifier's or an encoder's graph, and the classes that its logits name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.engine import Engine
from edgeq.errors import EngineError
from edgeq.files import read_json_object
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.runtime.canary.canaries import CANARY_LIST, ClassCanaries

__all__ = ["ClassScore", "VisionModel", "rank_classes"]

_LEAST: Final = np.float32(1e-30)
_PREPROCESS: Final = "preprocessor_config.json"


@dataclass(frozen=True)
class ClassScore:
    """A class.

    Attributes:
        index: of the logit.
        label: as the bundle names it; None where it has no names.
        score: softmax over all logits, 0..1. It is no probability unless the network was calibrated to give one.
    """

    index: int
    label: str | None
    score: float


class VisionModel:
    """From an image to what a graph with one input gives for it.

    Args:
        engine: the graph.
        output: of the graph, that is read; None for its only one.
        preprocess: from an image to its input.
        shares: the output is a softmax's, or two shares of one: classes are named by the logarithms, which are logits.

    Raises:
        EngineError: the graph has other inputs or outputs.
    """

    def __init__(self, engine: Engine, output: str | None, preprocess: Preprocess, *, shares: bool = False) -> None:
        self._output = output or engine.outputs[0]
        if len(engine.inputs) != 1 or self._output not in engine.outputs:
            raise EngineError(f"the graph has inputs {list(engine.inputs)} and outputs {list(engine.outputs)}")
        self._engine = engine
        self._preprocess = preprocess
        self._shares = shares

    @classmethod
    def of_bundle(cls, bundle: Path, engine: Engine) -> VisionModel:
        """As a classifier's bundle, which was checked already, says that it is run.

        Raises:
            ArtifactError, ModelError: its list of canaries or its preprocessing cannot be read.
            EngineError: the engine's graph is not the bundle's.
        """
        preprocess = read_preprocess(read_json_object(bundle / _PREPROCESS))
        canaries = ClassCanaries.load(bundle / CANARY_LIST)
        return cls(engine, canaries.output, preprocess, shares=canaries.shares)

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """The graph's input for an image (mode RGB), float32 [3, H, W].

        Raises:
            ImageError: the image cannot be brought to the graph's size.
        """
        return self._preprocess(image)

    def run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the graph gives for one image's pixels, float32 [3, H, W] -> float32 [n].

        Raises:
            EngineError: the engine fails, or gives NaN or infinity.
        """
        found = self._engine.run({self._engine.inputs[0]: pixels[None]}, (self._output,))[self._output]
        vector: NDArray[np.float32] = found.astype(np.float32).reshape(-1)
        if not np.isfinite(vector).all():
            raise EngineError("the graph gave NaN or infinity for this image")
        return np.log(np.maximum(vector, _LEAST)) if self._shares else vector


def rank_classes(logits: NDArray[np.float32], labels: Sequence[str], top: int) -> tuple[ClassScore, ...]:
    """The `top` likeliest classes; of equal logits the first class goes first.

    Args:
        logits: float32 [classes].
        labels: by logit; empty where they have no names.
        top: how many.
    """
    powers = np.exp(logits.astype(np.float64) - logits.max())
    scores = powers / powers.sum()
    best = np.argsort(-logits, kind="stable")[:top]
    return tuple(ClassScore(int(one), labels[one] if one < len(labels) else None, float(scores[one])) for one in best)
