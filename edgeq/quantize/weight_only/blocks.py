"""A language model block by block: prompts go through all of it while the weights of one block alone are in memory.

First each prompt runs through a skeleton, whose embedding is the checkpoint's and whose blocks give what they are
given: so every block's other inputs are known (masks, positions, what cross-attention looks at), and what is added
between blocks. Then each block runs for itself: in float32, with weights that lie there as they are stored.
Needs torch, transformers and accelerate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from edgeq.errors import ModelError, first_line
from edgeq.quantize.language.read import FloatType, read_tensors
from edgeq.quantize.language.source import Language
from edgeq.quantize.weight_only.awq import Seen
from edgeq.quantize.weight_only.stored_linear import store_linears

__all__ = ["BlockWalk", "Prompts", "block_names", "load_block", "open_walk"]

Prompts = Callable[[nn.Module], None]
"""Runs every prompt through a causal language model of transformers, one after the other, each in one forward pass.

A single token is no prompt: runtimes try their kernels with one.
"""

_SAMPLED: Final = 256
"""Tokens of all prompts together on which scales are tried."""

_CACHES: Final = ("past_key_values", "past_key_value", "use_cache", "cache_position")


@dataclass
class _Call:
    """How a block was called for one prompt."""

    words: dict[str, Any]
    added: torch.Tensor | None


@dataclass
class _Prompt:
    """What is known of a prompt: its hidden states, and how each block was called."""

    hidden: torch.Tensor
    calls: dict[int, _Call] = field(default_factory=dict)
    gave: torch.Tensor | None = None


class BlockWalk:
    """All prompts on their way through the blocks.

    Args:
        model: the skeleton.
        blocks: full names of its blocks, in their order.
        prompts: to be run.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str], prompts: Prompts) -> None:
        self._model, self._blocks = model, blocks
        self._prompts: list[_Prompt] = []
        with torch.inference_mode():
            self._record(prompts)

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return len(self._prompts)

    def block(self, number: int) -> nn.Module:
        """A block, whose weights are on the meta device unless they were put there."""
        return self._model.get_submodule(self._blocks[number])

    def free(self, number: int) -> None:
        """Let a block go, with all that is in it."""
        self._model.set_submodule(self._blocks[number], nn.Module())

    def run(self, number: int, prompt: int) -> torch.Tensor:
        """What a block gives for a prompt, float32 [1, tokens, hidden]; the prompt stays where it is."""
        call, hidden = self._prompts[prompt].calls.get(number), self._prompts[prompt].hidden
        if call is None:  # such as cross-attention without an image
            return hidden
        found = self.block(number)(hidden.clone(), **call.words)
        given: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return given

    def advance(self, number: int) -> None:
        """Take all prompts through a block."""
        for index, prompt in enumerate(self._prompts):
            hidden, call = self.run(number, index), prompt.calls.pop(number, None)
            prompt.hidden = hidden if call is None or call.added is None else hidden + call.added

    def observe(self, number: int, groups: Mapping[str, int]) -> dict[str, Seen]:
        """What linear layers of a block are given for all prompts.

        Args:
            number: of the block, with its weights in memory.
            groups: of each of them by its name in the block, the numbers along its input that are seen together.
        """
        block = self.block(number)
        seen, sampled = {name: Seen(group) for name, group in groups.items()}, max(_SAMPLED // self.count, 1)
        hooks = [
            block.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: seen[name].add(args[0], sampled)
            )
            for name in groups
        ]
        try:
            for prompt in range(self.count):
                self.run(number, prompt)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def _record(self, prompts: Prompts) -> None:
        for number, name in enumerate(self._blocks):
            block: Any = self._model.get_submodule(name)
            block.forward = self._recorder(number)
        prompts(self._model)
        for name in self._blocks:
            del self._model.get_submodule(name).forward
        if not self._prompts:
            raise ModelError("no prompt went through the language model")

    def _recorder(self, number: int) -> Callable[..., torch.Tensor]:
        def forward(hidden_states: torch.Tensor, **words: Any) -> torch.Tensor:
            if hidden_states.shape[1] == 1:
                return hidden_states
            if number == 0:
                self._prompts.append(_Prompt(_float(hidden_states).clone()))
            prompt = self._prompts[-1]
            if prompt.gave is not None and number and not torch.equal(prompt.gave, hidden_states):
                prompt.calls[number - 1].added = _float(hidden_states - prompt.gave)
            prompt.calls[number] = _Call({key: _float(value) for key, value in _uncached(words)}, None)
            prompt.gave = hidden_states.clone()
            return hidden_states.clone()  # something may be added to it in place

        return forward


def block_names(model: nn.Module) -> list[str]:
    """Full names of a decoder's blocks: its longest list of modules.

    Raises:
        ModelError: it has none.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    name = max(lists, key=lambda name: len(lists[name]), default=None)
    if name is None:
        raise ModelError("the language model has no list of blocks", expected="a decoder of equal blocks")
    return [f"{name}.{number}" for number in range(len(lists[name]))]


def open_walk(
    language: Language,
    kind: FloatType,
    prompts: Prompts,
    stored: Callable[[str, torch.Tensor], torch.Tensor] = lambda _name, table: table,
) -> BlockWalk:
    """Take prompts to the first block.

    Args:
        language: with where its tensors lie.
        kind: the checkpoint's 16-bit type, which the embedding is read in.
        prompts: to be run.
        stored: what the embedding of a name stands for once it is stored, [vocabulary, hidden].

    Raises:
        ModelError: the model cannot be run so.
    """
    blocks = block_names(language.model)
    model = _skeleton(language, kind, stored)
    try:
        walk = BlockWalk(model, blocks, prompts)
    except (TypeError, RuntimeError, AttributeError) as error:  # models differ in as many ways as there are
        raise ModelError(
            f"the blocks of {type(language.model).__name__} cannot be run one by one",
            causes=(first_line(error),),
            next_step="--language nf4, which looks at weights alone",
        ) from error
    model.get_input_embeddings().to("meta")
    return walk


def load_block(language: Language, block: nn.Module, prefix: str, kind: FloatType) -> None:
    """Put a block's weights into memory: as float32, but those of linear layers as they are stored.

    Args:
        language: with where its tensors lie.
        block: on the meta device.
        prefix: its full name.
        kind: the 16-bit type that they are read in.
    """
    names = [name for name in language.tensors if name.startswith(f"{prefix}.")]
    linear = {f"{name}.weight" for name, module in block.named_modules() if type(module) is nn.Linear}
    for full, value in zip(names, read_tensors([language.tensors[name] for name in names], kind), strict=True):
        name = full.removeprefix(f"{prefix}.")
        _put(block, name, value if name in linear else value.float())
    store_linears(block)


def _skeleton(language: Language, kind: FloatType, stored: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
    """The model with its embedding and all buffers; its blocks are on the meta device, norm and head do nothing."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model: Any = type(language.model)(language.config)
    model.eval()
    names = {id(module): name for name, module in model.named_modules()}
    table = model.get_input_embeddings()
    source = language.tensors[f"{names[id(table)]}.weight"]
    (weight,) = read_tensors([source], kind)
    _put(table, "weight", stored(names[id(table)], weight))
    for name, module in model.named_modules():
        own = any(value.is_meta for value in module.parameters(recurse=False))
        inside = any(name == block or name.startswith(f"{block}.") for block in block_names(model))
        if own and not inside:
            module.forward = _given
    return model


def _given(value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return value


def _put(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """A parameter or buffer of a module, by its name in it."""
    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent)
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)


def _uncached(words: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Without the cache of keys and values, which a block that runs for itself would fill once more."""
    for key, value in words.items():
        if key == "use_cache":
            yield key, False
        elif key not in _CACHES:
            yield key, value


def _float(value: Any) -> Any:
    """Floats as float32, in tuples too; all else as it is."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype.is_floating_point else value
    return tuple(_float(part) for part in value) if isinstance(value, tuple) else value
