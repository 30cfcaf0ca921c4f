"""The stages one at a time: each reads what the one before made, and refuses what another made or someone changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import ALLOW_FLAGS, Edgeq
from networks import write_model

from edgeq.bundle.manifest import read_manifest
from edgeq.pipeline.classifier import Prepared

pytestmark = pytest.mark.usefixtures("quick_latency")

ARTIFACTS = ("model.fp32.onnx", "model.int8.ort.onnx", "model.int8.trt.onnx", "plan.yaml", "scales.json")

Stages = tuple[Path, Path, Path]


@pytest.fixture
def stages(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> Stages:
    """export -> calibrate -> quantize: the directory exported, the scales, the directory quantized."""
    exported, scales, quantized = tmp_path / "exported", tmp_path / "scales.json", tmp_path / "quantized"
    for arguments in (
        ("export", tiny_model, "--images", tiny_pictures, "-o", exported),
        ("calibrate", exported, "--images", tiny_pictures, "-o", scales),
        ("quantize", exported, "--scales", scales, "-o", quantized),
    ):
        done = edgeq(*arguments, "--json")
        assert done.status == 0, done.err
        assert json.loads(done.out)["version"].startswith("edgeq.")
    return exported, scales, quantized


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_the_stages_make_what_the_main_job_makes(
    edgeq: Edgeq, stages: Stages, tiny_model: Path, tiny_pictures: Path, tiny_answers: Path, tmp_path: Path
) -> None:
    done = edgeq(
        "prepare", tiny_model, "--images", tiny_pictures, "--eval", tiny_answers, "-o", tmp_path / "b", "--json"
    )
    assert done.status == 0, done.err
    prepared = Prepared.model_validate_json(done.out)
    assert prepared.manifest == read_manifest(tmp_path / "b")
    for name in ARTIFACTS:
        assert (stages[2] / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    judged = edgeq("evaluate", stages[2], "--eval", tiny_answers, "--json")
    assert judged.status == 0, judged.err
    answers = prepared.quality.answers
    assert answers is not None
    assert json.loads(judged.out)["answers"] == answers.model_dump()


def test_a_bundle_can_be_judged_again(edgeq: Edgeq, tiny_model: Path, tiny_answers: Path, tmp_path: Path) -> None:
    done = edgeq("prepare", tiny_model, *ALLOW_FLAGS, "--images", tiny_answers, "-o", tmp_path / "bundle")
    assert done.status == 0, done.err
    assert "BatchNorm: 3 before, 0 after." in done.out
    assert f"The bundle lies in {tmp_path / 'bundle'}" in done.out
    assert "only 24 calibration images" in done.err
    judged = edgeq("evaluate", tmp_path / "bundle", "--eval", tiny_answers)
    assert judged.status == 0, judged.err
    assert "same class, 24 images" in judged.out


def test_each_stage_says_what_comes_next(
    edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command: list[str] = ["export", str(tiny_model), "--images", str(tiny_pictures), "-o", "exported"]
    names = {"EXPORTED": "exported", "QUANTIZED": "quantized", "LABELLED": str(tiny_pictures)}
    verbs = []
    while command:
        verbs.append(command[0])
        done = edgeq(*command)
        assert done.status == 0, done.err
        _, _, following = done.out.partition("next: edgeq ")
        command = [names.get(word, word) for word in following.split()]
    assert verbs == ["export", "calibrate", "quantize", "evaluate"]


def test_scales_of_another_graph_are_refused(edgeq: Edgeq, stages: Stages, tiny_pictures: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=1)
    assert edgeq("export", other, "--images", tiny_pictures, "-o", tmp_path / "other-exported").status == 0
    before = sorted(tmp_path.iterdir())
    done = edgeq("quantize", tmp_path / "other-exported", "--scales", stages[1], "-o", tmp_path / "made")
    assert (done.status, done.out) == (2, "")
    assert "the scales were made for another graph" in done.err
    assert "next: run edgeq calibrate again" in done.err
    assert sorted(tmp_path.iterdir()) == before


def test_scales_that_exist_are_not_written_over(edgeq: Edgeq, stages: Stages, tiny_pictures: Path) -> None:
    before = stages[1].read_bytes()
    done = edgeq("calibrate", stages[0], "--images", tiny_pictures, "-o", stages[1], "--method", "minmax")
    assert (done.status, done.out) == (2, "")
    assert "exists already" in done.err
    assert stages[1].read_bytes() == before


@pytest.mark.parametrize("verb", ["calibrate", "quantize"])
def test_a_changed_graph_is_refused(
    verb: str, edgeq: Edgeq, stages: Stages, tiny_pictures: Path, tmp_path: Path
) -> None:
    flip_a_byte(stages[0] / "model.fp32.onnx")
    given = {"calibrate": ("--images", tiny_pictures), "quantize": ("--scales", stages[1])}[verb]
    done = edgeq(verb, stages[0], *given, "-o", tmp_path / "made")
    assert (done.status, done.out) == (2, "")
    assert "is not the graph that export.json describes" in done.err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["model.fp32.onnx", "model.int8.ort.onnx", "preprocessor_config.json"])
def test_a_changed_bundle_is_refused(
    name: str, edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    assert edgeq("prepare", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "bundle").status == 0
    flip_a_byte(tmp_path / "bundle" / name)
    done = edgeq("evaluate", tmp_path / "bundle", "--eval", tiny_pictures)
    assert (done.status, done.out) == (2, "")
    assert f"{name} is not the file that the manifest lists" in done.err


def test_a_changed_quantized_directory_is_refused(edgeq: Edgeq, stages: Stages, tiny_pictures: Path) -> None:
    flip_a_byte(stages[2] / "model.fp32.onnx")
    done = edgeq("evaluate", stages[2], "--eval", tiny_pictures)
    assert (done.status, done.out) == (2, "")
    assert "is not the graph that export.json describes" in done.err


def test_a_directory_that_was_not_quantized_is_refused(
    edgeq: Edgeq, stages: Stages, tiny_model: Path, tiny_pictures: Path
) -> None:
    done = edgeq("evaluate", stages[0], "--eval", tiny_pictures)
    assert (done.status, done.out) == (2, "")
    assert "model.int8.ort.onnx" in done.err
    assert "next: edgeq quantize" in done.err
    done = edgeq("evaluate", tiny_model, "--eval", tiny_pictures)
    assert (done.status, done.out) == (2, "")
    assert "was not made by edgeq export" in done.err


def test_a_scales_file_that_is_none(edgeq: Edgeq, stages: Stages, tmp_path: Path) -> None:
    for content in ("", "{}", "[1, 2]", '{"version": "edgeq.scales/9"}', stages[1].read_text()[:200]):
        (tmp_path / "wrong.json").write_text(content)
        done = edgeq("quantize", stages[0], "--scales", tmp_path / "wrong.json", "-o", tmp_path / "made")
        assert (done.status, done.out) == (2, ""), content
        assert "wrong.json is not a scales file" in done.err
    assert not (tmp_path / "made").exists()


def test_an_exported_directory_lacks_its_graph(
    edgeq: Edgeq, stages: Stages, tiny_pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(stages[0], tmp_path / "copy")
    (tmp_path / "copy" / "model.fp32.onnx").unlink()
    done = edgeq("calibrate", tmp_path / "copy", "--images", tiny_pictures, "-o", tmp_path / "s.json")
    assert (done.status, done.out) == (2, "")
    assert "changed or lost" in done.err
