"""transformers' image processor of a model, in the form that needs Pillow alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgeq.errors import ModelError, first_line
from edgeq.files import atomic_write, read_json_object

__all__ = ["load_image_processor", "read_processor_config", "write_processor_config"]

_OWN: Final = "preprocessor_config.json"
_WHOLE: Final = "processor_config.json"
_INSIDE: Final = "image_processor"


def read_processor_config(model: Path) -> dict[str, Any]:
    """What a model's directory says of its image processor; empty where it says nothing.

    In processor_config.json, under `image_processor`, where newer releases of transformers have it, or else in
    preprocessor_config.json: the order in which transformers looks.

    Raises:
        ModelError: a file is no JSON object.
    """
    found: dict[str, Any] | None = None
    if (model / _WHOLE).is_file():
        inside = read_json_object(model / _WHOLE).get(_INSIDE)
        found = inside if isinstance(inside, dict) else None
    if found is None and (model / _OWN).is_file():
        found = read_json_object(model / _OWN)
    return found or {}


def write_processor_config(model: Path, config: dict[str, Any]) -> None:
    """Write it to where transformers looks first, and into preprocessor_config.json for all others."""
    whole = read_json_object(model / _WHOLE) if (model / _WHOLE).is_file() else {}
    if isinstance(whole.get(_INSIDE), dict):
        _write(model / _WHOLE, whole | {_INSIDE: config})
    _write(model / _OWN, config)


def _write(path: Path, config: dict[str, Any]) -> None:
    atomic_write(path, json.dumps(config, indent=2).encode())


def load_image_processor(model: Path, config: Mapping[str, Any] | None = None) -> Any:
    """The processor that comes with a model, without torchvision; nothing is downloaded.

    Args:
        model: its directory.
        config: what the processor is told in the place of what the directory says; of the same kind.

    Raises:
        ModelError: there is none, or it cannot be made.
    """
    from transformers import AutoImageProcessor

    try:
        made = AutoImageProcessor.from_pretrained(model, backend="pil", local_files_only=True, trust_remote_code=False)
        return made if config is None else type(made).from_dict(dict(config))
    except Exception as error:  # a config can be wrong in as many ways as there are processors
        raise ModelError(
            f"{model} has no image processor that can be used: how photographs become pixels is not known",
            expected="preprocessor_config.json or processor_config.json, as it came with the model",
            causes=(first_line(error),),
        ) from error
