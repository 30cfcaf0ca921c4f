"""A decode step's layers in about half the operators, for models whose layers are Llama's or Qwen's.

On a GPU each operator is a kernel that reads and writes what the one before wrote; on a CPU it is a call that for a
small model takes longer than the work. So: RMSNorm in one operator; queries, keys and values turned to their positions
together and written together; 4-bit layers that read the same are one layer where their weights can lie one behind the
other (`edgeq.runtime.vlm.linear.joined`). What a layer computes is that of transformers, operator by operator; only the
weight of an RMSNorm is multiplied before rounding on a GPU. Whether a model is of that form is read from its classes
and parts, and then tried: `DecodeStep` compares. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.functional import rms_norm

from edgeq.runtime.vlm.attention import Seen, attention_windows, look, look_apart
from edgeq.runtime.vlm.kv_cache import SlotCache
from edgeq.runtime.vlm.linear import joined
from edgeq.runtime.vlm.packed.products import Product

__all__ = ["FusedLayers", "fuse_layers"]

_Rows = Callable[[torch.Tensor], torch.Tensor]

_DECODER: Final = {"embed_tokens", "layers", "norm", "rotary_emb"}
_WRITTEN_FOR: Final = frozenset(
    {
        *("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention"),
        *("Qwen2VLAttention", "Qwen2_5_VLAttention", "Qwen3VLTextAttention"),
    }
)
"""Classes of transformers. Others have the same parts and do something else with them: Ministral 3's queries, for one,
grow with their position."""

_LAYER: Final = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION: Final = {"q_proj", "k_proj", "v_proj", "o_proj"}
_NORMED: Final = {"q_norm", "k_norm"}
"""In the attention of Qwen3, besides: of each head's queries and keys."""

_FEED_FORWARD: Final = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(frozen=True)
class _Layer:
    """One layer's parts, and the name of its kind in `attention_windows`."""

    kind: str
    before: _Rows
    qkv: _Rows
    heads: tuple[_Rows, _Rows] | None
    attended: _Rows
    after: _Rows
    gate_up: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    activation: _Rows
    down: _Rows
    scaling: float


class FusedLayers:
    """The pass of one token in each slot.

    Args:
        model: transformers' causal language model, of that form.
        decoder: the same without its head.
        cache: keys and values.
    """

    def __init__(self, model: Any, decoder: Any, cache: SlotCache) -> None:
        config = model.config
        kinds = getattr(config, "layer_types", None) or [next(iter(attention_windows(config)))] * len(decoder.layers)
        self._cache, self._embed, self._rotary = cache, decoder.embed_tokens, decoder.rotary_emb
        self._layers = [_layer(layer, kind) for layer, kind in zip(decoder.layers, kinds, strict=True)]
        self._norm, self._head = _norm(decoder.norm), model.get_output_embeddings()
        attention = decoder.layers[0].self_attn
        self._width = attention.head_dim
        self._queries = attention.q_proj.out_features // self._width
        self._keys = attention.k_proj.out_features // self._width

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, seen: Mapping[str, torch.Tensor] | Mapping[str, Seen]
    ) -> torch.Tensor:
        """The last layer's normalized output, for `head`.

        Args:
            tokens, positions: int64 [slots, 1].
            seen: for each kind of layer, a mask [slots, 1, 1, rows] in the cache's dtype, or each slot's tokens.

        Returns:
            [slots, hidden] in the model's dtype.
        """
        rows = self._embed(tokens)
        turns = self._turns(*self._rotary(rows, positions))
        rows = rows[:, 0]
        for number, layer in enumerate(self._layers):
            turned = self._turned(layer, layer.qkv(layer.before(rows)), *turns)
            found = self._attend(turned, number, seen[layer.kind], layer.scaling)
            rows = rows + layer.attended(found.to(rows.dtype))
            gate, up = layer.gate_up(layer.after(rows))
            rows = rows + layer.down(layer.activation(gate) * up)
        return self._norm(rows)

    @property
    def rows_alike(self) -> bool:
        """Whether the head gives a row the same bits alone as beside a few others, on a CPU."""
        product: Product | None = getattr(self._head, "product", None)
        return product is not None and product.rows_alike

    def head(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits [slots, vocabulary] in the model's dtype, of [slots, hidden]."""
        logits: torch.Tensor = self._head(rows)
        return logits

    def _turns(self, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What queries, keys and values are multiplied by, [slots, heads of all three, width] each.

        x * cos + rotate_half(x) * sin, where rotate_half changes the sign of one half: here the sine's half has it, and
        the halves only change places. Values are multiplied by 1, and by 0. Where positions have several axes, those of
        a token that was said are all the same.
        """
        if cos.ndim > 3:  # [axes, slots, 1, width]
            cos, sin = cos[0], sin[0]
        half, turning = self._width // 2, self._queries + self._keys
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1).expand(-1, turning, -1)
        ones = torch.ones_like(cos).expand(-1, self._keys, -1)
        return torch.cat([cos.expand(-1, turning, -1), ones], 1), torch.cat([sin, torch.zeros_like(ones)], 1)

    def _turned(self, layer: _Layer, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Turned to their positions, [slots, heads of all three, width] in the cache's dtype."""
        given = qkv.view(cos.shape)
        if layer.heads is not None:
            query, key, value = torch.split(given, [self._queries, self._keys, self._keys], 1)
            given = torch.cat([layer.heads[0](query), layer.heads[1](key), value], 1)
        return (given * cos + given.roll(self._width // 2, -1) * sin).to(self._cache.dtype)

    def _attend(self, turned: torch.Tensor, number: int, seen: torch.Tensor | Seen, scaling: float) -> torch.Tensor:
        """Keys and values into the cache, and what the queries find there, [slots, queries * width]."""
        keys, values = self._cache.put(number, turned[:, self._queries :])
        query = turned[:, : self._queries, None]
        if isinstance(seen, torch.Tensor):
            found = look(query, keys, values, seen, scaling)
        else:
            found = look_apart(query, keys, values, seen, scaling)
        return found.flatten(1)


def fuse_layers(model: Any, decoder: Any, cache: SlotCache) -> FusedLayers | None:
    """The fused pass of a model whose parts are those of a Llama or a Qwen; None for another.

    Args:
        model: transformers' causal language model.
        decoder: the same without its head.
        cache: keys and values of its slots.
    """
    if _named(decoder) != _DECODER or not all(map(_is_llama, decoder.layers)):
        return None
    shapes = {(layer.self_attn.head_dim, layer.self_attn.q_proj.out_features) for layer in decoder.layers}
    angles = getattr(decoder.rotary_emb, "inv_freq", None)
    if len(shapes) != 1 or angles is None or 2 * len(angles) != decoder.layers[0].self_attn.head_dim:
        return None
    return FusedLayers(model, decoder, cache)


def _is_llama(layer: Any) -> bool:
    parts = (
        (_LAYER, layer),
        (_ATTENTION, getattr(layer, "self_attn", None)),
        (_FEED_FORWARD, getattr(layer, "mlp", None)),
    )
    if not all(part is not None and _named(part) - _NORMED == names for names, part in parts):
        return False
    attention, of_heads = layer.self_attn, _head_norms(layer.self_attn)
    if type(attention).__name__ not in _WRITTEN_FOR:
        return False
    if not hasattr(attention, "head_dim") or not hasattr(attention, "scaling") or len(of_heads) not in (0, 2):
        return False
    norms = [layer.input_layernorm, layer.post_attention_layernorm, *of_heads]
    if not all(hasattr(norm, "variance_epsilon") and hasattr(norm, "weight") for norm in norms):
        return False
    return all(norm.weight.shape == (attention.head_dim,) for norm in of_heads)


def _head_norms(attention: Any) -> list[Any]:
    """Of queries and keys, where there are any."""
    return [getattr(attention, name) for name in sorted(_NORMED, reverse=True) if hasattr(attention, name)]


def _named(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}


def _layer(layer: Any, kind: str) -> _Layer:
    attention, feed = layer.self_attn, layer.mlp
    norms = [_norm(norm) for norm in _head_norms(attention)]
    return _Layer(
        kind=kind,
        before=_norm(layer.input_layernorm),
        qkv=_together(attention.q_proj, attention.k_proj, attention.v_proj),
        heads=(norms[0], norms[1]) if norms else None,
        attended=_rows(attention.o_proj),
        after=_norm(layer.post_attention_layernorm),
        gate_up=_pair(feed.gate_proj, feed.up_proj),
        activation=feed.act_fn,
        down=_rows(feed.down_proj),
        scaling=attention.scaling,
    )


def _norm(module: Any) -> _Rows:
    """RMSNorm; on a CPU, whose operator rounds once less, in two operators that give the bits of transformers'."""
    weight, epsilon, size = module.weight, module.variance_epsilon, module.weight.shape
    if weight.device.type == "cpu":
        return lambda rows: weight * rms_norm(rows, size, None, epsilon)
    return lambda rows: rms_norm(rows, size, weight, epsilon)


def _rows(module: Any) -> _Rows:
    """A linear layer without what torch does around it, where nothing hooks into that."""
    return module if module._forward_hooks or module._forward_pre_hooks else module.forward  # type: ignore[no-any-return]


def _together(*modules: Any) -> _Rows:
    """Several linear layers' outputs, one behind the other."""
    one = joined(modules)
    if one is not None:
        return one
    each = [_rows(module) for module in modules]
    return lambda rows: torch.cat([linear(rows) for linear in each], -1)


def _pair(first: Any, second: Any) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Two linear layers' outputs."""
    one, cut = joined((first, second)), first.out_features
    if one is not None:
        both = one

        def split(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = both(rows)
            return found[..., :cut], found[..., cut:]

        return split
    left, right = _rows(first), _rows(second)
    return lambda rows: (left(rows), right(rows))
