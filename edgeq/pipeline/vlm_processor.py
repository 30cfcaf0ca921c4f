"""What is taken over from the model's directory, and the photographs that it is tried on."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from PIL import Image

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.errors import GateError, ImageError, ModelError
from edgeq.families.modules import VlmDescription
from edgeq.families.registry import runnable
from edgeq.files import atomic_write, read_json_object
from edgeq.model.checkpoint.hub import fetch_description, is_hub_id
from edgeq.model.checkpoint.source import download
from edgeq.model.images.image_processor import write_processor_config
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.vlm_fit import longest_context
from edgeq.plan.memory import MemoryPlan
from edgeq.plan.photographs import PhotographCount
from edgeq.runtime.vlm.prompt import PROCESSOR_FILES, find_image_token, image_marker, load_tokenizer, render

__all__ = [
    "bounded_source",
    "check_question",
    "config_directory",
    "copy_processor",
    "image_token",
    "model_directory",
    "take_photographs",
    "vlm_settings",
]

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


def config_directory(model: str | Path) -> Path:
    """The directory of a model's configs; of a Hugging Face id, these alone are fetched.

    Raises:
        ModelError: they cannot be fetched.
    """
    path = Path(model)
    return path if path.exists() or not is_hub_id(model) else fetch_description(str(model))[0]


def image_token(source: Path, model: VlmDescription) -> str:
    """The image token, after a look whether a question can be asked at all.

    Raises:
        ModelError: the family cannot be run in two halves, there are no weights, or the tokenizer lacks the image token
            or a chat template that shows an image.
    """
    image_prompt = runnable(model.model_type)
    if not model.stored:
        raise ModelError(f"{source} has no weights", expected="safetensors", next_step="download the whole model")
    tokenizer = _tokenizer(source)
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
    return VlmSettings(
        model_type=model.model_type,
        vision=vision,
        image_token=token,
        image_token_id=_image_token_id(model),
        tokens=tokens,
        context=_context(model, memory),
        stop=_stop(source),
    )


def check_question(
    source: Path, model: VlmDescription, memory: MemoryPlan | None, token: str, *, count: PhotographCount, question: str
) -> None:
    """Compare a question about the dearest photograph with the context: the whole prompt, as the tokenizer has it.

    Args:
        source: the model's directory.
        model: it.
        memory: what was planned; its context is the limit then.
        token: from `image_token`.
        count: the photographs.
        question: the longest that will be asked.

    Raises:
        GateError: no room is left for an answer.
    """
    image_prompt, tokenizer = runnable(model.model_type), _tokenizer(source)
    marker = image_marker(tokenizer, image_prompt, token)
    text = render(tokenizer, image_prompt, marker, question).replace(marker, "")
    taken, context = count.tokens + len(tokenizer(text, add_special_tokens=False)["input_ids"]), _context(model, memory)
    if taken >= context:
        raise GateError(
            f"the longest question and {count.name} take {taken:,} tokens, and the context is {context:,}, answer "
            "included",
            causes=(f"{count.name} is {count.size[0]} x {count.size[1]} pixels, {count.tokens:,} tokens",),
            next_step="ask in fewer words, take smaller photographs, or plan for a longer context",
        )


def _context(model: VlmDescription, memory: MemoryPlan | None) -> int:
    """What the model was made for, or what was planned if that is less."""
    contexts = [longest_context(model)]
    if memory is not None:
        contexts.append(memory.request.context)
    return min(contexts)


def bounded_source(source: Path, model: VlmDescription, bounded: VlmDescription, scratch: Path) -> Path:
    """A model's directory whose configs bound its images; all other files are links to those of `source`.

    So the image processor, the export and the bundle have the same bounds as the plan.

    Args:
        source: the model's directory.
        model: as it is there.
        bounded: from `edgeq.families.registry.cap`; `model` itself leaves `source` as it is.
        scratch: an empty directory.
    """
    if bounded is model:
        return source
    for entry in source.iterdir():
        (scratch / entry.name).symlink_to(entry.resolve())
    changed = {key: value for key, value in bounded.config.items() if value != model.config.get(key)}
    if changed:
        config = read_json_object(source / "config.json") | changed
        atomic_write(scratch / "config.json", json.dumps(config, indent=2).encode())
    write_processor_config(scratch, dict(bounded.preprocessor))
    return scratch


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


def _tokenizer(source: Path) -> Any:
    """The tokenizer with its chat template, wherever that lies."""
    tokenizer = load_tokenizer(source)
    tokenizer.chat_template = tokenizer.chat_template or _old_template(source)
    return tokenizer


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
