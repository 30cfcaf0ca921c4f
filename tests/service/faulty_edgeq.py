"""The real `edgeq`, forked off a process that has imported everything, with a fault that a file asks for.

Each line on stdin is `{"arguments": [...], "environment": {...}, "directory": ..., "log": ...}`: a child is forked that
goes on as the command `edgeq`, with its stderr in a file. On stdout come its process id and how it ended, a line each.

While the directory has a file `lose`, the next decode step ends as on a GPU that was lost; the file is renamed to
`lost`, and a file `called` is written by whatever calls the step once more. A file `leave` ends the process with 1, as
bitsandbytes' C code does where a kernel cannot be launched; it is renamed to `left`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401
import torch
import transformers  # noqa: F401

from edgeq.cli import main
from edgeq.cli.device import serve  # noqa: F401
from edgeq.runtime.scheduler import runtime  # noqa: F401
from edgeq.runtime.vlm.decode_step import DecodeStep
from edgeq.service import app, load_bundle, server  # noqa: F401


def put_faults(directory: Path) -> None:
    """Watch the calls of a step."""
    lost: list[bool] = []

    def watched(name: str) -> Any:
        right = getattr(DecodeStep, name)

        def call(self: DecodeStep, *arguments: Any, **named: Any) -> Any:
            if lost:
                (directory / "called").write_text(name)
            if name == "forward" and (directory / "leave").exists():
                (directory / "leave").rename(directory / "left")
                os._exit(1)
            if name == "forward" and (directory / "lose").exists():
                lost.append(True)
                (directory / "lose").rename(directory / "lost")
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            return right(self, *arguments, **named)

        return call

    for name in ("forward", "read", "occupy", "vacate", "advance"):
        setattr(DecodeStep, name, watched(name))


def become_edgeq(asked: dict[str, Any]) -> None:
    """In the child: what is asked for, to its own end."""
    os.environ.update(asked["environment"])
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor in (0, 1):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    os.dup2(log, 2)
    put_faults(Path(asked["directory"]))
    sys.argv = ["edgeq", *asked["arguments"]]
    main()


def fork_for_each_line() -> None:
    """Until stdin is closed."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become_edgeq(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    fork_for_each_line()
