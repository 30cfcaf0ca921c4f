"""Bundles that edgeq 0.1.0 made are verified, installed, run and served as before; old names are told once each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import Edgeq
from running import chat, data_uri, running

from edgeq.old_names import FILES, current_file, current_keys
from edgeq.plan.precision import PrecisionPlan
from edgeq.quality.tasks.answer_figures import VlmQuality
from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0"
KEY = OLD / "old.public.pem"
SETTINGS = ServiceSettings(threads=1, reserve_mib=64, memory_gb=2, backend="onnxruntime", keys=(KEY,))


@pytest.mark.parametrize("name", ["classifier", "vlm"])
def test_it_is_verified_and_installed(name: str, edgeq: Edgeq, tmp_path: Path) -> None:
    assert edgeq("verify", OLD / name, "--key", KEY).status == 0
    flags = ("--root", tmp_path, "--key", KEY, "--backend", "onnxruntime", "--threads", "1")
    done = edgeq("install", OLD / name, *flags)
    assert done.status == 0, done.err
    assert "its canaries passed" in done.out


def test_it_answers(edgeq: Edgeq, caplog: pytest.LogCaptureFixture) -> None:
    done = edgeq("run", OLD / "vlm", OLD / "vlm" / "canaries" / "0.png", "what is it?", "--max-new-tokens", "3")
    assert done.status == 0, done.err
    assert "pair.json is called vlm.json now" in caplog.text


def test_it_is_served() -> None:
    image = (OLD / "vlm" / "canaries" / "0.png").read_bytes()
    with running(open_served(OLD / "vlm", SETTINGS)) as service:
        assert service.service.served.canaries is not None
        assert service.service.served.canaries.passed
        asked = {**chat(image=data_uri(image, "image/png"), max_tokens=3), "model": service.service.served.name}
        answer = service.http.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
    with running(open_served(OLD / "classifier", SETTINGS)) as service:
        found = service.http.post("/v1/classify", json={"image": data_uri(image, "image/png")})
        assert found.status_code == 200, found.text


def test_its_artifacts_are_read(caplog: pytest.LogCaptureFixture) -> None:
    assert PrecisionPlan.load(OLD / "classifier" / "plan.yaml").channel_equalization == "none"
    assert "channel_fold is called channel_equalization now" in caplog.text
    quality = VlmQuality.load(OLD / "vlm" / "quality.json")
    assert len(quality.divergences) == 2
    assert "partings is called divergences now" in caplog.text


def test_the_new_name_goes_before_the_old_one(tmp_path: Path) -> None:
    for now, before in FILES.items():
        assert current_file(tmp_path, now) == tmp_path / now
        (tmp_path / before).touch()
        assert current_file(tmp_path, now) == tmp_path / before
        (tmp_path / now).touch()
        assert current_file(tmp_path, now) == tmp_path / now


def test_what_has_today_s_names_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    cases: tuple[object, ...] = ({"version": "edgeq.plan/1", "channel_equalization": "none"}, {"partings": 1}, [], None)
    for values in cases:
        assert current_keys(values) == values
    assert not caplog.records


def test_old_flags_are_read(edgeq: Edgeq, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(OLD / "classifier", bundle)
    asked = ("build", bundle, "--dry-run", "--tensorrt", "10.3.0", "--json")
    plain = edgeq(*asked, "--quantization", "explicit")
    assert plain.status == 0, plain.err
    assert "is called" not in caplog.text
    assert edgeq(*asked, "--road", "explicit") == plain
    assert edgeq(*asked, "--road=explicit") == plain
    assert caplog.text.count("--road is called --quantization now") == 2
