"""Let transformers load a checkpoint of packed integers: its layers in the place of transformers' own.

By transformers' documented way for quantizers of one's own ("Contribute new quantization method"), under a name of our
own: the one that transformers has for this format needs the package compressed-tensors, and unpacks every weight to 16
bits. Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from edgeq.errors import ModelError
from edgeq.model.checkpoint.packed_weights import WeightScheme, read_schemes
from edgeq.runtime.vlm.packed.layer import PackedLinear, PackedWeight
from edgeq.runtime.vlm.packed.table import PackedEmbedding, PackedHead, TiedHead, embedding_factor

__all__ = ["config_for_loading"]

_METHOD: Final = "edgeq-packed"


def config_for_loading(kind: Any, directory: Path, stored: Mapping[str, WeightScheme]) -> Any:
    """A checkpoint's config, which has `from_pretrained` make the layers of `stored`.

    Args:
        kind: class of the model.
        directory: the checkpoint.
        stored: of `edgeq.runtime.vlm.packed.checkpoint.check_packed`.
    """
    config = kind.config_class.from_pretrained(directory, local_files_only=True)
    config.quantization_config = {
        "quant_method": _METHOD,
        "written": config.quantization_config,
        "stored": stored,
    }
    return config


@register_quantization_config(_METHOD)
class _Config(QuantizationConfigMixin):  # type: ignore[misc]
    """What config.json says, and what the files hold."""

    def __init__(
        self, written: dict[str, Any], stored: dict[str, WeightScheme], quant_method: str = _METHOD, **_: Any
    ) -> None:
        self.quant_method, self.written, self.stored = quant_method, written, stored


@register_quantizer(_METHOD)
class _Quantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed layers in the place of linear ones and of embeddings, and repacks them one after the other."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        written, stored = self.quantization_config.written, self.quantization_config.stored
        linear = {name: module for name, module in model.named_modules() if type(module) is torch.nn.Linear}
        tables = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
        schemes = read_schemes(written, linear.keys(), tables.keys())
        if schemes != stored:
            differing = sorted(schemes.items() ^ stored.items(), key=lambda item: item[0])
            raise ModelError(
                f"{differing[0][0]} is stored otherwise than config.json says, and {len(differing) - 1} more",
                expected="the layers that quantization_config names, and no other, as packed integers",
                causes=("config.json is of another checkpoint",),
            )
        tied, head = _tied_head(model, schemes.keys() & tables.keys()), model.get_output_embeddings()
        for name, scheme in schemes.items():
            with torch.device("meta"):
                if name in linear:
                    kind = PackedHead if linear[name] is head else PackedLinear
                    layer: torch.nn.Module = _like(kind, linear[name], scheme)
                else:
                    layer = _table(tables[name], scheme)
            model.set_submodule(name, layer)
        if tied:
            model.set_output_embeddings(TiedHead(model.get_input_embeddings()))

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        for module in model.modules():
            if isinstance(module, PackedWeight):
                module.repack()

    def is_serializable(self) -> bool:
        """No: the kernels' layouts are no file format."""
        return False

    @property
    def is_trainable(self) -> bool:
        """No."""
        return False


def _tied_head(model: Any, packed: Collection[str]) -> bool:
    """Whether the head is an embedding that is packed; transformers is not to tie what is no weight any more."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if not any(module is table for name, module in model.named_modules() if name in packed):
        return False
    tied = head is not None and bool(model.config.tie_word_embeddings)
    model.config.tie_word_embeddings, model.all_tied_weights_keys = False, {}
    return tied


def _table(table: torch.nn.Embedding, scheme: WeightScheme) -> PackedEmbedding:
    dtype = table.weight.dtype
    return PackedEmbedding(
        table.num_embeddings, table.embedding_dim, scheme, dtype=dtype, factor=embedding_factor(table)
    )


def _like(kind: type[PackedLinear], linear: torch.nn.Linear, scheme: WeightScheme) -> PackedLinear:
    return kind(
        linear.in_features,
        linear.out_features,
        scheme,
        bias=linear.bias is not None,
        dtype=linear.weight.dtype,
    )
