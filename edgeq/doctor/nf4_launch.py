"""Judge the build of bitsandbytes that is installed by launching its kernels; `jetson/install.sh` goes by it.

Run as `python -m edgeq.doctor.nf4_launch`. It prints what `edgeq doctor` would say of the NF4 kernel. Exit status 1:
torch computes here, and bitsandbytes does not, so that another build of it is wanted. Exit status 0: the kernels ran
and are right, or they fail for another reason than bitsandbytes' build.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgeq.doctor.child import Outcome
from edgeq.doctor.finding import DoctorFinding
from edgeq.doctor.kernels import nf4_finding
from edgeq.doctor.packages import bitsandbytes_version
from edgeq.doctor.probes import probe_torch
from edgeq.engine.power import read_power

__all__ = ["main", "wants_another_build"]


def wants_another_build(probe: Outcome | None, finding: DoctorFinding) -> bool:
    """Whether another build of bitsandbytes is what would help.

    Args:
        probe: of torch; None where that is not installed.
        finding: what follows from it for the NF4 kernel.
    """
    return finding.status == "missing" and probe is not None and "computes" in probe.facts


def main() -> int:
    """Launch, say what was seen, give the exit status."""
    probe = probe_torch()
    jetson = read_power(Path("/")) is not None
    finding = nf4_finding(probe, installed=bitsandbytes_version(), jetson=jetson, language=True)
    print(f"{finding.name}: {finding.status}; {finding.seen}" + (f"; {finding.means}" if finding.means else ""))
    return int(wants_another_build(probe, finding))


if __name__ == "__main__":
    sys.exit(main())
