"""llama.cpp as a target: what is refused, the two files, and what llama.cpp does otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.errors import InputError
from edgeq.families.base import Config, LlamaCppForm
from edgeq.families.modules import load_config
from edgeq.families.registry import llama_cpp_form
from edgeq.files import read_json_object
from edgeq.handover.base import HandOver, Subject
from edgeq.handover.llama_cpp.blocks import rounded_scales
from edgeq.handover.llama_cpp.chat_template import with_media_marks
from edgeq.handover.llama_cpp.gguf_file import GgufTensor, write_gguf
from edgeq.handover.llama_cpp.language import language_settings, rope_tensors
from edgeq.handover.llama_cpp.recipe import recipe
from edgeq.handover.llama_cpp.tensors import language_tensors, vision_tensors
from edgeq.handover.llama_cpp.vocabulary import vocabulary
from edgeq.handover.whole import Packed, Unpacked, WholeModel, read_whole, require_packed
from edgeq.handover.write_whole import check_digests
from edgeq.model.images.image_processor import load_image_processor
from edgeq.quantize.language.checkpoint import Progress
from edgeq.quantize.language.read import read_tensors
from edgeq.runtime.vlm.prompt import PROCESSOR_FILES

__all__ = ["llama_cpp"]

_STAGE: Final = "GGUF"
_Q4_0, _Q8_0, _F16 = 2, 7, 1
"""`general.file_type`, by llama.cpp's `llama_ftype`."""

_NOTES: Final = (
    "llama.cpp computes vision encoder and connector by its own code from the model's weights in FP16: the bundle's "
    "graphs are not used, and its canaries and figures do not speak of what llama.cpp makes of it",
    "llama.cpp rounds what goes into a layer of integers to 8 bits, in blocks of 32",
)


@dataclass(frozen=True)
class _File:
    """A GGUF file that is to be written."""

    name: str
    architecture: str
    settings: Mapping[str, Any]
    tensors: Sequence[GgufTensor]


def llama_cpp(subject: Subject) -> HandOver:
    """The target: a language model and an encoder for llama.cpp's mtmd, and the commands that run them.

    Args:
        subject: a bundle of a vision-language model with a language half in INT4 or INT8, and its model.

    Raises:
        InputError: bundle and model do not fit each other, or llama.cpp has no such model.
        ModelError: the model cannot be read.
        ModuleNotFoundError: the package gguf is not there.
    """
    quantization = require_packed(subject.bundle, subject.digests)
    settings = VlmSettings.of(subject.bundle)
    form = llama_cpp_form(settings.model_type)
    if subject.model is None:
        raise InputError(
            "llama.cpp computes the vision encoder from the model's weights, and the bundle has it as a graph alone",
            next_step="give the directory of the model that the bundle was made of: --model DIR",
        )
    import gguf  # noqa: F401  # before anything that takes long

    read = [file for file in PROCESSOR_FILES if file in subject.digests]
    check_digests({subject.bundle / file: subject.digests[file] for file in read})
    config, preprocessor = load_config(subject.bundle), load_image_processor(subject.bundle).to_dict()
    _check(form, config, preprocessor)
    whole = read_whole(subject.bundle, subject.model, quantization)
    files = tuple(_files(subject, settings, form, whole, preprocessor))
    digests = {
        subject.bundle / file: digest
        for file, digest in subject.digests.items()
        if file.startswith(f"{LANGUAGE}/") and file.endswith((".safetensors", ".json"))
    }

    def write(directory: Path, progress: Progress | None) -> None:
        check_digests(digests)
        _write(directory, files, progress)

    flags = form.flags(preprocessor, settings.tokens)
    text = recipe(files[0].name, files[1].name, settings.context, flags)
    notes = (*_NOTES, *form.notes(config, preprocessor), *_text_notes(whole, settings))
    return HandOver({"llama-cpp.txt": text}, notes=notes, write=write)


def _check(form: LlamaCppForm, config: Config, preprocessor: Config) -> None:
    """Raise InputError for a model that llama.cpp would compute otherwise."""
    text = config["text_config"]["model_type"]
    because = form.refused(config, preprocessor)
    if because is None and text not in form.architectures:
        because = f"it is not written with a language model of the type {text}"
    if because is not None:
        raise InputError(
            f"this model cannot be handed over to llama.cpp: {because}",
            next_step="run it with edgeq, or hand it over to another runtime",
        )


def _files(
    subject: Subject, settings: VlmSettings, form: LlamaCppForm, whole: WholeModel, preprocessor: Config
) -> Iterator[_File]:
    text, config = whole.described.text, whole.described.config
    architecture = form.architectures[str(text["model_type"])]
    bits = {item.bits for item in whole.items if isinstance(item, Packed)}
    kind = "Q4_0" if 4 in bits else "Q8_0"
    name = whole.described.name
    common = {"general.name": name, "general.quantization_version": 2}
    tokenizer = vocabulary(subject.bundle, int(text["vocab_size"]), settings.stop)
    if template := _template(subject.bundle):
        before, behind = form.frame
        image = f"{before}{settings.image_token}{behind}"
        space = tokenizer.get("tokenizer.ggml.add_space_prefix") is False
        tokenizer["tokenizer.chat_template"] = with_media_marks(template, image, space=space)
    yield _File(
        f"{name}-{kind}.gguf",
        architecture,
        {
            **common,
            "general.type": "model",
            "general.file_type": _Q4_0 if kind == "Q4_0" else _Q8_0,
            **language_settings(text, architecture),
            **tokenizer,
        },
        (*rope_tensors(text), *language_tensors(whole, architecture)),
    )
    yield _File(
        f"mmproj-{name}-F16.gguf",
        "clip",
        {**common, "general.type": "mmproj", "general.file_type": _F16, **form.settings(config, preprocessor)},
        tuple(vision_tensors(whole, form)),
    )


def _template(bundle: Path) -> str | None:
    """The chat template, where the bundle has one."""
    file = bundle / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = read_json_object(bundle / "tokenizer_config.json").get("chat_template")
    return found if isinstance(found, str) else None


def _text_notes(whole: WholeModel, settings: VlmSettings) -> Iterator[str]:
    """What is told of the language model."""
    window = whole.described.text.get("sliding_window")
    if window and int(window) < settings.context and whole.described.text.get("use_sliding_window", True):
        yield f"llama.cpp attends to the whole context, where this language model has a window of {window} tokens"
    scales = [item.scale for item in whole.items if isinstance(item, Packed | Unpacked)]
    if whole.kind == "bfloat16":
        rounded = sum(rounded_scales(scale) for scale in read_tensors(scales, whole.kind))
        if rounded:
            total = sum(scale.stored.elements for scale in scales)
            yield f"{rounded:,} scales of {total:,} are rounded from bfloat16 to float16"


def _write(directory: Path, files: Sequence[_File], progress: Progress | None) -> None:
    total, done = sum(len(file.tensors) for file in files), 0

    def written() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(_STAGE, done, total)

    for file in files:
        write_gguf(directory / file.name, file.architecture, file.settings, file.tensors, written)
