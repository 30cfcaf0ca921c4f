"""What the small CLIP is taught: which captions belong to which pictures. Its losses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import cross_entropy, log_softmax, normalize
from transformers import CLIPModel, CLIPProcessor

from edgeq.demo.clip.captions import WORDINGS, captions
from edgeq.demo.clip.network import Sorter
from edgeq.demo.vlm.pool import Views
from edgeq.demo.vlm.report import FINDINGS

__all__ = ["Lessons", "contrast"]

_INDICES = {finding: index for index, finding in enumerate(FINDINGS)}


@dataclass(frozen=True)
class Lessons:
    """The model, the sorter that helps its vision tower, and the texts.

    Attributes:
        model: that learns.
        sorter: reads kind, place and severity from the vision tower.
        processor: the model's, for texts.
    """

    model: CLIPModel
    sorter: Sorter
    processor: CLIPProcessor

    def losses(self, views: Views, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The contrastive loss of pictures and captions, and the loss of sorting the pictures: float32 [] each.

        Every finding there is has one caption in the batch, all in one wording, which is drawn: so no picture lacks
        its caption, and none meets a wrong one that would be right.
        """
        ids = self._captions[rng.integers(WORDINGS)]
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.model.vision_model(views.pixels, output_hidden_states=True)
            pictures = self.model.visual_projection(seen.pooler_output)
            texts = self.model.text_projection(self.model.text_model(ids).pooler_output)
            # The patches before the last layer, which gathers them for the whole picture.
            guesses, place = self.sorter(seen.hidden_states[-2][:, 1:], seen.pooler_output)
        cosines = normalize(pictures.float(), dim=1) @ normalize(texts.float(), dim=1).T
        belongs = torch.tensor([_INDICES[finding] for finding in views.findings])
        classes = views.classes()
        pairs = [*zip(guesses, classes, strict=True), (place, classes[1])]
        sorting = torch.stack([cross_entropy(*pair) for pair in pairs]).sum()
        return contrast(cosines * self.model.logit_scale.exp(), belongs), sorting

    @cached_property
    def _captions(self) -> list[torch.Tensor]:
        """Token ids int64 [findings, tokens] of each wording, filled up with the end of text.

        No mask is needed: attention is causal, and features are taken at the first end of text.
        """
        wordings = zip(*map(captions, FINDINGS), strict=True)
        tokenizer = self.processor.tokenizer
        return [tokenizer(list(texts), padding=True, return_tensors="pt").input_ids for texts in wordings]


def contrast(logits: torch.Tensor, belongs: torch.Tensor) -> torch.Tensor:
    """CLIP's loss for pictures of which several may belong to one text: float32 [].

    The mean of two cross-entropies: of each picture's text among the texts, and of each text's pictures among the
    pictures, where all that belong to it share the probability equally. A text without a picture counts in the first.

    Args:
        logits: float32 [pictures, texts].
        belongs: int64 [pictures], the text of each.
    """
    pairs = torch.zeros_like(logits).scatter_(1, belongs[:, None], 1.0)
    counts = pairs.sum(dim=0)
    of_texts = -(pairs * log_softmax(logits, dim=0)).sum(dim=0)[counts > 0] / counts[counts > 0]
    return (cross_entropy(logits, belongs) + of_texts.mean()) / 2
