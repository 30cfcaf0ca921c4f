"""The ceiling that measured figures stand beside: of the device's power mode, or by memory measured here."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.bench.answers import AnswerFigures, ClientsFigures
from edgeq.device.power_modes import PowerMode
from edgeq.doctor.reading import text_in
from edgeq.plan.ceilings import Bound, ModelWork, decode_ceiling, device_ceiling, model_work
from edgeq.plan.memory import MemoryPlan
from edgeq.runtime.scheduler.budget import MEMORY
from edgeq.runtime.vlm.language import release_memory

if TYPE_CHECKING:
    import torch

__all__ = ["BenchCeiling", "Limits", "cache_bytes", "find_limits", "measured_bandwidth"]

_MOST_BYTES: Final = 512 << 20
_LEAST_BYTES: Final = 64 << 20
_SHARE: Final = 4
_COLUMNS: Final = 4096
_RUNS: Final = 5
_UNKNOWN_CACHE: Final = 256 << 20
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20}


class BenchCeiling(BaseModel):
    """What cannot be passed.

    Attributes:
        source: `derived` from the device's power mode, or `measured bandwidth` of this machine's memory.
        bytes_per_second: of memory.
        decode_tokens_per_second: of one sequence, at the tokens that were measured.
        decode_bound: what binds it.
        prefill_tokens_per_second: None where operations a second are not known.
        image_ms: likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["derived", "measured bandwidth"]
    bytes_per_second: float
    decode_tokens_per_second: float
    decode_bound: Bound
    prefill_tokens_per_second: float | None
    image_ms: float | None


@dataclass(frozen=True)
class Limits:
    """What is known of the machine and of the model's work.

    Attributes:
        plan: of the model's memory; None where its work is not known.
        mode: of the device; None where its figures are not known.
        bytes_per_second: of memory, measured here; None where the mode says it, or it is no ceiling.
        note: where the ceiling is from, or why there is none, in a sentence.
    """

    plan: MemoryPlan | None
    mode: PowerMode | None
    bytes_per_second: float | None
    note: str

    def ceiling(self, figures: AnswerFigures) -> BenchCeiling | None:
        """Of one client, at the tokens of context that an answer has in the mean."""
        work = self._work(figures)
        if work is None:
            return None
        if self.mode is not None:
            found = device_ceiling(work, self.mode)
            return BenchCeiling(
                source="derived",
                bytes_per_second=self.mode.bytes_per_second,
                decode_tokens_per_second=found.decode_tokens_per_second,
                decode_bound=found.decode_bound,
                prefill_tokens_per_second=found.prefill_tokens_per_second,
                image_ms=found.image_ms,
            )
        if self.bytes_per_second is None:
            return None
        decode, bound = decode_ceiling(work, self.bytes_per_second)
        return BenchCeiling(
            source="measured bandwidth",
            bytes_per_second=self.bytes_per_second,
            decode_tokens_per_second=decode,
            decode_bound=bound,
            prefill_tokens_per_second=None,
            image_ms=None,
        )

    def measured_again(self, free_bytes: int) -> Limits:
        """The same, with the quicker of two measurements of memory: other processes may have held up the first.

        Args:
            free_bytes: of memory.
        """
        work = None if self.plan is None else model_work(self.plan)
        if self.bytes_per_second is None or work is None:
            return self
        found = max(self.bytes_per_second, measured_bandwidth(free_bytes, work.weights_bytes) or 0.0)
        return replace(self, bytes_per_second=found, note=_measured(found))

    def beside(self, figures: AnswerFigures, ceiling: BenchCeiling | None) -> AnswerFigures:
        """The figures with their share of the ceiling, as they are where there is none."""
        work = self._work(figures)
        if ceiling is None or work is None:
            return figures
        read, encoded = ceiling.prefill_tokens_per_second, ceiling.image_ms
        measured = figures.prefill_tokens_per_second
        return figures.model_copy(
            update={
                "clients": tuple(self._row(work, row, figures.slots) for row in figures.clients),
                "decode_percent": 100 * figures.decode_tokens_per_second / ceiling.decode_tokens_per_second,
                "prefill_percent": None if read is None or measured is None else 100 * measured / read,
                "image_percent": None if encoded is None else 100 * encoded / figures.image.p50_ms,
            }
        )

    def _row(self, work: ModelWork, row: ClientsFigures, slots: int) -> ClientsFigures:
        sequences = min(row.clients, slots)
        bandwidth, instructions = self.bytes_per_second, None
        if self.mode is not None:
            bandwidth, instructions = self.mode.bytes_per_second, self.mode.instructions_per_second
        assert bandwidth is not None, "one of the two is known where there is a ceiling"
        most, _ = decode_ceiling(work, bandwidth, instructions, sequences)
        share = {"ceiling_tokens_per_second": most, "percent": 100 * row.tokens_per_second / most}
        return row.model_copy(update=share)

    def _work(self, figures: AnswerFigures) -> ModelWork | None:
        tokens = figures.prompt_tokens + figures.answer_tokens // 2
        return None if self.plan is None else model_work(self.plan, tokens)


def find_limits(bundle: Path, device: str | None, mode: PowerMode | None, free_bytes: int) -> Limits:
    """What the machine allows a bundle's model: by its power mode, or else by measuring its memory.

    Args:
        bundle: a vision-language one, whose memory plan says what the work is.
        device: name of the known device that this is; None for another one.
        mode: the power mode that it is in; None where its figures are not known.
        free_bytes: of memory.

    Raises:
        ArtifactError: the bundle's memory plan is none.
    """
    plan = MemoryPlan.load(bundle / MEMORY) if (bundle / MEMORY).is_file() else None
    work = None if plan is None else model_work(plan)
    if work is None:
        why = "the model is a mixture of experts"
        if plan is None:
            why = "the bundle has no memory plan: prepare it with --device"
        return Limits(None, mode, None, f"the ceiling is not known, as {why}")
    if mode is not None:
        return Limits(plan, mode, None, f"the ceiling is derived from {device} in mode {mode.name}; nothing reaches it")
    found = measured_bandwidth(free_bytes, work.weights_bytes)
    if found is None:
        return Limits(plan, None, None, "the ceiling is not known, as caches may hold all weights, or memory is small")
    return Limits(plan, None, found, _measured(found))


def _measured(bytes_per_second: float) -> str:
    """Where such a ceiling is from."""
    rate = f"{bytes_per_second / 1e9:.1f} GB/s"
    return f"the ceiling is memory's bandwidth as measured here, {rate}; the device is not a known one"


def measured_bandwidth(free_bytes: int, least_read: int, root: Path = Path("/")) -> float | None:
    """Bytes a second that this machine reads, by the quickest of five products of a large matrix with a vector.

    On the GPU where there is one. It needs torch.

    Args:
        free_bytes: of memory; a quarter of it is taken for the matrix, at most 512 MiB.
        least_read: bytes that the model reads for a token; where a processor's caches hold them, memory is no ceiling.
        root: where `sys` is.

    Returns:
        None where memory is no ceiling, or the matrix would be too small to tell.
    """
    import torch

    cuda, cached = torch.cuda.is_available(), cache_bytes(root)
    size = min(_MOST_BYTES, free_bytes // _SHARE)
    if size < _LEAST_BYTES or (not cuda and (least_read < cached or size < 2 * min(cached, _MOST_BYTES // 2))):
        return None
    try:
        return _read_rate(size // (4 * _COLUMNS), torch.device("cuda" if cuda else "cpu"))
    finally:
        release_memory()  # of which the model needs every byte


def _read_rate(rows: int, device: torch.device) -> float:
    """Bytes a second that a product of so many rows reads."""
    import torch

    matrix, vector = torch.ones(rows, _COLUMNS, device=device), torch.ones(_COLUMNS, device=device)
    _product_seconds(matrix, vector)
    return matrix.nbytes / min(_product_seconds(matrix, vector) for _ in range(_RUNS))


def _product_seconds(matrix: torch.Tensor, vector: torch.Tensor) -> float:
    """Seconds until the product of float32 [rows, columns] and [columns] is there."""
    start = time.perf_counter()
    matrix.mv(vector)[0].item()  # waits for a GPU
    return time.perf_counter() - start


def cache_bytes(root: Path = Path("/")) -> int:
    """Bytes of the processor's last cache that one processor has a share in; 256 MiB where that is not known."""
    for index in (3, 2):
        text = text_in(root / f"sys/devices/system/cpu/cpu0/cache/index{index}/size") or ""
        if text[:-1].isdecimal() and text[-1] in _UNITS:
            return int(text[:-1]) * _UNITS[text[-1]]
    return _UNKNOWN_CACHE
