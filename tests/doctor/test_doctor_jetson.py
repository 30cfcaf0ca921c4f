"""Release, power mode and clocks of boards made by hand."""

from __future__ import annotations

from pathlib import Path

from recorded import JETPACK_6, JETPACK_7, changed

from edgeq.doctor.finding import DoctorFinding
from edgeq.doctor.jetson import clock_finding, power_finding, release_finding
from edgeq.engine.power import read_power


def release(root: Path) -> DoctorFinding:
    return release_finding(root, read_power(root))


def power(root: Path) -> DoctorFinding:
    return power_finding(root, read_power(root))


def clock(root: Path) -> DoctorFinding:
    return clock_finding(root, read_power(root))


def test_both_releases() -> None:
    board = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super"
    assert release(JETPACK_6).seen == f"{board}, Jetson Linux 36.4.3, JetPack 6.2+b77"
    assert release(JETPACK_7).seen == f"{board}, Jetson Linux 39.2.0, JetPack 7.2"
    assert {release(JETPACK_6).status, release(JETPACK_7).status} == {"ok"}


def test_without_the_package_that_names_the_jetpack(tmp_path: Path) -> None:
    root = changed(JETPACK_6, tmp_path, {"var/lib/dpkg/status": "Package: nvidia-l4t-core\nVersion: 36.4.3\n"})
    assert release(root).seen.endswith("Jetson Linux 36.4.3, JetPack 6")


def test_a_package_that_was_removed(tmp_path: Path) -> None:
    text = "Package: nvidia-jetpack\nStatus: deinstall ok config-files\nVersion: 5.1\n"
    root = changed(JETPACK_7, tmp_path, {"var/lib/dpkg/status": text})
    assert release(root).seen.endswith("Jetson Linux 39.2.0, JetPack 7")


def test_jetpack_5_is_too_old(tmp_path: Path) -> None:
    files = {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1\n", "var/lib/dpkg/status": None}
    found = release(changed(JETPACK_6, tmp_path, files))
    assert (found.status, "JetPack 6" in found.next_step) == ("missing", True)


def test_a_container_that_does_not_see_the_release(tmp_path: Path) -> None:
    found = release(changed(JETPACK_6, tmp_path, {"etc/nv_tegra_release": None}))
    assert (found.status, "release not known" in found.seen) == ("unknown", True)


def test_25_watts() -> None:
    """8 x 408 MHz instead of 8 x 1173 MHz: 2.9 times as long, a 4-bit model's tokens too, at the same bandwidth."""
    found = power(JETPACK_6)
    assert (found.status, found.seen) == ("warning", "25W (number 3)")
    assert "8 SM at 408 MHz, 6.7 TFLOPS in FP16, 102.4 GB/s" in found.means
    assert "images, prompts and the tokens of a 4-bit model take up to 2.9 times as long" in found.means
    assert "not measured by edgeq" in found.means
    assert found.next_step.endswith("sudo nvpmodel -m 0")


def test_10_watts_cost_bandwidth(tmp_path: Path) -> None:
    """8 x 1173 / (4 x 612) is 3.8."""
    found = power(changed(JETPACK_6, tmp_path, {"var/lib/nvpmodel/status": "pmode:0001\n"}))
    assert found.seen == "10W (number 1)"
    assert "68.3 GB/s: images, prompts and the tokens of a 4-bit model take up to 3.8 times as long" in found.means


def test_the_fastest_mode() -> None:
    found = power(JETPACK_7)
    assert (found.status, found.seen, found.next_step) == ("ok", "MAXN_SUPER (number 0)", "")
    assert "19.2 TFLOPS" in found.means


def test_a_board_without_the_super_configuration(tmp_path: Path) -> None:
    text = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n"
    files = {"etc/nvpmodel.conf": text, "var/lib/nvpmodel/status": "pmode:0002\n"}
    assert "has no MAXN_SUPER" in power(changed(JETPACK_6, tmp_path, files)).next_step


def test_another_board_has_other_modes(tmp_path: Path) -> None:
    """The 8 GB module has no 25W whose figures are known, but a 15W."""
    root = changed(JETPACK_6, tmp_path, {"proc/device-tree/compatible": "nvidia,p3767-0001\0nvidia,tegra234\0"})
    found = power(root)
    assert (found.status, "knows no figures" in found.means) == ("ok", True)
    assert "TFLOPS" not in found.means
    found = power(changed(root, tmp_path / "slower", {"var/lib/nvpmodel/status": "pmode:0002\n"}))
    assert (found.status, found.seen) == ("warning", "15W (number 2)")
    assert "4 SM at 612 MHz" in found.means
    assert found.next_step.endswith("sudo nvpmodel -m 4"), "its 40W"


def test_no_status(tmp_path: Path) -> None:
    found = power(changed(JETPACK_6, tmp_path, {"var/lib/nvpmodel/status": None}))
    assert (found.status, "mount" in found.next_step) == ("unknown", True)


def test_clocks() -> None:
    follows = clock(JETPACK_6)
    assert follows.seen == "GPU 306 to 408 MHz, CPU up to 1497 MHz"
    assert "jetson_clocks" in follows.means
    assert clock(JETPACK_7).seen == "GPU held at 1173 MHz, CPU up to 1984 MHz"


def test_no_jetson(tmp_path: Path) -> None:
    for look in (release, power, clock):
        found = look(tmp_path)
        assert (found.status, "not a Jetson" in found.seen) == ("unknown", True)
        assert found.means == "could not be looked at on this machine"
