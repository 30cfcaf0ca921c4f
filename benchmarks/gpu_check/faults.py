"""How a process ends when something goes wrong on the GPU: each in a child, whose status and last words are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from benchmarks.gpu_check.findings import Finding, Scale

__all__ = ["faults"]

_SECONDS: Final = 90

_STICKY: Final = """
import threading, torch, bitsandbytes as bnb
from bitsandbytes import functional
packed, state = functional.quantize_4bit(torch.randn(256, 256, device="cuda").half(), quant_type="nf4",
                                         compress_statistics=True)
def told(what, run):
    try:
        run()
    except Exception as error:
        print(what, type(error).__name__, str(error).splitlines()[0][:120], flush=True)
    else:
        print(what, "went well", flush=True)
def go():
    rows = torch.randn(8, 256, device="cuda").half()
    told("first:", lambda: torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu())
    told("a layer:", lambda: bnb.matmul_4bit(rows, packed.t(), quant_state=state))
    told("dequantizing:", lambda: functional.dequantize_4bit(packed, state))
    told("a copy:", lambda: torch.ones(4).cuda())
thread = threading.Thread(target=go)
thread.start()
thread.join()
print("Python goes on")
"""

_FULL: Final = """
import torch
try:
    torch.empty(1 << 44, dtype=torch.uint8, device="cuda")
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0][:160])
print(float(torch.ones(4, device="cuda").sum()))
"""

_CAPTURE: Final = """
import torch
numbers = torch.ones(4, device="cuda")
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
try:
    with torch.cuda.graph(graph):
        numbers.sum().item()
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0][:160])
del graph
torch.cuda.synchronize()
print(float(numbers.sum()))
"""

_CASES: Final[Mapping[str, str]] = {"sticky_error": _STICKY, "out_of_memory": _FULL, "capture_fails": _CAPTURE}
_GOES_ON: Final = ("out_of_memory", "capture_fails")
"""After these the GPU still computes, which the runtime counts on: their last line is 4.0."""

_TINY: Final[Mapping[str, str]] = {"says_and_ends": "print('last words'); raise SystemExit(3)"}


def faults(scale: Scale) -> Iterator[Finding]:
    """A finding for each fault."""
    for name, code in (_TINY if scale.tiny else _CASES).items():
        try:
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            yield {"name": name, "hangs_after_s": _SECONDS, "fine": False}
            continue
        fine = name not in _GOES_ON or done.stdout.split()[-1:] == ["4.0"]
        yield {
            "name": name,
            "status": done.returncode,
            "said": done.stdout.splitlines()[-6:],
            "stderr": done.stderr[-300:],
            "fine": fine,
        }
