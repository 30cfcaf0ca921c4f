"""Runtimes that load a whole Hugging Face checkpoint and run vision and language by their own code.

What each of them takes was read in the releases that `docs/decisions/0051` names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.errors import InputError
from edgeq.families.modules import VlmDescription
from edgeq.families.registry import loaded_by, tower_with_inner_model, why_not_loaded
from edgeq.files import read_json_object
from edgeq.handover.base import HandOver, Subject
from edgeq.handover.edge_llm import KERNEL_GROUP, KERNEL_MULTIPLE, recipe
from edgeq.handover.forms import FORMS
from edgeq.handover.whole import Copied, Unpacked, WholeModel, read_whole, require_packed
from edgeq.handover.write_whole import write_whole, written_config
from edgeq.quantize.language.checkpoint import Progress
from edgeq.runtime.vlm.prompt import PROCESSOR_FILES

__all__ = ["CHECKPOINTS", "Runtime", "checkpoint"]

_CONFIG: Final = "config.json"
_MORE_FILES: Final = ("chat_template.json", "video_preprocessor_config.json")
"""Of a processor, which edgeq does not need."""


@dataclass(frozen=True)
class Runtime:
    """A runtime of whole checkpoints.

    Attributes:
        title: its name.
        forms: names of the forms that it loads; the first is taken where none is asked for.
        refuse: raises InputError for a family that it does not know.
        check: raises InputError for weights that it cannot compute with.
        files: name -> text, from the name of the directory, the form's name and the bundle's settings.
        rename: stored name of a tensor outside the language model -> the name that the runtime looks for, given the
            model.
        notes: what it does otherwise than the bundle says.
    """

    title: str
    forms: tuple[str, ...]
    refuse: Callable[[str], None]
    check: Callable[[WholeModel], None] = lambda _whole: None
    files: Callable[[str, VlmSettings], Mapping[str, str]] = lambda _form, _settings: {}
    rename: Callable[[VlmDescription, str], str] = lambda _model, name: name
    notes: tuple[str, ...] = ()


def checkpoint(runtime: Runtime) -> Callable[[Subject], HandOver]:
    """The target of a runtime of whole checkpoints."""
    return lambda subject: _hand_over(runtime, subject)


def _hand_over(runtime: Runtime, subject: Subject) -> HandOver:
    """What a runtime gets of a bundle, all that can be refused looked at before anything is written.

    Raises:
        InputError: bundle, model, form and runtime do not fit each other.
        ModelError: the model cannot be read.
    """
    name = subject.form or runtime.forms[0]
    if name not in runtime.forms:
        raise InputError(
            f"{runtime.title} does not load the form {name}",
            expected=" or ".join(runtime.forms),
            next_step="leave --form out",
        )
    quantization = require_packed(subject.bundle, subject.digests)
    settings = VlmSettings.of(subject.bundle)
    runtime.refuse(settings.model_type)
    if subject.model is None:
        raise InputError(
            f"{runtime.title} takes a whole checkpoint, and the bundle has no vision tower but as a graph",
            next_step="give the directory of the model that the bundle was made of: --model DIR",
        )
    whole = _renamed(read_whole(subject.bundle, subject.model, quantization), runtime)
    runtime.check(whole)
    form = FORMS[name](whole.layout)
    texts = {
        _CONFIG: written_config(read_json_object(subject.bundle / _CONFIG), whole, form),
        **form.files(),
        **runtime.files(name, settings),
    }
    ours = [file for file in PROCESSOR_FILES if file in subject.digests and file != _CONFIG]
    beside = {file: subject.model / file for file in _MORE_FILES if (subject.model / file).is_file()}
    digests = {
        subject.bundle / file: digest
        for file, digest in subject.digests.items()
        if file.startswith(f"{LANGUAGE}/") and file.endswith((".safetensors", ".json"))
    }

    def write(directory: Path, progress: Progress | None) -> None:
        write_whole(directory, whole, form, digests, progress=progress)

    tables = any(isinstance(item, Unpacked) for item in whole.items)
    notes = (*runtime.notes, *([_TABLES] if tables else []))
    return HandOver(texts, {file: file for file in ours}, notes, beside, write)


def _renamed(whole: WholeModel, runtime: Runtime) -> WholeModel:
    return replace(
        whole,
        items=tuple(
            replace(item, name=runtime.rename(whole.described, item.name))
            if isinstance(item, Copied) and not item.in_language
            else item
            for item in whole.items
        ),
    )


def _unknown(title: str, family: str, because: str) -> InputError:
    return InputError(
        f"{title} does not load models of the family {family}: {because}",
        next_step="run it with edgeq, or hand it over to another runtime",
    )


_TOWER: Final = re.compile(r"^(model\.)?vision_tower\.(?!vision_model\.)")


def _refuse_vllm(family: str) -> None:
    if family not in loaded_by("vllm"):
        raise _unknown("vLLM", family, why_not_loaded(family, "vllm") or "it is not in the list of vLLM 0.33")


def _tower_of_vllm(model: VlmDescription, name: str) -> str:
    """vLLM has a module `vision_model` in CLIP's and SigLIP's towers, as checkpoints did before transformers 5.2."""
    return _TOWER.sub(r"\g<0>vision_model.", name) if tower_with_inner_model(model.vision) else name


def _refuse_edge_llm(family: str) -> None:
    known = loaded_by("edge-llm")
    if family not in known:
        because = f"of those that edgeq prepares, its 0.11 has {', '.join(sorted(known))}"
        raise _unknown("TensorRT Edge-LLM", family, because)


def _check_edge_llm(whole: WholeModel) -> None:
    """Raise InputError for weights that its INT4 kernels do not take."""
    for layer in whole.layout.layers.values():
        if layer.scheme.bits == 4 and layer.scheme.group != KERNEL_GROUP:
            raise InputError(
                f"TensorRT Edge-LLM's INT4 kernels have groups of {KERNEL_GROUP}, and {layer.name} has groups of "
                f"{layer.scheme.group}, because its input is {layer.shape[1]} wide"
            )
        if any(size % KERNEL_MULTIPLE for size in layer.shape):
            raise InputError(
                f"TensorRT Edge-LLM's INT4 kernels take multiples of {KERNEL_MULTIPLE}, and {layer.name} is "
                f"{' x '.join(map(str, layer.shape))}"
            )


_EYES: Final = (
    "vision tower and connector are the model's own weights, which the runtime computes with by its code: the bundle's "
    "graphs are not used, and its canaries and figures do not speak of what the runtime makes of it"
)

_TABLES: Final = (
    "embedding and head are INT8 in the bundle and 16-bit floats here, the numbers that the integers stand for: the "
    "runtime needs twice the memory for them"
)

CHECKPOINTS: Final[dict[str, Runtime]] = {
    "edge-llm": Runtime(
        "TensorRT Edge-LLM",
        ("awq", "modelopt"),
        _refuse_edge_llm,
        check=_check_edge_llm,
        files=recipe,
        notes=(
            _EYES,
            "TensorRT Edge-LLM computes in FP16, and rounds scales and weights to it where the checkpoint has bfloat16",
        ),
    ),
    "transformers": Runtime(
        "transformers",
        ("compressed-tensors",),
        lambda _family: None,
        notes=(
            _EYES,
            "transformers needs the package compressed-tensors, and makes the integers floats again as it loads them",
        ),
    ),
    "vllm": Runtime("vLLM", ("compressed-tensors", "awq"), _refuse_vllm, rename=_tower_of_vllm, notes=(_EYES,)),
}
"""Targets of this kind by name."""
