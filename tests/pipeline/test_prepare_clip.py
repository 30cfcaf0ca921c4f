"""The small CLIP that comes along, to a bundle that reads texts in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from two_towers import CONTEXT, SENTENCES, write_two_tower

from benchmarks.retrieval import inject_outliers
from edgeq.demo.clip.pairs import CLIP_WEIGHTS, write_captions, write_pairs
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, executed_operators
from edgeq.errors import EngineError
from edgeq.files import sha256_file
from edgeq.pipeline.retrieval.options import RetrievalOptions
from edgeq.pipeline.retrieval.prepare import PreparedRetrieval, prepare_retrieval
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.tasks.retrieval_gate import RetrievalBounds, RetrievalGate
from edgeq.runtime.retrieval.two_tower import TwoTowerModel, open_two_tower
from edgeq.tensorrt.inputs import ENGINE_INPUTS, EngineInputs

TEXTS = ("severe corrosion at the top left", "no damage", "bottom: minor wide crack", "")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> PreparedRetrieval:
    """Judged on 80 scenes, which are too few for the usual bound."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "images").mkdir()
    pairs = write_pairs(folder / "images", 80)
    write_captions(folder / "captions.txt", 80)
    options = RetrievalOptions(
        bounds=RetrievalBounds(5.0),
        compare_int8_images=True,
        keep_fp32=True,
        photographs=8,
        canaries=2,
        threads=1,
    )
    return prepare_retrieval(
        CLIP_WEIGHTS, folder / "images", folder / "captions.txt", folder / "bundle", pairs=pairs, options=options
    )


def test_int8_texts_are_kept_where_they_find_the_same(clip: PreparedRetrieval) -> None:
    assert clip.gate is not None
    assert clip.gate.passed
    way = clip.gate.figures.text_to_image
    assert way.at1.reference > 80, "of 80 scenes; 91 % of 5,000 when it was trained"
    assert (clip.int8_layers, clip.float_layers) == (18, 1 + 6), "the projection, and two products of each attention"
    assert clip.warnings == ()
    files = {file.name for file in clip.manifest.files}
    assert {"text/model.int8.ort.onnx", "text/model.int8.trt.onnx", "vision.fp16.onnx"} <= files
    assert "text/model.fp16.onnx" not in files
    assert (clip.search, clip.whole_int8, clip.kept_layers) == (None, None, ())


def test_int8_images_are_a_figure_and_nothing_else(clip: PreparedRetrieval) -> None:
    assert clip.gate is not None
    for way in (clip.gate.figures.text_to_image, clip.gate.figures.image_to_text):
        assert way.at1.both_int8 is not None
        assert abs(way.at1.both_int8 - way.at1.candidate) < 10
    assert not [file.name for file in clip.manifest.files if "int8" in file.name and not file.name.startswith("text/")]
    shown = [row[0] for row in clip.gate.figures.rows()]
    assert "recall@1 text -> image, images in INT8 too" in shown


def test_the_engine_of_texts_in_int8_is_described(clip: PreparedRetrieval) -> None:
    inputs = EngineInputs.load(clip.bundle / "text" / ENGINE_INPUTS)
    assert {quantization: graph.file for quantization, graph in inputs.graphs.items()} == {
        "explicit": "text/model.int8.trt.onnx"
    }
    assert inputs.buckets == {"length": ((1, 8, 8), (9, 16, 16), (17, 32, 32))}, "the context is 32"
    plan = PrecisionPlan.load(clip.bundle / "text" / "plan.yaml")
    int8 = {layer.name for layer in inputs.graphs["explicit"].layers if layer.precision == "int8"}
    assert int8 == plan.layers(Precision.INT8)
    assert len(int8) == 18
    assert not (clip.bundle / "text" / "fp16.plan.yaml").exists()
    assert inputs.plan_sha256 == sha256_file(clip.bundle / "text" / "plan.yaml")


def test_every_linear_layer_but_the_projection_multiplies_integers(clip: PreparedRetrieval) -> None:
    found = executed_operators(clip.bundle / "text" / "model.int8.ort.onnx")
    integers = {name: count for name, count in found.items() if "Integer" in name or name.startswith("QLinear")}
    assert sum(integers.values()) == 18, integers


@pytest.mark.parametrize("graph", ["text/model.fp32.onnx", "text/model.int8.ort.onnx", "text/model.int8.trt.onnx"])
def test_what_stands_behind_the_end_of_a_text_changes_nothing(clip: PreparedRetrieval, graph: str) -> None:
    """CLIP is causal and takes the place of the first end of text: trimmed is padded."""
    model = open_two_tower(clip.bundle, threads=1)
    engine = OnnxRuntimeEngine(clip.bundle / graph, threads=1)
    for ids in model.tokenizer.ids(TEXTS):
        padded = np.pad(ids, (0, model.settings.context - len(ids)), constant_values=model.settings.pad_id)
        trimmed, whole = (run(engine, each) for each in (ids, padded))
        np.testing.assert_allclose(trimmed, whole, atol=1e-4 * np.abs(whole).max())


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_takes_texts_of_its_context_alone(kind: str, tmp_path: Path) -> None:
    """It was trained on them, without a mask: a shorter text would be another."""
    model = write_two_tower(tmp_path / "model", kind)
    (tmp_path / "images").mkdir()
    write_pairs(tmp_path / "images", 2)
    (tmp_path / "captions.txt").write_text("\n".join(SENTENCES))
    options = RetrievalOptions(method="minmax", channel_equalization="none", photographs=2, canaries=1, threads=1)
    made = prepare_retrieval(
        model, tmp_path / "images", tmp_path / "captions.txt", tmp_path / "bundle", options=options
    )
    opened = open_two_tower(made.bundle, threads=1)
    ids = opened.tokenizer.ids(["a photo of a cat"])[0]
    assert (len(ids), opened.settings.padding) == (CONTEXT, "fixed")
    engine = OnnxRuntimeEngine(made.bundle / opened.settings.text, threads=1)
    assert run(engine, ids).shape == (32,)
    with pytest.raises(EngineError):
        run(engine, ids[:-4])
    assert any("NaFlex keeps the shape of an image" in warning for warning in made.warnings) is (kind == "siglip2")
    if kind == "siglip2":
        check_siglip2(model, opened)


def check_siglip2(model: Path, opened: TwoTowerModel) -> None:
    """Small letters, padded with Gemma's token, a square image: both encoders give what the one model gives."""
    short, same = opened.tokenizer.ids(["A Cat", "a cat"])
    np.testing.assert_array_equal(short, same)
    assert short[-2:].tolist() == [0, 0]
    whole = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    picture = Image.effect_mandelbrot((70, 70), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    with torch.inference_mode():
        text = whole.get_text_features(input_ids=torch.from_numpy(short[None])).pooler_output[0].numpy()
        image = whole.get_image_features(**processor(picture, return_tensors="pt")).pooler_output[0].numpy()
    for made, right in ((opened.text.embed(["A Cat"])[0], text), (opened.image.embed([picture])[0], image)):
        assert float(made @ right / np.linalg.norm(right)) > 0.9999


def run(engine: OnnxRuntimeEngine, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = engine.run({"input_ids": ids[None]})["text_embeds"][0]
    return found


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CLIP with channels 300 times as wide in its text encoder, 60 scenes, captions."""
    folder = tmp_path_factory.mktemp("wide")
    inject_outliers(CLIP_WEIGHTS, folder / "model", 300.0)
    (folder / "images").mkdir()
    write_pairs(folder / "images", 60)
    write_captions(folder / "captions.txt", 60)
    return folder


def prepared(wide: Path, share: float) -> PreparedRetrieval:
    options = RetrievalOptions(
        bounds=RetrievalBounds(5.0),
        channel_equalization="none",
        max_float_share=share,
        method="mse",
        photographs=4,
        canaries=1,
        threads=1,
    )
    return prepare_retrieval(
        wide / "model",
        wide / "images",
        wide / "captions.txt",
        wide / f"bundle{share:g}",
        pairs=wide / "images" / "pairs.jsonl",
        options=options,
    )


def test_layers_that_int8_harms_are_kept_where_it_is_refused(wide: Path) -> None:
    made = prepared(wide, 90.0)
    assert made.whole_int8 is not None
    assert made.gate is not None
    assert made.search is not None
    assert (made.whole_int8.judged, made.whole_int8.passed, made.gate.passed) == (True, False, True)
    steps = {len(step.kept): step.headline.drop for step in made.search.steps}
    assert made.search.max_drop == pytest.approx(1.0), "a fifth of the gate's bound"
    assert steps[0] > made.search.max_drop >= steps[len(made.kept_layers)]
    widened = ("q_proj", "k_proj", "v_proj", "fc1")
    assert made.kept_layers
    assert all(layer.split("/")[-2] in widened for layer in made.kept_layers), "what reads the wide channels"
    plan = PrecisionPlan.load(made.bundle / "text" / "plan.yaml")
    rules = {decision.layer: decision.rule for decision in plan.decisions}
    assert {rules[layer] for layer in made.kept_layers} == {f"fp16-kept-{layer}" for layer in made.kept_layers}
    found = executed_operators(made.bundle / "text" / "model.int8.ort.onnx")
    integers = sum(count for name, count in found.items() if "Integer" in name or name.startswith("QLinear"))
    assert integers == made.int8_layers == 18 - len(made.kept_layers)
    layers = EngineInputs.load(made.bundle / "text" / ENGINE_INPUTS).graphs["explicit"].layers
    assert {layer.name for layer in layers if layer.precision == "int8"}.isdisjoint(made.kept_layers)
    assert sum(layer.precision == "int8" for layer in layers) == made.int8_layers
    files = {file.name for file in made.manifest.files}
    assert {"gate.json", "gate.whole_int8.json", "text/search.json", "text/model.int8.trt.onnx"} <= files
    assert RetrievalGate.load(made.bundle / "gate.whole_int8.json") == made.whole_int8
    assert open_two_tower(made.bundle, threads=1).settings.text == "text/model.int8.ort.onnx"


def test_texts_are_fp16_where_too_many_layers_would_have_to_be_kept(wide: Path) -> None:
    made = prepared(wide, 3.0)
    assert made.search is not None
    assert (made.search.chosen, made.kept_layers, made.whole_int8) == (None, (), None)
    assert open_two_tower(made.bundle, threads=1).settings.text == "text/model.fp16.onnx"
    assert "no set of layers within 3 % of the bytes" in made.warnings[-1]
    assert "INT8 harms most: /text_model/" in made.warnings[-1]
