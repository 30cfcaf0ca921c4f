"""The entropy calibrator under the real bindings of both releases, called as TensorRT calls it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_memory import HostMemory
from pictures import choose, draw_pictures
from PIL import Image
from tensorrt_bindings import VERSIONS, run_bindings

from edgeq.errors import ArtifactError, CalibrationError, InputError
from edgeq.tensorrt.calibration_input import MAX_CACHE_BYTES
from edgeq.tensorrt.calibrator import entropy_calibrator

CASES = Path(__file__).with_name("calibrator_cases.py")
SIDE, BATCH = 16, 4  # as in calibrator_cases.py
PICTURES = 15
MADE = "TRT-100300-EntropyCalibration2\nimage: 3d000000\n"
OLD = "TRT-100300-EntropyCalibration2\nimage: 3c010a14\n"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("drawn") / "pictures", each=PICTURES // 3)


@pytest.fixture(scope="module", params=VERSIONS)
def cases(request: pytest.FixtureRequest, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every case of calibrator_cases.py with one release's bindings, all warnings being errors."""
    return run_bindings(request.param, CASES, str(drawn), str(tmp_path_factory.mktemp("scratch")))


def test_it_is_a_calibrator_of_tensorrt(cases: Any) -> None:
    found = cases["photographs"]
    entropy_2 = 2  # CalibrationAlgoType.ENTROPY_CALIBRATION_2
    assert found["is_one"]
    assert (found["size"], found["algorithm"]) == (BATCH, entropy_2)


def test_tensorrt_gets_the_pictures_batch_by_batch(cases: Any, drawn: Path) -> None:
    files = sorted(drawn.rglob("*.jpg"))
    full = [files[start : start + BATCH] for start in range(0, len(files) - BATCH + 1, BATCH)]
    assert cases["photographs"]["digests"] == [_digest(batch) for batch in full]
    assert cases["photographs"]["error"] is None


def test_a_ragged_tail_is_left_out_counted_and_said(cases: Any) -> None:
    found = cases["photographs"]
    assert (found["batches"], found["left_out"]) == divmod(PICTURES, BATCH)
    assert found["notes"] == ["3 images are left out of calibration: they do not fill a batch of 4"]


def test_one_buffer_outlives_the_build_and_each_copy_is_over_before_tensorrt_reads(cases: Any) -> None:
    size = f"{BATCH * 3 * SIDE * SIDE * 4}"
    batches = PICTURES // BATCH
    copies = [f"copy in {size}", "synchronize"] * batches
    assert cases["photographs"]["log"] == [f"allocate {size}", *copies, f"free {size}"]
    assert cases["photographs"]["live"] == [1, 0]  # before and after close()


def test_the_cache_that_tensorrt_wrote_is_copied_and_kept(cases: Any) -> None:
    """The driver overwrites its memory behind the call."""
    assert cases["photographs"]["made"] == MADE
    assert cases["photographs"]["file"] == MADE


def test_the_bindings_swallow_what_is_raised(cases: Any) -> None:
    """Why all this is needed: to TensorRT it looks like the end of the images."""
    assert cases["bindings_alone"]["swallowed"] is None


def test_what_get_batch_raises_is_raised_after_the_build(cases: Any) -> None:
    found = cases["get_batch_raises"]
    assert found["error"] == "CalibrationError"
    assert found["said"] == "calibration failed after 1 batches, in get_batch: the card was pulled out"
    assert found["cause"] == "OSError('the card was pulled out')"


def test_no_cache_is_kept_of_a_calibration_that_broke_off(cases: Any) -> None:
    assert cases["get_batch_raises"]["made"] is None
    assert not cases["get_batch_raises"]["written"]
    assert cases["too_few"]["made"] is None


def test_an_interrupt_is_not_lost(cases: Any) -> None:
    assert cases["interrupted"]["error"] == "KeyboardInterrupt"


def test_two_inputs_lie_at_the_places_of_their_names(cases: Any) -> None:
    found = cases["two_inputs"]
    assert found["firsts"] == [[0.0, 100.0], [100.0, 0.0]]
    assert (found["batches"], found["error"]) == (2, None)


def test_there_are_as_many_addresses_as_names(cases: Any) -> None:
    assert cases["two_inputs"]["one_asked"] == 1


def test_the_device_gets_c_order(cases: Any) -> None:
    assert cases["strided"]["same"]


def test_a_cache_that_is_taken_asks_for_no_images(cases: Any) -> None:
    found = cases["cache_accepted"]
    assert (found["offered"], found["rejected"], found["batches"], found["error"]) == (True, False, 0, None)
    assert found["given"] == found["file"] == OLD
    assert found["notes"] == []


def test_a_rejected_cache_is_said_aloud_and_replaced(cases: Any) -> None:
    found = cases["cache_rejected"]
    assert (found["offered"], found["rejected"], found["error"]) == (True, True, None)
    assert found["said_aloud"][0] == (
        "TensorRT rejected the calibration cache (TRT-100300-EntropyCalibration2): it calibrates again, on images"
    )
    assert found["said_aloud"] == found["notes"]
    assert found["file"] == MADE


def test_a_rejected_cache_without_images_is_an_error(cases: Any) -> None:
    found = cases["cache_rejected_without_images"]
    assert found["error"] == "CalibrationError"
    assert "0 batches" in found["said"]
    assert "rejected the calibration cache" in found["said"]


def test_no_cache_is_none(cases: Any) -> None:
    assert cases["no_cache"]["read"] is None


def test_too_few_batches_are_an_error(cases: Any) -> None:
    assert "2 batches of 4 images\nexpected: at least 3" in cases["too_few"]["said"]
    assert "never asked" in cases["never_asked"]["said"]


def test_a_short_batch_must_be_the_last(cases: Any) -> None:
    assert "batch 1 has 3 images and is not the last" in cases["short_in_the_middle"]["said"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("double", "float64\nexpected: float32"),
        ("bytes", "uint8\nexpected: float32"),
        ("larger", "(4, 3, 16, 17)\nexpected: the OPT shape (4, 3, 16, 16)"),
        ("more images", "(5, 3, 16, 16)"),
        ("nan", "not all finite"),
        ("other input", "no values for input image"),
        ("other name", "TensorRT asks for values of mask\nexpected: inputs image"),
    ],
)
def test_a_wrong_batch_is_refused(cases: Any, wrong: str, said: str) -> None:
    assert cases["wrong_values"][wrong]["error"] == "CalibrationError"
    assert said in cases["wrong_values"][wrong]["said"]


def test_a_cache_that_cannot_be_written_is_an_error(cases: Any) -> None:
    assert "write_calibration_cache" in cases["unwritable_cache"]["said"]
    assert cases["unwritable_cache"]["cause"].startswith("OutputError")


def test_warnings_as_errors_do_not_reach_the_bindings(cases: Any) -> None:
    """-1 is what the bindings give where Python failed."""
    assert cases["deprecated"] == {"loud": -1, "quiet": BATCH, "as_tensorrt_does": BATCH}


@pytest.mark.parametrize("version", VERSIONS)
def test_photographs_of_a_data_set(version: str, shared_data: Path, tmp_path: Path) -> None:
    """CIFAR-10: two of each class, five full batches and none left out."""
    chosen = choose(shared_data / "cifar10" / "test.zip", tmp_path / "chosen.zip", each=2)
    found = run_bindings(version, CASES, str(chosen), str(tmp_path), "photographs")["photographs"]
    assert (found["batches"], found["left_out"], found["error"]) == (5, 0, None)
    assert len(set(found["digests"])) == 5


class WithoutCalibrators:
    __version__ = "11.0.0"


class Base:
    """In the place of TensorRT's base class, where only what comes before it is looked at."""


class WithCalibrators:
    IInt8EntropyCalibrator2 = Base


def test_release_11_has_no_calibrators() -> None:
    with pytest.raises(CalibrationError, match=r"TensorRT 11\.0\.0 has no calibrators") as caught:
        _made(WithoutCalibrators)
    assert "explicit" in caught.value.next_step


@pytest.mark.parametrize(
    "shapes", [{}, {"image": ()}, {"image": (-1, 3)}, {"image": (4, 0)}, {"image": (4, 3), "mask": (2, 3)}]
)
def test_shapes_must_be_fixed_and_agree(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="calibration batches cannot have the shapes"):
        _made(shapes=shapes)


def test_at_least_one_batch_is_asked_for() -> None:
    with pytest.raises(InputError, match="0 calibration batches"):
        _made(fewest=0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"TRT-100300-MinMaxCalibration\nimage: 3c010a14\n",
        b"TRT-100300-EntropyCalibration2",
        b"TRT-100300-EntropyCalibration2\n" + b" " * MAX_CACHE_BYTES,
    ],
)
def test_what_is_no_cache_is_not_offered(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.cache"
    file.write_bytes(data)
    for cache in (data, file):
        with pytest.raises(ArtifactError, match="is no calibration cache of IInt8EntropyCalibrator2"):
            _made(cache=cache)


def test_a_cache_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        _made(cache=tmp_path)


def _made(trt: Any = WithCalibrators, **options: Any) -> None:
    entropy_calibrator(trt, [], **{"shapes": {"image": (4, 3)}, "memory": HostMemory(), **options})


def _digest(files: list[Path]) -> str:
    """Of the bytes of one batch: read, resized, divided by 255, normalized, channels first."""
    mean, std = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.2, 0.25, 0.3], np.float32)
    images = []
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        scaled = (pixels * (1 / 255)).astype(np.float32)
        images.append(((scaled - mean) / std).transpose(2, 0, 1))
    return hashlib.sha256(np.stack(images).tobytes()).hexdigest()
