"""TensorRT's real Python bindings, of three releases, on a machine without a GPU.

The wheels hold the bindings alone; the libraries below them need a GPU. They are stood in for by shared objects which
are compiled here and can do nothing: every factory returns a null pointer. So enums, signatures and the calibrator's
base class are real, while no builder, runtime or engine can be made.

    from tensorrt_bindings import VERSIONS, run_bindings
    found = run_bindings("10.3.0", 'import json, tensorrt; print(json.dumps({"version": tensorrt.__version__}))')

Each release is imported in a process of its own. What was fetched and compiled stays in the user's cache directory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import OutputError
from edgeq.files import new_directory

__all__ = ["RELEASE_11", "VERSIONS", "bindings", "run_bindings"]

VERSIONS = ("10.3.0", "10.16.1.11")
"""JetPack 6 and JetPack 7.2, which have both modes of quantization."""

RELEASE_11 = "11.4.0.106"
"""The last one that was looked at; it has explicit quantization alone."""

REPOSITORY = Path(__file__).resolve().parents[2]

_LIBRARIES = {
    "libnvinfer.so": (
        *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
        *("getBuilderPluginRegistry", "getPluginRegistry"),
    ),
    "libnvinfer_plugin.so": ("initLibNvInferPlugins",),
    "libnvonnxparser.so": (
        *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"),
    ),
}
"""What the bindings look for, library by library; the major release stands behind the library's name."""

_SHIM = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"


def bindings(version: str) -> Path:
    """A directory for PYTHONPATH from which `import tensorrt` gives the bindings of `version`.

    Skips the test, with the reason, where the wheel cannot be had or there is no C compiler.
    """
    found = _bindings(version)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def run_bindings(version: str, script: str | Path, *arguments: str, warnings: str = "error") -> Any:
    """Run Python with the bindings of `version`, edgeq and the helpers of the tests, and give the JSON that it prints.

    Args:
        version: one of VERSIONS, or RELEASE_11.
        script: Python's text, or a file with it. It must not import torch, which takes seconds.
        arguments: what it finds in `sys.argv[1:]`.
        warnings: what `python -W` gets.
    """
    paths = (bindings(version), REPOSITORY, REPOSITORY / "tests" / "helpers")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    what = [str(script)] if isinstance(script, Path) else ["-c", script]
    done = _run([sys.executable, "-W", warnings, *what, *arguments], environment)
    if done.returncode:
        pytest.fail(f"with TensorRT {version}, status {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


@functools.cache  # a reason too: it is not tried again for every test
def _bindings(version: str) -> Path | str:
    """The directory, or why there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "there is no C compiler (cc) for the stand-ins of TensorRT's libraries"
    place = _cache() / f"tensorrt-{version}-{_key()}"
    if place.is_dir():
        return place
    try:
        with new_directory(place) as directory:
            _fill(directory, version, compiler)
    except subprocess.SubprocessError as error:
        return f"tensorrt-cu12-bindings {version} cannot be had: {_last_line(error)}"
    except OutputError:
        if not place.is_dir():  # otherwise another process was quicker
            raise
    return place


def _fill(directory: Path, version: str, compiler: str) -> None:
    """The wheel, the stand-ins, and a package `tensorrt` over `tensorrt_bindings`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary", ":all:", "--retries", "1", "--target", str(directory)]
    _run([*pip, *options, f"tensorrt-cu12-bindings=={version}"]).check_returncode()
    for plain, names in _LIBRARIES.items():
        library = f"{plain}.{version.partition('.')[0]}"
        target = directory / "tensorrt_bindings" / library
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(target), "-x", "c", "-"]
        _run([compiler, *flags], text=_stand_in(names)).check_returncode()
    (directory / "tensorrt").mkdir()
    (directory / "tensorrt" / "__init__.py").write_text(_SHIM)


def _stand_in(names: tuple[str, ...]) -> str:
    """C functions that return a null pointer; for the parser's version that is 0."""
    return "".join(f"void *{name}(void) {{ return 0; }}\n" for name in names)


def _run(
    command: list[str], environment: Mapping[str, str] | None = None, *, text: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=False)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeq-tests"


def _key() -> str:
    """What else the directory depends on: Python, the processor, and the stand-ins."""
    stand_ins = hashlib.sha256(repr((_LIBRARIES, _SHIM)).encode()).hexdigest()[:8]
    return f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}-{stand_ins}"


def _last_line(error: subprocess.SubprocessError) -> str:
    said = str(getattr(error, "stderr", "") or error).strip()
    return said.splitlines()[-1][:200]
