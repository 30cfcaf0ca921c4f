"""The forms of quantized weights by name."""

from __future__ import annotations

from typing import Final

from edgeq.handover.auto_awq import AutoAwq
from edgeq.handover.compressed_tensors import CompressedTensors
from edgeq.handover.form import Form
from edgeq.handover.modelopt import ModelOpt

__all__ = ["FORMS"]

FORMS: Final[dict[str, type[Form]]] = {
    "compressed-tensors": CompressedTensors,
    "awq": AutoAwq,
    "modelopt": ModelOpt,
}
"""Names on the command line -> forms."""
