"""The same bundle on this machine and on arm64: how far apart, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rehearsal.client import ChatAnswer
from rehearsal.report import Difference

__all__ = [
    "COSINE",
    "LOGPROB",
    "SCORE",
    "compare_answers",
    "compare_canaries",
    "compare_chats",
    "compare_features",
    "compare_scores",
]

COSINE: Final = 1e-3
"""1 - cosine of a canary's logits on arm64 to those of the workshop's INT8 graph, which ran on x86: at most this."""

SCORE: Final = 0.02
"""A class's softmax may differ by this."""

LOGPROB: Final = 0.25
"""The logarithm of a token's probability may differ by this: bitsandbytes multiplies in BF16 where the processor has it
(AVX512-BF16), with errors of some 4e-3 of a product's largest number, and in FP32 on arm64."""

Scores = Mapping[str, Mapping[str, float]]
"""Image -> label -> score."""


def compare_canaries(here: Mapping[str, Any], arm64: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Two reports of `edgeq verify-engine`, as JSON objects."""
    pairs = list(zip(here["canaries"]["canaries"], arm64["canaries"]["canaries"], strict=True))
    turned = [max(1 - check["int8"]["worst_cosine"] for check in side) for side in zip(*pairs, strict=True)]
    fp32 = [min(check["parity"]["worst_cosine"] for check in side) for side in zip(*pairs, strict=True)]
    same = sum(one["classes"]["engine"] == other["classes"]["engine"] for one, other in pairs)
    pixels = sum(bool(other["same_pixels"]) for _, other in pairs)
    p50 = [f"{side['latency']['p50_ms']:.2f} ms" for side in (here, arm64)]
    return (
        Difference(what="backend", here=here["backend"], arm64=arm64["backend"]),
        Difference(
            what="canaries: largest 1 - cosine to the workshop's INT8 logits",
            here=f"{turned[0]:.1e}",
            arm64=f"{turned[1]:.1e}",
            measured=turned[1],
            bound=COSINE,
            within=turned[1] <= COSINE,
        ),
        Difference(what="canaries: smallest cosine to FP32", here=f"{fp32[0]:.5f}", arm64=f"{fp32[1]:.5f}"),
        _all("canaries: the same class", same, len(pairs)),
        _all("canaries: the same pixels as the workshop's, to the last bit", pixels, len(pairs)),
        Difference(what="p50 of one canary (emulated: no speed of a device)", here=p50[0], arm64=p50[1]),
    )


def compare_scores(here: Scores, arm64: Scores) -> tuple[Difference, ...]:
    """What both services said of the same images; the first label of each is the likeliest."""
    if here.keys() != arm64.keys():
        raise ValueError(f"other images: {sorted(here)} and {sorted(arm64)}")
    far = max(abs(here[image][label] - arm64[image][label]) for image in here for label in here[image])
    same = sum(next(iter(here[image])) == next(iter(arm64[image])) for image in here)
    return (
        _all("over HTTP: the same class", same, len(here)),
        Difference(
            what="over HTTP: largest difference of a class's score",
            here="",
            arm64="",
            measured=far,
            bound=SCORE,
            within=far <= SCORE,
        ),
    )


def compare_features(here: Mapping[str, Any], arm64: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Two reports of `edgeq verify-engine --answers` on a vision-language bundle, as JSON objects."""
    sides = [side["canaries"]["canaries"] for side in (here, arm64)]
    turned = [max(1 - check["parity"]["worst_cosine"] for check in side) for side in sides]
    answers = [[check["answer"] for check in side] for side in sides]
    chosen = [f"{sum(a['chosen'] for a in side)} of {sum(a['tokens'] for a in side)}" for side in answers]
    same = sum(one["said"] == other["said"] for one, other in zip(*answers, strict=True))
    return (
        Difference(what="vision graph's backend", here=here["backend"], arm64=arm64["backend"]),
        Difference(
            what="canaries: largest 1 - cosine of a token's features to the workshop's FP32 graph",
            here=f"{turned[0]:.1e}",
            arm64=f"{turned[1]:.1e}",
            measured=turned[1],
            bound=COSINE,
            within=turned[1] <= COSINE,
        ),
        Difference(what="canaries: tokens of the workshop's answers chosen", here=chosen[0], arm64=chosen[1]),
        _all("canaries: the same answer, word for word", same, len(answers[0])),
    )


def compare_answers(here: Sequence[str], arm64: Sequence[str]) -> tuple[Difference, ...]:
    """What `edgeq run` printed on both machines to the same questions."""
    same = sum(one == other for one, other in zip(here, arm64, strict=True))
    return (_all("edgeq run: the same answer, word for word", same, len(here)),)


def compare_chats(here: ChatAnswer, arm64: ChatAnswer) -> tuple[Difference, ...]:
    """One streamed answer: its tokens, and how likely each was as long as they are the same."""
    pairs = list(zip(here.tokens, arm64.tokens, strict=False))
    common = next((at for at, (one, other) in enumerate(pairs) if one[0] != other[0]), len(pairs))
    apart = max((abs(one[1] - other[1]) for one, other in pairs[:common]), default=math.inf)
    most = max(len(here.tokens), len(arm64.tokens))
    return (
        _all("chat: the same tokens, from the first on", common, most),
        Difference(
            what="chat: largest difference of the logarithm of a token's probability",
            here="",
            arm64="",
            measured=apart,
            bound=LOGPROB,
            within=apart <= LOGPROB,
        ),
    )


def _all(what: str, count: int, of: int) -> Difference:
    return Difference(what=what, here="", arm64=f"{count} of {of}", within=count == of)
