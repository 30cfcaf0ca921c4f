"""`/v1/search` over a real port with a real bundle and a real catalog, which grows while it is served."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from classifier_bundle import classifier_bundle
from prometheus_client.parser import text_string_to_metric_families
from retrieval_bundle import PLACES, add_image, indexed, retrieval_bundle
from retrieving import SETTINGS
from running import Running, data_uri, eventually, image_part, noise, running
from two_towers import SENTENCES

from edgeq.api.device.retrieval import open_search
from edgeq.bundle.manifest import write_manifest
from edgeq.catalog.read import open_catalog
from edgeq.catalog.searched import INDEX, open_searched
from edgeq.errors import ArtifactError, InputError
from edgeq.service.load_bundle import open_served
from edgeq.service.served_retrieval import ServedCatalog

NAME = "towers"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retrieval_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def catalog(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the bundle's four images; not to be written to."""
    return indexed(bundle, bundle.parent / "images", tmp_path_factory.mktemp("catalog") / "c")


@pytest.fixture(scope="module")
def service(bundle: Path, catalog: Path) -> Iterator[Running]:
    with running(open_served(bundle, SETTINGS.model_copy(update={"index": catalog}))) as service:
        yield service


def search(service: Running, query: Any, **more: Any) -> httpx2.Response:
    return service.http.post("/v1/search", json={"query": query, **more})


def results(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def image_query(bundle: Path, number: int) -> dict[str, Any]:
    return image_part(data_uri((bundle.parent / "images" / f"{number}.png").read_bytes()))


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_an_image_finds_itself_first(service: Running, bundle: Path, number: int) -> None:
    found = results(search(service, image_query(bundle, number), k=2))
    assert len(found) == 2
    assert Path(found[0]["image_path"]).name == f"{number}.png"
    assert found[0]["score"] == pytest.approx(1, abs=0.02)
    assert found[0]["score"] > found[1]["score"]
    columns = found[0]["columns"]
    assert (columns["place"], columns["year"], columns["width"]) == (PLACES[number], 2000 + number, 40)
    assert "image_path" not in columns


def test_texts_find_what_python_finds(service: Running, bundle: Path, catalog: Path) -> None:
    python = open_search(catalog, bundle=bundle, threads=1)
    for text in SENTENCES[:3]:
        found = results(search(service, text, model=NAME))
        right = python.by_text(text)
        assert [each["row"] for each in found] == [each.row for each in right]
        np.testing.assert_allclose([each["score"] for each in found], [each.score for each in right], atol=1e-5)
        assert [each["columns"] for each in found] == [each.columns for each in right]


@pytest.mark.parametrize(
    ("only", "numbers"),
    [
        ({"place": "harbour"}, {0, 2}),
        ({"place": ["harbour", "river"]}, {0, 2, 3}),
        ({"place": "harbour", "year": 2002}, {2}),
        ({"year": [2000, 2003.0]}, {0, 3}),
        ({"year": 2000.5}, set()),
        ({"year": "2000"}, set()),
        ({"place": 3}, set()),
        ({"place": "moon"}, set()),
        ({"width": 40}, {0, 1, 2, 3}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_a_filter_leaves_the_others_out(service: Running, only: dict[str, Any], numbers: set[int]) -> None:
    for _ in range(2):  # the second time the masks are known
        found = results(search(service, "a cat", k=100, filter=only))
        assert {int(Path(each["image_path"]).stem) for each in found} == numbers


@pytest.mark.parametrize(
    ("body", "status", "name", "param"),
    [
        ({"query": "a", "k": 0}, 400, "bad_request", "k"),
        ({"query": "a", "k": 101}, 400, "bad_request", "k"),
        ({"k": 3}, 400, "bad_request", "query"),
        ({"query": [1, 2]}, 400, "bad_request", None),
        ({"query": "a", "filter": {"place": True}}, 400, "bad_request", None),
        ({"query": "a", "filter": {"place": []}}, 400, "bad_request", None),
        ({"query": "a", "filter": {str(each): 1 for each in range(9)}}, 400, "bad_request", "filter"),
        ({"query": "a", "filter": {"colour": "red"}}, 422, "not_answerable", "filter"),
        ({"query": image_part("http://a/b.png")}, 400, "bad_image_url", "query"),
        ({"query": image_part(data_uri(noise(16)[:200]))}, 422, "image_unreadable", "query"),
    ],
)
def test_bounds_and_faults(service: Running, body: dict[str, Any], status: int, name: str, param: str | None) -> None:
    answer = service.http.post("/v1/search", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, name), error
    if param is not None:
        assert error["param"] == param


def test_it_is_described_and_counted(service: Running) -> None:
    assert "/v1/search" in service.http.get("/openapi.json").json()["paths"]
    before = figures(service)
    results(search(service, "a cat"))
    after = figures(service)
    for name in ("edgeq_searches_total", "edgeq_search_seconds_count", "edgeq_search_seconds_bucket"):
        assert after[name] == before[name] + 1
    assert after["edgeq_index_rows"] == len(PLACES)


def figures(service: Running) -> dict[str, float]:
    """The last sample of each name: of a histogram's buckets, all of them."""
    families = text_string_to_metric_families(service.http.get("/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_a_catalog_that_grows_is_searched_without_a_stop(bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(bundle.parent / "images", images)
    catalog = indexed(bundle, images, tmp_path / "catalog")
    with running(open_served(bundle, SETTINGS.model_copy(update={"index": catalog}))) as service:
        assert len(results(search(service, "a cat", filter={"place": "tree"}))) == 1
        new = image_part(data_uri(add_image(images, 5)))
        (images / "0.png").unlink()
        assert len(results(search(service, new))) == len(PLACES)
        indexed(bundle, images, catalog)

        def name_of_first() -> str:
            return Path(results(search(service, new))[0]["image_path"]).name

        eventually(lambda: name_of_first() == "5.png")
        assert len(results(search(service, new, k=100))) == len(PLACES), "one has come, and one is gone"
        assert len(results(search(service, "a cat", filter={"place": "tree"}))) == 2
        assert results(search(service, "a cat", filter={"year": 2000})) == []
        assert figures(service)["edgeq_index_rows"] == len(PLACES) + 1


def test_an_index_that_cannot_be_opened_leaves_the_old_one(
    catalog: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "catalog"
    shutil.copytree(catalog, copy)
    digest = open_catalog(copy).catalog.bundle_digest
    clock = [0.0]
    held = ServedCatalog(copy, partial(open_searched, bundle_digest=digest, bundle="b"), lambda: clock[0])
    record, query = copy / INDEX / "index.json", np.eye(24, dtype=np.float32)[0]
    whole = record.read_text()
    caplog.set_level("INFO", "edgeq.service")

    def logged_at(seconds: float) -> list[str]:
        clock[0] = seconds
        caplog.clear()
        assert len(held.near(query, 100)) == len(PLACES)
        return [line.getMessage() for line in caplog.records]

    record.write_text("{}")
    assert logged_at(0.5) == [], "it is looked at once in a second"
    assert logged_at(1.5) == ["index not reloaded"]
    assert logged_at(3.0) == [], "it is told once"
    record.unlink()
    assert logged_at(4.5) == ["index not reloaded"]
    record.write_text(whole + "\n")
    assert logged_at(6.0) == ["index reloaded"]
    assert held.searches == 5


def test_a_catalog_of_another_bundle_and_an_index_for_another_kind(bundle: Path, catalog: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    (other / "manifest.json").unlink()
    (other / "note.txt").write_text("another one")
    write_manifest(other, kind="retrieval")
    with pytest.raises(ArtifactError, match="is not the bundle that"):
        open_served(other, SETTINGS.model_copy(update={"index": catalog}))
    with pytest.raises(ArtifactError):
        open_served(bundle, SETTINGS.model_copy(update={"index": tmp_path / "nothing"}))


def test_an_index_that_is_behind_its_catalog(bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(bundle.parent / "images", images)
    catalog = indexed(bundle, images, tmp_path / "catalog")
    shutil.copytree(catalog / INDEX, tmp_path / "old")
    add_image(images, 6)
    indexed(bundle, images, catalog)
    shutil.rmtree(catalog / INDEX)
    shutil.copytree(tmp_path / "old", catalog / INDEX)
    with pytest.raises(ArtifactError, match=r"the index of .* is of 4 rows, the catalog has 5"):
        open_served(bundle, SETTINGS.model_copy(update={"index": catalog}))


def test_an_index_is_for_no_classifier(tmp_path_factory: pytest.TempPathFactory, catalog: Path) -> None:
    with pytest.raises(InputError, match="--index is for the bundle of a text and image encoder"):
        open_served(classifier_bundle(tmp_path_factory), SETTINGS.model_copy(update={"index": catalog}))
