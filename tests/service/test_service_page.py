"""A page's files and the pictures of results, without a browser: headers, tokens, bounds, images that are gone."""

from __future__ import annotations

import io
import shutil
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from retrieval_bundle import add_image, indexed, retrieval_bundle
from retrieving import SETTINGS
from running import WAIT_S, Running, SimulatedRuntime, classifying, eventually, running, talking

from edgeq.service.load_bundle import open_served
from edgeq.service.routes import thumbnails
from edgeq.service.routes.thumbnails import SIDE, thumbnail

TOKEN = "0123456789abcdef-secret"
FILES = {
    "/": "text/html; charset=utf-8",
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/page.svg": "image/svg+xml",
}
CHANGED, GONE, SAME, LARGE = range(4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retrieval_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def catalog(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images and one that is damaged, in a folder that has changed since."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        add_image(folder / "images", number)
    with_secrets = Image.new("RGB", (2000, 1000), (200, 30, 30))
    exif = Image.Exif()
    exif[0x010E] = "where it was taken"
    with_secrets.save(folder / "images" / f"{LARGE}.jpg", exif=exif, comment=b"whose it is")
    (folder / "images" / f"{LARGE}.png").unlink()
    (folder / "images" / "0a.png").write_bytes(b"no image at all")
    catalog = indexed(bundle, folder / "images", folder / "catalog")
    (folder / "images" / f"{GONE}.png").unlink()
    shutil.copy(folder / "images" / f"{SAME}.png", folder / "images" / f"{CHANGED}.png")
    return catalog


@pytest.fixture(scope="module")
def service(bundle: Path, catalog: Path) -> Iterator[Running]:
    with running(open_served(bundle, SETTINGS.model_copy(update={"index": catalog})), token=TOKEN) as service:
        yield service


def picture(service: Running, row: object, **headers: str) -> httpx2.Response:
    return service.http.get(f"/v1/search/images/{row}", headers=headers)


@pytest.mark.parametrize(("path", "media_type"), FILES.items())
def test_the_page_is_no_secret_and_may_do_little(service: Running, path: str, media_type: str) -> None:
    for headers in ({"authorization": ""}, {"authorization": "Bearer another"}):
        answer = service.http.get(path, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[each] for each in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert {rules[each] for each in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    again = service.http.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert service.http.head(path).status_code == 200
    assert service.http.post(path).status_code == 405


def test_the_page_needs_nothing_from_elsewhere(service: Running) -> None:
    markup = service.http.get("/").text
    assert "://" not in markup
    assert "style=" not in markup
    assert " on" not in {part[:3] for part in markup.split("<")}
    for name in ("page.css", "page.js", "page.svg"):
        assert f'"{name}"' in markup, "by a relative path: the service may lie under another one"


def test_nothing_else_is_told_without_the_token(service: Running) -> None:
    for path in ("/v1/models", "/v1/search/images/0", "/page", "/index.html", "/page.js/", "/page.js%00"):
        assert service.http.get(path, headers={"authorization": ""}).status_code == 401, path


def test_who_has_no_page(bundle: Path, catalog: Path) -> None:
    searching = SETTINGS.model_copy(update={"index": catalog})
    for served, page in (
        (open_served(bundle, searching), False),
        (open_served(bundle, SETTINGS), True),
        (classifying(), True),
        (talking(SimulatedRuntime()), True),
    ):
        with running(served, page=page) as service:
            assert service.http.get("/").status_code == 404
            assert service.http.get("/page.js").status_code == 404


def test_without_a_token_the_page_is_for_this_machine(bundle: Path, catalog: Path) -> None:
    with running(open_served(bundle, SETTINGS.model_copy(update={"index": catalog}))) as service:
        assert service.http.get("/").status_code == 200
        assert service.http.get("/", headers={"host": "a.example"}).status_code == 400


def test_a_picture_is_the_image_of_its_row(service: Running) -> None:
    """The damaged image lies between the rows 0 and 1, and has no row itself."""
    answer = picture(service, SAME)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    shown = np.asarray(Image.open(io.BytesIO(answer.content)), np.float32)
    drawn = [np.random.default_rng(number).integers(0, 256, (36, 40, 3), np.uint8) for number in range(4)]
    assert shown.shape == drawn[SAME].shape
    assert np.argmin([np.abs(shown - each).mean() for each in drawn]) == SAME


def test_a_picture_is_small_and_tells_nothing_else(service: Running) -> None:
    answer = picture(service, LARGE)
    shown = Image.open(io.BytesIO(answer.content))
    assert (shown.size, shown.mode) == ((SIDE, SIDE // 2), "RGB")
    assert dict(shown.getexif()) == {}
    assert b"whose it is" not in answer.content
    assert np.abs(np.asarray(shown, np.float32) - (200, 30, 30)).max() < 6
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_picture_is_kept_by_the_browser_alone(service: Running) -> None:
    answer = picture(service, SAME)
    assert answer.headers["cache-control"].startswith("private, max-age=")
    tag = answer.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = picture(service, SAME, **{"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert picture(service, LARGE, **{"if-none-match": tag}).status_code == 200
    assert picture(service, SAME, authorization="").status_code == 401


@pytest.mark.parametrize(
    "row", [GONE, CHANGED, 4, 10**18, "1" * 5000, -1, "1.0", "x", "%2e%2e%2f0", "0%00", "١", "+1", "images/2.png"]
)
def test_what_is_not_there_and_what_is_no_row(service: Running, row: object) -> None:
    answer = picture(service, row)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("no_image", "not_found")
    assert "/tmp" not in answer.text


def test_pictures_are_one_path_in_the_metrics(service: Running) -> None:
    picture(service, SAME)
    families = text_string_to_metric_families(service.http.get("/metrics").text)
    paths = {sample.labels.get("path") for family in families for sample in family.samples}
    assert "/v1/search/images/{row}" in paths
    assert f"/v1/search/images/{SAME}" not in paths


def test_pictures_come_out_of_archives_and_of_what_was_added(bundle: Path, tmp_path: Path) -> None:
    add_image(tmp_path / "loose", 7)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in (0, 1):
            file.writestr(f"in/{number}.png", (bundle.parent / "images" / f"{number}.png").read_bytes())
    catalog = indexed(bundle, archive, tmp_path / "catalog")
    with running(open_served(bundle, SETTINGS.model_copy(update={"index": catalog}))) as service:
        assert [picture(service, row).status_code for row in range(3)] == [200, 200, 404]
        shutil.move(catalog / "plan", tmp_path / "elsewhere")
    with running(open_served(bundle, SETTINGS.model_copy(update={"index": catalog}))) as service:
        assert picture(service, 0).status_code == 404, "the catalog came without its plan"


def test_too_many_pictures_at_once(bundle: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are made, one waits; of five the others are told to come again."""
    go = threading.Event()
    made = thumbnails.thumbnail

    def held(data: bytes, name: str, *_: object) -> bytes:
        assert go.wait(WAIT_S)
        return made(data, name)

    monkeypatch.setattr(thumbnails, "thumbnail", held)
    served = open_served(bundle, SETTINGS.model_copy(update={"index": catalog}))
    with running(served, queue=1) as service, ThreadPoolExecutor(5) as clients:
        asked = [clients.submit(picture, service, SAME) for _ in range(5)]
        eventually(lambda: sum(each.done() for each in asked) == 2)
        refused = [each.result() for each in asked if each.done()]
        assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(429, "1")] * 2
        go.set()
        assert sorted(each.result().status_code for each in asked) == [200, 200, 200, 429, 429]


def test_a_picture_has_bounds() -> None:
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    with pytest.raises(Exception, match="too large"):
        thumbnail(bomb.getvalue(), "bomb")
    line = io.BytesIO()
    Image.new("RGB", (60_000, 1), (9, 9, 9)).save(line, "JPEG")
    assert Image.open(io.BytesIO(thumbnail(line.getvalue(), "line"))).size == (SIDE, 1)
