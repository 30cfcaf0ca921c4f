"""SigLIP 2's NaFlex vision encoder at one resolution: pixels in, as other vision encoders take them.

NaFlex (Tschannen et al. 2025, arXiv 2502.14786) takes an image as a list of patches, with the grid that they come from
and a mask for those that only fill up. At one grid nothing fills up: the mask is of ones and falls away, the table of
positions, resized to the grid, is a constant, and the linear layer over patches is a convolution. Facts of
transformers' `Siglip2VisionModel` and `Siglip2ImageProcessor`, whose patches hold rows, columns and colours in this
order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["at_one_resolution", "by_patches"]


def at_one_resolution(encoder: Any, size: tuple[int, int]) -> torch.nn.Module:
    """A network from pixels float32 [n, 3, height, width] to image embeddings float32 [n, dimension].

    Args:
        encoder: `Siglip2VisionModel` with its pooling head; its layers are shared.
        size: height and width in pixels, whole patches.
    """
    import torch

    class OneResolution(torch.nn.Module):
        """The encoder without masks."""

        positions: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.patch_embedding = _as_convolution(encoder.embeddings)
            self.register_buffer("positions", _positions(encoder.embeddings, size))
            self.encoder, self.post_layernorm, self.head = encoder.encoder, encoder.post_layernorm, encoder.head

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            """[n, 3, height, width] to [n, dimension]."""
            patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
            hidden = self.encoder(inputs_embeds=patches + self.positions).last_hidden_state
            pooled: torch.Tensor = self.head(self.post_layernorm(hidden))
            return pooled

    return OneResolution()


def by_patches(encoder: Any, run: Callable[..., Any]) -> torch.nn.Module:
    """The same from transformers' own network, given the patches of its image processor, their grid and a mask of ones.

    Args:
        encoder: `Siglip2VisionModel`.
        run: it, or a model's `get_image_features`.
    """
    import torch

    class ByPatches(torch.nn.Module):
        """Nothing of the encoder is made again."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            """[n, 3, height, width] to [n, dimension]."""
            patch = encoder.config.patch_size
            count, colours, height, width = pixel_values.shape
            rows, columns = height // patch, width // patch
            cut = pixel_values.reshape(count, colours, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
            made = run(
                pixel_values=cut.reshape(count, rows * columns, patch * patch * colours),
                pixel_attention_mask=torch.ones((count, rows * columns), dtype=torch.int32),
                spatial_shapes=torch.tensor([[rows, columns]] * count),
            )
            pooled: torch.Tensor = made.pooler_output
            return pooled

    return ByPatches()


def _as_convolution(embeddings: Any) -> torch.nn.Module:
    """The linear layer over patches [row, column, colour] as a convolution over pixels."""
    import torch

    given, patch, colours = embeddings.patch_embedding, embeddings.patch_size, embeddings.config.num_channels
    made = torch.nn.Conv2d(colours, given.out_features, patch, stride=patch)
    weight = given.weight.detach().reshape(given.out_features, patch, patch, colours)
    made.weight = torch.nn.Parameter(weight.permute(0, 3, 1, 2).contiguous(), requires_grad=False)
    made.bias = torch.nn.Parameter(given.bias.detach().clone(), requires_grad=False)
    return made


def _positions(embeddings: Any, size: tuple[int, int]) -> torch.Tensor:
    """What transformers makes of the table for a grid, float32 [1, patches, width]."""
    import torch

    rows, columns = (edge // embeddings.patch_size for edge in size)
    side = embeddings.position_embedding_size
    table = embeddings.position_embedding.weight.detach().reshape(side, side, -1)
    resized: torch.Tensor = embeddings.resize_positional_embeddings(
        table, torch.tensor([[rows, columns]]), max_length=rows * columns
    )
    return resized
