"""A decode step traced on the meta device, at the shape of a real model: what it reads, and its operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
import transformers
from bitsandbytes.functional import QuantState
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Trace", "meta_nf4"]


def meta_nf4(config: Path, layers: int) -> Any:
    """The language model of a LLaVA with NF4 layers of nested scales and an FP16 head, without its weights.

    Args:
        config: the directory of config.json.
        layers: of the model.
    """
    text = transformers.AutoConfig.from_pretrained(config).text_config
    text.num_hidden_layers = layers
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(text).half().eval().requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            model.set_submodule(name, _nf4(module.in_features, module.out_features))
    return model


def _nf4(inputs: int, outputs: int) -> bnb.nn.Linear4bit:
    """Half a byte for each weight, a byte for 64 of them, and four for 256 of those (bitsandbytes, nested NF4)."""
    with torch.device("meta"):
        layer = bnb.nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=torch.float16, quant_type="nf4")
        nested = QuantState(torch.empty(inputs * outputs // 64 // 256), code=torch.empty(256), blocksize=256)
        scales = torch.empty(inputs * outputs // 64, dtype=torch.uint8)
        packed = torch.empty(inputs * outputs // 2, 1, dtype=torch.uint8)
        state = QuantState(
            scales,
            shape=torch.Size((outputs, inputs)),
            code=torch.empty(16),
            blocksize=64,
            quant_type="nf4",
            dtype=torch.float16,
            offset=torch.empty(()),
            state2=nested,
        )
    layer.weight = bnb.nn.Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True, module=layer)
    return layer.eval()


@dataclass
class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operators that do something: views, and conversions to what a tensor is already, are not counted.

    Attributes:
        names: of the operators, one after another.
        read: bytes of the tensors that each is given, views as large as what they show; of an embedding what it gives.
    """

    names: list[str] = field(default_factory=list)
    read: int = 0

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
        storages = {one.untyped_storage()._cdata for one in given}
        new = [one for one in tree_leaves(made) if isinstance(one, torch.Tensor)]
        if func._schema.is_mutable or not all(one.untyped_storage()._cdata in storages for one in new):
            self.names.append(func._overloadpacket.__name__)
            written = {id(one) for one in new} if func._schema.is_mutable else set[int]()
            looked_up = self.names[-1] == "embedding"
            self.read += sum(one.nbytes for one in (new if looked_up else given) if id(one) not in written)
        return made
