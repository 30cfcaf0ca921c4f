"""Operations of CLIP and SigLIP by hand, and what they are of a device's peak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Edgeq

from edgeq.api.workshop.describe import plan_queries
from edgeq.errors import InputError

DEVICE = "orin-nx-16gb"

CLIP_B_32: dict[str, Any] = {"model_type": "clip", "text_config": {}, "vision_config": {}}
"""transformers' defaults are ViT-B/32's."""

CLIP_L_14: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
}

SIGLIP_2: dict[str, Any] = {"model_type": "siglip2", "text_config": {}, "vision_config": {}}
"""NaFlex: 256 patches of 16 x 16."""

SIGLIP_B_16: dict[str, Any] = {"model_type": "siglip", "text_config": {}, "vision_config": {}}
"""Likewise siglip-base-patch16-224's."""


def written(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "operations"),
    [
        # 12 layers of 12 x 512^2 weights: 37,748,736, two operations each a token; attention 12 x 4 n^2 x 512; the
        # projection 2 x 512^2. The image has 49 patches and one place more, 12 layers of 12 x 768^2 = 84,934,656 in
        # all, and patches of 3 x 32^2 numbers.
        (
            CLIP_B_32,
            [
                2 * 12 * 37_748_736 + 12 * 4 * 144 * 512 + 524_288,
                2 * 77 * 37_748_736 + 12 * 4 * 5929 * 512 + 524_288,
                2 * 50 * 84_934_656 + 12 * 4 * 2500 * 768 + 2 * 49 * 3072 * 768 + 2 * 768 * 512,
            ],
        ),
        # Text as wide as B/32's images; images of 256 patches of 3 x 14^2, 24 layers of 12 x 1024^2: 301,989,888.
        (
            CLIP_L_14,
            [
                2 * 12 * 84_934_656 + 12 * 4 * 144 * 768 + 2 * 768 * 768,
                2 * 77 * 84_934_656 + 12 * 4 * 5929 * 768 + 2 * 768 * 768,
                2 * 257 * 301_989_888 + 24 * 4 * 66_049 * 1024 + 2 * 256 * 588 * 1024 + 2 * 1024 * 768,
            ],
        ),
        # Texts are always 64 tokens. The head asks 196 patches one question: keys and values of all, query and output
        # of one, attention of one, and a feed-forward layer.
        (
            SIGLIP_B_16,
            [
                2 * 64 * 84_934_656 + 12 * 4 * 4096 * 768 + 2 * 768 * 768,
                2 * 196 * 84_934_656
                + 12 * 4 * 38_416 * 768
                + 2 * 196 * 768 * 768
                + 2 * 196 * 768 * 1536
                + 2 * 768 * 1536
                + 4 * 196 * 768
                + 4 * 768 * 3072,
            ],
        ),
        (
            SIGLIP_2,
            [
                2 * 64 * 84_934_656 + 12 * 4 * 4096 * 768 + 2 * 768 * 768,
                2 * 256 * 84_934_656
                + 12 * 4 * 65_536 * 768
                + 2 * 256 * 768 * 768
                + 2 * 256 * 768 * 1536
                + 2 * 768 * 1536
                + 4 * 256 * 768
                + 2 * 2 * 768 * 3072,
            ],
        ),
    ],
)
def test_operations(tmp_path: Path, config: dict[str, Any], operations: list[int]) -> None:
    found = plan_queries(written(tmp_path, config), DEVICE, 1000)
    assert [each.operations for each in found.encoders] == operations


def test_a_thousand_a_second_on_orin_nx(tmp_path: Path) -> None:
    """38.4 INT8 TOPS: 32 tensor cores of 1,024 operations at 1.173 GHz; half as many in FP16; 102.4 GB/s."""
    small, large = (plan_queries(written(tmp_path, config), DEVICE, 1000).encoders for config in (CLIP_B_32, CLIP_L_14))
    assert [round(100 * each.share) for each in small] == [2, 16, 46]
    assert [round(100 * each.share) for each in large] == [5, 35, 843]
    assert [each.possible for each in large] == [True, True, False]
    # 37.7 + 0.3 million INT8 weights, 102.4 GB/s
    assert small[0].most_alone == pytest.approx(102.4e9 / 38_010_880)
    assert large[2].most_alone == large[2].most == pytest.approx(32 * 512 * 1.173e9 / 162_025_537_536)


def test_the_command_says_what_is_impossible(edgeq: Edgeq, tmp_path: Path) -> None:
    asked = ("plan", written(tmp_path, CLIP_L_14), "--device", DEVICE, "--queries-per-second")
    shown = edgeq(*asked, "1000")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.count("impossible") == 1
    assert "843 %" in shown.out
    assert "not a measurement" in shown.out
    shares = [each["share"] for each in json.loads(edgeq(*asked, "100", "--json").out)["encoders"]]
    assert max(shares) == pytest.approx(0.843, abs=0.0005)


@pytest.mark.parametrize(
    "flags",
    [
        ["--queries-per-second", "1000"],
        ["--queries-per-second", "0", "--device", DEVICE],
        ["--queries-per-second", "1000", "--device", DEVICE, "--batch", "2"],
    ],
)
def test_flags_that_do_not_go_together(edgeq: Edgeq, tmp_path: Path, flags: list[str]) -> None:
    assert edgeq("plan", written(tmp_path, CLIP_B_32), *flags).status == 2


def test_what_is_not_known(tmp_path: Path) -> None:
    for device in ("this-machine", "agx-thor-128gb"):  # of Thor no figure in INT8 is published
        with pytest.raises(InputError, match=f"the peak of {device}"):
            plan_queries(written(tmp_path, CLIP_B_32), device, 1)
    with pytest.raises(InputError, match="no model of a text and a vision encoder"):
        plan_queries(written(tmp_path, {"model_type": "vit"}), DEVICE, 1)
