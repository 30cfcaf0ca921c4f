"""vLLM's own loader and models on a checkpoint, where vLLM and its bitsandbytes plugin are installed.

No GPU is needed with VLLM_TARGET_DEVICE=cpu. Attention is PyTorch's then: vLLM's kernels are not a part of what is
asked here, which is how it finds, joins and multiplies the weights.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

__all__ = ["VllmModel"]


class VllmModel:
    """A checkpoint as vLLM loads it.

    Args:
        path: the checkpoint.
        scratch: an empty directory.
        patches: undone by the test.
    """

    def __init__(self, path: Path, scratch: Path, patches: pytest.MonkeyPatch) -> None:
        import_module("vllm_bnb_plugin").register()
        if not torch.accelerator.is_available():
            patches.setattr(torch.accelerator, "empty_cache", lambda: None)  # the plugin calls it at the end
        patches.setattr(import_module("vllm.model_executor.layers.attention.attention").Attention, "forward", _attend)
        settings = import_module("vllm.engine.arg_utils").EngineArgs(
            model=str(path),
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=64,
            compilation_config={"custom_ops": ["none"]},
        )
        self.config = settings.create_engine_config()
        loader = import_module("vllm.model_executor.model_loader").get_model_loader(self.config.load_config)
        with import_module("vllm.config").set_current_vllm_config(self.config):
            _alone(scratch / "rendezvous")
            self.model = loader.load_model(vllm_config=self.config, model_config=self.config.model_config)

    def four_bit(self) -> dict[str, list[tuple[torch.Tensor, Any]]]:
        """The packed numbers and the quantization state of each part of each 4-bit layer."""
        found = {}
        for name, weight in self.model.named_parameters():
            if states := getattr(weight, "bnb_quant_state", None):
                ends = weight.bnb_shard_offsets.tolist()
                found[name] = [(weight.data[ends[part] : ends[part + 1]], states[part]) for part in sorted(states)]
        return found

    def logits(self, tokens: torch.Tensor, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Float32 [length, vocabulary] for tokens [length], or for embeddings [length, hidden] in their place."""
        context = import_module("vllm.forward_context").set_forward_context
        set_config = import_module("vllm.config").set_current_vllm_config
        with torch.inference_mode(), set_config(self.config), context(None, self.config):
            hidden = self.model(tokens, torch.arange(len(tokens), device=tokens.device), None, embeddings)
            found: torch.Tensor = self.model.compute_logits(hidden)
        return found.float()


def _alone(rendezvous: Path) -> None:
    """One process is the whole group."""
    groups = import_module("vllm.distributed.parallel_state")
    if not groups.model_parallel_is_initialized():
        groups.init_distributed_environment(1, 0, f"file://{rendezvous}", 0, "gloo")
        groups.initialize_model_parallel(1, 1)


def _attend(self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of one sequence; each is [length, heads * size]."""
    q, k, v = (part.view(len(part), -1, self.head_size).transpose(0, 1).float() for part in (query, key, value))
    scale = self.impl.scale
    answer = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return answer.transpose(0, 1).flatten(1).to(query.dtype)
