"""PaliGemma: what an image costs, and how it is put before the language model."""

from __future__ import annotations

import numpy as np
from vlm_costs import golden_vlm

from edgeq.families.registry import image_cost, runnable

SIGLIP = {"image_size": 224, "patch_size": 14, "model_type": "siglip_vision_model"}


def test_an_image_has_one_size() -> None:
    pali = golden_vlm("llava-1.5-7b", model_type="paligemma", config={}, vision=SIGLIP)
    assert image_cost(pali, (9, 9)).tokens == 16 * 16


def test_image_and_question_see_each_other_from_position_one() -> None:
    prompt = runnable("paligemma")
    assert (prompt.attention, prompt.template) == ("prompt", False)
    assert prompt.positions(np.zeros(4, np.int64), 1, ()).tolist() == [1, 2, 3, 4]
