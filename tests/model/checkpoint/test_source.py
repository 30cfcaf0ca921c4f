"""Opening MODEL: what is found in a directory, and every way in which it can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgeq.errors import ModelError
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.preprocess import Preprocess

CONFIG: dict[str, Any] = {"architectures": ["ResNetForImageClassification"], "id2label": {"1": "dog", "0": "cat"}}
PREPROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": 32}
FLAGS = Preprocess.from_flags((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (64, 64))


def write(path: Path, value: object) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value))


@pytest.fixture
def onnx_dir(tmp_path: Path) -> Path:
    """A directory with an ONNX file (its content is not looked at here) and both configs."""
    (tmp_path / "model.onnx").write_bytes(b"graph")
    write(tmp_path / "config.json", CONFIG)
    write(tmp_path / "preprocessor_config.json", PREPROCESSOR)
    return tmp_path


@pytest.fixture
def hf_dir(onnx_dir: Path) -> Path:
    """A Hugging Face directory with safetensors."""
    (onnx_dir / "model.onnx").unlink()
    save_file({"w": np.ones((2, 3), np.float32)}, onnx_dir / "model.safetensors")
    return onnx_dir


def test_the_shared_network_opens(shared_data: Path) -> None:
    directory = shared_data / "cifar10-resnet56"
    source = open_model(str(directory))
    assert (source.kind, source.path, source.onnx_path) == ("onnx", directory, directory / "model.onnx")
    assert source.architectures == ("CifarResNet56",)
    assert source.labels is not None
    assert source.labels[3] == "cat"
    assert len(source.labels) == 10
    assert source.preprocess.height == 32


def test_the_file_itself_opens_like_its_directory(onnx_dir: Path) -> None:
    assert open_model(onnx_dir / "model.onnx") == open_model(onnx_dir)


def test_labels_are_in_the_order_of_their_ids(onnx_dir: Path) -> None:
    assert open_model(onnx_dir).labels == ("cat", "dog")


def test_a_hugging_face_directory_opens(hf_dir: Path) -> None:
    source = open_model(hf_dir)
    assert (source.kind, source.onnx_path) == ("hf", None)
    assert source.config == CONFIG


def test_flags_win_over_the_file(onnx_dir: Path) -> None:
    assert open_model(onnx_dir, preprocess=FLAGS).preprocess == FLAGS
    (onnx_dir / "preprocessor_config.json").write_text("{broken")
    assert open_model(onnx_dir, preprocess=FLAGS).preprocess == FLAGS


def test_a_missing_preprocessor_config_names_the_flags(onnx_dir: Path) -> None:
    (onnx_dir / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="no preprocessor_config") as caught:
        open_model(onnx_dir)
    assert "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 224" in caught.value.next_step


def test_a_missing_config_is_fine_beside_onnx_and_wrong_beside_weights(onnx_dir: Path) -> None:
    (onnx_dir / "config.json").unlink()
    source = open_model(onnx_dir)
    assert (source.labels, source.architectures, dict(source.config)) == (None, (), {})
    (onnx_dir / "model.onnx").unlink()
    save_file({"w": np.ones(2, np.float32)}, onnx_dir / "model.safetensors")
    with pytest.raises(ModelError, match=r"no config\.json"):
        open_model(onnx_dir)


def test_which_of_several_onnx_files(onnx_dir: Path) -> None:
    shutil.copy(onnx_dir / "model.onnx", onnx_dir / "model.fp32.onnx")
    assert open_model(onnx_dir).onnx_path == onnx_dir / "model.onnx"
    (onnx_dir / "model.onnx").rename(onnx_dir / "other.onnx")
    assert open_model(onnx_dir).onnx_path == onnx_dir / "model.fp32.onnx"
    (onnx_dir / "model.fp32.onnx").rename(onnx_dir / "another.onnx")
    with pytest.raises(ModelError, match=r"several ONNX files: another\.onnx, other\.onnx"):
        open_model(onnx_dir)
    (onnx_dir / "other.onnx").unlink()
    assert open_model(onnx_dir).onnx_path == onnx_dir / "another.onnx"


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"[1, 2]", "JSON list, expected an object"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"[" * 200_000, "not valid JSON"),
    ],
)
def test_a_broken_config_is_named(onnx_dir: Path, name: str, content: bytes, named: str) -> None:
    (onnx_dir / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name}.*{named}"):
        open_model(onnx_dir)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id2label": {"0": "cat", "2": "dog"}}, "none for 1"),
        ({"id2label": {"1": "cat"}}, "none for 0"),
        ({"id2label": ["cat", "dog"]}, "not an object"),
        ({"id2label": {"0": 7}}, "not an object"),
        ({"architectures": "ResNet"}, "architectures"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(onnx_dir: Path, change: dict[str, Any], named: str) -> None:
    write(onnx_dir / "config.json", {**CONFIG, **change})
    with pytest.raises(ModelError, match=named):
        open_model(onnx_dir)


def test_nan_in_the_mean_is_refused(onnx_dir: Path) -> None:
    (onnx_dir / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "image_mean": [NaN, 0, 0]}'
    )
    with pytest.raises(ModelError, match="mean"):
        open_model(onnx_dir)


def test_pickled_weights_are_refused(hf_dir: Path) -> None:
    (hf_dir / "model.safetensors").rename(hf_dir / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only as a pickle \(pytorch_model\.bin\)") as caught:
        open_model(hf_dir)
    assert caught.value.expected == "model.safetensors"


@pytest.mark.parametrize("keep", [0, 5, 8, 20, -1])
def test_cut_weights_are_refused(hf_dir: Path, keep: int) -> None:
    path = hf_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is not a whole safetensors file"):
        open_model(hf_dir)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\n" * 2,
        b"\xff" * 64,
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x0a\0\0\0\0\0\0\0" + b'{"w": [1]}',
    ],
)
def test_weights_that_are_something_else_are_refused(hf_dir: Path, content: bytes) -> None:
    (hf_dir / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        open_model(hf_dir)


def test_a_missing_shard_is_named(hf_dir: Path) -> None:
    (hf_dir / "model.safetensors").rename(hf_dir / "model-00001-of-00002.safetensors")
    names = {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}
    write(hf_dir / "model.safetensors.index.json", {"weight_map": names})
    with pytest.raises(ModelError, match="lacks 1 of its weight files, the first is model-00002-of-00002"):
        open_model(hf_dir)


def test_a_shard_outside_the_directory_is_refused(hf_dir: Path) -> None:
    outside = hf_dir.parent / f"{hf_dir.name}.safetensors"
    (hf_dir / "model.safetensors").rename(outside)
    save_file({"w": np.ones(2, np.float32)}, hf_dir / "model-1.safetensors")
    write(hf_dir / "model.safetensors.index.json", {"weight_map": {"w": f"../{outside.name}"}})
    with pytest.raises(ModelError, match="lacks 1 of its weight files"):
        open_model(hf_dir)


def test_a_directory_without_a_model_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model in it") as caught:
        open_model(tmp_path)
    assert "model.onnx" in caught.value.expected


def test_other_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match="neither a directory nor an"):
        open_model(tmp_path / "model.pt")
    for missing in (tmp_path / "nowhere", "nowhere", "./org/name", "a/b/c", "models/net.onnx"):
        with pytest.raises(ModelError, match="does not exist"):
            open_model(missing)


def test_a_name_the_system_refuses_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="cannot be read: File name too long"):
        open_model("x" * 5000)


def test_a_hugging_face_id_offline_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="could not be downloaded from Hugging Face") as caught:
        open_model("edgeq-no-such-org/no-such-model")
    assert any("offline" in cause for cause in caught.value.causes)
