"""What is alive for a moment while the model computes. Estimates from above, in FP16 unless said otherwise.

They count the tensors that eager transformers holds at the fullest point of one layer, from its source; a compiled or
fused step holds less. Attention scores of the language model are never whole (fused attention). Those of the vision
engine depend on what runs it:

- TensorRT has one kernel for attention in FP16 whose heads are 16 to 256 numbers wide, a multiple of 8, with a mask or
  without, from compute capability 7.5 on: "MHA fusion" in its documentation. That release 10.3 takes it on an Orin, in
  FP16, is reported in NVIDIA/TensorRT, issue 4167. The documentation leaves TensorRT the freedom not to fuse, and edgeq
  has built no engine on a device: the engine inspector says what was done there.
- TensorRT without that kernel keeps the scores, once before and once after the softmax.
- ONNX Runtime on a CPU computes in float32 and keeps the scores before and after the softmax, which has no kernel that
  works in place: of a graph in FP16 it is taken apart, and each of its steps has a result of its own. Blocks of its
  arena are kept for good. A mask is made once, behind the first scores, and lies in what these have left: so the scores
  of later layers take a third block. Its log shows the blocks, and `tests/plan/test_vision_memory.py` measures them.

Arrays that pass between image processor, engine and language model lie in the process; TensorRT has a buffer of its own
for each. What was freed of them is not all given back: glibc keeps arrays of up to 32 MiB for the next of their kind
(M_MMAP_THRESHOLD in mallopt(3)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeq.errors import ModelError
from edgeq.families.base import ImageCost
from edgeq.families.tiles import Size

__all__ = ["fused_attention", "photograph_bytes", "pixel_bytes", "prefill_bytes", "step_bytes", "vision_bytes"]

_HALF: Final = 2
_SINGLE: Final = 4
_COLOURS: Final = 3
_KEPT_FREE: Final = 32 << 20
_PHOTOGRAPH: Final = 4 + 3 + 4
_MASK: Final = 1 + 2 + 2
"""Bytes of a step's mask for each row: what is hidden, zeros, and these filled; of each kind of layer."""
_SEGMENTS: Final = (2 << 20) + (20 << 20)
"""What torch's allocator takes beyond what is asked for: a segment for tensors below 1 MiB, and one for those below
10 MiB (docs.pytorch.org, "CUDA semantics"; `kSmallBuffer` and `kLargeBuffer` of its source)."""
_FUSED_HEADS: Final = (16, 256)
_FUSED_STEP: Final = 8
_ROWS_OF_A_KERNEL: Final = 4
"""Rows up to which bitsandbytes multiplies 4-bit weights as they are stored."""


def prefill_bytes(text: Mapping[str, Any], tokens: int, cross_tokens: int) -> int:
    """The most that reading a prompt in one piece holds beside weights and KV cache.

    Of each token, with h the hidden size, i that of the feed-forward layer, q and k all heads' and all KV heads' width,
    d that of one head: the larger of 4h + 3i (feed-forward), 4h + 4q + 4k (attention, with what rotates the positions)
    and 8h (a norm, in float32), and 2d (the positions' angles). To that a mask of one byte for each pair of tokens, and
    the last token's logits in FP16 and float32. Cross-attention adds the image's states twice and its mask three times.

    Args:
        text: the language model's config.
        tokens: in the prompt.
        cross_tokens: image tokens that cross-attention looks at.

    Raises:
        ModelError: the config lacks a number.
    """
    widest, vocabulary, hidden, _ = _language_widths(text)
    crossing = _HALF * cross_tokens * (2 * hidden + 3 * tokens)
    return _HALF * tokens * widest + tokens**2 + vocabulary * (_HALF + 4) + crossing


def step_bytes(text: Mapping[str, Any], slots: int, context: int, cross_tokens: int, unpacked: int) -> int:
    """The most that the memory pool of the decode steps' CUDA graphs holds. Derived, not measured.

    All graphs share one pool, which nothing else is given from, and one step is over before the next begins: so the
    pool is that of the largest, which has all slots and the whole context. Its fullest layer holds what a token of a
    prompt holds there, for each slot, and scores of attention in FP16 and float32, as where a kernel keeps them; beside
    that stand the masks of both kinds of layers, and the logits. From five slots on bitsandbytes unpacks a whole layer,
    into the pool; INT8 is unpacked from 33 on. To that comes what torch's allocator takes beyond what is asked for.
    What the driver keeps for the graphs' nodes is not known, and not in it.

    Args:
        text: the language model's config.
        slots: sequences at once.
        context: tokens of each.
        cross_tokens: image tokens that cross-attention looks at.
        unpacked: bytes of the largest NF4 or INT8 layer in FP16.

    Raises:
        ModelError: the config lacks a number.
    """
    widest, vocabulary, _, heads = _language_widths(text)
    seen = context + cross_tokens
    row = _HALF * widest + seen * (heads * (_HALF + _SINGLE) + 2 * _MASK) + vocabulary * (_HALF + _SINGLE)
    return slots * row + (unpacked if slots > _ROWS_OF_A_KERNEL else 0) + _SEGMENTS


def _language_widths(text: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Numbers of one token at the fullest point of a layer; the vocabulary, the hidden size, the heads."""
    try:
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        inner = max(int(text.get("intermediate_size") or 0), _experts(text))
        width = int(text.get("head_dim") or hidden // heads)
        vocabulary = int(text["vocab_size"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"the text config does not say how wide its layers are: {error}") from error
    queries, keys = heads * width, int(text.get("num_key_value_heads") or heads) * width
    widest = max(4 * hidden + 3 * inner, 4 * hidden + 4 * queries + 4 * keys, 8 * hidden) + 2 * width
    return widest, vocabulary, hidden, heads


def _experts(text: Mapping[str, Any]) -> int:
    """The width of the experts that one token goes through; 0 without experts."""
    return int(text.get("moe_intermediate_size") or 0) * int(text.get("num_experts_per_tok") or 0)


def fused_attention(vision: Mapping[str, Any]) -> bool:
    """Whether TensorRT has one kernel for the attention of an encoder in FP16; see the top of this file.

    Raises:
        ModelError: the config lacks a number.
    """
    hidden, _, heads, _ = _widths(vision)
    width = hidden // heads
    return _FUSED_HEADS[0] <= width <= _FUSED_HEADS[1] and width % _FUSED_STEP == 0


def photograph_bytes(size: Size) -> int:
    """A photograph on its way to the image processor: twice as Pillow has it, 4 bytes a pixel, and once as an array."""
    return _PHOTOGRAPH * size[0] * size[1]


def pixel_bytes(vision: Mapping[str, Any], cost: ImageCost, *, widens: bool = False) -> int:
    """The pixels of one image as the vision graph takes them, in float32, and what making them leaves.

    That is, up to 32 MiB of each: their parts before they are put together, and the frame they are cut from, in bytes
    and in float32.

    Args:
        vision: the encoder's config.
        cost: of the image.
        widens: a CPU's backend takes them, and not TensorRT.

    Raises:
        ModelError: the config lacks a number.
    """
    *_, side = _widths(vision)
    frame = cost.sequences * cost.sequence * side**2 * _COLOURS
    taken = frame * int(vision.get("temporal_patch_size") or 1) * _SINGLE
    return taken * _copies(widens=widens) + sum(min(left, _KEPT_FREE) for left in (taken, frame * _SINGLE, frame))


def vision_bytes(vision: Mapping[str, Any], cost: ImageCost, *, features: int, widens: bool = False) -> int:
    """The most that encoding one image holds beside the engine's weights and its pixels; all its tiles are one batch.

    Of each patch: its embedding h, and the larger of 3h + 3i and 7h. To that the mask in float32, and the scores where
    attention is not fused: heads x patches x patches for each run of patches that attend to each other. And what it
    gives, in float32.

    Args:
        vision: the encoder's config.
        cost: of the image.
        features: numbers in all outputs of the vision graph.
        widens: a CPU's backend computes, in float32.

    Raises:
        ModelError: the config lacks a number.
    """
    hidden, inner, heads, _ = _widths(vision)
    number = _SINGLE if widens else _HALF
    patches = cost.sequences * cost.sequence
    kept = (3 if cost.mask else 2) if widens else 2 * (not fused_attention(vision))
    scores = kept * heads * cost.sequences * cost.sequence**2
    layer = number * (patches * (hidden + max(3 * hidden + 3 * inner, 7 * hidden)) + scores)
    return layer + _SINGLE * (cost.mask + features * _copies(widens=widens))


def _copies(*, widens: bool) -> int:
    """Of what goes into an engine or comes out of it."""
    return 1 if widens else 2


def _widths(vision: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Hidden size, feed-forward size, heads, and the side of a patch in pixels."""
    try:
        hidden = int(vision.get("embed_dim") or vision["hidden_size"])
        inner = int(vision.get("intermediate_size") or hidden * vision["mlp_ratio"])
        names = ("num_attention_heads", "num_heads", "attention_heads")
        heads = next(int(vision[name]) for name in names if vision.get(name))
        patch = vision["patch_size"]
        return hidden, inner, heads, int(patch[0] if isinstance(patch, list | tuple) else patch)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise ModelError(f"the vision config does not say how wide its layers are: {error}") from error
