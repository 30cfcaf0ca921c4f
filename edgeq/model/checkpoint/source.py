"""Open MODEL: an ONNX file, a directory with one, a Hugging Face directory or id. Weights are not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeq.errors import ModelError, first_line
from edgeq.extras import install_command
from edgeq.files import read_json_object, require_plain_files
from edgeq.model.checkpoint.hub import is_hub_id
from edgeq.model.checkpoint.reachable import why_unreachable
from edgeq.model.checkpoint.safetensors_header import read_safetensors_header
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.model.images.timm_config import from_timm

__all__ = ["ModelSource", "download", "find_checkpoint", "find_graph", "open_model"]

_ONNX_NAMES = ("model.onnx", "model.fp32.onnx")
_INDEX = "model.safetensors.index.json"
_DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "spiece.model", "merges.txt"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_EXPECTED = "an .onnx file, a directory with model.onnx, or a Hugging Face directory with config.json and safetensors"


@dataclass(frozen=True)
class ModelSource:
    """What a model directory says about itself.

    Attributes:
        path: the directory.
        kind: `onnx` when it brings a graph, `hf` when one has to be exported from it.
        onnx_path: the graph, for `onnx`.
        config: `config.json`, empty when there is none.
        architectures: the class names in it.
        labels: class names in the order of the logits, or None when the config has none.
        preprocess: from an image to the network's input.
        takes_normalization: whether `preprocess` does what the graph does to each channel first, and which is then
            taken out of it.
        notes: what a careful reader should know of how it was read.
        metadata: of the ONNX file, where it was asked for.
    """

    path: Path
    kind: Literal["onnx", "hf"]
    onnx_path: Path | None
    config: Mapping[str, Any]
    architectures: tuple[str, ...]
    labels: tuple[str, ...] | None
    preprocess: Preprocess
    takes_normalization: bool = False
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def open_model(model: str | Path, *, preprocess: Preprocess | PreprocessFlags | None = None) -> ModelSource:
    """Find out what MODEL is and read its configs.

    Args:
        model: a path, or a Hugging Face id (`org/name`) where no such path exists; that one is downloaded.
        preprocess: replaces `preprocessor_config.json`; flags say single steps over it, or in its place.

    Raises:
        ModelError: there is no usable model, or a config is missing, malformed or not understood.
    """
    path = _locate(model)
    directory = path if path.is_dir() else path.parent
    onnx_path = _find_onnx(path)
    if onnx_path is None:
        _check_weights(directory)
    config = _read_config(directory)
    return ModelSource(
        path=directory,
        kind="hf" if onnx_path is None else "onnx",
        onnx_path=onnx_path,
        config=config,
        architectures=_architectures(config, directory),
        labels=_labels(config, directory),
        preprocess=_preprocess(directory, config, preprocess),
    )


def find_graph(model: str | Path) -> Path | None:
    """The ONNX file that MODEL means; None for a checkpoint, and for an id that is not here.

    Raises:
        ModelError: the directory has several, or cannot be read.
    """
    path = Path(model)
    try:
        return _find_onnx(path) if path.exists() else None
    except OSError:  # a name too long for a path
        return None


def find_checkpoint(model: str | Path) -> Path:
    """The directory of a Hugging Face model that sees no images: its configs and weights are there, and whole.

    Args:
        model: a directory, or a Hugging Face id where no such path exists; that one is downloaded.

    Raises:
        ModelError: there is none, or a file of it is missing or malformed.
    """
    directory = _locate(model)
    if not directory.is_dir():
        raise ModelError(f"{directory} is no directory", expected=_EXPECTED)
    _check_weights(directory)
    return directory


def _locate(model: str | Path) -> Path:
    """The existing path that MODEL means, downloaded if need be."""
    path = Path(model)
    try:
        if path.exists():
            return path
    except OSError as error:
        raise ModelError(f"{model} cannot be read: {error.strerror or error}") from error
    if is_hub_id(model) and not str(model).endswith(".onnx"):
        return download(str(model))
    raise ModelError(f"{model} does not exist", expected=_EXPECTED)


def download(model: str) -> Path:
    """Fetch configs, tokenizer and safetensors of a Hugging Face id; no code and no pickles.

    Raises:
        ModelError: it cannot be fetched.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(
            f"{model} does not exist here, and huggingface_hub is not installed to download it",
            next_step=install_command("torch"),
        ) from error
    offline = why_unreachable()
    try:
        return Path(snapshot_download(model, allow_patterns=_DOWNLOADED, local_files_only=bool(offline)))
    except Exception as error:  # hub, HTTP client and file system each have their own family of errors
        reason = offline or first_line(error)
        raise ModelError(
            f"{model} does not exist here and could not be downloaded from Hugging Face: {reason}",
            causes=(
                "it was meant as a path and is misspelt",
                "this machine is offline, or HF_HUB_OFFLINE is set and the model is not in the cache",
                "the model does not exist, or needs a login (`hf auth login`)",
            ),
            next_step="download it on another machine and give its directory",
        ) from error


def _find_onnx(path: Path) -> Path | None:
    """The ONNX file MODEL means, or None when it is a directory without one."""
    if path.is_file():
        if path.suffix.lower() != ".onnx":
            raise ModelError(f"{path} is neither a directory nor an .onnx file", expected=_EXPECTED)
        return path
    try:
        found = sorted(
            file for file in path.iterdir() if file.suffix.lower() == ".onnx" and not file.name.startswith(".")
        )
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    for name in _ONNX_NAMES:
        if path / name in found:
            return path / name
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ModelError(
            f"{path} has several ONNX files: {names}", expected="one, or model.onnx", next_step=f"give one: {found[0]}"
        )
    return found[0] if found else None


def _check_weights(directory: Path) -> None:
    """Raise ModelError unless a Hugging Face directory has a config and all its safetensors files, whole."""
    require_plain_files(directory)
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        pickles = sorted(file.name for pattern in _PICKLES for file in directory.glob(pattern))
        if pickles:
            raise ModelError(
                f"{directory} has its weights only as a pickle ({pickles[0]}), which can run any code when opened",
                expected="model.safetensors",
                next_step="convert it where it is trusted: load it and call model.save_pretrained(DIR)",
            )
        raise ModelError(f"{directory} has no model in it", expected=_EXPECTED)
    if not (directory / "config.json").exists():
        raise ModelError(f"{directory} has weights but no config.json", expected=_EXPECTED)
    if (directory / _INDEX).exists():
        _check_index(directory)
    for shard in shards:
        read_safetensors_header(shard)


def _check_index(directory: Path) -> None:
    """Raise ModelError when a shard named by the index is missing."""
    weight_map = read_json_object(directory / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{directory / _INDEX} has no weight_map from tensor to file")
    missing = sorted({name for name in weight_map.values() if not (directory / Path(name).name).is_file()})
    if missing:
        raise ModelError(
            f"{directory} lacks {len(missing)} of its weight files, the first is {missing[0]}",
            next_step="download the rest of the model",
        )


def _read_config(directory: Path) -> dict[str, Any]:
    """`config.json`, or nothing when there is none (which is fine beside an ONNX file)."""
    path = directory / "config.json"
    return read_json_object(path) if path.exists() else {}


def _preprocess(directory: Path, config: Mapping[str, Any], given: Preprocess | PreprocessFlags | None) -> Preprocess:
    """What was given over `preprocessor_config.json`, or over timm's part of config.json.

    Where both are missing, ModelError says which flags stand in.
    """
    if isinstance(given, Preprocess):
        return given
    path = directory / "preprocessor_config.json"
    file = read_json_object(path) if path.exists() else from_timm(config)
    return (given or PreprocessFlags()).apply(file, directory)


def _architectures(config: Mapping[str, Any], directory: Path) -> tuple[str, ...]:
    """The class names in the config."""
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{directory / 'config.json'}: architectures is {names!r}, expected a list of names")
    return tuple(names)


def _labels(config: Mapping[str, Any], directory: Path) -> tuple[str, ...] | None:
    """Class names by id; the ids must be 0, 1, 2, ... without a gap, because they index the logits."""
    labels = config.get("id2label")
    if labels is None:
        return None
    place = f"{directory / 'config.json'}: id2label"
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise ModelError(f"{place} is not an object from id to name")
    missing = [index for index in range(len(labels)) if str(index) not in labels]
    if missing:
        raise ModelError(
            f"{place} has {len(labels)} names but none for {missing[0]}", expected="the ids 0, 1, 2, ... without a gap"
        )
    return tuple(labels[str(index)] for index in range(len(labels)))
