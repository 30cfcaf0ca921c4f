"""Vision encoder and connector of a vision-language model as one torch module; the language model is never loaded.

The whole model is built on the meta device, where it has shapes and no bytes, and asked where its parts are. Encoder,
connector and what lies loose between them are then made for real, and filled from the safetensors files tensor by
tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import ModelError, first_line
from edgeq.export.tracing import quiet
from edgeq.families.base import Config, VisionGraph
from edgeq.families.modules import read_vlm
from edgeq.families.registry import exportable
from edgeq.families.structure import Parts, find_parts
from edgeq.files import read_json_object

if TYPE_CHECKING:
    import torch

__all__ = ["VisionModule", "load_vision_module"]

_INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True)
class VisionModule:
    """What of a vision-language model looks at images.

    Attributes:
        model_type: from config.json.
        config: the whole model's, with every default that transformers fills in.
        graph: what the family says of it.
        module: float32 in eval mode, from the graph's inputs in their order to its outputs. Its children are called
            `vision` and `connector`.
        parameters: numbers loaded, those of layers that no feature depends on included.
    """

    model_type: str
    config: Config
    graph: VisionGraph
    module: torch.nn.Module
    parameters: int


def load_vision_module(model: Path) -> VisionModule:
    """Load vision encoder and connector, nothing else.

    Args:
        model: a Hugging Face directory with config.json and safetensors, named as transformers 5 does or as the hub
            does; no code in it is run.

    Raises:
        ModelError: it is no vision-language model, or its weights are missing, damaged or not the config's.
        ExportError: its family cannot be exported.
    """
    described = read_vlm(model)
    graph = exportable(described.model_type, described.vision)
    whole = _on_meta(model)
    parts = find_parts(whole)
    encoder = whole.get_submodule(parts.vision)
    with quiet():
        vision = type(encoder)(encoder.config)
    roots, joined = {parts.vision: vision}, None
    if not _inside(parts.connector[0], parts.vision):
        joined = roots[parts.connector[0]] = _connector(whole, parts.connector[0])
    wanted = {f"{root}.{name}": value for root, part in roots.items() for name, value in part.state_dict().items()}
    _fill(wanted | _loose(whole, parts), model, _stored_names(whole, described.stored))
    module = graph.build(vision, joined, whole).eval()
    parameters = sum(value.numel() for value in module.parameters())
    return VisionModule(described.model_type, described.config, graph, module, parameters)


def _inside(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}.")


def _connector(whole: Any, name: str) -> Any:
    """The connector with memory for its weights; one that computes tensors of its own is built again."""
    part = whole.get_submodule(name)
    if {own for own, _ in part.named_buffers()} <= part.state_dict().keys():
        return copy.deepcopy(part).to_empty(device="cpu")
    with quiet():
        return type(part)(whole.config)


def _loose(whole: Any, parts: Parts) -> dict[str, torch.Tensor]:
    """Parameters of the connector that lie in no part, such as `model.image_newline`: from now on they have memory."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for name, value in list(whole.named_parameters()):
        if parts.component(name) != "connector" or any(
            _inside(name, root) for root in (parts.vision, *parts.connector)
        ):
            continue
        above, _, last = name.rpartition(".")
        setattr(whole.get_submodule(above), last, torch.nn.Parameter(torch.empty(value.shape), requires_grad=False))
        found[name] = whole.get_parameter(name).data
    return found


def _on_meta(model: Path) -> Any:
    """The whole model without bytes; its attention is plain MatMul and Softmax, which a graph can hold."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with quiet(), torch.device("meta"):
        config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
        return AutoModelForImageTextToText.from_config(
            config, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False
        )


def _stored_names(whole: Any, stored: Mapping[str, object]) -> dict[str, str]:
    """Name in the checkpoint -> name in the model, by transformers' own renamings.

    The hub keeps the names of the release that wrote a checkpoint. Tensors that are joined or split are left out.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    steps = get_model_conversion_mapping(whole)
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    renamings = [step for step in steps if not isinstance(step, WeightConverter)]
    state = whole.state_dict()
    found = {name: rename_source_key(name, renamings, converters, whole.base_model_prefix, state) for name in stored}
    return {name: target for name, (target, converter) in found.items() if converter is None}


def _fill(wanted: dict[str, torch.Tensor], model: Path, names: Mapping[str, str]) -> None:
    """Copy into each of `wanted` (name in the model -> tensor) what the files store for it, as float32."""
    import torch

    missing = set(wanted)
    with torch.no_grad():
        for target, value in _read(model, {name: target for name, target in names.items() if target in missing}):
            if value.shape != wanted[target].shape or not value.is_floating_point():
                raise _other_weights(model, f"{target} is {value.dtype} {list(value.shape)}")
            wanted[target].copy_(value)
            missing.discard(target)
    if missing:
        raise _other_weights(model, f"{len(missing)} of {len(wanted)} tensors are not stored, such as {min(missing)}")


def _read(model: Path, names: Mapping[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor of `names` that a file holds, with its new name; files are mapped one at a time."""
    from safetensors import SafetensorError, safe_open

    for path in _files(model):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys() & names.keys():
                    yield names[name], file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} cannot be read: {first_line(error)}", next_step="copy it again from where the model came"
            ) from error


def _files(model: Path) -> list[Path]:
    """The files that hold the model; `read_vlm` has checked the index."""
    if (model / _INDEX).exists():
        return [
            model / Path(name).name for name in sorted(set(read_json_object(model / _INDEX)["weight_map"].values()))
        ]
    return sorted(model.glob("*.safetensors"))


def _other_weights(model: Path, what: str) -> ModelError:
    return ModelError(
        f"the weights in {model} are not those of its vision half: {what}",
        causes=("a shard is missing", "only the language model was saved", "the checkpoint is quantized"),
        next_step="take config.json and the safetensors from the same, unquantized checkpoint",
    )
