"""The small CLIP: two towers of three layers, 128 wide, and 64 numbers for a picture or a text; 1.3 million parameters.

It is `CLIPModel` as it is (Radford et al., 2021, arXiv:2103.00020), so that whatever holds for the large ones can be
tried on it.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPVisionConfig

from edgeq.demo.clip.tokens import CONTEXT
from edgeq.demo.scenes import KINDS, SIZE
from edgeq.demo.vlm.network import Guesses
from edgeq.demo.vlm.report import PLACES, SEVERITIES

__all__ = ["FEATURES", "PATCH", "Sorter", "build_clip"]

PATCH = 8
"""Side of a patch in pixels."""

FEATURES = 64
"""How many numbers a picture or a text becomes."""

_WIDTH, _LAYERS, _HEADS = 128, 3, 4

_LOUDER = 10.0
"""How much larger than in transformers the first position embeddings are: there a patch's pixels drown its place."""


def build_clip(processor: CLIPProcessor, seed: int) -> CLIPModel:
    """An untrained model in float32 for the tokens and pictures of this processor; its weights come from the seed."""
    config = CLIPConfig(
        text_config=_text(processor).to_dict(), vision_config=_vision().to_dict(), projection_dim=FEATURES
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight.mul_(_LOUDER)
    return model


def _text(processor: CLIPProcessor) -> CLIPTextConfig:
    """The text tower. Features are taken at the first end of text, as transformers does unless its id is 2."""
    tokenizer = processor.tokenizer
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        projection_dim=FEATURES,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vision() -> CLIPVisionConfig:
    """The vision tower: 64 patches of 8 x 8 pixels and a place for the whole picture."""
    return CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        projection_dim=FEATURES,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        image_size=SIZE,
        patch_size=PATCH,
    )


class Sorter(nn.Module):
    """Reads a finding from the vision tower, so that it learns to see while it learns what words mean.

    It is thrown away after training. The place it reads twice: the patches in order tell it easily, and the features of
    the whole picture must learn to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        self.kind = nn.Linear(_WIDTH, len(KINDS))
        self.place = nn.Linear((SIZE // PATCH) ** 2 * _WIDTH, len(PLACES))
        self.severity = nn.Linear(_WIDTH, len(SEVERITIES))
        self.place_of_whole = nn.Linear(_WIDTH, len(PLACES))

    def forward(self, patches: torch.Tensor, whole: torch.Tensor) -> tuple[Guesses, torch.Tensor]:
        """Logits from patches [n, patches, width], and those of the place float32 [n, 9] from the whole [n, width]."""
        patches = self.norm(patches)
        mean = patches.mean(dim=1)
        guesses = Guesses(self.kind(mean).float(), self.place(patches.flatten(1)).float(), self.severity(mean).float())
        return guesses, self.place_of_whole(whole).float()
