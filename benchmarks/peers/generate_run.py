"""Answers by `generate` of transformers on a bundle, one request at a time: what a script without a service does.

Started once, it answers each line on stdin, `{"image": PATH, "question": ..., "tokens": N}`, with a line on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from edgeq.families.base import ImagePrompt, sequential
from edgeq.model.images.decode import decode_image
from edgeq.runtime.vlm.model import VisionLanguageModel, open_vlm


class _Clock:
    """A logits processor that changes nothing, and notes when the first token could be chosen."""

    def __init__(self) -> None:
        self.first = 0.0

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.first = self.first or time.perf_counter()
        return scores


def main() -> None:
    """Answer until stdin ends."""
    bundle, threads = Path(sys.argv[1]), int(sys.argv[2])
    vlm = open_vlm(bundle, threads=threads)
    because = refusal(vlm.prompter.settings.model_type, vlm.prompter.image_prompt)
    if because is not None:
        print(json.dumps({"ready": False, "because": because}))
        return
    for layer in vlm.language.model.modules():
        vars(layer).pop("forward", None)  # bitsandbytes' own again, not edgeq.runtime.vlm.linear's
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(vlm, json.loads(line))), flush=True)


def refusal(model_type: str, prompt: ImagePrompt) -> str | None:
    """Why a family cannot be compared: its prompt is more than embeddings, and it would be answered wrongly."""
    if prompt.attention == "causal" and prompt.positions is sequential and prompt.cross is None:
        return None
    return (
        f"{model_type}: `generate` is given embeddings alone here, with positions that count up, and each token sees "
        "those before it; compare with LLaVA, LLaVA-NeXT, LLaVA-OneVision, Idefics3 or InternVL"
    )


def _answer(vlm: VisionLanguageModel, asked: dict[str, Any]) -> dict[str, Any]:
    start, clock, settings = time.perf_counter(), _Clock(), vlm.prompter.settings
    image = decode_image(Path(asked["image"]).read_bytes(), "the image")
    pixels = vlm.prompter.pixels(image)
    prompt = vlm.prompter.prompt(asked["question"], [pixels.layout])
    features = vlm.prompter.joined(vlm.vision_encoder.encode(pixels.feeds), pixels.layout)
    words = vlm.language.piece(prompt, [vlm.language.to_device(features)], 0, len(prompt.ids)).embeddings
    said = vlm.language.model.generate(
        inputs_embeds=words,
        max_new_tokens=min(asked["tokens"], settings.context - len(prompt.ids)),
        do_sample=False,
        eos_token_id=list(settings.stop),
        pad_token_id=settings.stop[0],
        logits_processor=[clock],
    )[0].tolist()
    end = time.perf_counter()
    return {"text": vlm.prompter.text(said), "tokens": len(said), "first": clock.first - start, "total": end - start}


if __name__ == "__main__":
    main()
