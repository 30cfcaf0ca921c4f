"""The runtime on a real GPU: its decode step as a graph, its slots, and the vision engine that was built.

`make test-gpu` runs it, as `test_real_engines.py`. `benchmarks/gpu_check` tells more, with times.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from command import Edgeq

from benchmarks.gpu_check.steps import alone, scripted
from benchmarks.random_nf4 import random_nf4
from benchmarks.served_nf4 import Served, serve, without_graphs, write_small_config
from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.engine.registry import PROVIDERS, require
from edgeq.engine_store.run import build
from edgeq.errors import EngineError
from edgeq.families.features import on_host
from edgeq.install import candidate_here
from edgeq.install.candidate_here import AUTO, vision_candidate
from edgeq.runtime.canary.canary_set import open_canaries
from edgeq.runtime.canary.check import canary_feeds, check_canaries
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

pytestmark = pytest.mark.skipif(
    os.environ.get("EDGEQ_GPU") != "1", reason="no GPU: make test-gpu runs this where there is one"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    config = write_small_config(tmp_path_factory.mktemp("small"))
    return serve(random_nf4(config, torch.device("cuda", 0)), config, 96)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One of this test's, in the place of the machine's."""
    monkeypatch.setattr(candidate_here, "default_store", lambda: tmp_path / "store")
    return tmp_path / "store"


def test_a_step_as_a_graph_is_the_step_operator_by_operator(served: Served) -> None:
    with without_graphs():
        eager = scripted(served.decoder(3, 96), served)
    assert scripted(served.decoder(3, 96), served) == eager


def test_an_answer_does_not_depend_on_the_others(served: Served) -> None:
    decoder = served.decoder(3, 96)
    together = scripted(decoder, served)
    assert {seed: alone(decoder, served, seed) for seed in together} == together


def test_run_answers_with_the_engine_that_was_built(
    edgeq: Edgeq, prepared_vlm: PreparedVlm, tiny_photographs: Path, store: Path
) -> None:
    bundle, image = prepared_vlm.bundle, next(tiny_photographs.rglob("*.jpg"))
    build(bundle, store)
    said = json.loads(edgeq("run", bundle, image, "what is it?", "--max-new-tokens", "3", "--json").out)
    assert said["backend"].startswith("tensorrt ")
    assert said["token_ids"]


def test_its_features_stay_on_the_gpu(prepared_vlm: PreparedVlm, store: Path) -> None:
    bundle = prepared_vlm.bundle
    build(bundle, store)
    engine = vision_candidate(bundle, bundle, read_manifest(bundle), AUTO).open()
    feeds = canary_feeds(engine, open_canaries(bundle, read_manifest(bundle)).known[0])
    made = VisionEncoder(engine).encode(feeds)
    plain = VisionEncoder.open(bundle / VlmSettings.of(bundle).vision).encode(feeds)
    for name, value in made.items():
        assert isinstance(value, torch.Tensor)
        assert value.is_cuda
        wanted = on_host(plain[name])
        assert np.linalg.norm(on_host(value) - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("backend", [each.name for each in PROVIDERS])
def test_onnx_runtimes_own_providers_see(prepared_vlm: PreparedVlm, backend: str) -> None:
    """Skipped where the wheel that is installed has none."""
    bundle = prepared_vlm.bundle
    try:
        require(next(each for each in PROVIDERS if each.name == backend))
    except EngineError as error:
        pytest.skip(error.what)
    engine = vision_candidate(bundle, bundle, read_manifest(bundle), backend).open()
    assert check_canaries(bundle, engine).passed
