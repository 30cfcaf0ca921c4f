"""jetson/presets.sh on a make-believe Jetson: memory and power."""

from __future__ import annotations

from pathlib import Path

import pytest
from scratch import CHECKOUT, JetPack, Scratch, boot


@pytest.fixture
def orin(tmp_path: Path) -> Scratch:
    """An Orin NX with JetPack 6, in its mode number 2."""
    return boot(tmp_path / "root", "6")


@pytest.mark.parametrize(
    ("jetpack", "expected"),
    [
        ("6", ["0 MAXN_SUPER", "1 10W", "2 15W", "3 25W", "4 40W"]),
        ("7", ["0 15W", "1 25W", "2 MAXN_SUPER"]),
    ],
)
def test_the_modes_are_those_of_the_board(tmp_path: Path, jetpack: JetPack, expected: list[str]) -> None:
    assert boot(tmp_path / "root", jetpack).run("presets.sh", "modes").out.splitlines() == expected


@pytest.mark.parametrize(
    ("jetpack", "name", "number"), [("6", "25W", "3"), ("6", "maxn_super", "0"), ("7", "25W", "1")]
)
def test_a_mode_is_chosen_by_its_name(tmp_path: Path, jetpack: JetPack, name: str, number: str) -> None:
    jetson = boot(tmp_path / "root", jetpack)
    assert jetson.run("presets.sh", "power", name).status == 0
    assert jetson.calls() == ["nvpmodel -q", f"nvpmodel -m {number}", "nvpmodel -q"]


def test_the_mode_that_the_board_is_in_is_left_alone(orin: Scratch) -> None:
    done = orin.run("presets.sh", "power", "15W")
    assert (done.status, orin.calls()) == (0, ["nvpmodel -q"])


def test_a_name_that_is_part_of_another_is_no_match(orin: Scratch) -> None:
    done = orin.run("presets.sh", "power", "MAXN")
    assert done.status == 2
    assert "no power mode MAXN" in done.err
    assert "one of: MAXN_SUPER 10W 15W 25W 40W" in done.err
    assert orin.calls() == []


def test_a_mode_that_wants_a_restart_is_said_and_not_forced(orin: Scratch) -> None:
    orin.remember("nvpmodel.status", "255")
    done = orin.run("presets.sh", "power", "40W")
    assert done.status == 1
    assert "sudo nvpmodel -m 4" in done.out


def test_no_modes_without_the_boards_file(orin: Scratch) -> None:
    (orin.root / "etc/nvpmodel.conf").unlink()
    for arguments in (("modes",), ("power", "15W")):
        done = orin.run("presets.sh", *arguments)
        assert done.status == 2
        assert "/etc/nvpmodel.conf is not there" in done.err


def test_headless_uses_l4ts_own_compressed_swap_where_it_is(orin: Scratch) -> None:
    assert orin.run("presets.sh", "headless").status == 0
    calls = orin.calls()
    assert "systemctl set-default multi-user.target" in calls
    assert not [call for call in calls if "apt-get" in call or "zram-setup" in call]
    assert "etc/systemd/zram-generator.conf" not in orin.tree()


def test_headless_brings_the_generator_where_there_is_none(tmp_path: Path) -> None:
    jetson = boot(tmp_path / "root", "7")
    assert jetson.run("presets.sh", "headless").status == 0
    ours = (CHECKOUT / "jetson/zram-generator.conf").read_text(encoding="utf-8")
    assert jetson.tree()["etc/systemd/zram-generator.conf"] == ours
    calls = jetson.calls()
    assert calls.index("systemctl daemon-reload") < calls.index("systemctl start systemd-zram-setup@zram0.service")


def test_a_swap_that_somebody_set_up_is_kept(tmp_path: Path) -> None:
    jetson = boot(tmp_path / "root", "7")
    (jetson.root / "etc/systemd").mkdir()
    (jetson.root / "etc/systemd/zram-generator.conf").write_text("[zram0]\n", encoding="utf-8")
    assert jetson.run("presets.sh", "headless").status == 0
    assert jetson.tree()["etc/systemd/zram-generator.conf"] == "[zram0]\n"


def test_the_desktop_comes_back(orin: Scratch) -> None:
    orin.run("presets.sh", "headless")
    assert orin.run("presets.sh", "desktop").status == 0
    assert (orin.root / "stub/target").read_text(encoding="utf-8") == "graphical.target\n"


@pytest.mark.parametrize("arguments", [(), ("power",), ("fast",), ("headless", "now"), ("--hard", "headless")])
def test_bad_words(orin: Scratch, arguments: tuple[str, ...]) -> None:
    done = orin.run("presets.sh", *arguments)
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert orin.calls() == []
