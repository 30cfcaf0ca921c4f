"""Pictures for a person: what FP32 says of some canaries on the left, what the bundle runs on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.engine.base import Engine
from edgeq.engine.registry import backend_of_graph
from edgeq.model.images.preprocess import Preprocess
from edgeq.quality.tasks.base import ImageTask
from edgeq.quality.tasks.drawing import side_by_side, smaller
from edgeq.runtime.canary.canaries import CANARIES, ClassCanaries

__all__ = ["COMPARED", "draw_compared"]

COMPARED: Final = "compared"
"""The pictures' folder in a bundle."""

_PICTURES: Final = 4


def draw_compared(
    bundle: Path,
    canaries: ClassCanaries,
    task: ImageTask[Any],
    preprocess: Preprocess,
    labels: Sequence[str],
    *,
    threads: int | None = None,
) -> None:
    """Draw the first canaries, where the task's answers are something to be drawn.

    Args:
        bundle: that is being made, with both graphs and the canaries.
        canaries: of the bundle.
        task: what the graphs are for, fitted to them.
        preprocess: from an image to their input.
        labels: class names; empty where there are none.
        threads: of one operator.

    Raises:
        EngineError: a graph does not run.
    """
    if not task.draws:
        return
    (bundle / COMPARED).mkdir()
    graphs = (bundle / canaries.fp32, bundle / canaries.int8)
    engines = [backend_of_graph(graph.name).open(graph, threads=threads, batch=1) for graph in graphs]
    for number, canary in enumerate(canaries.canaries[:_PICTURES]):
        with Image.open(bundle / CANARIES / canary.image) as stored:
            picture = stored.convert("RGB")
        pixels = preprocess(picture)[None]
        small = picture if preprocess.resize is None else smaller(picture)
        sides = [task.drawn(small, _outputs(engine, task, pixels), labels) for engine in engines]
        side_by_side(*sides).save(bundle / COMPARED / f"{number}.png")


def _outputs(engine: Engine, task: ImageTask[Any], pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    names = task.outputs(engine.outputs)
    found = engine.run({engine.inputs[0]: pixels}, names)
    return tuple(found[name] for name in names)
