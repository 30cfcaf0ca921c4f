"""How much of a language model became quantized."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QuantizedShare"]


@dataclass(frozen=True)
class QuantizedShare:
    """How much of a model is in few bits.

    Attributes:
        modules: names of the quantized modules, in the model's order.
        parameters: numbers stored in few bits.
        all_parameters: all of the model's, tied ones once.
    """

    modules: tuple[str, ...]
    parameters: int
    all_parameters: int

    @property
    def share(self) -> float:
        """Quantized parameters among all, 0 to 1."""
        return self.parameters / self.all_parameters if self.all_parameters else 0.0
