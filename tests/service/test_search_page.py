"""The page of a service that searches, in a real browser. `make test` passes over it where there is none."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium
from PIL import Image
from retrieval_bundle import add_image, indexed, retrieval_bundle
from retrieving import SETTINGS
from running import Running, data_uri, image_part, running
from selenium.webdriver import Chrome, Keys
from served_page import HOSTILE, TOKEN, Page
from two_towers import SENTENCES

from edgeq.service.load_bundle import open_served

COUNT = 6
LOST = 4
"""The image that is gone since it was indexed."""

WIDTHS = """
const widthOf = async (place) => {
  const image = place.querySelector("img");
  if (image) await image.decode();
  return image ? image.naturalWidth : 0;
};
return Promise.all([...document.querySelectorAll("#results .picture")].map(widthOf));
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose width tells their number; the first has a hostile caption, and one a hostile place."""
    folder = tmp_path_factory.mktemp("page") / "images"
    for number in range(COUNT):
        data = add_image(folder, number)
        wider = Image.open(io.BytesIO(data)).resize((40 + number, 36))
        wider.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"scene {number}" if number else HOSTILE)
    (folder / "1.json").write_text(json.dumps({"place": HOSTILE[:40], "year": 2001}))
    return folder


@pytest.fixture(scope="module")
def service(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = retrieval_bundle(tmp_path_factory)
    catalog = indexed(bundle, images, images.parent / "catalog")
    (images / f"{LOST}.png").unlink()
    with running(open_served(bundle, SETTINGS.model_copy(update={"index": catalog})), token=TOKEN) as service:
        yield service


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


class SearchPage(Page):
    """With results."""

    def seen(self, count: int) -> list[int]:
        """The numbers of the images shown, in order, once all pictures or what stands for them are there."""
        self.until("#results .picture img, #results .picture .none", count)
        widths: list[int] = self.run(WIDTHS)
        return [width - 40 if width else LOST for width in widths]


@pytest.fixture
def page(browser: Chrome, service: Running) -> SearchPage:
    """Opened, with the token given."""
    page = SearchPage(browser, service.url)
    page.enter()
    page.until("#text", 1)
    return page


def answered(service: Running, query: Any, **more: Any) -> list[int]:
    """The numbers of the images that the service finds."""
    found = service.http.post("/v1/search", json={"query": query, "k": 12, **more}).json()["results"]
    return [int(each["columns"]["key"]) for each in found]


def test_words_find_pictures_in_the_order_of_the_search(page: SearchPage, service: Running) -> None:
    orders = [answered(service, sentence) for sentence in SENTENCES[:2]]
    for sentence, order in zip(SENTENCES[:2], orders, strict=True):
        page["text"].clear()
        page["text"].send_keys(sentence + Keys.ENTER)
        page.until("#results .picture .none", 1)
        assert page.seen(COUNT) == order
        assert [each.text for each in page.all(".key")] == [str(number) for number in order]
    scores = [float(each.text) for each in page.all(".score")]
    assert scores == sorted(scores, reverse=True)
    images = page.all("#results img")
    assert {each.get_attribute("alt") for each in images} == {
        HOSTILE if not number else f"scene {number}" for number in range(COUNT) if number != LOST
    }
    assert "6 images" in page["status"].text
    page.check()


def test_nothing_is_shown_without_the_token(browser: Chrome, service: Running) -> None:
    page = SearchPage(browser, service.url)
    page.enter("another-token-of-16")
    page.wait(lambda: "not the token" in page["status"].text)
    assert not page["search"].is_displayed()
    page.enter()
    page.until("#text", 1)
    assert not page["entrance"].is_displayed()
    assert page.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    browser.refresh()
    page.until("#token", 1)
    assert not page["search"].is_displayed()


def test_what_a_catalog_says_stays_text(page: SearchPage) -> None:
    page["text"].send_keys(SENTENCES[0] + Keys.ENTER)
    page.seen(COUNT)
    captions = [each.text for each in page.all(".caption")]
    assert HOSTILE in captions
    assert sorted(captions) == sorted([HOSTILE, *(f"scene {number}" for number in range(1, COUNT))])
    assert page.browser.title == "Search images"
    assert page.all("main script, main [src='x']") == []
    assert page.complaints() == [], "the policy was never asked"
    page.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x'}))")
    assert any("Content Security Policy" in line for line in page.complaints()), "it holds, and is heard of"
    for markup in ("document.body.innerHTML = '<p>'", "document.body.setAttribute('onclick', '1')"):
        assert page.run(f"try {{ {markup}; return '' }} catch (error) {{ return error.name }}") == "TypeError"


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_finds_itself(page: SearchPage, service: Running, images: Path, way: str) -> None:
    file = images / "3.png"
    if way == "choose":
        page["file"].send_keys(str(file))
    else:
        page.give(file.read_bytes(), file.name, way)
    order = answered(service, image_part(data_uri(file.read_bytes())))
    assert order[0] == 3
    assert page.seen(COUNT) == order
    assert [each.get_attribute("alt") for each in page.all("#chosen img")] == ["The picture to search by: 3.png"]
    page["text"].send_keys("x")
    assert not page["chosen"].is_displayed(), "words take the picture's place"
    assert page.complaints() == []


def test_it_fits_a_narrow_window_and_a_keyboard_suffices(page: SearchPage, service: Running) -> None:
    page.narrow()
    assert page.fits()
    assert page.focused() == "text"
    page.press(SENTENCES[1])
    passed = []
    for _ in range(4):
        page.press(Keys.TAB)
        passed.append(page.focused())
    assert passed == ["Search", "file", "camera", "count"]
    page.press(Keys.CONTROL + "a" + Keys.NULL)
    page.press("3", Keys.ENTER)
    order = answered(service, SENTENCES[1])
    assert page.seen(3) == order[:3]
    assert page.fits()
    page.press(Keys.TAB)
    chosen = page.focused()
    column, _, value = chosen.partition(": ")
    assert column in ("place", "year")
    page.press(Keys.ENTER)
    page.until("#filters button", 1)
    only = answered(service, SENTENCES[1], filter={column: int(value) if column == "year" else value})
    assert 0 < len(only) < COUNT
    assert page.seen(len(only)) == only
    page.press(*[Keys.TAB] * 5)
    assert page.focused() == f"{chosen} ×"
    page.press(Keys.ENTER)
    assert page.seen(3) == order[:3]
    assert not page["filters"].is_displayed()


def test_texts_and_a_picture_are_compared_where_no_catalog_is(
    browser: Chrome, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = (images / "0.png").read_bytes()
    with running(open_served(retrieval_bundle(tmp_path_factory), SETTINGS)) as service:

        def wanted(first: Any, texts: list[str]) -> list[str]:
            asked = {"model": "towers", "input": [first, *texts]}
            found = service.http.post("/v1/embeddings", json=asked).json()["data"]
            one, *others = (np.asarray(each["embedding"]) for each in found)
            cosines = sorted(zip((float(one @ other) for other in others), texts, strict=True), reverse=True)
            return [f"{text}\n{cosine:.3f}" for cosine, text in cosines]

        page = Page(browser, service.url)
        page.until("#texts", 1)
        assert browser.title == "Compare texts and images"
        page["texts"].send_keys("\n".join(SENTENCES[:3]))
        page.give(data, "0.png")
        page.until("#results .scores li", 3)
        assert page.texts(".scores li") == wanted(image_part(data_uri(data)), list(SENTENCES[:3]))
        page.all("#chosen button")[0].click()
        page.until("#results .scores li", 2)
        assert page.texts(".scores li") == wanted(SENTENCES[0], list(SENTENCES[1:3]))
        page.check()
