"""`/v1/embeddings` over a real port with a real bundle: OpenAI's own client, batches, the cache, bounds."""

from __future__ import annotations

import base64
import itertools
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from retrieval_bundle import retrieval_bundle
from retrieving import SETTINGS, HeldEngine, watched
from running import (
    WAIT_S,
    Running,
    SimulatedRuntime,
    classifying,
    data_uri,
    eventually,
    image_part,
    noise,
    picture,
    post_bytes,
    running,
    talking,
)
from two_towers import SENTENCES

from edgeq.bundle.manifest import write_manifest
from edgeq.errors import ArtifactError, GateError
from edgeq.runtime.retrieval.two_tower import open_two_tower
from edgeq.service.load_bundle import open_served
from edgeq.service.watch_inference import watch_inference

NAME = "towers"
DIMENSION = 24
ORDERS = [" ".join(words) for words in itertools.permutations(("cat", "tree", "soup", "car"))]
"""24 texts of one number of tokens."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retrieval_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Running]:
    with running(open_served(bundle, SETTINGS)) as service:
        yield service


def ask(service: Running, given: Any, **more: Any) -> httpx2.Response:
    return service.http.post("/v1/embeddings", json={"model": NAME, "input": given, **more})


def vectors(answer: httpx2.Response) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert answer.status_code == 200, answer.text
    return np.array([each["embedding"] for each in answer.json()["data"]], np.float32)


def metrics(service: Running) -> dict[str, float]:
    """Samples by name, and by the value of the label `encoder` or `cache` where there is one."""
    families = text_string_to_metric_families(service.http.get("/metrics").text)
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
        if set(sample.labels) <= {"encoder", "cache"}
    }


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_the_official_client_reads_what_the_model_computes(service: Running, bundle: Path) -> None:
    made = service.openai().embeddings.create(model=NAME, input=list(SENTENCES))  # it asks for base64 by itself
    found = np.array([each.embedding for each in made.data])
    model = open_two_tower(bundle, threads=1)
    np.testing.assert_allclose(found, model.text.embed(SENTENCES), atol=1e-6)
    assert [each.index for each in made.data] == list(range(len(SENTENCES)))
    tokens = sum(map(len, model.tokenizer.ids(SENTENCES)))
    assert (made.model, made.usage.prompt_tokens, made.usage.total_tokens) == (NAME, tokens, tokens)
    one = service.openai().embeddings.create(model=NAME, input=SENTENCES[3], encoding_format="float")
    np.testing.assert_array_equal(np.array(one.data[0].embedding), found[3])


def test_base64_holds_the_same_numbers(service: Running) -> None:
    as_numbers = vectors(ask(service, list(SENTENCES), encoding_format="float"))
    answer = ask(service, list(SENTENCES), encoding_format="base64").json()
    as_bytes = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in answer["data"]]
    np.testing.assert_array_equal(np.stack(as_bytes), as_numbers)


def test_images_among_texts_keep_their_places(service: Running, bundle: Path) -> None:
    files = [picture((200, 10, 10)), picture((10, 200, 10), side=50)]
    red, green = (image_part(data_uri(file)) for file in files)
    found = vectors(ask(service, [red, "a tree", green, "a cat"]))
    model = open_two_tower(bundle, threads=1)
    pictures = [Image.new("RGB", (8, 8), (200, 10, 10)), Image.new("RGB", (50, 50), (10, 200, 10))]
    np.testing.assert_allclose(found[[0, 2]], model.image.embed(pictures), atol=1e-5)
    np.testing.assert_allclose(found[[1, 3]], model.text.embed(["a tree", "a cat"]), atol=1e-6)
    np.testing.assert_allclose(vectors(ask(service, green)), found[[2]], atol=1e-6)
    assert ask(service, red).json()["usage"]["prompt_tokens"] == 0


def test_what_it_says_of_itself(service: Running) -> None:
    (model,) = service.http.get("/v1/models").json()["data"]
    assert (model["id"], model["kind"], model["max_model_len"], model["max_images"]) == (NAME, "retrieval", 16, 8)
    assert service.http.get("/health/ready").json()["status"] == "ok"
    paths = service.http.get("/openapi.json").json()["paths"]
    assert "/v1/embeddings" in paths
    assert not {"/v1/search", "/v1/classify", "/v1/chat/completions"} & set(paths)
    assert metrics(service)["edgeq_canaries_passed"] == 1
    assert metrics(service)["edgeq_canary_worst_cosine"] > 0.999


def test_other_paths_answer_as_for_any_other_bundle(service: Running) -> None:
    image = {"image": data_uri()}
    assert code(service.http.post("/v1/classify", json=image)) == (404, "no_classes")
    assert code(service.http.post("/v1/embed", json=image)) == (404, "no_vectors")
    assert code(service.http.post("/v1/inspect", json=image)) == (404, "no_answers")
    assert code(service.http.post("/v1/chat/completions", json={})) == (404, "no_answers")
    assert code(service.http.post("/v1/search", json={"query": "a cat"})) == (404, "no_index")


@pytest.mark.parametrize("talks", [True, False], ids=["talking", "looking"])
def test_other_bundles_embed_no_texts(talks: bool) -> None:
    with running(talking(SimulatedRuntime()) if talks else classifying()) as service:
        for path in ("/v1/embeddings", "/v1/search"):
            answer = service.http.post(path, json={})
            assert code(answer) == (404, "no_embeddings")
            assert service.service.served.manifest.kind in answer.json()["error"]["message"]


TOO_MANY = [image_part(data_uri())] * 9


@pytest.mark.parametrize(
    ("given", "more", "status", "name", "param", "says"),
    [
        ([1, 2, 3], {}, 400, "bad_request", "input", "token numbers"),
        ([[1, 2], [3]], {}, 400, "bad_request", "input", "token numbers"),
        ([], {}, 400, "bad_request", None, "at least 1"),
        (["a"] * 257, {}, 400, "bad_request", None, "256"),
        ("a" * 100_001, {}, 400, "bad_request", None, "100000"),
        (["a" * 100_000] * 11, {}, 413, "texts_too_long", "input", "1,100,000"),
        ("a cat", {"dimensions": 12}, 422, "dimensions", "dimensions", "24"),
        ("a cat", {"encoding_format": "int8"}, 400, "bad_request", "encoding_format", "base64"),
        ("a cat", {"truncate": True}, 400, "bad_request", "truncate", "not known"),
        (TOO_MANY, {}, 422, "too_many_images", "input", "9 images"),
        (["a", image_part("http://a/b.png")], {}, 400, "bad_image_url", "input.1", "data URI"),
        (image_part("data:image/png;base64,AAAA"), {}, 415, "image_type", "input", "known kind"),
        ([image_part("data:text/plain;base64,AAAA")], {}, 415, "image_type", "input.0", "text/plain"),
        ([image_part(data_uri(noise(16)[:200]))], {}, 422, "image_unreadable", "input.0", ""),
    ],
)
def test_bounds_and_faults(
    service: Running, given: Any, more: dict[str, Any], status: int, name: str, param: str | None, says: str
) -> None:
    answer = ask(service, given, **more)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, name), error
    assert says in error["message"]
    if param is not None:
        assert error["param"] == param


def test_the_official_client_reads_a_fault(service: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="token numbers"):
        service.openai().embeddings.create(model=NAME, input=[[3, 4]])
    made = service.openai().embeddings.create(model=NAME, input="a", dimensions=DIMENSION, user="me")
    assert len(made.data[0].embedding) == DIMENSION


def test_requests_that_come_together_are_one_run(bundle: Path) -> None:
    served, engine = watched(bundle)
    with running(served) as service, ThreadPoolExecutor(8) as clients:
        first, others = held(service, clients, engine, ORDERS[1:6])
        engine.go.set()
        together = [vectors(other.result()) for other in others]
        assert len(vectors(first.result())) == 1
        assert engine.runs == [1, 5]
        alone = open_two_tower(bundle, threads=1)
        for text, vector in zip(ORDERS[1:6], together, strict=True):
            np.testing.assert_allclose(vector, alone.text.embed([text]), atol=1e-6)
        said = metrics(service)
        assert (said["edgeq_batches_total text"], said["edgeq_batch_size_sum_total text"]) == (2, 6)
        assert said["edgeq_embedded_texts_total"] == 6


def held(service: Running, clients: ThreadPoolExecutor, engine: HeldEngine, texts: list[str]) -> Any:
    """One request in the encoder, which is held, and one for each of the texts that waits."""
    engine.go.clear()
    engine.entered.clear()
    first = clients.submit(ask, service, ORDERS[0])
    assert engine.entered.wait(WAIT_S)
    retrieval = service.service.served.retrieval
    assert retrieval is not None
    others = [clients.submit(ask, service, text) for text in texts]
    eventually(lambda: retrieval.workers.figures.text_batches.waiting == len(texts))
    return first, others


def test_a_text_seen_before_does_not_go_through_the_encoder(bundle: Path) -> None:
    served, engine = watched(bundle)
    with running(served) as service:
        before = vectors(ask(service, [ORDERS[0], ORDERS[1], ORDERS[0]]))
        assert engine.runs == [2]
        np.testing.assert_array_equal(before[0], before[2])
        np.testing.assert_array_equal(vectors(ask(service, ORDERS[0])), before[:1])
        assert engine.runs == [2]
        np.testing.assert_array_equal(vectors(ask(service, [ORDERS[2], ORDERS[1]]))[1], before[1])
        assert engine.runs == [2, 1]
        assert metrics(service)["edgeq_cache_hits_total texts"] == 2


def test_without_a_cache_each_text_is_embedded(bundle: Path) -> None:
    served, engine = watched(bundle, cache_bytes=0)
    with running(served) as service:
        for _ in range(2):
            vectors(ask(service, ORDERS[0]))
    assert engine.runs == [1, 1]


def test_a_full_queue_is_429_and_a_known_text_still_answered(bundle: Path) -> None:
    served, engine = watched(bundle, queue=2)
    with running(served) as service, ThreadPoolExecutor(8) as clients:
        vectors(ask(service, "a cat"))
        first, others = held(service, clients, engine, ORDERS[1:3])
        refused = ask(service, ORDERS[4])
        assert code(refused) == (429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert len(vectors(ask(service, "a cat"))) == 1
        engine.go.set()
        for done in (first, *others):
            vectors(done.result())
        assert len(vectors(ask(service, ORDERS[4]))) == 1


def test_a_request_that_waits_too_long_is_408(bundle: Path) -> None:
    served, engine = watched(bundle)
    with running(served, request_seconds=0.3) as service:
        engine.go.clear()
        assert code(ask(service, "a cat")) == (408, "deadline")
        engine.go.set()


def test_who_hangs_up_costs_no_run(bundle: Path) -> None:
    served, engine = watched(bundle)
    assert served.retrieval is not None
    workers = served.retrieval.workers
    with running(served) as service, ThreadPoolExecutor(1) as clients:
        engine.go.clear()
        first = clients.submit(ask, service, ORDERS[0])
        assert engine.entered.wait(WAIT_S)
        with service.connect() as bare:
            bare.sendall(post_bytes("/v1/embeddings", {"model": NAME, "input": ORDERS[1]}))
            eventually(lambda: workers.figures.text_batches.waiting == 1)
        eventually(lambda: service.service.traffic.active == 1)
        engine.go.set()
        vectors(first.result())
        vectors(ask(service, ORDERS[2]))
    assert engine.runs == [1, 1]


def test_an_engine_that_fails_is_500_and_the_next_request_is_answered(bundle: Path) -> None:
    served, engine = watched(bundle)
    with running(served) as service:
        engine.gives = np.full((1, DIMENSION), np.nan)
        assert code(ask(service, "a cat")) == (500, "engine_failed")
        engine.gives = None
        assert len(vectors(ask(service, "a cat"))) == 1


def test_canaries_that_fail_keep_it_from_starting(bundle: Path, tmp_path: Path) -> None:
    copy = changed_canaries(bundle, tmp_path)
    with pytest.raises(GateError, match="does not compute here"):
        open_served(copy, SETTINGS)
    served = open_served(copy, SETTINGS.model_copy(update={"canaries": False}))
    served.close()
    assert served.canaries is None


def changed_canaries(bundle: Path, tmp_path: Path) -> Path:
    """A copy whose canaries say that images have the opposite embedding, with a manifest that fits."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    (copy / "manifest.json").unlink()
    file = copy / "canaries" / "images.npy"
    np.save(file, -np.load(file))
    write_manifest(copy, kind="retrieval")
    return copy


def test_settings_that_do_not_go_with_it(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        open_served(bundle, SETTINGS.model_copy(update={"index": tmp_path}))
    served = open_served(bundle, SETTINGS)
    with pytest.raises(ArtifactError, match="says nothing of an image"):
        watch_inference(served, 1.0)
    served.close()
