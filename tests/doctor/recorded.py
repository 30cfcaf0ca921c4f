"""The roots made by hand in tests/golden/doctor, and probes that ended as a test wants it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from edgeq.doctor.child import Outcome
from edgeq.doctor.probes import Probes

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "doctor"
JETPACK_6, JETPACK_7 = GOLDEN / "orin-nx-jetpack-6.2", GOLDEN / "orin-nx-jetpack-7.2"

SYMBOL = "RuntimeError: Error named symbol not found at line 233 in file /src/csrc/ops.cu"
"""What bitsandbytes' wheel for aarch64 says on an Orin, by report."""

CPU_TORCH = Outcome(
    {
        "torch": "2.13.0+cpu",
        "cuda_built": None,
        "cuda": False,
        "computes": True,
        "bitsandbytes": "0.50.2",
        "nf4_device": "cpu",
        "nf4_error": 3e-7,
    },
    0,
)
ORIN_GPU = {"name": "Orin", "capability": "8.7", "integrated": True, "bytes": 16_000_000_000}
ORIN_TORCH = Outcome(
    {
        **{"torch": "2.9.0", "cuda_built": "12.6", "cuda": True, "gpu": ORIN_GPU, "computes": True},
        **{"bitsandbytes": "0.50.2", "nf4_device": "cuda", "nf4_error": 4e-4},
    },
    0,
)
ONNXRUNTIME = Outcome({"onnxruntime": "1.31.1", "providers": ["CPUExecutionProvider"]}, 0)
NO_TENSORRT = Outcome({"gpu": None, "error": "TensorRT is not installed for this Python", "next_step": "install it"}, 0)
ORIN_TENSORRT = Outcome(
    {"gpu": {"name": "Orin", "compute_capability": "8.7"}, "tensorrt": "10.3.0", "runtime": True}, 0
)

CPU_PROBES = Probes(CPU_TORCH, ONNXRUNTIME, NO_TENSORRT)
ORIN_PROBES = Probes(ORIN_TORCH, ONNXRUNTIME, ORIN_TENSORRT)
BARE_PROBES = Probes(None, None, NO_TENSORRT)


def changed(root: Path, directory: Path, files: Mapping[str, str | None]) -> Path:
    """A copy of a root with other files; None removes one."""
    copy = shutil.copytree(root, directory / "root")
    for name, text in files.items():
        if text is None:
            (copy / name).unlink()
        else:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_text(text)
    return copy
