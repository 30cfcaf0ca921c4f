"""Stand-ins for what is NVIDIA's, placed in the arm64 root; nothing else is stood in for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from rehearsal.report import StandIn

__all__ = ["NVPMODEL", "POWER_MODE", "STAND_INS", "place_stand_ins"]

RECORDED: Final = Path(__file__).resolve().parents[1] / "tests/golden/jetson/jetpack-6"
"""Made by hand, see tests/golden/jetson/README.md."""

POWER_MODE: Final = "25W"
"""One of those in RECORDED's nvpmodel.conf."""

STAND_INS: Final = (
    StandIn(name="/etc/nv_tegra_release", instead_of="L4T 36.4.3's", does="is the file that the tests have"),
    StandIn(name="/etc/nvpmodel.conf", instead_of="an Orin NX's", does="has the lines that name power modes"),
    StandIn(name="/usr/sbin/nvpmodel", instead_of="NVIDIA's program", does="remembers the mode's number"),
    StandIn(name="/usr/bin/tegrastats", instead_of="NVIDIA's program", does="ends with status 1"),
    StandIn(name="nvidia-l4t-core", instead_of="NVIDIA's package", does="is empty, and known to dpkg"),
    StandIn(name="python3-libnvinfer", instead_of="TensorRT's package", does="is empty, and known to dpkg"),
    StandIn(name="nvzramconfig.service", instead_of="L4T's compressed swap", does="runs `true`"),
)

NVPMODEL: Final = """#!/bin/sh
# Stand-in of edgeq's rehearsal: it remembers a power mode's number, and changes nothing.
file=/var/lib/nvpmodel/status
case $1 in
    -q) number=$(sed -n 's/^pmode:0*\\([0-9]\\{1,\\}\\) .*/\\1/p' "$file")
        printf 'NV Power Mode: ?\\n%s\\n' "$number" ;;
    -m) printf 'pmode:%04d fmode:quiet\\n' "$2" >"$file" ;;
esac
"""
_TEGRASTATS: Final = "#!/bin/sh\n# Stand-in of edgeq's rehearsal.\nexit 1\n"
_ZRAM: Final = """# Stand-in of edgeq's rehearsal.
[Service]
Type=oneshot
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""


def place_stand_ins(root: Path) -> str:
    """Put all of them into an arm64 root; gives how many.

    Args:
        root: its directory; dpkg must be installed in it.
    """
    for name in ("nv_tegra_release", "nvpmodel.conf"):
        shutil.copy(RECORDED / name, root / "etc" / name)
    _write(root / "usr/sbin/nvpmodel", NVPMODEL, 0o755)
    _write(root / "usr/bin/tegrastats", _TEGRASTATS, 0o755)
    _write(root / "etc/systemd/system/nvzramconfig.service", _ZRAM, 0o644)
    _write(root / "var/lib/nvpmodel/status", "pmode:0002 fmode:quiet\n", 0o644)
    for line in (RECORDED / "packages").read_text(encoding="utf-8").splitlines():
        name, version = line.split()
        if name in {stand_in.name for stand_in in STAND_INS}:
            _install_empty(root, name, version)
    return f"{len(STAND_INS)} stand-ins, for NVIDIA's alone"


def _install_empty(root: Path, name: str, version: str) -> None:
    """A package without a file, by dpkg itself."""
    control = root / "tmp" / name / "DEBIAN" / "control"
    lines = {
        "Package": name,
        "Version": version,
        "Architecture": "arm64",
        "Maintainer": "edgeq's rehearsal <nobody@localhost>",
        "Description": "stand-in of edgeq's rehearsal, without a file",
    }
    _write(control, "".join(f"{key}: {value}\n" for key, value in lines.items()), 0o644)
    package = f"/tmp/{name}.deb"
    subprocess.run(["dpkg-deb", "--build", control.parents[1], root / package[1:]], check=True, capture_output=True)
    subprocess.run(["chroot", root, "dpkg", "--install", package], check=True, capture_output=True)


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
