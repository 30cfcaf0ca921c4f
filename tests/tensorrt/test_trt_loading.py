"""Finding TensorRT: the real bindings, none at all, and what only looks like it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from tensorrt_bindings import VERSIONS, run_bindings

from edgeq.errors import EngineError
from edgeq.extras import install_command
from edgeq.tensorrt.loading import (
    QuantizationMode,
    Version,
    choose_quantization,
    load_tensorrt,
    newer_than_known,
    version_of,
)

REPORT = """
import json
from edgeq.tensorrt.loading import load_tensorrt, version_of
trt = load_tensorrt()
print(json.dumps({"name": trt.__name__, "version": version_of(trt), "int8": int(trt.BuilderFlag.INT8)}))
"""


@pytest.fixture
def nothing_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in front of all others that Python looks for modules in."""
    for name in list(sys.modules):
        if name.split(".")[0] == "tensorrt":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


@pytest.mark.parametrize(("version", "parts"), [*zip(VERSIONS, [[10, 3, 0], [10, 16, 1]], strict=True)])
def test_the_real_bindings(version: str, parts: list[int]) -> None:
    assert run_bindings(version, REPORT) == {"name": "tensorrt", "version": parts, "int8": 1}


def test_none_at_all(nothing_loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(nothing_loaded)])
    with pytest.raises(EngineError, match="TensorRT is not installed for this Python") as caught:
        load_tensorrt()
    assert "--system-site-packages" in caught.value.next_step
    assert install_command("tensorrt") in caught.value.next_step


def test_a_folder_of_that_name_is_not_tensorrt(nothing_loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nothing_loaded / "tensorrt").mkdir()
    monkeypatch.setattr(sys, "path", [str(nothing_loaded)])
    with pytest.raises(EngineError, match=f"a folder, {nothing_loaded}"):
        load_tensorrt()


@pytest.mark.parametrize(
    "text",
    [
        "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
        "raise RuntimeError('libnvinfer.so.10: cannot open shared object file')",
        "import ctypes; ctypes.CDLL('libnvinfer.so.10.of-no-machine')",
        "import a_module_that_it_needs_libnvinfer",
    ],
)
def test_one_that_cannot_be_loaded(nothing_loaded: Path, text: str) -> None:
    (nothing_loaded / "tensorrt.py").write_text(text)
    with pytest.raises(EngineError, match=r"installed but cannot be loaded: .*libnvinfer"):
        load_tensorrt()


def test_one_that_is_too_old(nothing_loaded: Path) -> None:
    (nothing_loaded / "tensorrt.py").write_text("__version__ = '8.5.2.2'")
    with pytest.raises(EngineError, match=r"TensorRT 8\.5\.2\.2 is too old") as caught:
        load_tensorrt()
    assert "JetPack 6" in caught.value.expected


@pytest.mark.parametrize(
    ("text", "version"),
    [("10.3.0", (10, 3, 0)), ("10.16.1.11", (10, 16, 1)), ("11.0", (11, 0, 0)), ("10.3.0.post1", (10, 3, 0))],
)
def test_a_version(text: str, version: Version) -> None:
    module = ModuleType("tensorrt")
    module.__dict__["__version__"] = text
    assert version_of(text) == version_of(module) == version


@pytest.mark.parametrize("text", ["", "10", "ten", "v10.3", "10.3.0 and more"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(EngineError, match="is not a version of TensorRT"):
        version_of(text)


def test_a_module_without_a_version() -> None:
    with pytest.raises(EngineError, match="'nothing' is not a version"):
        version_of(ModuleType("tensorrt"))


@pytest.mark.parametrize(
    ("version", "asked", "default", "quantization"),
    [
        ((10, 3, 0), None, "explicit", "explicit"),
        ((10, 16, 1), None, "explicit", "explicit"),
        ((10, 3, 0), None, "implicit", "implicit"),
        ((10, 3, 0), "explicit", "implicit", "explicit"),
        ((10, 3, 0), "implicit", "explicit", "implicit"),
        ((11, 0, 0), None, "explicit", "explicit"),
        ((11, 0, 0), None, "implicit", "explicit"),
        ((11, 4, 0), "explicit", "explicit", "explicit"),
        ((12, 1, 0), None, "explicit", "explicit"),
    ],
)
def test_the_road(
    version: Version, asked: QuantizationMode | None, default: QuantizationMode, quantization: QuantizationMode
) -> None:
    chosen, sentence = choose_quantization(version, asked, default=default)
    assert chosen == quantization
    assert sentence.startswith(f"{quantization}: ")
    assert f"TensorRT {'.'.join(map(str, version))}" in sentence


def test_the_impossible_road_names_the_other() -> None:
    with pytest.raises(EngineError, match=r"TensorRT 11\.0\.0 has no implicit quantization") as caught:
        choose_quantization((11, 0, 0), "implicit")
    assert "explicit" in caught.value.expected
    assert "explicit" in caught.value.next_step


def test_which_road_was_asked_for_is_said() -> None:
    assert "asked for" in choose_quantization((10, 3, 0), "explicit")[1]
    assert choose_quantization((10, 3, 0), None) == (
        "explicit",
        "explicit: the default; TensorRT 10.3.0 has both modes",
    )


@pytest.mark.parametrize("version", [(10, 3, 0), (10, 16, 2), (11, 0, 0), (11, 4, 0), (11, 4, 7), None])
def test_a_release_that_is_known_needs_no_warning(version: Version | None) -> None:
    assert newer_than_known(version) == ""


@pytest.mark.parametrize("version", [(11, 5, 0), (12, 0, 0), (12, 3, 1)])
def test_a_release_that_is_newer_is_warned_of(version: Version) -> None:
    name = ".".join(map(str, version))
    assert newer_than_known(version).startswith(f"TensorRT {name} is newer than the releases that edgeq was checked")
    assert "11.4" in newer_than_known(version)
