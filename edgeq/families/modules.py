"""What a Hugging Face vision-language model consists of, from config.json and safetensors headers; no weight is read.

The model is built by transformers itself on torch's meta device, where tensors have shapes and no bytes: 90 billion
parameters take a second and no memory. Where headers are at hand, names, shapes and dtypes are compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import ModelError, first_line
from edgeq.extras import install_command
from edgeq.families.base import Config
from edgeq.families.registry import check_parts
from edgeq.families.structure import Parts, components, find_parts
from edgeq.files import read_json_object, require_plain_files
from edgeq.model.checkpoint.compare import compare
from edgeq.model.checkpoint.hub import fetch_description, is_hub_id
from edgeq.model.checkpoint.stored import StoredTensor, read_stored
from edgeq.model.graph.components import Component
from edgeq.model.images.image_processor import read_processor_config

if TYPE_CHECKING:
    import torch

__all__ = ["VlmDescription", "load_config", "read_modules", "read_vlm"]

_MAX_DEPTH: Final = 1000
_DEPTHS: Final = ("num_hidden_layers", "num_layers", "depth", "num_global_layers", "depths", "n_layer")


@dataclass(frozen=True)
class VlmDescription:
    """A vision-language model without its weights.

    Attributes:
        name: the directory's name or the hub id.
        model_type: from config.json.
        config: the whole config, with every default that transformers fills in.
        text, vision: the configs of the decoder and of the encoder, likewise.
        preprocessor: the image processor's config; empty where there is none.
        components: vision, connector, language, cross-attention, head; those that it has.
        parts: the modules that they hang from.
        tied_head: the output head is the embedding: one parameter, counted with the embedding.
        stored: the tensors in the checkpoint; empty where only a config is at hand.
    """

    name: str
    model_type: str
    config: Mapping[str, Any]
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    components: tuple[Component, ...]
    parts: Parts
    tied_head: bool
    stored: Mapping[str, StoredTensor]

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return sum(component.parameters for component in self.components)

    def component(self, name: str) -> Component:
        """A component by name; one without layers where the model has none of that name."""
        return next((component for component in self.components if component.name == name), Component(name, ()))


def read_modules(directory: str | Path) -> tuple[Component, ...]:
    """The components of a vision-language model.

    A layer is a module with parameters, under its full name as transformers builds it
    (`model.language_model.layers.0.self_attn.q_proj`), or a parameter that lies loose in a module
    (`model.image_newline`). Cross-attention is a component of its own, and so is the head, with no parameters where it
    is tied to the embedding.

    Raises:
        ModelError: as `read_vlm`.
    """
    return read_vlm(directory).components


def load_config(directory: Path) -> Config:
    """config.json of a directory, completed by transformers with its defaults.

    Raises:
        ModelError: transformers does not understand it.
    """
    from transformers import AutoConfig

    require_plain_files(directory)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        found: Config = config.to_dict()
    except Exception as error:  # a config can be wrong in as many ways as there are models
        raise ModelError(
            f"transformers does not understand {directory / 'config.json'}", causes=(first_line(error),)
        ) from error
    return found


def read_vlm(model: str | Path) -> VlmDescription:
    """Read a vision-language model's configs and headers.

    Args:
        model: a directory with config.json (safetensors files are looked at where there are any), or a Hugging Face id,
            of which only config.json and the safetensors headers are fetched.

    Raises:
        ModelError: there is no such model; it is not a vision-language model, or its config has no vision part; a shard
            is missing; a header contradicts itself or the config.
    """
    path = Path(model)
    if path.is_dir():
        directory, stored = path, read_stored(path)
    elif is_hub_id(model) and not path.exists():
        directory, stored = fetch_description(str(model))
    else:
        raise ModelError(f"{model} is not a directory", expected="a Hugging Face directory with config.json, or an id")
    raw = read_json_object(directory / "config.json")
    _check_raw(raw, directory)
    built = _build(directory, raw)
    return _describe(built, str(model) if directory != path else path.resolve().name, raw, directory, stored)


def _describe(
    built: Any, name: str, raw: Mapping[str, Any], directory: Path, stored: Mapping[str, StoredTensor]
) -> VlmDescription:
    parts = find_parts(built)
    model_type = str(raw["model_type"])
    check_parts(model_type, {"vision": [parts.vision], "connector": parts.connector, "language": [parts.language]})
    quantized = "quantization_config" in raw
    sizes = compare(built, stored, directory) if stored and not quantized else {}
    return VlmDescription(
        name=name,
        model_type=model_type,
        config=built.config.to_dict(),
        text=built.get_submodule(parts.language).config.to_dict(),
        vision=built.get_submodule(parts.vision).config.to_dict(),
        preprocessor=read_processor_config(directory),
        components=components(built, parts, sizes),
        parts=parts,
        tied_head=_tied(built),
        stored=stored,
    )


def _tied(built: Any) -> bool:
    """Whether input and output embeddings are one parameter; not so where the model does not say what they are."""
    with suppress(NotImplementedError):
        head, embedding = built.get_output_embeddings(), built.get_input_embeddings()
        return head is not None and embedding is not None and head.weight is embedding.weight
    return False


def _check_raw(raw: Mapping[str, Any], directory: Path) -> None:
    """Raise ModelError for a config that transformers would complete with defaults of its own, or never finish."""
    if not isinstance(raw.get("model_type"), str):
        raise ModelError(
            f"{directory / 'config.json'} has no model_type", expected="the config of a Hugging Face model"
        )
    for key, value in _numbers(raw):
        if key in _DEPTHS and value > _MAX_DEPTH:
            raise ModelError(f"{directory / 'config.json'}: {key} is {value:,}", expected=f"at most {_MAX_DEPTH:,}")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Every integer in a config with its key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, name)
    elif isinstance(value, int):
        yield key, value


def _build(directory: Path, raw: Mapping[str, Any]) -> torch.nn.Module:
    """The model on the meta device, as `architectures` names it."""
    try:
        import torch
        from transformers import AutoConfig
        from transformers.utils import logging
    except ImportError as error:
        raise ModelError(
            "a vision-language model is described with transformers, which is not installed",
            next_step=install_command("torch"),
        ) from error
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        kind = _class(config, raw, directory)
        with torch.device("meta"):
            model: torch.nn.Module = kind._from_config(config)
    except ModelError:
        raise
    except Exception as error:  # a config can be wrong in as many ways as there are models
        reason = first_line(error)
        raise ModelError(
            f"transformers cannot build a model from {directory / 'config.json'}: {reason}",
            causes=("the config is damaged", "it needs a newer transformers, or code of its own, which is not run"),
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return model


def _class(config: Any, raw: Mapping[str, Any], directory: Path) -> Any:
    """The class that `architectures` names, or that belongs to the model_type, if it is a vision-language model."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as KNOWN

    if type(config) not in KNOWN:
        found = ", ".join(str(name) for name in raw.get("architectures") or [raw["model_type"]])
        raise ModelError(
            f"{directory} is not a vision-language model: it is {found}",
            expected="a model that answers in text to an image and text, such as LlavaForConditionalGeneration",
            next_step="a classifier is looked at with `edgeq inspect`",
        )
    if not isinstance(raw.get("vision_config"), dict):
        raise ModelError(
            f"{directory / 'config.json'} has no vision part",
            expected="vision_config, an object",
            causes=("only the language half of the model was saved",),
        )
    known = KNOWN[type(config)]
    named = getattr(transformers, str((raw.get("architectures") or [known.__name__])[0]), None)
    return named if isinstance(named, type) and issubclass(named, known) else known
