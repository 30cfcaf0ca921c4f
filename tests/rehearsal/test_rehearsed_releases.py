"""The releases that come onto the device, installed here; and the service and its client that look at one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from classifier_bundle import classifier_bundle

from edgeq.cli import run
from edgeq.errors import EdgeqError
from rehearsal.client import classes, served, stop
from rehearsal.releases import Releases, canary_images, make_releases, require_classifier
from rehearsal.report import UnexpectedError
from rehearsal.root import Machine, this_machine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def releases(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return make_releases(bundle, tmp_path_factory.mktemp("rehearsed") / "releases")


@pytest.fixture(scope="module")
def here() -> Machine:
    return this_machine()


def test_a_release_is_taken_and_the_one_whose_canaries_fail_is_not(
    releases: Releases, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"

    def installed(packed: Path) -> tuple[int, int]:
        words = ["install", str(packed), "--key", str(releases.public_key), "--root", str(root), "--threads", "1"]
        status = run(words)
        return status, json.loads((root / "current/manifest.json").read_text(encoding="utf-8"))["sequence"]

    assert [installed(packed) for packed in (releases.second, releases.failing, releases.first)] == [
        (0, 2),
        (1, 2),  # its canaries fail
        (2, 2),  # it is older
    ]
    assert "canar" in capsys.readouterr().err


def test_a_directory_that_is_no_classifiers_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeqError):
        require_classifier(tmp_path)


def test_a_service_is_asked_and_stopped(bundle: Path, here: Machine, tmp_path: Path) -> None:
    words, log = (*here.edgeq, "serve", str(bundle), "--threads", "1"), tmp_path / "log"
    with served(here, words, "", log) as running:
        found = classes(running.address, canary_images(bundle)[0])
        assert running.notified[0].startswith("STATUS=") or "READY=1" in running.notified
        assert stop(running) == 0
    assert sum(found.values()) == pytest.approx(1, abs=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_service_that_ends_is_told_with_its_last_words(here: Machine, tmp_path: Path) -> None:
    words = (*here.edgeq, "serve", str(tmp_path / "nothing"))
    with (
        pytest.raises(UnexpectedError, match=r"ended with status 75.*nothing"),
        served(here, words, "", tmp_path / "l"),
    ):
        raise AssertionError("it is not ready")
