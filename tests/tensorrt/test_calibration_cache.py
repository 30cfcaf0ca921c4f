"""TensorRT's calibration cache: exact bytes, whole round trips, and files that are something else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeq.errors import ArtifactError, InputError, OutputError
from edgeq.tensorrt.calibration_cache import ALGORITHMS, MAX_CACHE_BYTES, CalibrationCache
from edgeq.tensorrt.version import Version, version_of

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
HEADER = b"TRT-100300-EntropyCalibration2\n"

# By hand: 1 / 127 = 2**-7 * (1 + 66052.03 / 2**23), so exponent 0x78 << 23 and mantissa 0x10204; 2 / 127 is one
# exponent, 0x00800000, more. The smallest float32 above zero is 2**-149, bit 0 alone.
WORKED_OUT = (
    ("pixel_values", 1.0),
    ("(Unnamed Layer* 3) [Shuffle]_output", (1 + 66052 / 2**23) / 2**7),
    ("block: add", (1 + 66052 / 2**23) / 2**6),
    ("never_used", 0.0),
    ("nearly_nothing", 2.0**-149),
)

versions: st.SearchStrategy[Version] = st.one_of(
    st.tuples(st.just(10), st.integers(0, 99), st.integers(0, 99)),
    st.tuples(st.integers(5, 8), st.integers(0, 9), st.integers(0, 99)),
)
names = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32, exclude_characters="\x7f"), min_size=1)
singles = st.floats(0.0, float(np.finfo(np.float32).max), width=32).map(abs)
digits = st.integers(0, 0x7F7FFFFF).map(lambda bits: f"{bits:x}")


def test_the_golden_file_is_what_was_worked_out_by_hand() -> None:
    cache = CalibrationCache((10, 3, 0), WORKED_OUT)
    assert cache.to_bytes() == (GOLDEN / "entropy-10.3.0.cache").read_bytes()
    assert CalibrationCache.load(GOLDEN / "entropy-10.3.0.cache") == cache


def test_an_older_release_and_another_algorithm() -> None:
    cache = CalibrationCache.load(GOLDEN / "minmax-8.6.1.cache")
    assert (cache.version, cache.algorithm) == ((8, 6, 1), "MinMaxCalibration")
    # 0x3c010a14: exponent 0x78, that is 2**-7; mantissa 0x010a14 = 68116
    assert cache.scales == (("input", (1 + 68116 / 2**23) / 2**7),)
    assert cache.to_bytes() == (GOLDEN / "minmax-8.6.1.cache").read_bytes()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("version", "number"),
    [((10, 3, 0), 100300), ((10, 16, 1), 101601), ((8, 6, 1), 8601), ((8, 5, 10), 8510), ((7, 1, 3), 7103)],
)
def test_headers(version: Version, number: int, algorithm: str) -> None:
    cache = CalibrationCache(version, (("x", 1.0),), algorithm)
    assert cache.header == f"TRT-{number}-{algorithm}"
    assert CalibrationCache.from_bytes(cache.to_bytes()) == cache


@given(versions, st.sampled_from(ALGORITHMS), st.dictionaries(names, digits, min_size=1))
@example((10, 3, 0), ALGORITHMS[0], {": ": "0", ": : 3f800000": "7f7fffff", " ": "1", "x\x85y": "800000"})
def test_bytes_survive_being_read(version: Version, algorithm: str, lines: dict[str, str]) -> None:
    number = version[0] * (10_000 if version[0] == 10 else 1000) + version[1] * 100 + version[2]
    text = f"TRT-{number}-{algorithm}\n" + "".join(f"{name}: {value}\n" for name, value in lines.items())
    cache = CalibrationCache.from_bytes(text.encode())
    assert cache.to_bytes() == text.encode()
    assert [name for name, _ in cache.scales] == list(lines)
    assert cache.version == version


@given(versions, st.sampled_from(ALGORITHMS), st.dictionaries(names, singles, min_size=1))
def test_values_survive_being_written(version: Version, algorithm: str, scales: dict[str, float]) -> None:
    cache = CalibrationCache(version, tuple(scales.items()), algorithm)
    assert CalibrationCache.from_bytes(cache.to_bytes()) == cache


@given(st.binary(max_size=200).map(lambda data: HEADER + data) | st.binary(max_size=60))
def test_any_other_bytes_are_refused_or_read_whole(data: bytes) -> None:
    try:
        cache = CalibrationCache.from_bytes(data)
    except ArtifactError:
        return
    assert CalibrationCache.from_bytes(cache.to_bytes()) == cache
    assert len(cache.scales) == data.count(b"\n") - 1


@given(st.data())
def test_a_file_cut_short_never_gives_a_wrong_scale(draw: st.DataObject) -> None:
    whole = (GOLDEN / "entropy-10.3.0.cache").read_bytes()
    cut = whole[: draw.draw(st.integers(0, len(whole) - 1))]
    try:
        cache = CalibrationCache.from_bytes(cut)
    except ArtifactError:
        return
    assert cut.endswith(b"\n")
    assert cache.scales == WORKED_OUT[: len(cache.scales)]


def test_digits_of_other_writers() -> None:
    cache = CalibrationCache.from_bytes(HEADER + b"padded: 00000001\nupper: 3C010204\nzero: 00000000\n")
    assert cache.to_bytes() == HEADER + b"padded: 1\nupper: 3c010204\nzero: 0\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "the cache is empty", id="empty"),
        pytest.param(b"\n", "line 1: '' is not the header", id="empty line"),
        pytest.param(b"input: 3c010a14\n", "line 1: 'input: 3c010a14' is not the header", id="no header"),
        pytest.param(b"data_0 2.008338\n", "line 1: 'data_0 2.008338' is not the header", id="ONNX Runtime's table"),
        pytest.param(b"1\nx: 3f800000\n", "line 1: '1' is not the header", id="header of TensorRT 3"),
        pytest.param(b"TRT-8XXX-EntropyCalibration2\nx: 1\n", "line 1: 'TRT-8XXX-Entropy", id="no number"),
        pytest.param(b"TRT-0100300-EntropyCalibration2\nx: 1\n", "line 1: 'TRT-0100300-", id="padded number"),
        pytest.param(b"TRT-110000-EntropyCalibration2\nx: 1\n", "line 1: TensorRT 11.0.0 has no cal", id="release 11"),
        pytest.param(b"TRT-9200-EntropyCalibration2\nx: 1\n", "line 1: how TensorRT 9.2.0 writes", id="release 9"),
        pytest.param(b"TRT-80601-EntropyCalibration2\nx: 1\n", "line 1: no release of TensorRT writes 80601", id="8"),
        pytest.param(b"TRT-100300-GuessCalibration\nx: 1\n", "line 1: the algorithm 'GuessCal", id="algorithm"),
        pytest.param(HEADER, "the cache holds a header and no tensor", id="header alone"),
        pytest.param(HEADER[:-1], "line 1: the last line has no end", id="cut in the header"),
        pytest.param(HEADER + b"x: 3f800000\ny: 3f80", "line 3: the last line has no end", id="cut in a value"),
        pytest.param(HEADER + b"x: 3f800000\ny", "line 3: the last line has no end", id="cut in a name"),
        pytest.param(HEADER + b"x: 3f800000\n\n", "line 3: '' is not a tensor's name", id="empty last line"),
        pytest.param(HEADER + b"x:3f800000\n", "line 2: 'x:3f800000' is not a tensor's name", id="no space"),
        pytest.param(HEADER + b"x: \n", "line 2: '' is not one to eight", id="no value"),
        pytest.param(HEADER + b"x: 3f8000000\n", "line 2: '3f8000000' is not one to eight", id="nine digits"),
        pytest.param(HEADER + b"x: 0x3f8000\n", "line 2: '0x3f8000' is not one to eight", id="0x"),
        pytest.param(HEADER + b"x: 1.0\n", "line 2: '1.0' is not one to eight", id="decimal"),
        pytest.param(HEADER + b"x: 3f800000 \n", "line 2: '3f800000 ' is not one", id="trailing space"),
        pytest.param(HEADER + "x: ١\n".encode(), "line 2: '١' is not one to eight", id="digit of another script"),
        pytest.param(HEADER + b"x: 7fc00000\n", "line 2: the scale of 'x' is NaN or infinite", id="NaN"),
        pytest.param(HEADER + b"x: 7f800000\n", "line 2: the scale of 'x' is NaN or infinite", id="infinite"),
        pytest.param(HEADER + b"x: bf800000\n", "line 2: the scale of 'x' is negative", id="negative"),
        pytest.param(HEADER + b"x: 80000000\n", "line 2: the scale of 'x' is negative", id="negative zero"),
        pytest.param(HEADER + b": 3f800000\n", "line 2: a tensor has no name", id="no name"),
        pytest.param(HEADER + b"x\x00: 3f800000\n", "line 2: the name 'x\\x00' has a control", id="NUL in a name"),
        pytest.param(HEADER + b"x: 1\ny: 2\nx: 1\n", "line 4: tensor 'x' is there for the second time", id="twice"),
        pytest.param(HEADER + b"x: 1\n\xffy: 2\n", "line 3: it is not UTF-8 text", id="not UTF-8"),
        pytest.param(HEADER.replace(b"\n", b"\r\n") + b"x: 1\r\n", "line 1: it ends with CR LF", id="CR LF"),
        pytest.param(HEADER + b"x: 1\r\ny: 2\n", "line 2: it ends with CR LF", id="one CR LF"),
        pytest.param(HEADER + b"x" * MAX_CACHE_BYTES, "the cache has more than 16,777,216 bytes", id="too large"),
    ],
)
def test_refused(data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError) as refused:
        CalibrationCache.from_bytes(data)
    assert words in refused.value.what
    assert refused.value.expected
    assert refused.value.next_step
    assert len(str(refused.value)) < 800


@pytest.mark.parametrize(
    ("version", "scales", "words"),
    [
        ((10, 3, 0), (), "there is no tensor"),
        ((10, 3, 0), (("x", 1.0), ("x", 1.0)), "'x' is there twice"),
        ((10, 3, 0), (("", 1.0),), "a tensor has no name"),
        ((10, 3, 0), (("x\ny: 3f800000", 1.0),), "control character"),
        ((10, 3, 0), (("x\r", 1.0),), "control character"),
        ((10, 3, 0), (("\ud800", 1.0),), "not valid text"),
        ((10, 3, 0), (("x", math.nan),), "NaN or infinite"),
        ((10, 3, 0), (("x", math.inf),), "NaN or infinite"),
        ((10, 3, 0), (("x", -1.0),), "negative"),
        ((10, 3, 0), (("x", -0.0),), "negative"),
        ((10, 3, 0), (("x", 1e39),), "not a float32 value"),
        ((10, 3, 0), (("x", 0.1),), "not a float32 value"),
        ((11, 0, 0), (("x", 1.0),), "no calibrators"),
        ((10, 100, 0), (("x", 1.0),), "there is no TensorRT 10.100.0"),
        ((8, 10, 0), (("x", 1.0),), "there is no TensorRT 8.10.0"),
    ],
)
def test_what_no_file_can_hold_is_not_made(version: Version, scales: tuple[tuple[str, float], ...], words: str) -> None:
    with pytest.raises(ArtifactError) as refused:
        CalibrationCache(version, scales)
    assert words in refused.value.what


def test_an_unknown_algorithm_is_not_made() -> None:
    with pytest.raises(ArtifactError, match="the algorithm 'Guess' is none of EntropyCalibration2"):
        CalibrationCache((10, 3, 0), (("x", 1.0),), "Guess")


def test_files(tmp_path: Path) -> None:
    cache = CalibrationCache((10, 3, 0), WORKED_OUT)
    cache.save(tmp_path / "made" / "model.cache")
    assert CalibrationCache.load(tmp_path / "made" / "model.cache") == cache
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["model.cache"]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"missing\.cache cannot be read: No such file"):
        CalibrationCache.load(tmp_path / "missing.cache")
    with pytest.raises(ArtifactError, match="is not a file"):
        CalibrationCache.load(tmp_path)
    with pytest.raises(ArtifactError, match="is not a file"):
        CalibrationCache.load(Path("/dev/zero"))
    (tmp_path / "huge").write_bytes(b"")
    with (tmp_path / "huge").open("r+b") as file:
        file.truncate(10 * MAX_CACHE_BYTES)
    with pytest.raises(ArtifactError, match="huge has more than"):
        CalibrationCache.load(tmp_path / "huge")
    (tmp_path / "bad").write_bytes(HEADER + b"x: y\n")
    with pytest.raises(ArtifactError, match=r"bad, line 2: 'y' is not"):
        CalibrationCache.load(tmp_path / "bad")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        CalibrationCache((10, 3, 0), WORKED_OUT).save(tmp_path / "file" / "model.cache")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("10.3.0", (10, 3, 0)),
        ("10.3", (10, 3, 0)),
        ("10.16.1.11", (10, 16, 1)),
        ("8.6.1", (8, 6, 1)),
        ("8.5.10.4", (8, 5, 10)),
    ],
)
def test_versions(text: str, version: Version) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize(
    "text", ["", "10", "v10.3.0", "10.3.0 ", "10.3.0\n", "10.3.x", "10..3", "-10.3.0", "10,3,0", "١٠.٣.٠", "1.2.3.4.5"]
)
def test_no_versions(text: str) -> None:
    with pytest.raises(InputError, match="is not a TensorRT version"):
        version_of(text)


@pytest.mark.parametrize("text", ["11.0.0", "11.0", "12.1.3.4"])
def test_a_release_without_calibrators_points_to_the_other_road(text: str) -> None:
    with pytest.raises(InputError, match="removed in release 11") as refused:
        version_of(text)
    assert "model.int8.trt.onnx" in refused.value.next_step


@pytest.mark.parametrize("text", ["9.2.0", "4.0.1", "8.10.0", "10.100.0", "10.3.100"])
def test_releases_that_write_no_known_header(text: str) -> None:
    with pytest.raises(InputError, match="TensorRT"):
        version_of(text)
