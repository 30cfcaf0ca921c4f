"""What is judged, and what it is held beside: the contract, and the two that run on this machine."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from edgeq.errors import ModelError, first_line
from edgeq.export.tracing import quiet
from edgeq.judge.questions import AskedQuestion
from edgeq.quality.answerer import Answerer
from edgeq.quality.hf_answerer import HfAnswerer, chat_prompt
from edgeq.quality.logits import log_likelihoods
from edgeq.runtime.vlm.model import load_vlm

__all__ = ["LocalTarget", "Said", "Target", "bundle_target", "checkpoint_target"]


class Said(BaseModel):
    """One answer.

    Attributes:
        text: for people.
        logprobs: of each of its tokens, where they are told; natural logarithms.
        seconds: from the question to the answer's end.
        prompt_tokens, answer_tokens: by the target's count; None where it does not tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    logprobs: tuple[float, ...] = ()
    seconds: float = Field(ge=0)
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class Target(Protocol):
    """Something that answers questions about images, greedily.

    Attributes:
        identity: what tells it from others, so that its answers are not taken for another's.
        parallel: whether it may be asked by several threads at once.
    """

    identity: str
    parallel: bool

    def ask(self, question: AskedQuestion, png: bytes, max_new_tokens: int) -> Said:
        """What it answers.

        Args:
            question: with its text.
            png: its image.
            max_new_tokens: the longest answer.

        Raises:
            EngineError: it does not answer, or cannot.
        """
        ...


class LocalTarget:
    """A model on this machine.

    Args:
        identity: as `Target.identity`.
        answerer: asked one question at a time.
    """

    parallel = False

    def __init__(self, identity: str, answerer: Answerer) -> None:
        self.identity = identity
        self._answerer = answerer

    def ask(self, question: AskedQuestion, png: bytes, max_new_tokens: int) -> Said:
        """As `Target.ask`; how likely its tokens are is asked in a second pass, which the seconds leave out."""
        with Image.open(io.BytesIO(png)) as file:
            picture = file.convert("RGB")
        start = time.perf_counter()
        answer = self._answerer.answer(picture, question.question, max_new_tokens)
        seconds = time.perf_counter() - start
        ids = np.array(answer.token_ids, np.int64)
        likely = log_likelihoods(self._answerer.logits(picture, question.question, answer.token_ids), ids)
        return Said(text=answer.text, logprobs=tuple(likely.tolist()), seconds=seconds, answer_tokens=len(ids))


def bundle_target(bundle: Path, digest: str, threads: int | None) -> LocalTarget:
    """A vision-language bundle in ONNX Runtime and PyTorch on this machine.

    Args:
        bundle: every file of which was checked.
        digest: of its manifest.
        threads: of one operator; None takes every processor there is.

    Raises:
        ModelError: its language model cannot be loaded.
        EngineError: a package that it needs is not installed.
    """
    return LocalTarget(f"bundle {digest}", load_vlm(bundle, threads=threads))


def checkpoint_target(directory: Path) -> LocalTarget:
    """A Hugging Face directory, whole, in the types in which it is stored, with its own processor and chat template.

    Raises:
        ModelError: transformers cannot load it.
    """
    import transformers

    places = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            model = transformers.AutoModelForImageTextToText.from_pretrained(directory, dtype="auto", **places)
            processor = transformers.AutoProcessor.from_pretrained(directory, **places)
    except Exception as error:  # a checkpoint can be wrong in as many ways as there are models
        raise ModelError(f"transformers cannot load {directory}", causes=(first_line(error),)) from error
    return LocalTarget(
        f"checkpoint {directory.resolve()}", HfAnswerer(model, processor.tokenizer, chat_prompt(processor))
    )
