"""Find TensorRT, and choose the quantization mode that its release allows.

TensorRT is imported when it is asked for, never while a module is loaded: the device half works without it. On JetPack
it is a package of the system's Python, elsewhere one of PyPI.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final, Literal

from edgeq.errors import EngineError, first_line
from edgeq.extras import install_command

__all__ = [
    "QuantizationMode",
    "Version",
    "choose_quantization",
    "load_tensorrt",
    "newer_than_known",
    "quiet_deprecations",
    "version_of",
]

Version = tuple[int, int, int]
"""(major, minor, patch) of a release of TensorRT."""

QuantizationMode = Literal["implicit", "explicit"]
"""`implicit`: calibrator or cache, and a precision for each layer. `explicit`: Q/DQ pairs, strongly typed network."""

_OLDEST: Final = 10
_IMPLICIT_GONE: Final = 11
_NEWEST_KNOWN: Final = (11, 4)
"""Of which every name that is used was looked up; later patches of it are taken for the same."""

_NUMBER: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:[.+-][\w.+-]*)?", re.ASCII)

_NOT_SEEN: Final = (
    "on a Jetson TensorRT comes with JetPack, for the system's Python: a virtual environment does not see it",
    "it is not installed",
)
_LIBRARY: Final = (
    "a library below it is missing or of another release (libnvinfer, CUDA)",
    "its wheel is for another processor or another Python",
)


def _install() -> str:
    elsewhere = install_command("tensorrt")
    return f"on a Jetson: `python3 -m venv --system-site-packages ENVIRONMENT`; elsewhere: {elsewhere}"


def load_tensorrt() -> ModuleType:
    """Import TensorRT.

    Raises:
        EngineError: it is missing, cannot be loaded, or is older than release 10.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise _broken(error) from error
        raise EngineError(
            "TensorRT is not installed for this Python", causes=_NOT_SEEN, next_step=_install()
        ) from error
    except Exception as error:  # a library that cannot be loaded is an ImportError, an OSError or a RuntimeError
        raise _broken(error) from error
    if getattr(trt, "__file__", None) is None:  # Python takes any folder with the name for a package
        raise EngineError(
            f"TensorRT is not installed for this Python: `tensorrt` is a folder, {next(iter(trt.__path__))}",
            causes=_NOT_SEEN,
            next_step=_install(),
        )
    if version_of(trt)[0] < _OLDEST:
        raise EngineError(
            f"TensorRT {trt.__version__} is too old",
            expected="release 10.3 (JetPack 6) or later",
            next_step="flash the device with JetPack 6 or later",
        )
    return trt


def version_of(trt: ModuleType | str) -> Version:
    """(major, minor, patch) of the module, or of a text such as `10.16.1.11`; what stands behind them is dropped.

    Raises:
        EngineError: that is no version.
    """
    text = trt if isinstance(trt, str) else str(getattr(trt, "__version__", "nothing"))
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise EngineError(f"{text[:40]!r} is not a version of TensorRT", expected="numbers such as 10.3.0")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def choose_quantization(
    version: Version | None, asked: QuantizationMode | None, *, default: QuantizationMode = "explicit"
) -> tuple[QuantizationMode, str]:
    """The quantization mode for a release, and the sentence that says why.

    Args:
        version: of the TensorRT that builds; None where it is not known.
        asked: the quantization mode somebody asked for; None leaves the choice.
        default: the quantization mode to take where both are open and nobody asked: `implicit` for a graph that has no
            Q/DQ form.

    Raises:
        EngineError: implicit quantization was asked for, of a release that has none any more.
    """
    if version is None:
        chosen = asked or default
        why = "asked for" if asked else "the default"
        unsure = "; TensorRT 11 has explicit quantization alone" if chosen == "implicit" else ""
        return chosen, f"{chosen}: {why}, no release of TensorRT was named{unsure}"
    name = f"TensorRT {_dotted(version)}"
    if version[0] >= _IMPLICIT_GONE:
        if asked == "implicit":
            raise EngineError(
                f"{name} has no implicit quantization",
                expected="explicit quantization: Q/DQ graph and strongly typed network",
                causes=("release 11 removed calibrators and the precisions of single layers",),
                next_step="leave the quantization mode out, or ask for `explicit`",
            )
        return "explicit", f"explicit: {name} has no calibrators and no layer precisions any more"
    if asked is not None:
        return asked, f"{asked}: asked for; {name} has both modes"
    return default, f"{default}: the default; {name} has both modes"


def newer_than_known(version: Version | None) -> str:
    """A sentence of warning for a release that edgeq was not checked against; empty for those that it was, or None."""
    if version is None or version[:2] <= _NEWEST_KNOWN:
        return ""
    return (
        f"TensorRT {_dotted(version)} is newer than the releases that edgeq was checked against, the last of which is "
        f"{_dotted(_NEWEST_KNOWN)}: it may lack what it is told"
    )


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


@contextmanager
def quiet_deprecations() -> Iterator[None]:
    """Let the names of implicit quantization be used under `-W error`: release 10.1 and later warn of them, and mean
    11.

    The bindings do not notice that a warning became an exception: they go on, and a calibrator's methods then fail.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _broken(error: Exception) -> EngineError:
    return EngineError(
        f"TensorRT is installed but cannot be loaded: {first_line(error)}",
        causes=_LIBRARY,
        next_step="ask it directly: python3 -c 'import tensorrt'",
    )
