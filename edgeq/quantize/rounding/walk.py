"""Go through a graph from cut to cut with some samples: of all that is computed, only what lies at the cut is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from edgeq.calibrate.observe import with_outputs
from edgeq.calibrate.samples import Array
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.quantize.search.pieces import Cutter

__all__ = ["Walk"]


class Walk:
    """A graph, and the values of some samples at one of its cuts.

    Args:
        network: the graph.
        samples: what it is given, in batches [n, ...].
        threads: of one operator.

    Attributes:
        network: as given.
        here: the cut reached, at first the graph's input.
    """

    def __init__(self, network: Cutter, samples: Sequence[Array], threads: int | None) -> None:
        self.network, self.here = network, network.cuts[0].tensor
        self._samples, self._values, self._threads = samples, list(samples), threads

    def piece(self, target: str) -> onnx.ModelProto:
        """The graph from here to a later cut."""
        return self.network.extract(self.here, target)

    def run(self, piece: onnx.ModelProto, tensors: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Tensors of a piece that begins here, batch by batch; what lies here may be among them.

        Args:
            piece: of `piece`, as it is or with other constants.
            tensors: names.
        """
        computed = [name for name in dict.fromkeys(tensors) if name != self.here]
        made = with_outputs(piece, computed)
        engine = OnnxRuntimeEngine(
            made.SerializeToString(), threads=self._threads, integers=False, memory_pattern=False
        )
        _, *given = engine.inputs
        for values, sample in zip(self._values, self._samples, strict=True):
            feeds = {self.here: values, **dict.fromkeys(given, sample)}
            yield {self.here: values, **engine.run(feeds, computed)}

    def move(self, piece: onnx.ModelProto, target: str) -> None:
        """Hold what a piece makes at its end, in the place of what lies here."""
        for place, found in enumerate(self.run(piece, (target,))):
            self._values[place] = found[target]
        self.here = target
