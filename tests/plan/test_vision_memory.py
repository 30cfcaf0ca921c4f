"""What ONNX Runtime takes on a CPU while a vision graph in FP16 runs, beside what is planned for it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from traced_vision import traced

from edgeq.families.base import PIXELS, Arrays, ImageCost
from edgeq.families.registry import exportable
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.plan.activations import vision_bytes
from edgeq.plan.rules import plan_vision
from edgeq.quantize.fp16.convert import to_fp16

HIDDEN, HEADS, PATCH = 64, 8, 14
ROWS = 36
SIDE = 16 * PATCH
TILES = 4
TILED = TILES * 264
"""Patches of four tiles of 16 x 16, a class token in each, filled up to a multiple of eight."""

TEXT = {"hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


@dataclass(frozen=True)
class Kind:
    """A model whose attention scores are most of what its encoder holds.

    Attributes:
        config: of the whole model.
        given: what an image processor gives for an image.
        cost: of that image.
    """

    config: Any
    given: Arrays
    cost: ImageCost


def qwen() -> Kind:
    """Without a mask: 36 x 36 patches that all attend to all."""
    vision = {
        **{"depth": 3, "hidden_size": HIDDEN, "intermediate_size": 128, "num_heads": HEADS, "out_hidden_size": HIDDEN},
        **{"patch_size": PATCH, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    }
    pixels = np.ones((ROWS**2, 3 * 2 * PATCH**2), np.float32)
    return Kind(
        transformers.Qwen3VLConfig(vision_config=vision, text_config=TEXT),
        {PIXELS: pixels, "image_grid_thw": np.array([[1, ROWS, ROWS]])},
        ImageCost(tokens=ROWS**2 // 4, tiles=1, sequences=1, sequence=ROWS**2),
    )


def mllama() -> Kind:
    """With a mask, which all layers add to their scores."""
    vision = {
        **{"hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": 3, "num_global_layers": 1},
        **{"attention_heads": HEADS, "image_size": SIDE, "patch_size": PATCH, "max_num_tiles": TILES},
        **{"intermediate_layers_indices": [0], "vision_output_dim": 2 * HIDDEN},
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1], [2, 2]],
    }
    text = {**TEXT, "cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    return Kind(
        transformers.MllamaConfig(vision_config=vision, text_config=text),
        {
            PIXELS: np.ones((1, 1, TILES, 3, SIDE, SIDE), np.float32),
            "aspect_ratio_ids": np.array([[4]]),
            "aspect_ratio_mask": np.ones((1, 1, TILES), np.int64),
        },
        ImageCost(tokens=1, tiles=TILES, sequences=1, sequence=TILED, mask=TILED**2),
    )


@pytest.mark.parametrize("make", [qwen, mllama])
def test_an_image_and_another_of_the_same_size(make: Any, tmp_path: Path) -> None:
    kind = make()
    first, second = taken(kind, tmp_path)
    features = kind.cost.tokens * HIDDEN  # about
    planned = vision_bytes(kind.config.to_dict()["vision_config"], kind.cost, features=features, widens=True)
    assert first <= 1.1 * planned, "the estimate is not below; the first has pages of the runtime's own in it"
    assert planned <= 1.5 * first, "nor far above"
    assert second <= 1.25 * first, "another image takes the same memory again"


def taken(kind: Kind, folder: Path) -> tuple[int, int]:
    """Bytes that a process takes beside the opened graph, at most: for an image, and for that and another."""
    graph, config = exportable(kind.config.model_type, kind.config.vision_config.to_dict()), kind.config.to_dict()
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(kind.config).eval().model
    parts = dict(model.named_children())
    vision = parts.get("visual", parts.get("vision_model"))
    feeds = graph.feeds(kind.given, config)
    several = {name: np.concatenate((array, array)) for name, array in feeds.items()} if graph.pictures else feeds
    exported = traced(graph, vision, parts.get("multi_modal_projector"), several, config)
    save_onnx(to_fp16(exported, plan_vision(exported)), folder / "vision.onnx")
    np.savez(folder / "feeds.npz", **feeds)  # type: ignore[arg-type]  # its stub takes them for a flag
    code = (
        "import json, sys, numpy\n"
        "from pathlib import Path\n"
        "from edgeq.runtime.vlm.vision_encoder import VisionEncoder\n"
        "def memory(name):\n"
        "    lines = dict(line.split(':') for line in open('/proc/self/status').read().splitlines())\n"
        "    return int(lines[name].split()[0]) * 1024\n"
        "feeds = dict(numpy.load(sys.argv[2]))\n"
        "encoder = VisionEncoder.open(Path(sys.argv[1]), threads=1)\n"
        "before, peaks = memory('VmRSS'), []\n"
        "for _ in range(2):\n"
        "    encoder.encode(feeds)\n"
        "    peaks.append(memory('VmHWM') - before)\n"
        "print(json.dumps(peaks))\n"
    )
    command = [sys.executable, "-c", code, str(folder / "vision.onnx"), str(folder / "feeds.npz")]
    first, second = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return first, second
