"""A page's files and the pictures of results, without a browser: headers, tokens, bounds, images that are gone."""

from __future__ import annotations

import io
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
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
from edgeq.service.pages import page
from edgeq.service.routes import thumbnails
from edgeq.service.routes.thumbnails import SIDE, thumbnail
from edgeq.service.served_model import ServedModel

TOKEN = "0123456789abcdef-secret"
FILES = {
    "/": "text/html; charset=utf-8",
    "/docs": "text/html; charset=utf-8",
    "/page/style.css": "text/css; charset=utf-8",
    "/page/main.js": "text/javascript; charset=utf-8",
    "/page/service.js": "text/javascript; charset=utf-8",
    "/page/icon.svg": "image/svg+xml",
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
    assert answer.headers["permissions-policy"].startswith("camera=(self), microphone=()")
    assert answer.headers["cache-control"] == "no-cache"
    again = service.http.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert service.http.head(path).status_code == 200
    assert service.http.post(path).status_code == 405


def test_the_pages_need_nothing_from_elsewhere(service: Running) -> None:
    """Paths are relative, as the service may lie under another one, and lead somewhere."""
    for document in ("/", "/docs"):
        markup = service.http.get(document).text
        assert "://" not in markup
        assert "style=" not in markup
        assert " on" not in {part[:3] for part in markup.split("<")}
        named = re.findall(r'(?:src|href)="(page/[^"]+)"', markup)
        assert len(named) == 3
        scripts = [name for name in named if name.endswith(".js")]
        while scripts:
            text = service.http.get(f"/{scripts.pop()}").text
            imported = [f"page/{name}" for name in re.findall(r'^import .* from "\./(.*)";$', text, re.MULTILINE)]
            scripts += [name for name in imported if name not in named]
            named += imported
        assert {service.http.get(f"/{name}").status_code for name in named} == {200}


def test_no_file_goes_out_that_no_page_names(service: Running) -> None:
    static = Path(page.__file__).with_name("static")
    documents = "".join((static / name).read_text() for name in ("index.html", "docs.html"))
    scripts = "".join(file.read_text() for file in static.glob("*.js"))
    files = [file.name for file in static.iterdir() if file.suffix != ".html"]
    assert [name for name in files if f"page/{name}" not in documents and f'"./{name}"' not in scripts] == []
    assert {service.http.get(f"/page/{name}").status_code for name in files} == {200}


def test_nothing_else_is_told_without_the_token(service: Running) -> None:
    told = ("/v1/models", "/openapi.json", "/metrics", "/v1/search/images/0")
    near = (
        "/page",
        "/page/",
        "/page/index.html",
        "/index.html",
        "/page/main.js/",
        "/page/main.js%00",
        "/page/page.py",
    )
    for path in told + near:
        assert service.http.get(path, headers={"authorization": ""}).status_code == 401, path


@pytest.mark.parametrize("served", [classifying, lambda: talking(SimulatedRuntime())], ids=["classifier", "talking"])
def test_every_bundle_has_the_page_unless_it_is_left_out(served: Callable[[], ServedModel]) -> None:
    with running(served()) as service:
        assert [service.http.get(path).status_code for path in FILES] == [200] * len(FILES)
    with running(served(), page=False) as service:
        assert [service.http.get(path).status_code for path in FILES] == [404] * len(FILES)


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
