"""A model on the Hugging Face hub, described without its weights: config files and the headers of its shards.

The headers come by range requests (`huggingface_hub.get_safetensors_metadata`): some kilobytes of a file of gigabytes.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError, first_line
from edgeq.extras import install_command
from edgeq.model.checkpoint.reachable import why_unreachable
from edgeq.model.checkpoint.stored import StoredTensor, check_header

__all__ = ["fetch_description", "is_hub_id"]

_HF_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def is_hub_id(model: str | Path) -> bool:
    """Whether `model` has the form of a Hugging Face id, `org/name`."""
    return isinstance(model, str) and _HF_ID.match(model) is not None


def fetch_description(model: str) -> tuple[Path, dict[str, StoredTensor]]:
    """Fetch config.json, the image processor's config if there is one, and the safetensors headers.

    Args:
        model: `org/name`.

    Returns:
        A directory with the config files, and the tensors in the headers.

    Raises:
        ModelError: huggingface_hub is not installed, the hub cannot be reached, or it has no such model.
    """
    try:
        from huggingface_hub import get_safetensors_metadata, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ModelError(
            f"{model} is not here, and huggingface_hub is not installed to ask for it",
            next_step=install_command("torch"),
        ) from error
    if reason := why_unreachable():
        raise _unreachable(model, reason)
    try:
        config = Path(hf_hub_download(model, "config.json"))
        for name in ("preprocessor_config.json", "processor_config.json"):
            with suppress(EntryNotFoundError):  # not every model has one; the defaults of transformers hold then
                hf_hub_download(model, name)
        metadata = get_safetensors_metadata(model)
    except Exception as error:  # hub, HTTP client and file system each have their own family of errors
        raise _unreachable(model, first_line(error)) from error
    tensors = _tensors(metadata)
    if not tensors:
        raise ModelError(f"the safetensors index of {model} on Hugging Face names no file")
    return config.parent, tensors


def _tensors(metadata: Any) -> dict[str, StoredTensor]:
    """The tensors of all shards."""
    found: dict[str, StoredTensor] = {}
    for file, header in metadata.files_metadata.items():
        found |= check_header(file, {name: vars(tensor) for name, tensor in header.tensors.items()})
    return found


def _unreachable(model: str, reason: str) -> ModelError:
    """The error for a model that could not be asked for."""
    return ModelError(
        f"{model} is no directory here and could not be read from Hugging Face: {reason}",
        causes=(
            "it was meant as a path and is misspelt",
            "this machine is offline, or HF_HUB_OFFLINE is set",
            "the model does not exist, has no safetensors, or needs a login (`hf auth login`)",
        ),
        next_step="copy its config.json into a directory and give that: the weights are not needed",
    )
