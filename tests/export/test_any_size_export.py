"""Families that take a photograph in its own size: several inputs and outputs, one run an image, up to the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image
from talk import write_processor
from vision_graphs import ANY_SIZE, hf_native, photographs, write_eyes
from vlm import IMAGE_TOKEN

from edgeq.bundle.manifest import write_manifest
from edgeq.bundle.vision_report import VISION_FP16, VISION_FP32, VisionReport
from edgeq.bundle.vlm_settings import LANGUAGE, VLM_SETTINGS, VlmSettings
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError
from edgeq.export.vision import export_vision
from edgeq.families.base import Arrays, output_rows
from edgeq.families.modules import load_config, read_vlm
from edgeq.families.registry import exportable
from edgeq.model.images.image_processor import load_image_processor
from edgeq.pipeline.vlm_processor import copy_processor
from edgeq.quantize.engine_inputs import axis_ranges, most_pictures, write_vision_inputs
from edgeq.quantize.fp16.vision import quantize_vision
from edgeq.runtime.canary.canaries import CANARIES, CANARY_LIST, Canaries, Canary
from edgeq.runtime.canary.canary_set import open_canaries
from edgeq.runtime.canary.check import check_canaries
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.tensorrt.inputs import EngineInputs
from edgeq.tensorrt.settings import build_settings

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIZES = ((120, 80), (56, 200), (180, 180))
"""Width and height; 28 x 28 pixels become one token, so 4 x 3, 2 x 7 and 6 x 6."""
TOKENS = (12, 14, 36)


def odd() -> list[Image.Image]:
    return [photographs()[number % 2].resize(size) for number, size in enumerate(SIZES)]


@pytest.fixture(scope="module", params=ANY_SIZE)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return write_eyes(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both graphs, reports and `engine.json`; not to be written to."""
    directory = tmp_path_factory.mktemp("made")
    export_vision(model, directory, odd(), threads=1)
    report = quantize_vision(model, directory, odd(), threads=1)
    described = read_vlm(model)
    lengths = axis_ranges(report.lengths, {})
    write_vision_inputs(directory, pictures=most_pictures(described), ranges=lengths)
    return directory


def test_features_of_sizes_that_were_not_traced(model: Path, made: Path) -> None:
    config, processor = load_config(model), load_image_processor(model)
    graph = exportable(config["model_type"], config["vision_config"])
    engine = OnnxRuntimeEngine(made / VISION_FP32, threads=1)
    for size in ((56, 56), (300, 60), (224, 224)):
        photograph = photographs()[0].resize(size)
        found = engine.run(graph.feeds(processor(images=photograph, return_tensors="np"), config))
        for name, wanted in zip(graph.outputs(config), hf_native(model, photograph), strict=True):
            np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_the_report_names_inputs_types_and_free_axes(model: Path, made: Path) -> None:
    report = VisionReport.load(made)
    config = load_config(model)
    graph = exportable(config["model_type"], config["vision_config"])
    assert [(one.name, one.dtype) for one in report.inputs] == [(one.name, one.dtype) for one in graph.inputs]
    assert {one.dtype for one in report.inputs} == {"float32", "int64"}
    assert [one.name for one in report.outputs] == list(graph.outputs(config))
    assert {one.axes for one in report.outputs} == {("tokens", report.hidden)}
    assert report.image is None
    assert report.image_tokens == max(TOKENS)
    assert report.lengths["patches"] == (8, 4 * 14, 4 * 36)  # 8 divides 48, 56 and 144
    assert report.parity.pictures == len(SIZES)
    assert report.parity.tokens == sum(TOKENS) * len(report.outputs)


def test_integers_stay_integers_in_fp16(made: Path) -> None:
    report, graph = VisionReport.load(made), onnx.load(made / VISION_FP16).graph
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    found = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    assert found == {one.name: kinds[one.dtype] for one in report.inputs}
    assert report.fp16 is not None
    assert 1 - report.fp16.parity.worst_cosine < 1e-4
    assert report.fp16.parity.tokens == report.parity.tokens


def test_the_engine_has_a_range_for_every_input(made: Path) -> None:
    inputs, report = EngineInputs.load(made / "engine.json"), VisionReport.load(made)
    graph = inputs.graphs["explicit"]
    assert [(one.name, one.dtype, one.shape) for one in graph.inputs] == [
        (one.name, one.dtype, one.axes) for one in report.inputs
    ]
    assert {one.shape for one in graph.outputs} == {("tokens", report.hidden)}
    assert (inputs.pictures, inputs.ranges) == (1, report.lengths)
    profile = build_settings(inputs, "explicit", "because").profile
    assert [entry.input for entry in profile] == [one.name for one in report.inputs]
    for entry, one in zip(profile, report.inputs, strict=True):
        for index, axis in enumerate(one.axes):
            wanted = report.lengths[axis] if isinstance(axis, str) else (axis,) * 3
            assert (entry.min[index], entry.opt[index], entry.max[index]) == wanted


def bundle(model: Path, made: Path, directory: Path) -> Path:
    """All of a bundle but the language model, with two canaries."""
    (directory / LANGUAGE).mkdir(parents=True)
    (directory / CANARIES).mkdir()
    copy_processor(model, directory)
    preprocessor = (directory / "preprocessor_config.json").read_bytes()
    write_processor(directory)
    (directory / "preprocessor_config.json").write_bytes(preprocessor)
    (directory / VISION_FP16).write_bytes((made / VISION_FP16).read_bytes())
    settings = VlmSettings(
        model_type=load_config(model)["model_type"],
        vision=VISION_FP16,
        image_token="<image>",
        image_token_id=IMAGE_TOKEN,
        tokens=36,
        context=128,
        stop=(2,),
    )
    settings.save(directory / VLM_SETTINGS)
    prompter, engine = Prompter.open(directory, settings), OnnxRuntimeEngine(made / VISION_FP32, threads=1)
    for number, photograph in enumerate(odd()[:2]):
        photograph.save(directory / CANARIES / f"{number}.png")
        rows = output_rows(engine.run(prompter.pixels(photograph).feeds))
        np.save(directory / CANARIES / f"{number}.npy", rows)
    canaries = [
        Canary(image=f"{number}.png", features=f"{number}.npy", question="?", answer="", token_ids=(2,))
        for number in range(2)
    ]
    Canaries(answered_by="bundle", max_new_tokens=1, canaries=tuple(canaries)).save(directory / CANARY_LIST)
    write_manifest(directory, kind="vision-language")
    return directory


class Exchanged:
    """A real engine; the last output's first two rows are exchanged on the second canary."""

    def __init__(self, graph: Path) -> None:
        self._engine, self._runs = OnnxRuntimeEngine(graph, threads=1), 0
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs[::-1]  # an engine has an order of its own

    def run(self, feeds: Mapping[str, NDArray[np.float32]], outputs: Sequence[str] | None = None) -> Arrays:
        found = self._engine.run(feeds, outputs)
        self._runs += 1
        if self._runs == 2:
            last = list(found)[-1]
            found[last] = found[last][[1, 0, *range(2, len(found[last]))]]
        return found


def test_canaries_hold_the_rows_of_all_outputs(model: Path, made: Path, tmp_path: Path) -> None:
    folder = bundle(model, made, tmp_path / "b")
    opened, outputs = open_canaries(folder), VisionReport.load(made).outputs
    assert [known.reference.shape[:2] for known in opened.known] == [(1, len(outputs) * count) for count in TOKENS[:2]]
    assert all(known.feeds.keys() == {one.name for one in VisionReport.load(made).inputs} for known in opened.known)
    report = check_canaries(folder, threads=1)
    assert report.passed
    exchanged = check_canaries(folder, Exchanged(folder / VISION_FP16), threads=1)
    assert [bool(canary.failure) for canary in exchanged.canaries] == [False, True]
    parity = exchanged.canaries[1].parity
    assert parity is not None
    assert parity.worst_token - (len(outputs) - 1) * TOKENS[1] in (0, 1)


def test_canaries_of_another_size_are_refused(model: Path, made: Path, tmp_path: Path) -> None:
    folder = bundle(model, made, tmp_path / "b")
    rows = np.load(folder / CANARIES / "1.npy")
    np.save(folder / CANARIES / "1.npy", rows[1:])
    write_manifest(folder, kind="vision-language")
    with pytest.raises(ArtifactError, match=r"1\.npy has the shape") as caught:
        open_canaries(folder)
    assert "features of 14 image tokens" in str(caught.value)
