"""What transformers' image processors take and leave in a process, beside what is planned for it."""

from __future__ import annotations

import json
import subprocess
import sys
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

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, int], ImageCost]] = {
    "qwen": ({**QWEN, **QWEN_SIZE}, QWEN_VISION, (720, 1280), ImageCost(880, 1, 1, 4 * 880)),
    "tiles": ({**TILES, "image_grid_pinpoints": GRIDS}, TILED, (1080, 1920), ImageCost(1, 9, 9, 577)),
    "mllama": (ASPECTS, TILED, (1080, 1920), ImageCost(1, 4, 1, 4 * 1600)),
}
"""Of each the image processor's config, the encoder's, height and width of a photograph, and what that costs."""

CHILD = """
import json, os, sys
from pathlib import Path
from PIL import Image
from edgeq.model.images.image_processor import load_image_processor

def memory(name):
    lines = dict(line.split(":") for line in open("/proc/self/status").read().splitlines())
    return int(lines[name].split()[0]) * 1024

def opened(folder):
    processor = load_image_processor(Path(folder))
    processor(images=Image.new("RGB", (64, 64)), return_tensors="np")  # what is imported for a first image
    return processor

def taken(folder, height, width):
    processor = opened(folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the image from now on
    before = memory("VmRSS")
    image = Image.effect_noise((width, height), 64).convert("RGB")
    given = processor(images=image, return_tensors="np")
    return [memory("VmHWM") - before, memory("VmRSS") - before]

opened(sys.argv[1].split(",")[0])
for case in sys.argv[1:]:  # each in a process of its own, which has all imports
    folder, height, width = case.split(",")
    child = os.fork()
    if child == 0:
        print(json.dumps(taken(folder, int(height), int(width))), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Bytes that a process takes for an image in its processor, at most, and those that are left then."""
    arguments = []
    for name, (config, _, size, _) in CASES.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "preprocessor_config.json").write_text(json.dumps({**config, **STATISTICS}))
        arguments.append(f"{folder},{size[0]},{size[1]}")
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_an_image_in_its_processor(name: str, taken: dict[str, tuple[int, int]]) -> None:
    _, vision, size, cost = CASES[name]
    peak, left = taken[name]
    planned = photograph_bytes(size) + pixel_bytes(vision, cost, widens=True)
    assert left <= peak <= 1.25 * planned, "a peak before the encoder runs, and what is left when it does"
    assert planned <= 2 * left
