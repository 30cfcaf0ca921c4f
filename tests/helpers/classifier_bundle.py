"""The bundle of the tiny classifier, made once for each backend, for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import ALLOWED, QUICK, write_model
from pictures import draw_pictures

from edgeq.engine.registry import DEFAULT
from edgeq.pipeline.classifier import Options, prepare

__all__ = ["classifier_bundle"]


def classifier_bundle(factory: pytest.TempPathFactory, backend: str = DEFAULT.name) -> Path:
    """Asked for with `--backend`; 24 pictures to calibrate and to judge; not to be written to."""
    directory = factory.getbasetemp() / f"classifier-{backend}"
    bundle = directory / "bundle"
    if not bundle.exists():
        pictures, model = draw_pictures(directory / "pictures"), write_model(directory / "model")
        options = Options(allow=ALLOWED, threads=1, timing=QUICK, backend=backend)
        prepare(model, pictures, bundle, labelled=pictures, options=options)
    return bundle
