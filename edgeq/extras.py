"""Which extra brings a package, and the command that installs it: it fits how this edgeq came here."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

__all__ = ["CPU_TORCH", "extra_of", "install_command"]

CPU_TORCH: Final = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
"""torch without CUDA, which is gigabytes; what comes after it finds it there."""

_PACKAGES: Final = {
    "camera": ("av",),
    "cluster": ("ray",),
    "device": ("cryptography",),
    "gguf": ("gguf",),
    "language": ("accelerate", "bitsandbytes"),
    "openvino": ("openvino",),
    "judge": ("openai",),
    "retrieval": ("faiss", "pyarrow", "tokenizers"),
    "service": ("anyio", "h11", "httptools", "prometheus_client", "starlette", "uvicorn", "uvloop"),
    "structured": ("llguidance",),
    "torch": ("huggingface_hub", "onnxscript", "safetensors", "torch", "transformers"),
    "track": ("mlflow", "tensorboardX"),
}
"""Extra -> what is imported of it and is in no extra before; all others are of `quantize`."""

_WITH_TORCH: Final = frozenset(["torch", "language"])


def extra_of(package: str | None) -> str:
    """The extra that brings a package, given by the name that is imported, such as `torch.nn`."""
    top = (package or "").partition(".")[0]
    return next((extra for extra, packages in _PACKAGES.items() if top in packages), "quantize")


def install_command(*extras: str) -> str:
    """The command that adds extras to the edgeq that runs: from its checkout, its wheel, or the index it came from."""
    command = f"pip install {_requirement(','.join(extras))}"
    if _WITH_TORCH.intersection(extras) and not _has_torch():
        return f"{command}; where there is no GPU, first {CPU_TORCH}"
    return command


def _requirement(extras: str) -> str:
    package = Path(__file__).resolve().parent
    if (package.parent / "pyproject.toml").is_file():
        return f"-e {_quoted(f'{package.parent}[{extras}]')}"
    origin = _origin()
    url = str(origin.get("url", ""))
    if not url:
        return _quoted(f"edgeq[{extras}]")
    place = Path(unquote(urlsplit(url).path))
    if "dir_info" in origin:
        return _quoted(f"{place}[{extras}]")
    if "vcs_info" in origin:
        return _quoted(f"edgeq[{extras}] @ {origin['vcs_info'].get('vcs', 'git')}+{url}")
    local = urlsplit(url).scheme == "file"
    return _quoted(f"{place}[{extras}]" if local else f"edgeq[{extras}] @ {url}")


def _origin() -> dict[str, Any]:
    """What pip wrote down of where edgeq came from (PEP 610); nothing where that was an index."""
    try:
        text = metadata.distribution("edgeq").read_text("direct_url.json")
        found = json.loads(text or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _has_torch() -> bool:
    try:
        metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return False
    return True


def _quoted(word: str) -> str:
    """In quotes always: shells take brackets for a pattern."""
    quoted = shlex.quote(word)
    return quoted if quoted != word else f"'{word}'"
