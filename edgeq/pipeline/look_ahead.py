"""The images held back, decoded and answered by FP32 while one processor makes ranges of what was counted."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from pathlib import Path

from edgeq.calibrate.samples import Array, Samples
from edgeq.quantize.int8.select import Judged, answer_as_fp32
from edgeq.quantize.int8.trial_graphs import Fields

__all__ = ["LookAhead"]

_Decoded = tuple[list[Array], list[str]]
"""Samples that can be used, and the names of the others."""


class LookAhead:
    """What `auto` judges by, begun before it is asked for.

    Args:
        ahead: has one worker.
        graph: FP32 ONNX file.
        held_back: the samples; None for none.
        total: size of the set that they are a part of.
        fields, threads: as for `edgeq.quantize.int8.select.select`.

    Attributes:
        answers: what FP32 gives for them; None until it has begun, and where there are none.
    """

    def __init__(
        self,
        ahead: Executor,
        graph: Path,
        held_back: Samples | None,
        total: int,
        *,
        fields: Fields | None,
        threads: int | None,
    ) -> None:
        self._ahead, self._graph, self._held_back, self._total = ahead, graph, held_back, total
        self._fields, self._threads = fields, threads
        self._decoded: Future[_Decoded] | None = None
        self.answers: Future[Judged] | None = None

    def begin(self) -> None:
        """Decode and run, in the background."""
        if self._held_back is not None:
            self._decoded = self._ahead.submit(self._decode, self._held_back)
            self.answers = self._ahead.submit(self._answer, self._decoded)

    def samples(self) -> _Decoded:
        """The samples that can be used, and the names of the others.

        Raises:
            ImageError: too many cannot be.
        """
        return self._decoded.result() if self._decoded else ([], [])

    def _decode(self, held_back: Samples) -> _Decoded:
        unusable: list[str] = []
        return [array for _, array in held_back.arrays(unusable, self._total)], unusable

    def _answer(self, decoded: Future[_Decoded]) -> Judged:
        usable, _ = decoded.result()
        return answer_as_fp32(self._graph, usable, self._fields, self._threads)
