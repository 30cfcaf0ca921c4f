"""Run a graph: one protocol, and the backends behind it."""

from __future__ import annotations

from edgeq.engine.base import Engine, EngineBackend

__all__ = ["Engine", "EngineBackend"]
