"""Before the language model's weights go to a GPU that shares the machine's memory, the files' pages are dropped.

The kernel is asked what is in memory. The GPU is simulated: torch says that there is one, and loading ends there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from page_cache import into_cache, pages_of, resident

from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.errors import ModelError
from edgeq.files import drop_pages
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.runtime.vlm.language import open_language_model
from edgeq.runtime.vlm.prompt import Prompter


@pytest.fixture
def checkpoint(prepared_vlm: PreparedVlm, tmp_path: Path) -> Path:
    """A copy that no process has mapped."""
    return shutil.copytree(prepared_vlm.bundle / LANGUAGE, tmp_path / "language")


def seen_while_loading(
    checkpoint: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, *, integrated: int | None
) -> dict[str, int]:
    """Pages of each weights' file that are in memory when transformers begins; `integrated` is None without a GPU."""
    found: dict[str, int] = {}

    def load(_kind: Any, directory: Path, /, **_options: Any) -> Any:
        found.update({path.name: resident(path) for path in directory.glob("*.safetensors")})
        raise RuntimeError("this is far enough")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: integrated is not None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(is_integrated=integrated))
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(load))
    prompter = Prompter.open(bundle, VlmSettings.of(bundle))
    with pytest.raises(ModelError, match="cannot load the language model"):
        open_language_model(checkpoint, prompter)
    return found


@pytest.mark.parametrize(("integrated", "dropped"), [(1, True), (0, False), (None, False)])
def test_weights_are_dropped_before_they_are_loaded(
    checkpoint: Path,
    prepared_vlm: PreparedVlm,
    monkeypatch: pytest.MonkeyPatch,
    integrated: int | None,
    dropped: bool,
) -> None:
    (weights,) = checkpoint.glob("*.safetensors")
    into_cache(weights)
    seen = seen_while_loading(checkpoint, prepared_vlm.bundle, monkeypatch, integrated=integrated)
    assert (seen[weights.name] == 0) == dropped


def test_a_file_that_was_read_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(3 << 20))
    into_cache(path)
    assert resident(path) == pages_of(path)
    drop_pages(path)
    assert resident(path) == 0
    assert path.read_bytes() == bytes(3 << 20)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(OSError, match=r"pipe|directory"):
            drop_pages(path)
