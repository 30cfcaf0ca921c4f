"""`edgeq handover`: files of other runtimes are whole, parsed by their own forms, and say what they do otherwise."""

from __future__ import annotations

import configparser
import importlib.util
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import Edgeq, assert_refused
from PIL import Image

from edgeq.files import sha256_file
from edgeq.handover.deepstream import one_factor
from edgeq.handover.write import HandedOver
from edgeq.model.images.preprocess import Preprocess

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CLASSIFIER = GOLDEN / "bundles-0.1.0" / "classifier"
VLM = GOLDEN / "bundles-0.1.0" / "vlm"
GRAPHS = {
    "deepstream": {"model.int8.trt.onnx": "model.int8.trt.onnx"},
    "triton": {"classifier/1/model.onnx": "model.int8.ort.onnx"},
    "triton-tensorrt": {"model.int8.trt.onnx": "model.int8.trt.onnx"},
    "trtexec": {"model.int8.trt.onnx": "model.int8.trt.onnx"},
}
"""Target -> which graph lies where."""
STEPS = Preprocess(height=4, width=4, resize=None, resample=2, center_crop=False, scale=1 / 255)


@pytest.mark.parametrize("target", GRAPHS)
def test_the_files_are_these(edgeq: Edgeq, tmp_path: Path, target: str) -> None:
    out = tmp_path / "out"
    done = edgeq("handover", CLASSIFIER, "--for", target, "--batch", 1, 4, 8, "-o", out)
    assert done.status == 0, done.err
    made = {str(file.relative_to(out)): file for file in out.rglob("*") if file.is_file()}
    assert {str(out / name) for name in made} == set(done.out.splitlines())
    wanted = {
        str(file.relative_to(GOLDEN / "handover" / target)): file
        for file in (GOLDEN / "handover" / target).rglob("*")
        if file.is_file()
    }
    assert made.keys() == wanted.keys() | GRAPHS[target].keys()
    for name, file in wanted.items():
        assert made[name].read_text(encoding="utf-8") == file.read_text(encoding="utf-8"), name
    for name, source in GRAPHS[target].items():
        assert sha256_file(made[name]) == sha256_file(CLASSIFIER / source)


@pytest.mark.parametrize("target", [name for name in GRAPHS if name != "triton"])
def test_the_script_runs_with_what_stands_in_for_trtexec(edgeq: Edgeq, tmp_path: Path, target: str) -> None:
    """One that notes its words and writes the engine it was asked for; the graph must be there."""
    edgeq("handover", CLASSIFIER, "--for", target, "-o", tmp_path / "out")
    tool = tmp_path / "bin" / "trtexec"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\nset -e\nfor word; do case $word in\n"
        '--onnx=*) test -s "${word#*=}";;\n--saveEngine=*) : > "${word#*=}";;\nesac; done\n'
    )
    tool.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "out" / "build.sh"], env={"PATH": f"{tool.parent}:/usr/bin:/bin"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    engines = [str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.plan")]
    assert (
        engines
        == {
            "deepstream": ["model.plan"],
            "triton-tensorrt": ["classifier/1/model.plan"],
            "trtexec": ["model.int8.trt.plan"],
        }[target]
    )


@pytest.mark.parametrize("target", ["triton", "triton-tensorrt"])
def test_tritons_own_schema_parses_the_configuration(target: str) -> None:
    """Its `model_config_pb2`, of the package tritonclient, without what that package imports."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("pip install --no-deps tritonclient: it wants an older ml_dtypes than the lock has")
    from google.protobuf import text_format  # type: ignore[import-untyped]

    place = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", place)
    assert spec is not None
    assert spec.loader is not None
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    text = (GOLDEN / "handover" / target / "classifier" / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, schema.ModelConfig())
    assert (config.max_batch_size, list(config.input[0].dims)) == (8, [3, 16, 16])
    assert config.HasField("dynamic_batching")


def test_nvinfers_configuration_computes_what_the_bundle_prepares() -> None:
    """By its formula, y = factor * (x - offset), on pixels."""
    text = (GOLDEN / "handover" / "deepstream" / "config_infer.txt").read_text(encoding="utf-8")
    parser = configparser.ConfigParser(inline_comment_prefixes=None)
    parser.read_string(text)
    values = parser["property"]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    steps = replace(STEPS, mean=(0.5,) * 3, std=(0.25,) * 3)
    offsets = np.array([float(each) for each in values["offsets"].split(";")])
    computed = float(values["net-scale-factor"]) * (pixels.transpose(2, 0, 1) - offsets[:, None, None])
    np.testing.assert_allclose(computed, steps(Image.fromarray(pixels)), atol=1e-5)


@pytest.mark.parametrize(
    "steps",
    [
        STEPS,
        replace(STEPS, mean=(0.4, 0.5, 0.6), std=(0.2,) * 3, channel_order="bgr"),
        replace(STEPS, scale=1.0, mean=(120.0, 110.0, 100.0), std=(60.0,) * 3),
        replace(STEPS, scale=1 / 127.5, rescale_offset=True),
        replace(STEPS, mean=(0.4, 0.5, 0.6), std=(0.5,) * 3, include_top=True),
    ],
)
def test_one_factor_and_offsets_are_the_preprocessing(steps: Preprocess) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    factor, offsets, apart = one_factor(steps)
    ordered = pixels[..., ::-1] if steps.channel_order == "bgr" else pixels
    computed = factor * (ordered.transpose(2, 0, 1) - np.array(offsets)[:, None, None])
    assert apart < 1e-12
    np.testing.assert_allclose(computed, steps(Image.fromarray(pixels)), atol=2e-5)


def test_a_factor_of_each_channel_is_told(edgeq: Edgeq, tmp_path: Path) -> None:
    """ImageNet's: 0.229, 0.224, 0.225 are up to 1.3 % from one factor."""
    assert one_factor(replace(STEPS, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))[2] == pytest.approx(
        1 - (1 / 0.229) / ((1 / 0.229 + 1 / 0.224 + 1 / 0.225) / 3)
    )
    bundle = tmp_path / "bundle"
    shutil.copytree(CLASSIFIER, bundle)
    config = bundle / "preprocessor_config.json"
    config.write_text(config.read_text().replace("0.25,\n  0.25,\n  0.25", "0.229,\n  0.224,\n  0.225"))
    done = edgeq("handover", bundle, "--for", "deepstream", "-o", tmp_path / "out")
    assert done.status == 0
    assert "one factor for all channels" in done.err.replace("\n", " ")
    assert "1.3 % apart" in (tmp_path / "out" / "config_infer.txt").read_text()


def test_json_names_files_and_notes(edgeq: Edgeq, tmp_path: Path) -> None:
    done = edgeq("handover", CLASSIFIER, "--for", "triton", "-o", tmp_path / "out", "--json")
    made = HandedOver.model_validate_json(done.out)
    assert made.files == ("classifier/1/model.onnx", "classifier/config.pbtxt", "classifier/labels.txt")
    assert ["preprocessor_config.json" in note for note in made.notes] == [True]


def test_a_vision_encoders_engine_is_built_by_its_own_lines(edgeq: Edgeq, tmp_path: Path) -> None:
    done = edgeq("handover", VLM, "--for", "trtexec", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert "--onnx=vision.fp16.onnx" in (tmp_path / "out" / "build.sh").read_text()


def test_what_does_not_fit_is_refused_and_leaves_nothing(edgeq: Edgeq, tmp_path: Path) -> None:
    assert_refused(edgeq("handover", VLM, "--for", "triton", "-o", tmp_path / "out"), "no classifier's bundle")
    assert_refused(edgeq("handover", tmp_path, "--for", "trtexec", "-o", tmp_path / "out"))
    bundle = tmp_path / "bundle"
    shutil.copytree(CLASSIFIER, bundle)
    graph = bundle / "model.int8.trt.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    assert_refused(edgeq("handover", bundle, "--for", "trtexec", "-o", tmp_path / "out"), "not the file")
    assert not (tmp_path / "out").exists()
