"""A model or configs that cannot be used: exit status 2, a few lines that say what to do, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from command import Edgeq, assert_refused, listing
from networks import CHANNELS, PREPROCESS_FLAGS, tiny_network, write_model

pytestmark = pytest.mark.usefixtures("quick_latency")


@pytest.mark.parametrize("verb", ["inspect", "export", "prepare"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiny_network().SerializeToString()[:1500], ("model.onnx", "cut short", "copy the file again")),
        (b"", ("model.onnx", "empty", "export the model to ONNX again")),
        (b"PK\x03\x04" + bytes(100), ("model.onnx", "zip")),
        (b"<!DOCTYPE html><html><body>404</body></html>", ("model.onnx", "not", "ONNX")),
        (bytes(range(256)) * 8, ("model.onnx", "ONNX")),
    ],
    ids=["cut short", "empty", "zip", "web page", "noise"],
)
def test_a_model_that_is_none(
    verb: str, content: bytes, words: tuple[str, ...], edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / "model.onnx").write_bytes(content)
    before = listing(tmp_path)
    given = () if verb == "inspect" else ("--images", tiny_pictures, "-o", tmp_path / "made")
    assert_refused(edgeq(verb, tmp_path / "model", *given, "--json"), *words)
    assert listing(tmp_path) == before


def test_a_model_that_is_not_there(edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path) -> None:
    done = edgeq("prepare", tmp_path / "nowhere", "--images", tiny_pictures, "-o", tmp_path / "made")
    assert_refused(done, "nowhere does not exist", "expected: an .onnx file")
    assert listing(tmp_path) == []


def test_a_model_with_a_fixed_batch_in_a_reshape(edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    graph = tiny_network()
    place, flatten = next((at, node) for at, node in enumerate(graph.graph.node) if node.op_type == "Flatten")
    turned = onnx.helper.make_node("Transpose", ["column"], [flatten.output[0]], perm=[1, 0])
    flatten.CopyFrom(onnx.helper.make_node("Reshape", [flatten.input[0], "shape"], ["column"]))
    graph.graph.node.insert(place + 1, turned)
    graph.graph.initializer.append(onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [CHANNELS, 1]))
    onnx.save(graph, tmp_path / "model" / "model.onnx")
    before = listing(tmp_path)
    done = edgeq("prepare", tmp_path / "model", "--images", tiny_pictures, "-o", tmp_path / "made")
    assert_refused(done, "does not run on a batch of three", "next: export it with a dynamic batch axis")
    assert listing(tmp_path) == before
    assert_refused(edgeq("inspect", tmp_path / "model"), "does not run on a batch of three")


def test_without_preprocessing_the_error_names_the_flags(edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model", preprocessor=False)
    before = listing(tmp_path)
    arguments = ("prepare", tmp_path / "model", "--images", tiny_pictures, "-o", tmp_path / "made", "--json")
    assert_refused(edgeq(*arguments), "preprocessor_config.json", "--mean", "--std", "--size")
    assert listing(tmp_path) == before
    done = edgeq(*arguments, *PREPROCESS_FLAGS)
    assert done.status == 0, done.err
    assert json.loads(done.out)["int8_layers"] == 3


def test_the_flags_say_what_the_file_says(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "bare", preprocessor=False)
    common = ("--images", tiny_pictures, "-o")
    assert edgeq("export", tiny_model, *common, tmp_path / "file").status == 0
    assert edgeq("export", tmp_path / "bare", *common, tmp_path / "flags", *PREPROCESS_FLAGS).status == 0
    made = [json.loads((tmp_path / name / "export.json").read_text())["parity"] for name in ("file", "flags")]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mean", "0.5,0.5", *PREPROCESS_FLAGS[2:]), ("three",)),
        (("--crop-pct", "0.9"), ("crop_pct", "without size")),
        (("--size", "16", "--crop", "8", "--letterbox", "center"), ("crop and letterbox", "one of them")),
        (("--size", "16x20", "--crop-pct", "0.9"), ("16 x 20", "square")),
        (("--rescale-factor", "1/0"), ("--rescale-factor 1/0", "1/255")),
        (("--rescale-factor", "-1"), ("rescale factor -1.0", "positive")),
        (("--mean", "a,b,c", *PREPROCESS_FLAGS[2:]), ("--mean a,b,c", "three numbers")),
        (("--mean", "nan,0,0", *PREPROCESS_FLAGS[2:]), ("mean", "finite")),
        ((*PREPROCESS_FLAGS[:2], "--std", "0,0,0", "--size", "16"), ("standard deviation", "positive")),
        ((*PREPROCESS_FLAGS[:4], "--size", "big"), ("--size big", "HEIGHTxWIDTH")),
        ((*PREPROCESS_FLAGS[:4], "--size", "0"), ("expected 1..8192",)),
        ((*PREPROCESS_FLAGS[:4], "--size", "32"), ("takes images of (16, 16) pixels", "--size")),
    ],
)
def test_flags_that_say_nothing_usable(
    flags: tuple[str, ...],
    words: tuple[str, ...],
    edgeq: Edgeq,
    tiny_model: Path,
    tiny_pictures: Path,
    tmp_path: Path,
) -> None:
    done = edgeq("prepare", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "made", *flags)
    assert_refused(done, *words)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe\x00", b""], ids=["cut", "list", "bytes", "empty"])
def test_a_config_that_cannot_be_read(
    name: str, content: bytes, edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    before = listing(tmp_path)
    done = edgeq("prepare", tmp_path / "model", "--images", tiny_pictures, "-o", tmp_path / "made")
    assert_refused(done, name)
    assert listing(tmp_path) == before


def test_a_config_that_is_a_directory(edgeq: Edgeq, tiny_pictures: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "model" / "config.json").mkdir()
    done = edgeq("prepare", tmp_path / "model", "--images", tiny_pictures, "-o", tmp_path / "made")
    assert_refused(done, "config.json")
