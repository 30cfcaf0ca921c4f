"""What transformers' image processors take and leave in a process, beside what is planned for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeq.families.base import ImageCost
from edgeq.plan.activations import photograph_bytes, pixel_bytes

STATISTICS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
QWEN = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
QWEN_SIZE = {"size": {"shortest_edge": 256**2, "longest_edge": 4096**2}}
QWEN_VISION = {"hidden_size": 64, "num_heads": 4, "intermediate_size": 64, "patch_size": 16, "temporal_patch_size": 2}
SQUARE = {"height": 336, "width": 336}
GRIDS = [[336 * rows, 336 * columns] for rows in range(1, 5) for columns in range(1, 5)]
TILES = {"image_processor_type": "LlavaNextImageProcessor", "size": SQUARE, "crop_size": SQUARE}
TILED = {"hidden_size": 64, "num_heads": 4, "intermediate_size": 64, "patch_size": 14}
ASPECTS = {"image_processor_type": "MllamaImageProcessor", "size": {"height": 560, "width": 560}, "max_image_tiles": 4}

CHILD = """
import json, sys
from pathlib import Path
from PIL import Image
from edgeq.model.images.image_processor import load_image_processor

def memory(name):
    lines = dict(line.split(":") for line in open("/proc/self/status").read().splitlines())
    return int(lines[name].split()[0]) * 1024

processor = load_image_processor(Path(sys.argv[1]))
processor(images=Image.new("RGB", (64, 64)), return_tensors="np")  # what is imported for a first image
Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the image from now on
before = memory("VmRSS")
image = Image.effect_noise((int(sys.argv[2]), int(sys.argv[3])), 64).convert("RGB")
given = processor(images=image, return_tensors="np")
print(json.dumps([memory("VmHWM") - before, memory("VmRSS") - before]))
"""


@pytest.mark.parametrize(
    ("config", "vision", "size", "cost"),
    [
        ({**QWEN, **QWEN_SIZE}, QWEN_VISION, (720, 1280), ImageCost(880, 1, 1, 4 * 880)),
        ({**TILES, "image_grid_pinpoints": GRIDS}, TILED, (1080, 1920), ImageCost(1, 9, 9, 577)),
        (ASPECTS, TILED, (1080, 1920), ImageCost(1, 4, 1, 4 * 1600)),
    ],
)
def test_an_image_in_its_processor(
    config: dict[str, Any], vision: dict[str, Any], size: tuple[int, int], cost: ImageCost, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, **STATISTICS}))
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(size[1]), str(size[0])]
    peak, left = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    planned = photograph_bytes(size) + pixel_bytes(vision, cost, widens=True)
    assert left <= peak <= 1.25 * planned, "a peak before the encoder runs, and what is left when it does"
    assert planned <= 2 * left
