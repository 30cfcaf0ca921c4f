"""The language half of a checkpoint as a model of its own: its modules on the meta device, and where its tensors lie.

A vision-language model keeps its language model under a prefix (`model.language_model.layers.0…`), and checkpoints
older than transformers 5 under another (`language_model.model.layers.0…`). Alone it is `model.layers.0…` and `lm_head`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import ModelError, first_line
from edgeq.families.causal import causal_class
from edgeq.families.modules import read_vlm
from edgeq.families.registry import language_class
from edgeq.files import read_json_object
from edgeq.model.checkpoint.safetensors_header import read_safetensors_header
from edgeq.model.checkpoint.stored import StoredTensor, read_stored
from edgeq.plan.precision import PrecisionPlan

if TYPE_CHECKING:
    import torch

__all__ = [
    "Language",
    "Source",
    "embeddings",
    "language_plan",
    "linear_layers",
    "on_meta",
    "open_language",
    "output_head",
    "tensor_shapes",
]

_INDEX: Final = "model.safetensors.index.json"

_OLD_PREFIX: Final = "language_model."
"""What checkpoints older than transformers 5 write before the names of the language model alone."""


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from.

    Attributes:
        file: that holds it.
        name: in that file.
        stored: what its header says.
    """

    file: Path
    name: str
    stored: StoredTensor


@dataclass(frozen=True)
class Language:
    """A language model alone.

    Attributes:
        path: the source directory.
        config: the language model's config.
        model: it, on the meta device.
        modules: name in the whole model -> name alone, for every module.
        tensors: name alone -> source; parameters (tied ones once) and buffers, file by file.
    """

    path: Path
    config: Any
    model: torch.nn.Module
    modules: Mapping[str, str]
    tensors: Mapping[str, Source]


def open_language(path: Path) -> Language:
    """Find the language model of a vision-language model, or of a plain causal language model.

    Raises:
        ModelError: the directory has no such model, transformers cannot load its language model alone, or its weights
            are missing, contradict themselves or are not the config's.
    """
    config = _config(path)
    if _is_causal(config):
        model = on_meta(config)
        modules = {name: name for name, _ in model.named_modules()}
        return Language(path, config, model, modules, _sources(path, model, ""))
    whole = read_vlm(path)
    text = config.get_text_config(decoder=True)
    text.tie_word_embeddings = whole.tied_head
    model = on_meta(text)
    modules = dict(_renamed(model, whole.parts.language, whole.parts.head or ""))
    return Language(path, text, model, modules, _sources(path, model, whole.parts.language))


def language_plan(plan: PrecisionPlan, language: Language) -> PrecisionPlan:
    """What `plan` decided for the language half, under the names of the language model alone."""
    return PrecisionPlan(
        allowed=plan.allowed,
        decisions=tuple(
            decision.model_copy(update={"layer": language.modules[decision.layer]})
            for decision in plan.decisions
            if decision.layer in language.modules
        ),
    )


def on_meta(config: Any) -> torch.nn.Module:
    """The causal language model of a config, with shapes and without bytes.

    Raises:
        ModelError: transformers has no such model, or cannot build it.
    """
    import torch
    import transformers

    try:
        with torch.device("meta"):
            if (unlisted := language_class(config.model_type)) is not None:
                model = causal_class(unlisted)._from_config(config)
            else:
                model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # a config can be wrong in as many ways as there are models
        raise ModelError(
            f"transformers cannot load the language model {config.model_type} alone",
            expected="one that AutoModelForCausalLM knows: Llama, Mistral, Qwen2, Gemma, Mllama, ...",
            causes=(first_line(error),),
            next_step="quantize the model whole, with the list of edgeq.quantize.nf4.skip_list.skip_modules",
        ) from error
    found: torch.nn.Module = model
    return found


def _config(path: Path) -> Any:
    """The model's config as transformers reads it."""
    from transformers import AutoConfig

    read_json_object(path / "config.json")
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a config can be wrong in as many ways as there are models
        raise ModelError(
            f"transformers does not understand {path / 'config.json'}", causes=(first_line(error),)
        ) from error


def _is_causal(config: Any) -> bool:
    """Whether this is a language model and nothing else."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as VISION_LANGUAGE

    return type(config) in CAUSAL and type(config) not in VISION_LANGUAGE


def _renamed(model: Any, language: str, head: str) -> Iterator[tuple[str, str]]:
    """Every module of the model alone, behind the name that it has in the whole one."""
    names = {id(module): name for name, module in model.named_modules()}
    decoder = names[id(model.get_input_embeddings())].rpartition(".")[0]  # get_decoder() of Mllama is the model itself
    own_head = names.get(id(model.get_output_embeddings()))
    for name in names.values():
        if name == own_head:
            yield head, name
        elif name == decoder or name.startswith(f"{decoder}."):
            yield language + name.removeprefix(decoder), name


def _sources(path: Path, model: torch.nn.Module, inside: str) -> dict[str, Source]:
    """The source of every tensor that the model needs, file by file.

    Args:
        path: the source directory.
        model: the language model alone.
        inside: full name of its decoder in the whole model; empty where it is the whole.
    """
    needed = tensor_shapes(model)
    found: dict[str, Source] = {}
    for source in _stored(path):
        name = next((name for name in _names_alone(source.name, inside) if name in needed), None)
        if name is None:
            continue
        if name in found or source.stored.shape != needed[name]:
            raise _other_weights(path, f"{source.name} {list(source.stored.shape)} cannot be {name}")
        found[name] = source
    missing = sorted(needed.keys() - found.keys())
    if missing:
        raise _other_weights(path, f"{len(missing)} of its {len(needed)} tensors are not stored, such as {missing[0]}")
    return found


def linear_layers(model: torch.nn.Module) -> list[str]:
    """Full names of a model's linear layers, in its order."""
    from torch import nn

    return [name for name, module in model.named_modules() if type(module) is nn.Linear]


def embeddings(model: torch.nn.Module) -> list[str]:
    """Full names of a model's embeddings, in its order."""
    from torch import nn

    return [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]


def output_head(model: Any) -> str:
    """Full name of a model's output head; empty where it has none."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "")


def tensor_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what a checkpoint must hold: parameters, tied ones once, and buffers that are saved."""
    saved = model.state_dict().keys()
    buffers = {name: tuple(value.shape) for name, value in model.named_buffers() if name in saved}
    return {name: tuple(value.shape) for name, value in model.named_parameters()} | buffers


def _stored(path: Path) -> Iterator[Source]:
    """Every stored tensor, in the order of the files and of the bytes in them."""
    stored = read_stored(path)
    files = {file: read_safetensors_header(path / file) for file in _files(path)}
    for file, header in files.items():
        for name in sorted(header.keys() & stored.keys(), key=lambda name: header[name]["data_offsets"][0]):
            yield Source(path / file, name, stored[name])


def _files(path: Path) -> list[str]:
    """Names of the files that hold the model; `read_stored` has checked the index."""
    if (path / _INDEX).exists():
        return sorted({Path(file).name for file in read_json_object(path / _INDEX)["weight_map"].values()})
    return sorted(file.name for file in path.glob("*.safetensors"))


def _names_alone(name: str, inside: str) -> Iterator[str]:
    """What a stored tensor may be called in the language model alone."""
    yield name
    prefixes = ((_OLD_PREFIX, ""), (f"{inside}.", "model."))
    yield from (alone + name.removeprefix(prefix) for prefix, alone in prefixes if name.startswith(prefix))


def _other_weights(path: Path, what: str) -> ModelError:
    """The error for a checkpoint that is not the config's language model."""
    return ModelError(
        f"the weights in {path} are not those of its language model: {what}",
        causes=("a shard is missing", "config.json is from another model", "the checkpoint is quantized already"),
        next_step="download the model again",
    )
