"""The settings: the file that comes along, flags, and everything that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edgeq.errors import ArtifactError, InputError
from edgeq.service.settings import ServiceSettings, change, load_settings

CONFIGURATION = Path(__file__).resolve().parents[2] / "jetson" / "edgeq.conf"


def test_the_file_that_comes_along_says_what_goes_without_saying() -> None:
    assert load_settings(CONFIGURATION) == ServiceSettings()
    assert set(yaml.safe_load(CONFIGURATION.read_text())) == set(ServiceSettings.model_fields)


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("version: edgeq.service/1\nport: 9000\nqueue: 3\nimage_mib: 2\n")
    settings = change(load_settings(tmp_path / "conf"), port=0, host=None, canaries=False)
    assert (settings.port, settings.queue, settings.host, settings.canaries) == (0, 3, "127.0.0.1", False)
    assert settings.image_bytes == 2 << 20
    assert settings.image_pixels == 50_000_000
    assert (settings.max_images, settings.images_bytes, settings.images_pixels) == (8, 20 << 20, 100_000_000)


def test_one_image_may_always_be_as_large_as_one_may_be() -> None:
    settings = ServiceSettings(image_mib=30, image_megapixels=60, images_megapixels=10)
    assert (settings.images_bytes, settings.images_pixels) == (30 << 20, 60_000_000)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "version"),
        ("port: 1", "version"),
        ("version: edgeq.service/2", "version"),
        ("version: edgeq.service/1\nports: 1", "ports"),
        ("version: edgeq.service/1\nport: 70000", "port"),
        ("version: edgeq.service/1\nmax_images: 0", "max_images"),
        ("version: edgeq.service/1\nimage_hosts: ['http://a']", "image_hosts"),
        ("version: edgeq.service/1\nimage_megapixels: 65", "image_megapixels"),
        ("- a", "version"),
        ("a: [", "parsing"),
        ("!!python/object/apply:os.system ['true']", "python"),
    ],
)
def test_a_file_that_holds_none(tmp_path: Path, text: str, names: str) -> None:
    (tmp_path / "conf").write_text(text)
    with pytest.raises(ArtifactError, match="does not hold the settings") as caught:
        load_settings(tmp_path / "conf")
    assert names in str(caught.value)


def test_no_file_and_a_large_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not hold the settings"):
        load_settings(tmp_path / "conf")
    (tmp_path / "conf").write_text("#" * (2 << 20))
    with pytest.raises(ArtifactError, match="does not hold the settings"):
        load_settings(tmp_path / "conf")


def test_a_flag_out_of_range() -> None:
    with pytest.raises(InputError, match="not usable") as caught:
        change(ServiceSettings(), memory_gb=-1.0)
    assert "memory_gb" in str(caught.value)
