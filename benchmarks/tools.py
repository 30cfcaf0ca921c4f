"""The tools compared, and whether they are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.networks import Network
from benchmarks.process import Run, run_module

__all__ = ["Interpreters", "Tool", "quantized_by", "run_tool"]

_MEMORY_LIMIT = 16 * 10**9
"""Bytes beyond which a peer that is not measured is stopped."""


@dataclass(frozen=True)
class Tool:
    """One tool with one setting.

    Attributes:
        name: of the tool: `edgeq`, `onnxruntime`, `modelopt`, `nncf`, or `forward` for the plain FP32 pass.
        module: the program below `benchmarks.peers`.
        setting: handed to it.
        suffix: of its output; empty for a directory.
    """

    name: str
    module: str
    setting: str = ""
    suffix: str = ""

    @property
    def title(self) -> str:
        """Name and setting, for a table."""
        return f"{self.name} {self.setting}".strip()


@dataclass(frozen=True)
class Interpreters:
    """The interpreters of the environments that have the tools; None where there is none, with the reason."""

    paths: dict[str, Path]
    missing: dict[str, str]

    @classmethod
    def find(cls, given: dict[str, Path | None], imports: dict[str, str]) -> Interpreters:
        """Try each interpreter.

        Args:
            given: tool -> interpreter, None where the user named none.
            imports: tool -> the module that it must be able to import.
        """
        paths, missing = {"edgeq": Path(sys.executable)}, {}
        for tool, python in given.items():
            reason = _unusable(tool, python, imports[tool])
            if python is None or reason:
                missing[tool] = reason
            else:
                paths[tool] = python
        return cls(paths, missing)

    def only(self, wanted: Iterable[str]) -> Interpreters:
        """The same with every other tool counted as missing."""
        others = {"forward", "edgeq", "onnxruntime", *self.paths} - set(wanted)
        unasked = dict.fromkeys(sorted(others), "it was not asked for")
        return Interpreters(self.paths, {**self.missing, **unasked})

    def of(self, tool: Tool) -> Path:
        """The interpreter for a tool that is not missing; the tools that edgeq itself needs live beside it."""
        return self.paths.get(tool.name, self.paths["edgeq"])

    def having(self, tools: Iterable[Tool]) -> list[Tool]:
        """Those of `tools` that can be run."""
        return [tool for tool in tools if tool.name not in self.missing]


def run_tool(
    tool: Tool,
    python: Path,
    network: Network,
    images: Path,
    output: Path,
    *,
    count: int,
    threads: int,
    memory_limit: int,
) -> Run:
    """Run one tool once on one network.

    Args:
        python: its interpreter.
        images: a folder or zip, of which `count` are used.
        output: where the result goes.
        threads: processors that the tool may use.
        memory_limit: in bytes.
    """
    arguments = {
        "graph": network.graph,
        "preprocess-config": network.preprocess_config,
        "images": images,
        "count": count,
        "threads": threads,
        "setting": tool.setting,
        "output": output,
    }
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    return run_module(python, f"benchmarks.peers.{tool.module}", flags, memory_limit=memory_limit)


def quantized_by(
    tool: Tool, python: Path, network: Network, images: Path, output: Path, *, count: int, threads: int
) -> Path:
    """The file that one tool makes of a network; ends the program where it does not make it.

    Args:
        tool, python, network, images, output, count, threads: as for `run_tool`.
    """
    done = run_tool(tool, python, network, images, output, count=count, threads=threads, memory_limit=_MEMORY_LIMIT)
    if done.failure:
        raise SystemExit(f"{tool.title}: {done.failure}")
    return output


def _unusable(tool: str, python: Path | None, module: str) -> str:
    """Why an interpreter cannot be used; empty where it can."""
    if python is None:
        return f"no environment given: --{tool}-python or {tool.upper()}_PYTHON, see benchmarks/README.md"
    if not os.access(python, os.X_OK):
        return f"{python} is no interpreter"
    tried = subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"{python} cannot import {module}: {tried.stderr.strip().splitlines()[-1]}"
