"""A text encoder alone over a real port."""

from __future__ import annotations

import httpx2
import numpy as np
import pytest
from retrieval_bundle import text_bundle
from retrieving import SETTINGS
from running import WAIT_S, data_uri, noise, running
from two_towers import SENTENCES

from edgeq.runtime.retrieval.two_tower import open_two_tower
from edgeq.service.load_bundle import open_served


def test_texts_are_embedded_and_images_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = text_bundle(tmp_path_factory)
    texts = ["a red car", SENTENCES[0]]
    right = open_two_tower(bundle, threads=1).text.embed(texts)
    with running(open_served(bundle, SETTINGS)) as service:
        answer = httpx2.post(f"{service.url}/v1/embeddings", json={"model": "texts", "input": texts}, timeout=WAIT_S)
        assert answer.status_code == 200, answer.text
        given = np.array([entry["embedding"] for entry in answer.json()["data"]], np.float32)
        np.testing.assert_allclose(given, right, atol=1e-6)
        image = {"type": "image_url", "image_url": {"url": data_uri(noise(1))}}
        mixed = {"model": "texts", "input": ["a tree", image]}
        answer = httpx2.post(f"{service.url}/v1/embeddings", json=mixed, timeout=WAIT_S)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_many_images")
        assert "embeds no images" in answer.json()["error"]["message"]
