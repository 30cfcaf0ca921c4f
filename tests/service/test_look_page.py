"""The page of services that look at images, and that of their API, in a real browser.

`make test` passes over it where there is no browser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from chromium import chromium
from running import NAME, Running, SimulatedRuntime, classifying, data_uri, picture, running, talking
from segmenting import segmenting
from selenium.webdriver import Chrome
from served_page import TOKEN, Page
from square_detector import CLASSES, detector_place

from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings

LATEST = "#results > li:first-child"
BOXES = """
const sides = ["x", "y", "width", "height"];
return [...document.querySelectorAll("#results .over")].map((each) => sides.map((side) => +each.getAttribute(side)));
"""
EDGES = """
return ["img", "svg"].map((name) => {
  const { x, y, width, height } = document.querySelector(`#results ${name}`).getBoundingClientRect();
  return [x, y, width, height];
});
"""
READABLE_PX = 11
NUMBERS = """
const svg = document.querySelector("#results svg");
const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
return [...svg.querySelectorAll("text")].map((each) => parseFloat(getComputedStyle(each).fontSize) * scale);
"""
COLOURS = """
const brush = document.querySelector("#results canvas").getContext("2d");
const at = (x) => [...brush.getImageData(x, 5, 1, 1).data].slice(0, 3);
const fill = (each) => getComputedStyle(each).fill.match(/\\d+/g).map(Number);
return [[at(2), at(17)], [...document.querySelectorAll(".legend rect")].map(fill)];
"""
BROKEN = """
const links = [...document.querySelectorAll("#described a")].map((each) => each.hash.slice(1));
return links.filter((id) => !document.getElementById(id));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


class LookPage(Page):
    """With results."""

    def look(self, data: bytes, name: str, results: int = 1) -> list[str]:
        """Give a picture, and what the list of the latest result says."""
        self.give(data, name)
        self.until("#results > li", results)
        return self.texts(f"{LATEST} .scores li, {LATEST} .legend li")


@pytest.fixture
def opened(browser: Chrome) -> Callable[[Running], LookPage]:
    """Opens the page of a service."""

    def page(service: Running) -> LookPage:
        page = LookPage(browser, service.url)
        page.until("#look", 1)
        return page

    return page


def test_classes(opened: Callable[[Running], LookPage]) -> None:
    with running(classifying()) as service:
        page = opened(service)
        assert page.browser.title == "Name images"
        assert not page["ways"].is_displayed()
        assert not page["least"].is_displayed()
        shown = page.look(picture((0, 200, 0)), "grass.png")
        wanted = service.http.post("/v1/classify", json={"image": data_uri(picture((0, 200, 0)))}).json()["classes"]
        assert shown == [f"{one['label']}\n{one['score']:.3f}" for one in wanted]
        assert page["status"].text.startswith("green, score ")
        page.look(picture((0, 0, 200)), "sky.png", 2)
        assert page.texts("#results .caption") == ["blue", "green"], "the latest first"
        page.give(b"no picture", "no.png")
        page.wait(lambda: "fault" in (page["status"].get_attribute("class") or ""))
        assert "image" in page["status"].text
        assert len(page.all("#results > li")) == 2
        page.check()


def test_vectors(opened: Callable[[Running], LookPage]) -> None:
    with running(classifying(())) as service:
        page = opened(service)
        assert page.texts("#way option") == ["Classes", "A vector"]
        page.all("#way option")[1].click()
        page.look(picture((200, 0, 0)), "red.png")
        shown = page.look(picture((0, 200, 0)), "green.png", 2)
        vectors = [
            service.http.post("/v1/embed", json={"image": data_uri(picture(colour))}).json()["data"][0]["embedding"]
            for colour in ((200, 0, 0), (0, 200, 0))
        ]
        one, other = (np.asarray(vector) for vector in vectors)
        cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        assert shown == [f"red.png\n{cosine:.3f}"]
        assert page.texts(f"{LATEST} .caption") == ["3 numbers"]
        numbers = page.run(f"return JSON.parse(document.querySelector('{LATEST} textarea').value)")
        assert numbers == pytest.approx(vectors[1])
        page.check()


def test_objects_are_where_the_service_finds_them(
    opened: Callable[[Running], LookPage], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = detector_place(tmp_path_factory)
    settings = ServiceSettings(port=0, name=NAME, threads=1, canaries=False)
    data = (place / "evaluation" / "000.png").read_bytes()
    with running(open_served(place / "bundle", settings)) as service:
        page = opened(service)
        assert page.browser.title == "Find objects"
        shown = page.look(data, "scene.png")
        objects = service.http.post("/v1/detect", json={"image": data_uri(data)}).json()["objects"]
        assert shown == [f"{at}. {one['label']}\n{one['score']:.3f}" for at, one in enumerate(objects, start=1)]
        assert {one["label"] for one in objects} <= set(CLASSES)
        assert page.texts(f"{LATEST} .caption") == [f"{len(objects)} object{'s' * (len(objects) != 1)}"]
        boxes = [one["box"] for one in objects]
        wanted = [[box["left"], box["top"], box["right"] - box["left"], box["bottom"] - box["top"]] for box in boxes]
        assert np.asarray(page.run(BOXES)) == pytest.approx(np.asarray(wanted))
        image, sketch = page.run(EDGES)
        assert sketch == pytest.approx(image), "the drawing lies on the picture"
        heights = page.run(NUMBERS)
        assert len(heights) == len(objects)
        assert min(heights) >= READABLE_PX, "a small picture is shown larger, so that its numbers can be read"
        page["score"].clear()
        page["score"].send_keys("1")
        page["look"].submit()
        page.until("#results > li", 2)
        assert page.texts(f"{LATEST} .caption") == ["0 objects"]
        page.check()


def test_pixels_have_the_colours_of_the_legend(opened: Callable[[Running], LookPage]) -> None:
    with running(segmenting()) as service:
        page = opened(service)
        assert page.browser.title == "Name the pixels"
        assert page.look(picture((255, 255, 255), side=20), "road.png") == ["road 50.0 %", "tree 50.0 %"]
        (left, right), legend = page.run(COLOURS)
        assert np.abs(np.asarray(legend) - (left, right)).max() <= 1
        assert left != right
        page.check()


def test_the_api_is_shown_as_the_service_describes_it(browser: Chrome) -> None:
    with running(talking(SimulatedRuntime()), token=TOKEN) as service:
        page = Page(browser, f"{service.url}/docs")
        assert not page["described"].is_displayed()
        page.enter()
        described = service.http.get("/openapi.json").json()
        paths = [f"{way.upper()} {path}" for path, ways in described["paths"].items() for way in ways]
        page.until("#described > section > h2", len(paths))
        assert page.texts("#described > section > h2") == paths
        assert page.texts("#described h3[id]") == list(described["components"]["schemas"])
        command = page.texts("#POST-v1-chat-completions ~ pre")[0]
        assert command.startswith(f"curl {service.url}/v1/chat/completions \\\n  -H 'Authorization: Bearer TOKEN'")
        rows = page.texts("#form-ChatRequest ~ .table tr")
        assert any(row.startswith("max_tokens integer from 1") and "of the answer, at most" in row for row in rows)
        assert page.run(BROKEN) == []
        page.narrow()
        assert page.fits()
    with running(classifying()) as service:
        page = Page(browser, f"{service.url}/docs")
        page.until("#described", 1)
        page.check()
