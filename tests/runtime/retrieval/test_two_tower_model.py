"""Encoders and similarity, with tiny graphs in ONNX Runtime whose embeddings are worked out here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from two_towers import CONTEXT, SENTENCES, write_clip_tokenizer, write_siglip_tokenizer

from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS, RetrievalSettings
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, EngineError, InputError, ModelError
from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.retrieval.encoders import MOST_IMAGES, MOST_TEXTS, ImageEncoder, TextEncoder
from edgeq.runtime.retrieval.tokenizer import TextTokenizer
from edgeq.runtime.retrieval.two_tower import open_two_tower

DIMENSION = 5
VOCABULARY = 1000
SIDE = 8
PREPROCESS = Preprocess.from_flags((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), (SIDE, SIDE))


def table(seed: int, *shape: int) -> NDArray[np.float32]:
    """Numbers around zero, float32 of `shape`."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


TOKENS, CHANNELS = table(1, VOCABULARY, DIMENSION), table(2, 3, DIMENSION)
TOKENS[0] = 0  # what stands behind the end of a text changes nothing


def text_graph(tokens: NDArray[Any] = TOKENS, outputs: int = 1) -> bytes:
    """The sum of a row for each token: a token more or less is seen, but for token 0."""
    kind = helper.np_dtype_to_tensor_dtype(tokens.dtype)
    nodes = [
        helper.make_node("Gather", ["tokens", "ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Identity", ["embedding"], ["more"]),
    ]
    names = ["embedding", "more"][:outputs]
    graph = helper.make_graph(
        nodes[: outputs + 1],
        "text",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])],
        [helper.make_tensor_value_info(name, kind, ["n", tokens.shape[1]]) for name in names],
        [numpy_helper.from_array(tokens, "tokens"), numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    return serialized(graph)


def vision_graph(channels: NDArray[np.float32] = CHANNELS) -> bytes:
    """The mean of each channel, times a matrix."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "channels"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", channels.shape[1]])],
        [numpy_helper.from_array(channels, "channels"), numpy_helper.from_array(np.array([2, 3], np.int64), "axes")],
    )
    return serialized(graph)


def serialized(graph: Any) -> bytes:
    """As a file holds it."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class Watched:
    """An engine that remembers the shapes it was given."""

    def __init__(self, graph: bytes) -> None:
        self._engine = OnnxRuntimeEngine(graph, threads=1)
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs
        self.shapes: list[tuple[int, ...]] = []

    def run(
        self, feeds: Mapping[str, NDArray[np.float32]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """As ONNX Runtime."""
        self.shapes += [value.shape for value in feeds.values()]
        return self._engine.run(feeds, outputs)


def settings_of(kind: str, size: int, **changes: Any) -> RetrievalSettings:
    """Of a bundle with a tokenizer of `two_towers`."""
    clip = {"padding": "trim", "pooling": "first", "eos_id": size - 1, "pad_id": size - 1}
    siglip = {"padding": "fixed", "pooling": "last", "eos_id": None, "pad_id": 1, "logit_bias": -3.5}
    values = {"model_type": kind, "dimension": DIMENSION, "vision": "vision.onnx", "text": "text.onnx"}
    return RetrievalSettings.model_validate(
        {**values, "context": CONTEXT, "logit_scale": 20.0, **(clip if kind == "clip" else siglip), **changes}
    )


@pytest.fixture(scope="module", params=["clip", "siglip"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the device reads of a bundle."""
    directory = tmp_path_factory.mktemp(request.param)
    size = (write_clip_tokenizer if request.param == "clip" else write_siglip_tokenizer)(directory)
    settings_of(request.param, size).save(directory / RETRIEVAL_SETTINGS)
    (directory / "text.onnx").write_bytes(text_graph())
    (directory / "vision.onnx").write_bytes(vision_graph())
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESS.to_config()))
    return directory


def text_encoder(bundle: Path, graph: bytes, **changes: Any) -> tuple[TextEncoder, TextTokenizer, Watched]:
    """The encoder of a graph, its tokenizer and its engine."""
    settings = RetrievalSettings.of(bundle).model_copy(update=changes)
    tokenizer, engine = TextTokenizer.open(bundle, settings), Watched(graph)
    return TextEncoder(engine, tokenizer, settings), tokenizer, engine


def unit(rows: NDArray[Any]) -> NDArray[Any]:
    """Each divided by its length, [n, dimension]."""
    found: NDArray[Any] = rows / np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return found


def pictures(count: int) -> list[Image.Image]:
    """Plain ones of different sizes and colours."""
    return [
        Image.new("RGB", (20 + at % 7, 30 - at % 5), (at % 256, 255 - at % 256, 7 * at % 256)) for at in range(count)
    ]


def test_texts_are_embedded_in_their_order_and_without_needless_padding(bundle: Path) -> None:
    texts = [" ".join(SENTENCES[at % 10].split()[: 1 + at % 6]) for at in range(500)]
    encoder, tokenizer, engine = text_encoder(bundle, text_graph())
    ids = tokenizer.ids(texts)
    expected = unit(np.stack([TOKENS[each].astype(np.float64).sum(axis=0) for each in ids]))
    found = encoder.embed(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert sum(rows for rows, _ in engine.shapes) == len(texts)
    assert max(rows for rows, _ in engine.shapes) == MOST_TEXTS
    lengths = [len(each) for each in ids]
    fours = [-(-length // 4) for length in lengths]
    assert len(engine.shapes) == sum(-(-fours.count(four) // MOST_TEXTS) for four in set(fours))
    assert sum(rows * length for rows, length in engine.shapes) - sum(lengths) <= 3 * len(texts)
    assert {length for _, length in engine.shapes} <= set(lengths)


def test_a_text_alone_and_among_others_gets_the_same_embedding(bundle: Path) -> None:
    encoder, *_ = text_encoder(bundle, text_graph())
    together = encoder.embed(SENTENCES)
    alone = np.concatenate([encoder.embed([text]) for text in SENTENCES])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_images_are_embedded_in_batches() -> None:
    engine, images = Watched(vision_graph()), pictures(2 * MOST_IMAGES + 3)
    found = ImageEncoder(engine, PREPROCESS, settings_of("siglip", VOCABULARY)).embed(images)
    colours = np.array([image.getpixel((0, 0)) for image in images]) / 255
    expected = unit(((colours - (0.5, 0.4, 0.3)) / (0.2, 0.3, 0.4)) @ CHANNELS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [shape[0] for shape in engine.shapes] == [MOST_IMAGES, MOST_IMAGES, 3]


def test_nothing_is_embedded_to_no_rows(bundle: Path) -> None:
    model = open_two_tower(bundle, threads=1)
    texts, images = model.text.embed([]), model.image.embed([])
    assert texts.shape == images.shape == (0, DIMENSION)
    assert model.similarity(texts, images).shape == (0, 0)


def test_float16_graphs_give_float32_of_length_one(bundle: Path) -> None:
    encoder, *_ = text_encoder(bundle, text_graph(np.full((VOCABULARY, DIMENSION), 3000, np.float16)))
    found = encoder.embed(["a cat"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.full((1, DIMENSION), DIMENSION**-0.5), atol=1e-6)


def test_squares_that_float32_does_not_hold_are_no_infinity(bundle: Path) -> None:
    encoder, *_ = text_encoder(bundle, text_graph(np.full((VOCABULARY, DIMENSION), 1e25, np.float32)))
    np.testing.assert_allclose(encoder.embed(["a cat"]), np.full((1, DIMENSION), DIMENSION**-0.5), atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_text_embeddings_without_direction_are_refused(bundle: Path, value: float) -> None:
    encoder, *_ = text_encoder(bundle, text_graph(np.full((VOCABULARY, DIMENSION), value, np.float32)))
    with pytest.raises(EngineError, match="text graph gave an embedding of NaN, infinity or zeros"):
        encoder.embed(["a cat"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_image_embeddings_without_direction_are_refused(value: float) -> None:
    engine = Watched(vision_graph(np.full((3, DIMENSION), value, np.float32)))
    encoder = ImageEncoder(engine, PREPROCESS, settings_of("siglip", VOCABULARY))
    with pytest.raises(EngineError, match="vision graph gave an embedding of NaN, infinity or zeros"):
        encoder.embed(pictures(2))


def test_one_bad_row_among_good_ones_is_refused(bundle: Path) -> None:
    tokens = TOKENS.copy()
    _, tokenizer, _ = text_encoder(bundle, text_graph())
    good, bad = tokenizer.ids(["a cat", "two dogs"])
    tokens[next(int(token) for token in bad if token not in good)] = np.nan
    encoder, *_ = text_encoder(bundle, text_graph(tokens))
    assert np.isfinite(encoder.embed(["a cat"])).all()
    with pytest.raises(EngineError, match="NaN"):
        encoder.embed(["a cat", "two dogs", "a cat"])


def test_embeddings_of_another_size_are_refused(bundle: Path) -> None:
    encoder, *_ = text_encoder(bundle, text_graph(), dimension=DIMENSION + 1)
    with pytest.raises(EngineError, match=r"text graph gave \[1, 5\] for a batch of 1"):
        encoder.embed(["a cat"])


def test_a_graph_of_two_outputs_is_refused(bundle: Path) -> None:
    with pytest.raises(EngineError, match="the outputs \\['embedding', 'more'\\]"):
        text_encoder(bundle, text_graph(outputs=2))


def test_a_bundle_is_opened_and_compares_texts_with_images(bundle: Path) -> None:
    model = open_two_tower(bundle, threads=1)
    texts, images = model.text.embed(SENTENCES), model.image.embed(pictures(4))
    found = model.similarity(texts, images)
    bias = {"clip": 0.0, "siglip": -3.5}[model.settings.model_type]
    expected = [[20 * sum(a * b for a, b in zip(t, i, strict=True)) + bias for i in images] for t in texts]
    assert found.dtype == np.float32
    assert found.shape == (len(SENTENCES), 4)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["../text.onnx", "/text.onnx", "folder/../text.onnx", "", ".."])
def test_graphs_outside_the_bundle_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    RetrievalSettings.of(bundle).model_copy(update={"text": name}).save(tmp_path / RETRIEVAL_SETTINGS)
    with pytest.raises(ArtifactError, match="names a file"):
        open_two_tower(tmp_path)


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        (RETRIEVAL_SETTINGS, ArtifactError),
        ("tokenizer.json", ModelError),
        ("preprocessor_config.json", InputError),
        ("text.onnx", EngineError),
        ("vision.onnx", EngineError),
    ],
)
def test_a_bundle_that_lacks_a_file_is_refused(
    bundle: Path, tmp_path: Path, missing: str, error: type[Exception]
) -> None:
    for file in bundle.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(error):
        open_two_tower(tmp_path)
