"""A whole checkpoint out of a bundle's language half and the model that it was made of.

Vision tower, connector and what else the source has are stored as they are there, under its own names; each tensor of
the language model is the bundle's. Nothing is read here but configs and headers, and some rows of the embeddings, by
which a language half is known to be of this model: quantization leaves them as they are, or rounds them one by one,
also where AWQ changes norms. Embedding and head in INT8 become floats again, the numbers that the integers stand for:
none of these runtimes loads both of them in integers (docs/decisions/0054).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.bundle.vlm_settings import LANGUAGE
from edgeq.errors import ArtifactError, InputError, ModelError
from edgeq.families.modules import VlmDescription, load_config, read_vlm
from edgeq.families.structure import Parts
from edgeq.files import read_json_object
from edgeq.handover.form import QuantizedLayer, WeightLayout
from edgeq.model.checkpoint.packed_weights import METHOD, WeightScheme, pack_integers, packed_slots, read_schemes
from edgeq.model.checkpoint.safetensors_header import read_safetensors_header
from edgeq.model.checkpoint.stored import FLOATS, read_stored
from edgeq.quantize.language.checkpoint import HEADER_NAMES
from edgeq.quantize.language.read import FloatType
from edgeq.quantize.language.source import (
    Language,
    Source,
    embeddings,
    linear_layers,
    open_language,
    output_head,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Copied", "Packed", "Unpacked", "WholeModel", "read_whole", "require_packed"]

_TYPES: Final[dict[str, FloatType]] = {name: kind for kind, name in HEADER_NAMES.items()}
_COMPARED_ROWS: Final = 64
_COPIED_INTEGERS: Final = frozenset({"I64", "I32", "U8"})
_SPARED_COMPONENTS: Final = frozenset({"vision", "connector"})
_MATRIX: Final = 2
_TABLE: Final = WeightScheme(8, None)


@dataclass(frozen=True)
class Copied:
    """A tensor that is stored as it is, floating point in the checkpoint's 16-bit type.

    Attributes:
        name: under which it is stored.
        source: where it comes from.
        in_language: whether it is of the language model or its head.
    """

    name: str
    source: Source
    in_language: bool


@dataclass(frozen=True)
class Packed:
    """A weight of integers.

    Attributes:
        layer: whose it is.
        packed, scale: where its integers and their scales come from.
    """

    layer: QuantizedLayer
    packed: Source
    scale: Source

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in]."""
        return self.layer.shape

    @property
    def bits(self) -> int:
        """Of an integer."""
        return self.layer.scheme.bits


@dataclass(frozen=True)
class Unpacked:
    """A table of INT8, one scale for each row, that is stored as floats in the checkpoint's 16-bit type.

    Attributes:
        name: under which it is stored.
        shape: [vocabulary, hidden].
        packed, scale: where its integers and their scales come from.
    """

    name: str
    shape: tuple[int, ...]
    packed: Source
    scale: Source

    @property
    def bits(self) -> int:
        """Of an integer."""
        return _TABLE.bits


@dataclass(frozen=True)
class WholeModel:
    """A checkpoint to be written.

    Attributes:
        source: directory of the model.
        described: the model.
        kind: the 16-bit type of all that is not integers.
        layout: of the weights.
        items: its tensors in the order of the source's files.
    """

    source: Path
    described: VlmDescription
    kind: FloatType
    layout: WeightLayout
    items: tuple[Copied | Packed | Unpacked, ...]


def require_packed(bundle: Path, listed: Mapping[str, str]) -> Mapping[str, Any]:
    """The `quantization_config` of a bundle's language half, which must be integers of compressed-tensors.

    Args:
        bundle: its directory.
        listed: files in its manifest.

    Raises:
        InputError: it is another bundle, or its language half is NF4.
        ModelError: config.json cannot be read.
    """
    if f"{LANGUAGE}/config.json" not in listed:
        raise InputError(f"{bundle} is no vision-language model's bundle", expected=f"one with {LANGUAGE}/config.json")
    found = read_json_object(bundle / LANGUAGE / "config.json").get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    if not isinstance(found, dict) or method != METHOD:
        named = {"bitsandbytes": "NF4 (bitsandbytes)", None: "not quantized"}.get(method, str(method))
        raise InputError(
            f"the language half of {bundle} is {named}, and other runtimes are handed over integers",
            expected="a bundle made with --language int4-awq or int8",
            next_step="edgeq prepare the model again with --language int4-awq",
        )
    return found


def read_whole(bundle: Path, model: Path, quantization: Mapping[str, Any]) -> WholeModel:
    """Join a bundle's language half and the model that it was made of.

    Args:
        bundle: its directory.
        model: a Hugging Face directory with weights.
        quantization: from `require_packed`.

    Raises:
        ModelError: there is no such model, or the language half's files are not what its config says.
        InputError: the bundle was made of another model.
    """
    described = read_vlm(model)
    if not described.stored:
        raise ModelError(f"{model} has no weights", expected="safetensors", next_step="download the whole model")
    _check_config(bundle, model)
    language = open_language(model)
    half = _stored(bundle / LANGUAGE)
    schemes = _schemes(language, quantization)
    _check_half(bundle, language, half, schemes)
    _check_rows(bundle, model, language, half, schemes)
    modules = {alone: whole for whole, alone in language.modules.items()}
    items = tuple(_items(model, language, half, schemes, modules))
    layers = {item.layer.name: item.layer for item in items if isinstance(item, Packed)}
    kind = _kind(half)
    layout = WeightLayout(layers, _spared(described.parts), _ignored(described, items, layers), HEADER_NAMES[kind])
    return WholeModel(model, described, kind, layout, items)


def _check_config(bundle: Path, model: Path) -> None:
    """Both configs as transformers completes them: one family, one language model."""
    ours, theirs = load_config(bundle), load_config(model)
    for key in ("model_type", "text_config"):
        if _shape_keys(ours.get(key)) != _shape_keys(theirs.get(key)):
            raise _other_model(bundle, model, f"{key} of config.json differs")


def _shape_keys(value: Any) -> Any:
    """A part of a config without what does not describe the model."""
    apart = ("dtype", "torch_dtype", "transformers_version", "_name_or_path")
    return {key: each for key, each in value.items() if key not in apart} if isinstance(value, dict) else value


def _stored(directory: Path) -> dict[str, Source]:
    """Every tensor of a language half by name."""
    found: dict[str, Source] = {}
    stored = read_stored(directory)
    for file in sorted(directory.glob("*.safetensors")):
        found |= {name: Source(file, name, stored[name]) for name in read_safetensors_header(file) if name in stored}
    return found


def _schemes(language: Language, quantization: Mapping[str, Any]) -> dict[str, WeightScheme]:
    linear, tables = linear_layers(language.model), embeddings(language.model)
    tied = {name for name in linear if f"{name}.weight" not in language.tensors}
    return {name: scheme for name, scheme in read_schemes(quantization, linear, tables).items() if name not in tied}


def _check_half(
    bundle: Path, language: Language, half: Mapping[str, Source], schemes: Mapping[str, WeightScheme]
) -> None:
    """Raise unless the half stores, name by name and shape by shape, what its config makes of the source's tensors."""
    wanted: dict[str, tuple[str | None, tuple[int, ...] | None]] = {}
    for name, source in language.tensors.items():
        layer = name.removesuffix(".weight")
        if layer in schemes and name.endswith(".weight"):
            for slot in packed_slots(layer, source.stored.shape, schemes[layer], ""):
                wanted[slot.name] = (slot.dtype or None, slot.shape)
        else:
            wanted[name] = (None, source.stored.shape)
    for name in sorted(wanted.keys() | half.keys()):
        if name not in half:
            raise _other_half(bundle, f"{name} is not stored")
        if name not in wanted:
            raise _other_half(bundle, f"{name} is stored, and nothing needs it")
        (dtype, shape), found = wanted[name], half[name].stored
        if found.shape != shape or found.dtype not in ((dtype,) if dtype else _TYPES):
            raise _other_half(bundle, f"{name} is stored as {found.dtype} {list(found.shape)}, expected {shape}")


def _check_rows(
    bundle: Path,
    model: Path,
    language: Language,
    half: Mapping[str, Source],
    schemes: Mapping[str, WeightScheme],
) -> None:
    """Raise InputError unless some rows of the embeddings, and of a head of its own, are the source's."""
    whole: Any = language.model
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    for module in (whole.get_input_embeddings(), whole.get_output_embeddings()):
        name = names.get(id(module.weight)) if module is not None else None
        if name is None:
            continue
        scheme = schemes.get(name.removesuffix(".weight"))
        if not _same_rows(half, name, scheme, _some_rows(language.tensors[name])):
            raise _other_model(bundle, model, f"the rows of {language.tensors[name].name} differ")


def _same_rows(half: Mapping[str, Source], name: str, scheme: WeightScheme | None, theirs: torch.Tensor) -> bool:
    """Whether a table of the half has these rows of the source, or what they are rounded to."""
    import torch

    from edgeq.quantize.weight_only.table import round_table

    if scheme is None:
        ours = _some_rows(half[name])
        return torch.equal(ours, theirs.to(ours.dtype))
    packed, scales = (_some_rows(half[f"{name}_{part}"]) for part in ("packed", "scale"))
    rounded = round_table(theirs.to(scales.dtype), scheme)
    return torch.equal(pack_integers(rounded.values, scheme.bits), packed) and torch.equal(rounded.scales, scales)


def _some_rows(source: Source) -> torch.Tensor:
    """Rows from the first to the last, at equal distances."""
    import torch
    from safetensors import safe_open

    rows = source.stored.shape[0]
    with safe_open(source.file, framework="pt", device="cpu") as file:
        part = file.get_slice(source.name)
        return torch.stack([part[row] for row in range(0, rows, max(1, rows // _COMPARED_ROWS))])


def _items(
    model: Path,
    language: Language,
    half: Mapping[str, Source],
    schemes: Mapping[str, WeightScheme],
    modules: Mapping[str, str],
) -> Iterator[Copied | Packed | Unpacked]:
    tables = {*embeddings(language.model), output_head(language.model)}
    alone = {(source.file, source.name): name for name, source in language.tensors.items()}
    for source in _stored(model).values():
        name = alone.get((source.file, source.name))
        layer = "" if name is None else name.removesuffix(".weight")
        if name is None:
            _check_type(source)
            yield Copied(source.name, source, in_language=False)
        elif layer in tables and schemes.get(layer) == _TABLE:
            integers = (half[f"{layer}.weight_{part}"] for part in ("packed", "scale"))
            yield Unpacked(source.name, source.stored.shape, *integers)
        elif name.endswith(".weight") and layer in schemes:
            rows, columns = source.stored.shape
            found = QuantizedLayer(source.name.removesuffix(".weight"), modules[layer], (rows, columns), schemes[layer])
            yield Packed(found, half[f"{layer}.weight_packed"], half[f"{layer}.weight_scale"])
        else:
            yield Copied(source.name, half[name], in_language=True)


def _check_type(source: Source) -> None:
    if source.stored.dtype not in FLOATS and source.stored.dtype not in _COPIED_INTEGERS:
        raise ModelError(f"{source.file} stores {source.name} as {source.stored.dtype}, which is not handed over")


def _kind(half: Mapping[str, Source]) -> FloatType:
    counts: Counter[str] = Counter()
    for source in half.values():
        if source.stored.dtype in _TYPES:
            counts[source.stored.dtype] += source.stored.elements
    return _TYPES[counts.most_common(1)[0][0]]


def _spared(parts: Parts) -> tuple[str, ...]:
    """Last names of encoder and connector; a connector that is within the encoder needs none of its own."""
    roots = [parts.vision, *parts.connector]
    apart = [root for root in roots if not any(root.startswith(f"{other}.") for other in roots)]
    return tuple(dict.fromkeys(root.rpartition(".")[2] for root in apart))


def _ignored(
    described: VlmDescription, items: tuple[Copied | Packed | Unpacked, ...], layers: Mapping[str, QuantizedLayer]
) -> tuple[str, ...]:
    """What of the language model and its head is not quantized.

    transformers asks for the names of linear layers as it builds them; vLLM renames stored ones to its own.
    """
    packed = {layer.module for layer in layers.values()}
    built = [
        layer.name
        for component in described.components
        for layer in component.layers
        if layer.op == "Linear" and layer.name not in packed and component.name not in _SPARED_COMPONENTS
    ]
    floats = [item for item in items if not isinstance(item, Packed)]
    stored = [item.name.removesuffix(".weight") for item in floats if _is_matrix(item)]
    return tuple(dict.fromkeys((*built, *stored)))


def _is_matrix(item: Copied | Unpacked) -> bool:
    """Whether this becomes a matrix of the language model or its head."""
    if isinstance(item, Unpacked):
        return True
    return item.in_language and item.name.endswith(".weight") and len(item.source.stored.shape) == _MATRIX


def _other_model(bundle: Path, model: Path, what: str) -> InputError:
    return InputError(
        f"{bundle} was not made of {model}: {what}",
        causes=("it is another release, or a fine-tuned one, of that model",),
        next_step="give the directory that `edgeq prepare` was given",
    )


def _other_half(bundle: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"the language half of {bundle} is not what its config and the model make it: {what}",
        causes=("the bundle was made of another model", "a file of it was exchanged"),
        next_step="edgeq verify the bundle, and give the model that it was made of",
    )
