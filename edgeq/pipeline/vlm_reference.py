"""The whole model as the reference, the canaries that it answers, and the questions that both are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from edgeq.bundle.vision_report import VISION_FP32
from edgeq.device import THIS_MACHINE, device_profile
from edgeq.errors import InputError, ModelError, first_line
from edgeq.export.tracing import quiet
from edgeq.families.base import output_rows
from edgeq.families.modules import VlmDescription
from edgeq.pipeline.vlm_options import VlmOptions
from edgeq.quality.answerer import Answerer
from edgeq.quality.hf_answerer import HfAnswerer, Prompt
from edgeq.quality.tasks.answer_questions import Questions
from edgeq.runtime.canary.canaries import CANARIES, CANARY_LIST, Canaries, Canary
from edgeq.runtime.vlm.model import VisionLanguageModel
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

if TYPE_CHECKING:
    import torch

__all__ = ["free_memory", "load_reference", "make_canaries", "reference_fits", "reference_prompt"]

_ROOM: Final = 2 << 30
"""What must stay free beside the weights: activations, and the pair that the whole model is compared with."""


def load_reference(source: Path, model: VlmDescription, prompter: Prompter, *, wanted: bool = True) -> Answerer | None:
    """The whole model in FP32 if this machine has the memory, else as it is stored, else None.

    Args:
        source: the model's directory.
        model: it, without weights.
        prompter: the bundle's, so that both see the same pixels and the same words.
        wanted: False loads nothing.

    Raises:
        ModelError: transformers cannot load it.
    """
    import torch

    if not wanted or not reference_fits(model):
        return None
    import transformers

    free = free_memory()

    kind = torch.float32 if free >= 4 * model.parameters + _ROOM else "auto"
    try:
        with quiet():
            whole = transformers.AutoModelForImageTextToText.from_pretrained(
                source, dtype=kind, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # a checkpoint can be wrong in as many ways as there are models
        reason = first_line(error)
        raise ModelError(f"transformers cannot load {source}", causes=(reason,)) from error
    return HfAnswerer(whole, prompter.tokenizer, reference_prompt(prompter), prompter.image_prompt.whole_features)


def reference_fits(model: VlmDescription) -> bool:
    """Whether this machine has the memory for the whole model as it is stored, in 16 bits."""
    return free_memory() >= 2 * model.parameters + _ROOM


def make_canaries(
    bundle: Path,
    photographs: Sequence[Image.Image],
    vlm: VisionLanguageModel,
    reference: Answerer | None,
    questions: Questions | None,
    options: VlmOptions,
) -> Canaries:
    """Write some photographs with their features from the FP32 graph and their answers.

    Args:
        bundle: with the FP32 graph still in it.
        photographs: the first of them are taken.
        vlm: the bundle's, which answers where there is no reference.
        reference: the whole model.
        questions: the first one is asked.
        options: how many canaries, and what to ask where there are no questions.
    """
    (bundle / CANARIES).mkdir()
    vision_encoder = VisionEncoder.open(bundle / VISION_FP32, threads=options.threads)
    question = questions.entries[0].question if questions else options.question
    answerer = reference or vlm
    made = []
    for number, photograph in enumerate(photographs[: options.canaries]):
        image, features = f"{number}.png", f"{number}.npy"
        photograph.save(bundle / CANARIES / image)
        seen = vision_encoder.encode(vlm.prompter.pixels(photograph).feeds)
        np.save(bundle / CANARIES / features, _smallest(output_rows(seen)))
        answer = answerer.answer(photograph, question, options.max_new_tokens)
        canary = Canary(
            image=image, features=features, question=question, answer=answer.text, token_ids=answer.token_ids
        )
        made.append(canary)
    canaries = Canaries(
        answered_by="reference" if reference else "bundle",
        max_new_tokens=options.max_new_tokens,
        canaries=tuple(made),
    )
    canaries.save(bundle / CANARY_LIST)
    return canaries


def _smallest(features: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, Any]:
    """Features as float16 where that holds them."""
    fits = np.abs(features).max() <= np.finfo(np.float16).max
    return features.astype(np.float16) if fits else features


def free_memory() -> int:
    """Bytes of memory that this machine has left; 0 where that is not known."""
    with suppress(InputError):
        return device_profile(THIS_MACHINE).budget_bytes
    return 0


def reference_prompt(prompter: Prompter) -> Prompt:
    """The bundle's prompts in the form that the whole model takes."""
    image_prompt = prompter.image_prompt

    def prompt(image: Image.Image, question: str) -> Mapping[str, torch.Tensor]:
        import torch

        pixels = prompter.pixels(image)
        ids = prompter.prompt(question, [pixels.layout]).ids
        given = image_prompt.whole([pixels.given], ids, prompter.settings.image_token_id)
        return {name: torch.from_numpy(np.asarray(value)) for name, value in (given | {"input_ids": ids[None]}).items()}

    return prompt
