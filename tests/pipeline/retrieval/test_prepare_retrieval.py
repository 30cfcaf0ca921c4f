"""Two-tower models from a directory to a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto
from pictures import draw_pictures
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorrt_operators import refused
from two_towers import CONTEXT, SENTENCES, SIDE, TWO_TOWERS, write_two_tower

from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.engine_store.machine import read_machine
from edgeq.engine_store.planned import build_key, encoders_of, plan_build
from edgeq.errors import ArtifactError, CalibrationError, EdgeqError, GateError, ImageError, InputError, ModelError
from edgeq.files import sha256_file
from edgeq.pipeline.inspect import inspect_model
from edgeq.pipeline.retrieval.options import RetrievalOptions, UnjudgedText
from edgeq.pipeline.retrieval.prepare import PreparedRetrieval, prepare_retrieval
from edgeq.pipeline.retrieval.zero_shot import judge_zero_shot
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.runtime.canary.canary_set import canary_graph, open_canaries
from edgeq.runtime.retrieval.canaries import check_retrieval_canaries
from edgeq.runtime.retrieval.two_tower import open_two_tower
from edgeq.tensorrt.inputs import ENGINE_INPUTS, EngineInputs

OPTIONS = RetrievalOptions(photographs=4, canaries=3, threads=1)


def write_images(folder: Path, count: int = 8) -> list[Path]:
    folder.mkdir()
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(count)]
    for file in files:
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), np.uint8)).save(file)
    return files


@pytest.fixture(scope="module", params=TWO_TOWERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedRetrieval]:
    """A model's directory, and the bundle made of it."""
    folder = tmp_path_factory.mktemp("two")
    model = write_two_tower(folder / "model", request.param)
    files = write_images(folder / "images")
    lines = [{"image": file.name, "captions": [text]} for file, text in zip(files, SENTENCES, strict=False)]
    (folder / "images" / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "captions.txt").write_text("\n".join(SENTENCES))
    prepared = prepare_retrieval(
        model,
        folder / "images",
        folder / "captions.txt",
        folder / "bundle",
        pairs=folder / "images" / "pairs.jsonl",
        options=OPTIONS,
    )
    return model, prepared


def embedded(model: Path, text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What transformers' own model gives, normalized."""
    whole = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    padding = "max_length" if whole.config.model_type == "siglip" else True
    ids = tokenizer([text], padding=padding, truncation=True, max_length=CONTEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        found = whole.get_text_features(input_ids=ids).pooler_output[0].numpy()
    unit: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = found / np.linalg.norm(found)
    return unit


def test_the_bundle_embeds_as_the_model_does(made: tuple[Path, PreparedRetrieval]) -> None:
    model, prepared = made
    two = open_two_tower(prepared.bundle, threads=1)
    assert two.settings == RetrievalSettings.of(prepared.bundle)
    for text in ("A photo of a cat.", SENTENCES[3], "word " * 40):
        assert float(two.text.embed([text])[0] @ embedded(model, text)) > 0.9999
    whole = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    picture = Image.new("RGB", (SIDE, SIDE), (200, 30, 90))
    pixels = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")(picture, return_tensors="pt")
    with torch.inference_mode():
        right = whole.get_image_features(pixel_values=pixels["pixel_values"]).pooler_output[0].numpy()
    assert float(two.image.embed([picture])[0] @ (right / np.linalg.norm(right))) > 0.9999
    scale = float(whole.logit_scale.detach().exp())
    assert two.settings.logit_scale == pytest.approx(scale)
    assert (two.settings.logit_bias is None) == (whole.config.model_type == "clip")


def test_few_pairs_do_not_show_that_int8_finds_the_same(made: tuple[Path, PreparedRetrieval]) -> None:
    _, prepared = made
    assert prepared.gate is not None
    assert (prepared.gate.judged, prepared.gate.passed) == (False, False)
    assert prepared.int8_layers == 12, "six linear layers in each of two blocks"
    files = {file.name for file in prepared.manifest.files}
    assert "text/model.fp16.onnx" in files
    assert not any("int8" in name or "fp32" in name for name in files)
    assert prepared.warnings


def test_the_manifest_lists_everything_and_canaries_are_what_the_device_computes(
    made: tuple[Path, PreparedRetrieval],
) -> None:
    _, prepared = made
    assert read_manifest(prepared.bundle).kind == "retrieval"
    found = check_retrieval_canaries(prepared.bundle, open_two_tower(prepared.bundle, threads=1))
    assert found.other_tokens == ()
    assert min(found.text_cosine, found.image_cosine) > 0.99999
    found.raise_if_failed()


def test_another_tokenizer_on_the_device_is_noticed(made: tuple[Path, PreparedRetrieval], tmp_path: Path) -> None:
    _, prepared = made
    copy = tmp_path / "bundle"
    for file in prepared.manifest.files:
        (copy / file.name).parent.mkdir(parents=True, exist_ok=True)
        (copy / file.name).write_bytes((prepared.bundle / file.name).read_bytes())
    listed = json.loads((copy / "canaries/canaries.json").read_text())
    listed["texts"][0]["ids"][0] += 1
    (copy / "canaries/canaries.json").write_text(json.dumps(listed))
    vectors = np.load(copy / "canaries/images.npy")
    np.save(copy / "canaries/images.npy", -vectors)
    found = check_retrieval_canaries(copy, open_two_tower(copy, threads=1))
    assert found.other_tokens == (listed["texts"][0]["text"],)
    assert found.image_cosine < -0.99
    with pytest.raises(GateError, match="gets other tokens"):
        found.raise_if_failed()


def test_both_engines_are_described_and_the_plans_are_those_of_the_graphs(made: tuple[Path, PreparedRetrieval]) -> None:
    """Texts stayed in FP16 here: so is their plan, and nothing is left of the one for INT8."""
    _, prepared = made
    inputs = {encoder: EngineInputs.load(prepared.bundle / encoder / ENGINE_INPUTS) for encoder in ("text", "vision")}
    files = {encoder: {graph.file for graph in one.graphs.values()} for encoder, one in inputs.items()}
    assert files == {"text": {"text/model.fp16.onnx"}, "vision": {"vision.fp16.onnx"}}
    fixed = prepared.model_type == "siglip"
    assert inputs["text"].graphs["explicit"].inputs[0].shape == ("batch", CONTEXT if fixed else "length")
    assert (inputs["text"].buckets == {}) == fixed
    for encoder, plan in (("text", "text/plan.yaml"), ("vision", "vision.plan.yaml")):
        assert inputs[encoder].plan_sha256 == sha256_file(prepared.bundle / plan)
        assert not PrecisionPlan.load(prepared.bundle / plan).layers(Precision.INT8)
    assert encoders_of(prepared.manifest) == ("text", "vision")
    assert not any("fp16.plan" in file.name for file in prepared.manifest.files)
    for encoder in inputs:
        settings = plan_build(prepared.bundle, encoder=encoder, tensorrt="10.3.0")
        assert build_key(prepared.bundle, prepared.manifest, settings, read_machine()).layers_sha256


def test_both_graphs_have_what_tensorrt_takes(made: tuple[Path, PreparedRetrieval]) -> None:
    _, prepared = made
    for name in ("vision.fp16.onnx", "text/model.fp16.onnx"):
        assert refused(onnx.load(prepared.bundle / name)) == []


def test_it_has_two_graphs_where_one_is_asked_for(made: tuple[Path, PreparedRetrieval]) -> None:
    _, prepared = made
    for ask in (canary_graph, open_canaries):
        with pytest.raises(ArtifactError, match="embeds texts and images for retrieval"):
            ask(prepared.bundle)


@pytest.mark.parametrize("unjudged", ["fp16", "int8"])
def test_without_pairs_nothing_is_judged(tmp_path: Path, unjudged: UnjudgedText) -> None:
    model = write_two_tower(tmp_path / "model", "clip")
    write_images(tmp_path / "images", 2)
    (tmp_path / "captions.txt").write_text("\n".join(SENTENCES))
    options = RetrievalOptions(
        photographs=2, canaries=1, keep_fp32=True, channel_equalization="none", method="minmax", unjudged=unjudged
    )
    prepared = prepare_retrieval(
        model, tmp_path / "images", tmp_path / "captions.txt", tmp_path / "bundle", options=options
    )
    assert prepared.gate is None
    assert "was not judged" in prepared.warnings[0]
    assert prepared.warnings[0].endswith(f"texts are read in {unjudged.upper()}")
    assert prepared.text_precision == unjudged
    assert (
        RetrievalSettings.of(prepared.bundle).text
        == {
            "fp16": "text/model.fp16.onnx",
            "int8": "text/model.int8.ort.onnx",
        }[unjudged]
    )
    assert prepared.channels is None
    assert {"text/model.fp32.onnx", "vision.fp32.onnx"} <= {file.name for file in prepared.manifest.files}
    graph = onnx.load(prepared.bundle / "text/model.fp32.onnx").graph
    tables = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    assert len(tables) == 1, "the token table"
    assert_zero_shot(
        prepared.bundle, draw_pictures(tmp_path / "labelled", each=3), tmp_path / "templates.txt", unjudged
    )


def assert_zero_shot(bundle: Path, labelled: Path, templates: Path, made: str) -> None:
    """Classes are means of normalized texts: once more with the encoders themselves."""
    (labelled / "red" / "damaged.png").write_bytes(b"\x89PNG")
    templates.write_text("a photo of a {}.\n{} is what it is\n")
    with pytest.raises(ImageError, match="1 of 10"):
        judge_zero_shot(bundle, labelled, templates=templates, threads=1)
    (labelled / "red" / "damaged.png").unlink()
    found = judge_zero_shot(bundle, labelled, templates=templates, threads=1)
    assert (found.made, found.reference, found.skipped) == (made.upper(), "FP32", ())
    two = open_two_tower(bundle, threads=1)
    names = ("blue", "green", "red")
    each = [two.text.embed([f"a photo of a {name}.", f"{name} is what it is"]).mean(axis=0) for name in names]
    means = np.stack([mean / np.linalg.norm(mean) for mean in each])
    right = []
    for number, name in enumerate(names):
        for file in sorted((labelled / name).iterdir()):
            right.append(int((means @ two.image.embed([Image.open(file)])[0]).argmax()) == number)
    figures = found.figures
    assert (figures.images, figures.classes, figures.templates) == (9, 3, 2)
    assert figures.candidate == pytest.approx(100 * np.mean(right))
    assert figures.drop is not None
    assert figures.reference == pytest.approx(figures.candidate + figures.drop.value)
    assert figures.drop.low < figures.drop.value < figures.drop.high


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("no captions", CalibrationError),
        ("a long caption", CalibrationError),
        ("chinese_clip", ModelError),
        ("foreign weights", ModelError),
        ("not two images", InputError),
        ("INT8 images without pairs", InputError),
    ],
)
def test_what_is_refused_leaves_nothing(fault: str, error: type[EdgeqError], tmp_path: Path) -> None:
    model = write_two_tower(tmp_path / "model", "siglip")
    write_images(tmp_path / "images", 2)
    captions, pairs, options = "a photo of a cat", None, OPTIONS
    if fault == "no captions":
        captions = "\n"
    elif fault == "a long caption":
        captions = "x" * 30_000
    elif fault == "not two images":
        pairs = tmp_path / "images" / "pairs.jsonl"
        pairs.write_text('{"image": "0.png", "captions": ["one", "two"]}')
    elif fault == "INT8 images without pairs":
        options = replace(OPTIONS, compare_int8_images=True)
    elif fault == "chinese_clip":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "model_type": "chinese_clip"}))
    else:
        config = json.loads((model / "config.json").read_text())
        config["text_config"]["num_hidden_layers"] = 3
        (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "captions.txt").write_text(captions)
    with pytest.raises(error):
        prepare_retrieval(
            model, tmp_path / "images", tmp_path / "captions.txt", tmp_path / "bundle", pairs=pairs, options=options
        )
    assert not (tmp_path / "bundle").exists()


def test_a_config_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    """As published ones of SigLIP do; old weights of CLIP have a table of positions that nobody reads."""
    model = write_two_tower(tmp_path / "model", "siglip")
    config = json.loads((model / "config.json").read_text())
    for left_out in ("pad_token_id", "attention_dropout", "layer_norm_eps", "hidden_act"):
        del config["text_config"][left_out]
    (model / "config.json").write_text(json.dumps(config))
    weights = load_file(model / "model.safetensors")
    weights["vision_model.embeddings.position_ids"] = torch.arange(4)[None]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    write_images(tmp_path / "images", 2)
    (tmp_path / "captions.txt").write_text("\n".join(SENTENCES))
    options = RetrievalOptions(photographs=2, canaries=1, threads=1, channel_equalization="none", method="minmax")
    prepared = prepare_retrieval(
        model, tmp_path / "images", tmp_path / "captions.txt", tmp_path / "bundle", options=options
    )
    assert prepared.dimension == 32
    assert inspect_model(str(model), tmp_path / "images").parameters > 0
