"""Heads of DETR, YOLOS, RT-DETR and Segformer of transformers, with random weights, beside its own post-processing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from edgeq.model.heads.detector import Limits
from edgeq.model.heads.masks import recognise_masks
from edgeq.model.heads.recognise import recognise_head
from edgeq.model.heads.seen import Seen

SIZE = (64, 96)


def detr() -> Any:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        num_queries=7,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_labels=5,
    )
    return transformers.DetrForObjectDetection(config)


def yolos() -> Any:
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=list(SIZE),
        patch_size=16,
        num_detection_tokens=9,
        num_labels=4,
    )
    return transformers.YolosForObjectDetection(config)


def rt_detr() -> Any:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1] * 4,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[16, 16, 32],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        d_model=16,
        num_queries=10,
        decoder_ffn_dim=16,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_in_channels=[16] * 3,
        num_labels=6,
        anchor_image_size=None,
    )
    return transformers.RTDetrForObjectDetection(config)


def given(network: Any) -> Any:
    with torch.no_grad():
        return network.eval()(pixel_values=torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("make", "processor", "scores"),
    [
        (detr, "DetrImageProcessorPil", "softmax"),
        (yolos, "YolosImageProcessorPil", "softmax"),
        (rt_detr, "RTDetrImageProcessorPil", "sigmoid"),
    ],
)
def test_boxes_are_those_of_transformers(make: Any, processor: str, scores: str, one_torch_thread: None) -> None:  # noqa: ARG001
    torch.manual_seed(0)
    network = make()
    made = given(network)
    outputs: dict[str, NDArray[np.float32]] = {name: made[name].numpy() for name in ("logits", "pred_boxes")}
    labels = tuple(map(str, range(network.config.num_labels)))
    head = recognise_head(Seen({name: value.shape for name, value in outputs.items()}, *SIZE, labels, {}, outputs))
    assert (head.kind, head.scores, head.classes) == ("detr", scores, len(labels))
    threshold = float(np.median([float(one.max()) for one in chances(made.logits, scores)]))
    post = getattr(transformers, processor)().post_process_object_detection
    wanted = post(made, threshold=threshold, target_sizes=[SIZE, SIZE])
    # of the sigmoid's pairs transformers keeps as many as there are queries
    limits = Limits(threshold, detections=outputs["logits"].shape[1], every_class=scores == "sigmoid")
    found = head.detect((outputs["logits"], outputs["pred_boxes"]), limits)
    assert sum(map(len, found)) > 0
    for ours, theirs in zip(found, wanted, strict=True):
        order = np.argsort(-theirs["scores"].numpy(), kind="stable")
        np.testing.assert_allclose(ours.scores, theirs["scores"].numpy()[order], atol=1e-6)
        np.testing.assert_array_equal(ours.classes, theirs["labels"].numpy()[order])
        np.testing.assert_allclose(ours.boxes, theirs["boxes"].numpy()[order], atol=1e-3)


def chances(logits: torch.Tensor, scores: str) -> list[torch.Tensor]:
    """Of each image, every score but that of no object."""
    return list(logits.sigmoid() if scores == "sigmoid" else logits.softmax(-1)[..., :-1])


def test_classes_of_pixels_are_those_of_torch(one_torch_thread: None) -> None:  # noqa: ARG001
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=5
    )
    logits = given(transformers.SegformerForSemanticSegmentation(config)).logits
    assert logits.shape == (2, 5, SIZE[0] // 4, SIZE[1] // 4)
    head = recognise_masks(Seen({"logits": (None, *logits.shape[1:])}, *SIZE, tuple("abcde")))
    wanted = torch.nn.functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False).argmax(1)
    same = [
        float((ours == theirs).mean())
        for ours, theirs in zip(head.class_maps(logits.numpy()), wanted.numpy(), strict=True)
    ]
    assert min(same) > 0.999
