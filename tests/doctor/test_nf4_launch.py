"""What install.sh goes by: is it bitsandbytes' build that fails?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import CPU_TORCH, ORIN_TORCH, SYMBOL

from edgeq.doctor.child import Outcome
from edgeq.doctor.kernels import nf4_finding
from edgeq.doctor.nf4_launch import wants_another_build

STARTED = {name: fact for name, fact in ORIN_TORCH.facts.items() if name != "nf4_error"}
COMPUTES = {name: ORIN_TORCH.facts[name] for name in ("torch", "cuda_built", "cuda", "gpu", "computes")}


@pytest.mark.parametrize(
    ("probe", "installed", "wanted"),
    [
        pytest.param(ORIN_TORCH, "0.50.2", False, id="its kernels are right"),
        pytest.param(CPU_TORCH, "0.50.2", False, id="no GPU to try them on"),
        pytest.param(Outcome(STARTED, 1, SYMBOL), "0.50.2", True, id="the build for servers on L4T"),
        pytest.param(Outcome(COMPUTES, 1, "libbitsandbytes_cuda132.so"), "0.50.2", True, id="built for another CUDA"),
        pytest.param(Outcome({**ORIN_TORCH.facts, "nf4_error": 0.5}, 0), "0.50.2", True, id="wrong numbers"),
        pytest.param(ORIN_TORCH, None, True, id="not installed"),
        pytest.param(Outcome({"torch": "2.9.1"}, -11), "0.50.2", False, id="torch itself does not compute"),
        pytest.param(None, "0.50.2", False, id="no torch"),
    ],
)
def test_another_build_is_wanted_where_torch_computes_and_bitsandbytes_does_not(
    probe: Outcome | None, installed: str | None, wanted: bool
) -> None:
    finding = nf4_finding(probe, installed=installed, jetson=True, language=True)
    assert wants_another_build(probe, finding) == wanted


def test_the_kernels_of_this_machine_are_launched() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeq.doctor.nf4_launch"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("NF4 kernel: ok; bitsandbytes ")


def test_a_build_that_fails_at_its_kernels_is_told_by_the_exit_status(tmp_path: Path) -> None:
    """A package of that name which cannot be imported, before the real one."""
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes/__init__.py").write_text(f"raise RuntimeError({SYMBOL!r})\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "edgeq.doctor.nf4_launch"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "named symbol not found" in done.stdout
