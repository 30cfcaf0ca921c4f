"""The vision families of transformers: a small config for each, and the family's own image processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["FAMILIES", "SkippedError", "Variant", "draw_statistics", "make"]

LABELS = 10


class SkippedError(Exception):
    """A network that cannot be made here, and why."""


@dataclass(frozen=True)
class Variant:
    """One model class of a family, small.

    Attributes:
        model: its class in transformers.
        config: settings that make it small.
        size: height and width of its images.
        processor: class of its image processor; empty for the family's own.
        kept: settings of the processor that are not changed.
    """

    model: str
    config: Mapping[str, Any] = field(default_factory=dict)
    size: int = 64
    processor: str = ""


_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}
_SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4, "image_size": 64, "patch_size": 4}
_DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}
_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
_SEGFORMER: dict[str, Any] = {
    "hidden_sizes": [16, 16, 32, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 32,
}
_DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 10,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}


def _resnet_backbone(stages: tuple[str, ...] = ("stage4",)) -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 16, 32, 32], depths=[1] * 4, layer_type="basic", out_features=list(stages)
    )


def _vitpose_backbone() -> Any:
    from transformers import VitPoseBackboneConfig

    sides = {"image_size": [64, 64], "patch_size": [16, 16]}
    return VitPoseBackboneConfig(**{**_VIT, **sides}, out_indices=[2])


def _dinov2_backbone() -> Any:
    from transformers import Dinov2Config

    return Dinov2Config(**{**_DINO, "num_hidden_layers": 4}, out_indices=[1, 2, 3, 4], reshape_hidden_states=False)


def _backbones() -> dict[str, Mapping[str, Any]]:
    """Settings that hold another config, made when transformers is there."""
    from transformers import ConvNextConfig, SwinConfig

    swin = SwinConfig(
        **{**_SWIN, "depths": [1] * 4, "num_heads": [2] * 4}, out_features=[f"stage{n}" for n in range(1, 5)]
    )
    convnext = ConvNextConfig(**_STAGES, out_features=[f"stage{n}" for n in range(1, 5)])
    rt = {
        "encoder_hidden_dim": 32,
        "encoder_in_channels": [16, 32, 32],
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_in_channels": [32, 32, 32],
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "num_queries": 10,
        "decoder_n_points": 2,
        "num_denoising": 0,
        "anchor_image_size": None,
    }
    from transformers import RTDetrResNetConfig

    rt_backbone = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 32, 32],
        depths=[1] * 4,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return {
        "DetrForObjectDetection": {**_DETR, "backbone_config": _resnet_backbone()},
        "ConditionalDetrForObjectDetection": {**_DETR, "backbone_config": _resnet_backbone()},
        "DeformableDetrForObjectDetection": {
            **_DETR,
            "backbone_config": _resnet_backbone(("stage2", "stage3", "stage4")),
            "num_feature_levels": 3,
        },
        "RTDetrForObjectDetection": {**rt, "backbone_config": rt_backbone},
        "RTDetrV2ForObjectDetection": {**rt, "backbone_config": rt_backbone},
        "DPTForDepthEstimation": {
            **_VIT,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 16,
            "is_hybrid": False,
            "backbone_config": None,
        },
        "DPTForSemanticSegmentation": {
            **_VIT,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 16,
            "is_hybrid": False,
            "backbone_config": None,
        },
        "VitPoseForPoseEstimation": {"backbone_config": _vitpose_backbone()},
        "DepthAnythingForDepthEstimation": {
            "backbone_config": _dinov2_backbone(),
            "reassemble_hidden_size": 32,
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 16,
            "head_hidden_size": 8,
            "patch_size": 14,
        },
        "UperNetForSemanticSegmentation": {
            "backbone_config": convnext,
            "hidden_size": 32,
            "auxiliary_in_channels": 48,
            "auxiliary_channels": 16,
            "pool_scales": [1, 2],
        },
        "Mask2FormerForUniversalSegmentation": {
            "backbone_config": swin,
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 64,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 4,
            "dim_feedforward": 64,
            "num_queries": 10,
        },
        "MaskFormerForInstanceSegmentation": {"backbone_config": swin, "fpn_feature_size": 32, "mask_feature_size": 32},
    }


FAMILIES: dict[str, Variant] = {
    "vit": Variant("ViTForImageClassification", _VIT),
    "vit, encoder": Variant("ViTModel", _VIT),
    "deit": Variant("DeiTForImageClassification", _VIT),
    "deit, distilled": Variant("DeiTForImageClassificationWithTeacher", _VIT),
    "beit": Variant("BeitForImageClassification", _VIT),
    "beit, relative positions": Variant(
        "BeitForImageClassification", {**_VIT, "use_relative_position_bias": True, "use_mask_token": False}
    ),
    "data2vec-vision": Variant("Data2VecVisionForImageClassification", {**_VIT, "use_relative_position_bias": True}),
    "swin": Variant("SwinForImageClassification", _SWIN),
    "swinv2": Variant("Swinv2ForImageClassification", _SWIN),
    "convnext": Variant("ConvNextForImageClassification", _STAGES),
    "convnextv2": Variant("ConvNextV2ForImageClassification", _STAGES),
    "resnet": Variant("ResNetForImageClassification", _RESNET),
    "resnet, encoder": Variant("ResNetModel", _RESNET),
    "regnet": Variant(
        "RegNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "groups_width": 8},
    ),
    "mobilenet_v1": Variant("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25, "image_size": 64}),
    "mobilenet_v2": Variant("MobileNetV2ForImageClassification", {"depth_multiplier": 0.25, "image_size": 64}),
    "mobilevit": Variant(
        "MobileViTForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
            "num_attention_heads": 2,
        },
    ),
    "mobilevitv2": Variant(
        "MobileViTV2ForImageClassification",
        {"image_size": 64, "width_multiplier": 0.5, "base_attn_unit_dims": [32, 48, 64]},
    ),
    "efficientnet": Variant(
        "EfficientNetForImageClassification",
        {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    ),
    "levit": Variant(
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48],
            "num_attention_heads": [2, 2, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "levit, distilled": Variant(
        "LevitForImageClassificationWithTeacher",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48],
            "num_attention_heads": [2, 2, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "cvt": Variant(
        "CvtForImageClassification", {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}
    ),
    "poolformer": Variant("PoolFormerForImageClassification", _STAGES),
    "pvt": Variant(
        "PvtForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 16, 32, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "mlp_ratios": [2, 2, 2, 2],
        },
    ),
    "pvt_v2": Variant(
        "PvtV2ForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 16, 32, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "mlp_ratios": [2, 2, 2, 2],
        },
    ),
    "pvt_v2, linear": Variant(
        "PvtV2ForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 16, 32, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "mlp_ratios": [2, 2, 2, 2],
            "linear_attention": True,
        },
    ),
    "segformer": Variant("SegformerForImageClassification", _SEGFORMER),
    "segformer, segmentation": Variant("SegformerForSemanticSegmentation", _SEGFORMER),
    "dinov2": Variant("Dinov2ForImageClassification", _DINO, size=56),
    "dinov2, encoder": Variant("Dinov2Model", _DINO, size=56),
    "dinov2, other size": Variant("Dinov2Model", {**_DINO, "image_size": 70}, size=56),
    "dinov2, SwiGLU": Variant("Dinov2ForImageClassification", {**_DINO, "use_swiglu_ffn": True}, size=56),
    "dinov2_with_registers": Variant("Dinov2WithRegistersForImageClassification", _DINO, size=56),
    "dinov3_vit": Variant("DINOv3ViTModel", _VIT, processor="ViTImageProcessor"),
    "dinov3_convnext": Variant("DINOv3ConvNextModel", _STAGES, processor="ViTImageProcessor"),
    "vit_mae": Variant("ViTMAEModel", _VIT),
    "vit_mae, decoder": Variant(
        "ViTMAEForPreTraining", {**_VIT, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
    ),
    "vit_msn": Variant("ViTMSNForImageClassification", _VIT),
    "bit": Variant("BitForImageClassification", {**_STAGES, "embedding_size": 16, "num_groups": 4}),
    "bit, bottleneck padding": Variant(
        "BitForImageClassification",
        {**_STAGES, "embedding_size": 16, "num_groups": 4, "layer_type": "bottleneck", "global_padding": "same"},
    ),
    "focalnet": Variant("FocalNetForImageClassification", {"embed_dim": 16, "depths": [1, 1], "image_size": 64}),
    "dinat": Variant("DinatForImageClassification", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4]}),
    "swiftformer": Variant(
        "SwiftFormerForImageClassification", {"depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 48], "image_size": 64}
    ),
    "hiera": Variant(
        "HieraForImageClassification",
        {
            "embed_dim": 16,
            "image_size": [64, 64],
            "depths": [1, 1, 1],
            "num_heads": [1, 2, 4],
            "masked_unit_size": [4, 4],
            "query_stride": [2, 2],
            "num_query_pool": 2,
        },
    ),
    "ijepa": Variant("IJepaForImageClassification", _VIT),
    "textnet": Variant("TextNetForImageClassification"),
    "hgnet_v2": Variant("HGNetV2ForImageClassification", processor="ViTImageProcessor"),
    "pp_lcnet": Variant("PPLCNetForImageClassification", {"scale": 0.25}, processor="ViTImageProcessor"),
    "donut-swin": Variant("DonutSwinForImageClassification", _SWIN, processor="ViTImageProcessor"),
    "pixio": Variant("PixioModel", {**_VIT, "decoder_hidden_size": 32}, processor="ViTImageProcessor"),
    "siglip": Variant("SiglipForImageClassification", {"vision_config": {**_VIT}}, processor="SiglipImageProcessor"),
    "clip": Variant("CLIPForImageClassification", {"vision_config": {**_VIT}}, processor="CLIPImageProcessor"),
    "timm_wrapper": Variant("TimmWrapperForImageClassification", processor="TimmWrapperImageProcessor"),
    "imagegpt": Variant(
        "ImageGPTForImageClassification", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}
    ),
    "perceiver": Variant(
        "PerceiverForImageClassificationConvProcessing",
        {
            "d_latents": 32,
            "num_latents": 8,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 1,
        },
    ),
    "yolos": Variant("YolosForObjectDetection", {**_VIT, "image_size": [64, 64], "num_detection_tokens": 10}),
    "detr": Variant("DetrForObjectDetection"),
    "conditional_detr": Variant("ConditionalDetrForObjectDetection"),
    "deformable_detr": Variant("DeformableDetrForObjectDetection"),
    "rt_detr": Variant("RTDetrForObjectDetection"),
    "rt_detr_v2": Variant("RTDetrV2ForObjectDetection", processor="RTDetrImageProcessor"),
    "dpt": Variant("DPTForDepthEstimation"),
    "dpt, segmentation": Variant("DPTForSemanticSegmentation"),
    "glpn": Variant(
        "GLPNForDepthEstimation",
        {
            "hidden_sizes": [16, 16, 32, 32],
            "depths": [1] * 4,
            "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 16,
        },
    ),
    "depth_anything": Variant("DepthAnythingForDepthEstimation", size=56),
    "upernet": Variant("UperNetForSemanticSegmentation"),
    "beit, segmentation": Variant(
        "BeitForSemanticSegmentation",
        {**_VIT, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "pool_scales": [1, 2]},
    ),
    "mobilevit, segmentation": Variant(
        "MobileViTForSemanticSegmentation",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
            "num_attention_heads": 2,
            "aspp_out_channels": 16,
        },
    ),
    "mobilenet_v2, segmentation": Variant(
        "MobileNetV2ForSemanticSegmentation", {"depth_multiplier": 0.25, "image_size": 64}
    ),
    "mask2former": Variant("Mask2FormerForUniversalSegmentation"),
    "maskformer": Variant("MaskFormerForInstanceSegmentation"),
    "swin2sr": Variant(
        "Swin2SRForImageSuperResolution",
        {"embed_dim": 16, "depths": [1], "num_heads": [2], "window_size": 4, "image_size": 64},
    ),
    "superpoint": Variant("SuperPointForKeypointDetection"),
    "vitpose": Variant("VitPoseForPoseEstimation"),
}
"""What is tried, by the family's name."""


def make(name: str, directory: Path) -> torch.nn.Module:
    """Write a family's model with drawn weights and its image processor's config, and return the model.

    Raises:
        SkippedError: this version of transformers has no such model, or needs a package that is not here.
    """
    import transformers

    variant = FAMILIES[name]
    torch.manual_seed(0)
    kind = getattr(transformers, variant.model, None)
    if kind is None:
        raise SkippedError(f"transformers {transformers.__version__} has no {variant.model}")
    settings = dict(variant.config) or dict(_backbones().get(variant.model, {}))
    if "For" in variant.model:
        settings = {"num_labels": LABELS, **settings}
    try:
        model: Any = kind(kind.config_class(**settings))
    except ImportError as error:
        raise SkippedError(str(error).strip().splitlines()[0]) from error
    draw_statistics(model)
    model.eval().save_pretrained(directory)
    _processor(variant, model.config.model_type).save_pretrained(directory)
    made: torch.nn.Module = model
    return made


def draw_statistics(model: torch.nn.Module) -> None:
    """Give every normalization figures of its own, so that folding and equalizing have something to do."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for attribute, low, high in (("running_mean", -0.2, 0.2), ("running_var", 0.7, 1.3)):
            value = getattr(module, attribute, None)
            if isinstance(value, torch.Tensor):
                value.uniform_(low, high, generator=generator)
        for attribute, low, high in (("weight", 0.7, 1.3), ("bias", -0.2, 0.2)):
            value = getattr(module, attribute, None)
            if "Norm" in type(module).__name__ and isinstance(value, torch.Tensor):
                value.data.uniform_(low, high, generator=generator)


def _processor(variant: Variant, model_type: str) -> Any:
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    found = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {})
    name = variant.processor or found.get("pil", found.get("torchvision", "ViTImageProcessor"))
    kind = getattr(transformers, f"{name.removesuffix('Pil')}Pil", None)
    try:
        made = (kind or getattr(transformers, name))()
    except ImportError:
        made = transformers.ViTImageProcessorPil()
    side = variant.size
    for attribute in ("size", "crop_size"):
        value = getattr(made, attribute, None)
        if value is None:
            continue
        keys = dict(value)
        setattr(made, attribute, {key: side for key, found in keys.items() if found is not None})
    return made
