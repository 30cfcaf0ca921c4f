"""TensorRT's INT8 calibration cache: its text form, read and written without TensorRT.

    TRT-100300-EntropyCalibration2
    pixel_values: 3c010a14

The header holds the release of TensorRT and the calibrator's algorithm. Each line behind it holds a tensor's name and
its scale, amax / 127, as the bits of a big-endian IEEE 754 float32 in hexadecimal, as C's `%x` prints them: not padded
with zeros, zero is `0`. Lines end with LF, the last one too. NVIDIA documents none of this: it is what caches look
like that TensorRT 7, 8 and 10 wrote. Users report that a cache under the header of another release is refused.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.errors import ArtifactError
from edgeq.files import atomic_write, open_plain
from edgeq.tensorrt.version import Version, from_number, to_number, version_problem

__all__ = ["ALGORITHMS", "MAX_CACHE_BYTES", "CalibrationCache"]

ALGORITHMS: Final = ("EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration")
"""What headers call IInt8EntropyCalibrator2, IInt8EntropyCalibrator and IInt8MinMaxCalibrator."""

MAX_CACHE_BYTES: Final = 16 * 1024 * 1024
"""No cache is larger: that is more than 200,000 tensors with names of 70 characters."""

_STEPS: Final = 127
_FLOAT32_MAX: Final = struct.unpack(">f", bytes.fromhex("7f7fffff"))[0]
_HEADER: Final = re.compile(r"TRT-([1-9][0-9]{3,5})-(\w+)", re.ASCII)
_HEX: Final = re.compile(r"[0-9A-Fa-f]{1,8}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

_COPY_AGAIN = "copy the cache again, or calibrate again"
_CUT_SHORT = "the file was cut short while it was copied"
_EDITED = "the file was edited, or written by another program"


@dataclass(frozen=True)
class CalibrationCache:
    """The scale of each tensor, and which release and algorithm they are for.

    Attributes:
        version: release of TensorRT.
        scales: (tensor, scale) in the order of the file; a scale is amax / 127, a float32 value >= 0, and 0 for a
            tensor that never held anything but zeros.
        algorithm: one of ALGORITHMS.

    Raises:
        ArtifactError: no cache can hold this: no tensor or one twice, a name with a control character, a scale that is
            no float32 or is negative, a release without calibrators.
    """

    version: Version
    scales: tuple[tuple[str, float], ...]
    algorithm: str = ALGORITHMS[0]

    def __post_init__(self) -> None:
        """Raise ArtifactError for what no file can hold."""
        problem = version_problem(self.version) or _algorithm_problem(self.algorithm) or _list_problem(self.scales)
        if problem:
            raise ArtifactError(f"this cannot be put into a calibration cache: {problem}")

    @property
    def header(self) -> str:
        """The first line, without its end."""
        return f"TRT-{to_number(self.version)}-{self.algorithm}"

    def magnitudes(self) -> dict[str, float]:
        """The largest magnitude that each tensor is quantized without loss of range: 127 times its scale."""
        return {tensor: _STEPS * scale for tensor, scale in self.scales}

    def to_bytes(self) -> bytes:
        """The file's bytes, the same for the same cache."""
        lines = [self.header, *(f"{tensor}: {_to_hex(scale)}" for tensor, scale in self.scales)]
        return "".join(f"{line}\n" for line in lines).encode()

    def save(self, path: Path) -> None:
        """Write the file, in one step.

        Raises:
            OutputError: the place cannot be written.
        """
        atomic_write(path, self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "the cache") -> CalibrationCache:
        """Read a cache back.

        Digits may be upper case or padded with zeros up to eight, as other programs write them. Lines that end with
        CR LF are refused: TensorRT never wrote them, and nothing says that it would read them.

        Args:
            data: the file's bytes.
            name: of the file, for messages.

        Raises:
            ArtifactError: with the line, where it is one line that is wrong. A file cut exactly behind a line cannot
                be told from a shorter one: tensors are missing then.
        """
        lines = _lines(data, name)
        version, algorithm = _read_header(lines[0], name)
        scales: dict[str, float] = {}
        for number, line in enumerate(lines[1:], start=2):
            where = f"{name}, line {number}"
            tensor, scale = _read_line(line, where)
            if tensor in scales:
                raise _refused(f"{where}: tensor {_short(tensor)} is there for the second time", _EDITED)
            scales[tensor] = scale
        if not scales:
            raise _refused(f"{name} holds a header and no tensor", _CUT_SHORT)
        return cls(version, tuple(scales.items()), algorithm)

    @classmethod
    def load(cls, path: Path) -> CalibrationCache:
        """Read a file.

        Raises:
            ArtifactError: it is missing, no file, too large, or not a cache.
        """
        try:
            if path.exists() and not path.is_file():
                raise ArtifactError(f"{path} is not a file", expected="a TensorRT calibration cache")
            with open_plain(path) as file:
                data = file.read(MAX_CACHE_BYTES + 1)
        except OSError as error:
            raise ArtifactError(
                f"{path} cannot be read: {error.strerror or error}", expected="a TensorRT calibration cache"
            ) from error
        return cls.from_bytes(data, name=str(path))


def _algorithm_problem(algorithm: str) -> str:
    if algorithm in ALGORITHMS:
        return ""
    return f"the algorithm {_short(algorithm)} is none of {', '.join(ALGORITHMS)}"


def _list_problem(scales: tuple[tuple[str, float], ...]) -> str:
    """What is wrong with the lines of a cache; empty where nothing is."""
    if not scales:
        return "there is no tensor"
    tensor, times = Counter(tensor for tensor, _ in scales).most_common(1)[0]
    if times > 1:
        return f"tensor {_short(tensor)} is there twice"
    return next(filter(None, (_tensor_problem(tensor, scale) for tensor, scale in scales)), "")


def _tensor_problem(tensor: str, scale: float) -> str:
    """What is wrong with one line of a cache; empty where nothing is."""
    if not tensor:
        return "a tensor has no name"
    if _CONTROL.search(tensor):
        return f"the name {_short(tensor)} has a control character"
    if any("\ud800" <= character <= "\udfff" for character in tensor):
        return f"the name {_short(tensor)} is not valid text"
    if not math.isfinite(scale):
        return f"the scale of {_short(tensor)} is NaN or infinite"
    if math.copysign(1.0, scale) < 0.0:
        return f"the scale of {_short(tensor)} is negative"
    if scale > _FLOAT32_MAX or _from_hex(_to_hex(scale)) != scale:
        return f"the scale of {_short(tensor)} is not a float32 value"
    return ""


def _lines(data: bytes, name: str) -> list[str]:
    """The lines without their ends."""
    if not data:
        raise _refused(f"{name} is empty (0 bytes)", _CUT_SHORT)
    if len(data) > MAX_CACHE_BYTES:
        raise _refused(f"{name} has more than {MAX_CACHE_BYTES:,} bytes", "it is another file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refused(f"{name}, line {line}: it is not UTF-8 text", "it is another file", _EDITED) from error
    *lines, rest = text.split("\n")
    first = next((number for number, line in enumerate(lines, start=1) if line.endswith("\r")), 0)
    if first:
        raise ArtifactError(
            f"{name}, line {first}: it ends with CR LF",
            expected="LF alone, as TensorRT writes it",
            causes=("the file passed through Windows or through git with autocrlf",),
            next_step="sed -i 's/\\r$//' FILE",
        )
    if rest:  # a value cut in the middle is still a number, only a wrong one
        raise _refused(f"{name}, line {len(lines) + 1}: the last line has no end", _CUT_SHORT, _EDITED)
    return lines


def _read_header(line: str, name: str) -> tuple[Version, str]:
    found = _HEADER.fullmatch(line)
    if found is None:
        raise _refused(
            f"{name}, line 1: {_short(line)} is not the header of a TensorRT calibration cache",
            "it is another file, such as ONNX Runtime's own calibration table",
            _EDITED,
        )
    number, algorithm = int(found[1]), found[2]
    version = from_number(number)
    problem = version_problem(version) or _algorithm_problem(algorithm)
    if not problem and to_number(version) != number:
        problem = f"no release of TensorRT writes {number}"
    if problem:
        raise _refused(f"{name}, line 1: {problem}", _EDITED)
    return version, algorithm


def _read_line(line: str, where: str) -> tuple[str, float]:
    """Tensor and scale. A name may itself hold a colon and a space: the last ones count."""
    tensor, separator, digits = line.rpartition(": ")
    if not separator:
        raise _refused(f"{where}: {_short(line)} is not a tensor's name, a colon, a space and a scale", _CUT_SHORT)
    if not _HEX.fullmatch(digits):
        raise _refused(f"{where}: {_short(digits)} is not one to eight hexadecimal digits", _EDITED, _CUT_SHORT)
    scale = _from_hex(digits)
    if problem := _tensor_problem(tensor, scale):
        raise _refused(f"{where}: {problem}", _EDITED)
    return tensor, scale


def _to_hex(scale: float) -> str:
    return f"{int.from_bytes(struct.pack('>f', scale), 'big'):x}"


def _from_hex(digits: str) -> float:
    value: float = struct.unpack(">f", bytes.fromhex(digits.zfill(8)))[0]
    return value


def _short(text: str) -> str:
    """In quotes, with control characters escaped and without what is too long for a message."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _refused(what: str, *causes: str) -> ArtifactError:
    return ArtifactError(
        what,
        expected=f"a line such as TRT-100300-{ALGORITHMS[0]}, then one `NAME: HEX` line for each tensor",
        causes=causes,
        next_step=_COPY_AGAIN,
    )
