"""An image's features joined on the host, and as on the GPU: the same numbers, and nothing comes to the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from edgeq.families.base import Config, ImageFeatures, Layout, VisionGraph

__all__ = ["joined_everywhere"]


def joined_everywhere(graph: VisionGraph, made: Mapping[str, Any], layout: Layout, config: Config) -> ImageFeatures:
    """What a family's `join` gives of arrays, once torch's tensors gave the same, and tensors without numbers went too:
    NumPy, or whatever else reads on the host, cannot read those.
    """
    here = graph.join(made, layout, config)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in made.items()}
    there = graph.join(tensors, layout, config)
    nowhere = graph.join({name: tensor.to("meta") for name, tensor in tensors.items()}, layout, config)
    for array, tensor, meta in zip(_parts(here), _parts(there), _parts(nowhere), strict=True):
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        assert meta.is_meta
        assert array.shape == tuple(tensor.shape) == tuple(meta.shape)
        assert array.dtype == np.float32
        assert tensor.dtype == meta.dtype == torch.float32
        np.testing.assert_array_equal(tensor.numpy(), array)
    return here


def _parts(features: ImageFeatures) -> list[Any]:
    return [features.places, *features.deepstack, *(() if features.cross is None else (features.cross,))]
