"""What is taken over from the model's directory, and the photographs that it is tried on."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from PIL import Image

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.errors import ImageError, ModelError
from edgeq.families.modules import VlmDescription
from edgeq.families.registry import runnable
from edgeq.files import atomic_write, read_json_object
from edgeq.model.checkpoint.hub import is_hub_id
from edgeq.model.checkpoint.source import download
from edgeq.model.images.image_set import ImageSet
from edgeq.plan.memory import MemoryPlan
from edgeq.runtime.vlm.prompt import PROCESSOR_FILES, find_image_token, image_marker, load_tokenizer, render

__all__ = ["copy_processor", "image_token", "model_directory", "take_photographs", "vlm_settings"]

_SIDE: Final = 1024
"""Longest side of a photograph, in pixels; a canary of it is at most 3 MB."""

_TEMPLATE, _OLD_TEMPLATE = "chat_template.jinja", "chat_template.json"


def model_directory(model: str | Path) -> Path:
    """The directory of a model that `read_vlm` has read; a Hugging Face id is downloaded.

    Raises:
        ModelError: it cannot be downloaded.
    """
    path = Path(model)
    return path if path.exists() or not is_hub_id(model) else download(str(model))


def image_token(source: Path, model: VlmDescription) -> str:
    """The image token, after a look whether a question can be asked at all.

    Raises:
        ModelError: the family cannot be run in two halves, there are no weights, or the tokenizer lacks the image token
            or a chat template that shows an image.
    """
    image_prompt = runnable(model.model_type)
    if not model.stored:
        raise ModelError(f"{source} has no weights", expected="safetensors", next_step="download the whole model")
    tokenizer = load_tokenizer(source)
    tokenizer.chat_template = tokenizer.chat_template or _old_template(source)
    token = find_image_token(tokenizer, _image_token_id(model))
    render(tokenizer, image_prompt, image_marker(tokenizer, image_prompt, token), "?")
    return token


def vlm_settings(
    source: Path, model: VlmDescription, memory: MemoryPlan | None, token: str, *, vision: str, tokens: int
) -> VlmSettings:
    """What the device must know.

    Args:
        source: the model's directory.
        model: it.
        memory: what was planned; its context is the limit then, if the model's is not less.
        token: from `image_token`.
        vision: name of the vision graph.
        tokens: features of one picture.
    """
    contexts = [int(model.text["max_position_embeddings"])]
    if memory is not None:
        contexts.append(memory.request.context)
    return VlmSettings(
        model_type=model.model_type,
        vision=vision,
        image_token=token,
        image_token_id=_image_token_id(model),
        tokens=tokens,
        context=min(contexts),
        stop=_stop(source),
    )


def copy_processor(source: Path, bundle: Path) -> None:
    """Copy tokenizer, image processor and configs; an older chat template is put into the present form."""
    for name in PROCESSOR_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, bundle / name)
    template = _old_template(source)
    if template and not (bundle / _TEMPLATE).exists():
        atomic_write(bundle / _TEMPLATE, template.encode())


def take_photographs(images: ImageSet, count: int) -> tuple[list[Image.Image], tuple[str, ...]]:
    """Some photographs of at most 1,024 pixels a side, mode RGB, and the names of those that could not be read.

    Raises:
        ImageError: none can be read.
    """
    found, skipped = [], []
    for item in images.sample(count).items:
        try:
            photograph = images.read(item)
        except ImageError as error:
            skipped.append(item.name)
            last = error
            continue
        photograph.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        found.append(photograph)
    if not found:
        raise ImageError(f"no image of {images.path} can be read, {len(skipped)} were tried", causes=(last.what,))
    return found, tuple(skipped)


def _image_token_id(model: VlmDescription) -> int:
    """Number of the image token; configs call it so or so."""
    found = model.config.get("image_token_id", model.config.get("image_token_index"))
    if not isinstance(found, int):
        raise ModelError(f"the config of {model.name} does not say which token stands for an image")
    return found


def _old_template(source: Path) -> str | None:
    """The chat template as processors kept it before it had a file of its own."""
    for name in (_OLD_TEMPLATE, "processor_config.json"):
        if (source / name).is_file() and isinstance(found := read_json_object(source / name).get("chat_template"), str):
            return found
    return None


def _stop(source: Path) -> tuple[int, ...]:
    """The tokens that end an answer, as `generate` of transformers would take them."""
    found: Any = None
    with suppress(OSError, json.JSONDecodeError):
        from transformers import GenerationConfig

        found = GenerationConfig.from_pretrained(source, local_files_only=True).eos_token_id
    if found is None:
        found = load_tokenizer(source).eos_token_id
    return tuple(int(token) for token in (found if isinstance(found, list) else [found]) if token is not None)
