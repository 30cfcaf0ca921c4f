"""What the model is taught: to sort what it sees, and then to say it. Losses, and how often it is right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from edgeq.demo.scenes import SIZE
from edgeq.demo.vlm.network import Guesses, Sorter, patch_features
from edgeq.demo.vlm.pool import Views
from edgeq.demo.vlm.report import FINDINGS, QUESTIONS, DefectFinding, report
from edgeq.demo.vlm.tokens import prompt

__all__ = ["Lessons"]

_NO_TOKEN = -100
"""Where nothing is learned: after the end of an answer."""


@dataclass(frozen=True)
class Lessons:
    """The model, the sorter that helps its tower at first, and the texts.

    Attributes:
        model: that learns.
        sorter: reads kind, place and severity from the tower's features.
        processor: the model's, for texts.
    """

    model: LlavaForConditionalGeneration
    sorter: Sorter
    processor: LlavaProcessor

    def sorting_loss(self, views: Views) -> torch.Tensor:
        """Cross-entropy of kind, place and severity as the sorter reads them from the tower's features: float32 []."""
        guesses, classes = self._guesses(views), views.classes()
        return torch.stack([cross_entropy(*pair) for pair in zip(guesses, classes, strict=True)]).sum()

    def report_loss(self, views: Views, question: str) -> torch.Tensor:
        """Cross-entropy of every token of the answers, and of nothing else: float32 []."""
        logits, answers = self._answer_logits(views, question)
        return cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=_NO_TOKEN)

    @torch.inference_mode()
    def sorted_right(self, views: Views) -> int:
        """How many scenes the sorter reads entirely right."""
        right = torch.ones(len(views.findings), dtype=torch.bool)
        for logits, classes in zip(self._guesses(views), views.classes(), strict=True):
            right &= (logits.argmax(dim=1) == classes) | (classes == _NO_TOKEN)
        return int(right.sum())

    @torch.inference_mode()
    def reported_right(self, views: Views, question: str) -> int:
        """How many answers are entirely right.

        Greedy decoding gives an answer if and only if each of its tokens is the likeliest after those before it, so
        one pass over the right answers tells.
        """
        logits, answers = self._answer_logits(views, question)
        return int(((logits.argmax(dim=2) == answers) | (answers == _NO_TOKEN)).all(dim=1).sum())

    def _guesses(self, views: Views) -> Guesses:
        """The sorter's logits."""
        with torch.autocast("cpu", torch.bfloat16):
            guesses: Guesses = self.sorter(patch_features(self.model, views.pixels))
        return guesses

    def _answer_logits(self, views: Views, question: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [n, tokens, vocabulary] float32 for the answers, and the answers [n, tokens] themselves.

        Answers are filled up on the right. No mask is needed: attention is causal, and what is filled is not learned.
        """
        answers = torch.nn.utils.rnn.pad_sequence(
            [self._answers[finding] for finding in views.findings], batch_first=True, padding_value=_NO_TOKEN
        )
        asked = self._prompts[question].expand(len(answers), -1)
        told = answers[:, :-1].clamp(min=0)  # of what is filled up, any token will do
        with torch.autocast("cpu", torch.bfloat16):
            output = self.model(
                input_ids=torch.cat((asked, told), dim=1),
                pixel_values=views.pixels,
                logits_to_keep=answers.shape[1],
                use_cache=False,
            )
        return output.logits.float(), answers

    @cached_property
    def _prompts(self) -> dict[str, torch.Tensor]:
        """Token ids [1, n] of every question, with the places of the picture in them."""
        blank = np.zeros((SIZE, SIZE, 3), np.uint8)
        return {
            question: self.processor(images=blank, text=prompt(self.processor, question), return_tensors="pt").input_ids
            for question in QUESTIONS
        }

    @cached_property
    def _answers(self) -> dict[DefectFinding, torch.Tensor]:
        """Token ids [n] of every report and the end of text."""
        tokenizer = self.processor.tokenizer
        texts = {finding: f" {report(finding)}{tokenizer.eos_token}" for finding in FINDINGS}
        return {finding: torch.tensor(tokenizer(text).input_ids) for finding, text in texts.items()}
