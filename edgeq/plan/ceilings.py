"""What a power mode allows at the most: tokens a second, prompts read a second, and the time of an image.

Derived, never measured: bytes over bandwidth, operations over the tensor cores' peak, instructions over the rate at
which multiprocessors take them, and of these the one that binds. Nothing on the device can be faster, and nothing
reaches it. What is not counted (activations, norms, attention's own arithmetic, copying, launching) only lengthens.

**A further token.** A step reads every weight of the language model once, however many sequences it serves, and the
keys and values of each. bitsandbytes' kernel for few rows (`csrc/gemm_4bit_simt.cu` of 0.50) must unpack each weight
with ordinary instructions as well. For a pair of weights, which lie in one byte, its inner loop in FP16 has two shifts
and two masks, two shuffles that look up the table, one permutation that packs two halves, one multiplication by the
scale; and for each row one multiplication, two conversions and two additions. That is 4 a weight, and 2.5 a weight and
row. Loads and the loop's own come on top. At full clocks bandwidth binds an Orin; at lower ones these instructions do.
From four rows on it takes a kernel with tensor cores, whose instructions were not counted: there bandwidth alone is the
ceiling.

**A prompt.** Every token goes through every weight on the tensor cores. From five rows on, bitsandbytes first unpacks a
whole matrix into FP16 on an Orin: it reads NF4, writes FP16 and reads it again; so is INT8 from 33 rows on
(`edgeq.runtime.vlm.packed`). The ceiling is without that; the time with it is told beside. Of INT4 and INT8 no
instructions are counted: bandwidth alone is the ceiling of their further tokens.

**An image.** All weights of the encoder for each patch, those of the connector for each token; or reading them.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.device.power_modes import PowerMode
from edgeq.plan.memory import MemoryPlan
from edgeq.plan.precision import Precision
from edgeq.plan.weights import PartWeights, nf4_bytes

__all__ = ["Bound", "Ceiling", "ModelWork", "decode_ceiling", "device_ceiling", "model_work"]

UNPACKING: Final = 4.0
"""Instructions of a thread for a weight in NF4, of bitsandbytes' kernel for few rows."""

MULTIPLYING: Final = 2.5
"""Those for a weight and a row."""

MOST_ROWS: Final = 3
"""Of that kernel."""

_HALF: Final = 2
_OPERATIONS: Final = 2
_LARGE: Final = 1 << 24

Bound = Literal["bandwidth", "instructions", "operations"]


class ModelWork(BaseModel):
    """What a vision-language model's arithmetic takes at the least.

    Attributes:
        nf4_weights: numbers in NF4 that a token goes through.
        int8_weights: likewise in INT8, of the language model.
        weights_bytes: that a step reads, head included.
        sequence_bytes: keys and values that a step reads of one sequence of `tokens`.
        tokens: of a sequence.
        multiplied: numbers that each token of a prompt is multiplied by.
        image_operations: of one image in encoder and connector.
        image_bytes: of their weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nf4_weights: int
    weights_bytes: int
    sequence_bytes: int
    tokens: int
    multiplied: int
    image_operations: int
    image_bytes: int
    int8_weights: int = 0


class Ceiling(BaseModel):
    """What one power mode allows; derived.

    Attributes:
        mode: with its clocks and bandwidth.
        decode_tokens_per_second: of one sequence whose context is full.
        decode_bound: what binds it.
        prefill_tokens_per_second: of a prompt, by the tensor cores.
        prefill_unpacked_tokens_per_second: likewise where each matrix in NF4 or INT8 is unpacked first, for a prompt of
            the whole context.
        image_ms: encoder and connector, of one image.
        image_bound: what binds it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: PowerMode
    decode_tokens_per_second: float
    decode_bound: Bound
    prefill_tokens_per_second: float
    prefill_unpacked_tokens_per_second: float
    image_ms: float
    image_bound: Bound


def model_work(plan: MemoryPlan, context: int | None = None) -> ModelWork | None:
    """The work of a model as its memory plan has it, for the plan's image.

    What is not read for every token is left out: embeddings of which a step takes a row, and the cross-attention of
    Llama 3.2 Vision, whose keys and values are made once.

    Args:
        plan: of a vision-language model.
        context: tokens of a sequence; None takes the plan's.

    Returns:
        None for a mixture of experts: which of them a token goes through is not in the plan.
    """
    if "moe" in plan.model_type:
        return None
    parts = {part.name: part for part in plan.components}
    nothing = PartWeights(name="", parameters=0, precisions={})
    language, vision, connector = (parts.get(name, nothing) for name in ("language", "vision", "connector"))
    head = parts.get("embedding" if plan.tied_head else "head", nothing)
    image, tokens = plan.image, plan.request.context if context is None else context
    patches = image.sequences * image.sequence
    cross = image.cross_tokens * plan.request.images
    packed = language.precisions.get(Precision.NF4, 0) / (nf4_bytes(_LARGE, double_quant=plan.double_quant) / _LARGE)
    return ModelWork(
        nf4_weights=int(packed),
        weights_bytes=language.bytes + head.bytes,
        sequence_bytes=plan.kv.bytes(tokens, cross),
        tokens=tokens,
        multiplied=language.parameters,
        image_operations=_OPERATIONS * (vision.parameters * patches + connector.parameters * image.tokens),
        image_bytes=vision.bytes + connector.bytes,
        int8_weights=language.precisions.get(Precision.INT8, 0),  # and its few scales
    )


def decode_ceiling(
    work: ModelWork, bytes_per_second: float, instructions_per_second: float | None = None, sequences: int = 1
) -> tuple[float, Bound]:
    """Tokens a second of all sequences together, and what binds them.

    Args:
        work: of the model.
        bytes_per_second: of memory.
        instructions_per_second: of the GPU's threads; None where no GPU computes.
        sequences: that a step serves at once.
    """
    reading = (work.weights_bytes + sequences * work.sequence_bytes) / bytes_per_second
    unpacking = 0.0
    if instructions_per_second is not None and sequences <= MOST_ROWS:
        unpacking = work.nf4_weights * (UNPACKING + MULTIPLYING * sequences) / instructions_per_second
    return sequences / max(reading, unpacking), "bandwidth" if reading >= unpacking else "instructions"


def device_ceiling(work: ModelWork, mode: PowerMode) -> Ceiling:
    """What a power mode allows.

    Args:
        work: of the model.
        mode: from `edgeq.device.power_modes`.
    """
    decode, bound = decode_ceiling(work, mode.bytes_per_second, mode.instructions_per_second)
    computing = _OPERATIONS * work.multiplied * work.tokens / mode.fp16_per_second
    moved = work.weights_bytes + 2 * _HALF * (work.nf4_weights + work.int8_weights)
    image = work.image_operations / mode.fp16_per_second, work.image_bytes / mode.bytes_per_second
    return Ceiling(
        mode=mode,
        decode_tokens_per_second=decode,
        decode_bound=bound,
        prefill_tokens_per_second=work.tokens / computing,
        prefill_unpacked_tokens_per_second=work.tokens / (computing + moved / mode.bytes_per_second),
        image_ms=1e3 * max(image),
        image_bound="operations" if image[0] >= image[1] else "bandwidth",
    )
