"""What a person names, opened: an address, a bundle, or a Hugging Face directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.bundle.manifest import MANIFEST
from edgeq.bundle.verify import Trust, examine
from edgeq.errors import InputError
from edgeq.judge.chat_server import ChatServer, Pace
from edgeq.judge.questions import AskedQuestion, canary_questions
from edgeq.judge.target import Target, bundle_target, checkpoint_target

__all__ = ["Asked", "open_asked"]


@dataclass(frozen=True)
class Asked:
    """Who is asked.

    Attributes:
        target: ready to be asked.
        canaries: of a bundle; none of others.
    """

    target: Target
    canaries: tuple[AskedQuestion, ...] = ()


def open_asked(
    name: str,
    *,
    model: str | None = None,
    token: str | None = None,
    per_minute: float | None = None,
    extra_body: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Asked:
    """Find out what a name stands for, and make it ready.

    Args:
        name: an http or https address, or a directory.
        model: of a server, its name there.
        token: that a server wants.
        per_minute: requests to a server at the most; None sets no limit.
        extra_body: fields that go with every question to a server.
        threads: of one operator, of what runs here.

    Raises:
        InputError: it is none of these.
        BundleError: a bundle is damaged.
        ModelError: a model cannot be loaded.
        EngineError: no server answers there.
    """
    if "://" in name:
        return Asked(ChatServer(name, model, token, Pace(per_minute), extra_body))
    directory = Path(name)
    if (directory / MANIFEST).is_file():
        verified = examine(directory, Trust.of([]))
        canaries = canary_questions(directory, verified.manifest)
        return Asked(bundle_target(directory, verified.digest, threads), canaries)
    if (directory / "config.json").is_file():
        return Asked(checkpoint_target(directory))
    raise InputError(
        f"{name} answers no questions about images",
        expected="an address such as http://127.0.0.1:8000/v1, a bundle, or a Hugging Face directory",
    )
