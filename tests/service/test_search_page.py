"""The page of a service that searches, in a real browser. `make test` passes over it where there is none."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from PIL import Image
from retrieval_bundle import add_image, indexed, retrieval_bundle
from retrieving import SETTINGS
from running import WAIT_S, Running, data_uri, image_part, running
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from two_towers import SENTENCES

from edgeq.service.load_bundle import open_served

TOKEN = "0123456789abcdef-secret"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
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
GIVE = """
const [encoded, name, way] = arguments;
const bytes = Uint8Array.from(atob(encoded), (each) => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, { type: "image/png" }));
const event = way === "drop"
  ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
  : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
document.getElementById("drop").dispatchEvent(event);
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


class Page:
    """The page as a person has it.

    Args:
        browser: it is opened in.
        url: of the service.
    """

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        browser.set_window_size(1000, 800)
        browser.get(url)

    def __getitem__(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def focused(self) -> str:
        """The id of what has the focus, or its text."""
        element = self.browser.switch_to.active_element
        return element.get_attribute("id") or element.text

    def until(self, selector: str, count: int) -> list[WebElement]:
        """So many elements, once they are there and to be seen."""

        def there(_: Chrome) -> list[WebElement]:
            found = [each for each in self.all(selector) if each.is_displayed()]
            return found if len(found) == count else []

        return WebDriverWait(self.browser, WAIT_S, 0.02).until(there)

    def enter(self, token: str = TOKEN) -> None:
        self.until("#token", 1)[0].send_keys(token + Keys.ENTER)

    def seen(self, count: int) -> list[int]:
        """The numbers of the images shown, in order, once all pictures or what stands for them are there."""
        self.until("#results .picture img, #results .picture .none", count)
        widths: list[int] = self.run(WIDTHS)
        return [width - 40 if width else LOST for width in widths]

    def complaints(self) -> list[str]:
        """What the browser found wrong, but for answers that the page asked for and was refused."""
        lines = [str(entry["message"]) for entry in self.browser.execute("getLog", {"type": "browser"})["value"]]
        return [line for line in lines if "Failed to load resource" not in line]


@pytest.fixture
def page(browser: Chrome, service: Running) -> Page:
    """Opened, with the token given."""
    browser.execute("getLog", {"type": "browser"})  # complaints of the page before
    page = Page(browser, service.url)
    page.enter()
    page.until("#text", 1)
    return page


def answered(service: Running, query: Any, **more: Any) -> list[int]:
    """The numbers of the images that the service finds."""
    found = service.http.post("/v1/search", json={"query": query, "k": 12, **more}).json()["results"]
    return [int(each["columns"]["key"]) for each in found]


def test_words_find_pictures_in_the_order_of_the_search(page: Page, service: Running) -> None:
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
    assert page.complaints() == []


def test_nothing_is_shown_without_the_token(browser: Chrome, service: Running) -> None:
    page = Page(browser, service.url)
    page.enter("another-token-of-16")
    WebDriverWait(browser, WAIT_S, 0.02).until(lambda _: "not the token" in page["status"].text)
    assert not page["search"].is_displayed()
    page.enter()
    page.until("#text", 1)
    assert not page["entrance"].is_displayed()
    assert page.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    browser.refresh()
    page.until("#token", 1)
    assert not page["search"].is_displayed()


def test_what_a_catalog_says_stays_text(page: Page) -> None:
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
def test_a_picture_finds_itself(page: Page, service: Running, images: Path, way: str) -> None:
    file = images / "3.png"
    if way == "choose":
        page["file"].send_keys(str(file))
    else:
        page.run(GIVE, base64.b64encode(file.read_bytes()).decode(), file.name, way)
    order = answered(service, image_part(data_uri(file.read_bytes())))
    assert order[0] == 3
    assert page.seen(COUNT) == order
    assert page["preview"].get_attribute("alt") == "The picture to search by: 3.png"
    page["text"].send_keys("x")
    assert not page["chosen"].is_displayed(), "words take the picture's place"
    assert page.complaints() == []


def test_it_fits_a_narrow_window_and_a_keyboard_suffices(page: Page, service: Running) -> None:
    page.browser.set_window_size(500, 800)
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )

    def press(*keys: str) -> None:
        ActionChains(page.browser, duration=0).send_keys(*keys).perform()

    def fits() -> bool:
        return bool(page.run("return innerWidth === 400 && document.documentElement.scrollWidth <= 400"))

    assert fits()
    assert page.focused() == "text"
    press(SENTENCES[1])
    passed = []
    for _ in range(3):
        press(Keys.TAB)
        passed.append(page.focused())
    assert passed == ["Search", "file", "count"]
    press(Keys.CONTROL + "a" + Keys.NULL)
    press("3", Keys.ENTER)
    order = answered(service, SENTENCES[1])
    assert page.seen(3) == order[:3]
    assert fits()
    press(Keys.TAB)
    chosen = page.focused()
    column, _, value = chosen.partition(": ")
    assert column in ("place", "year")
    press(Keys.ENTER)
    page.until("#filters button", 1)
    only = answered(service, SENTENCES[1], filter={column: int(value) if column == "year" else value})
    assert 0 < len(only) < COUNT
    assert page.seen(len(only)) == only
    press(*[Keys.TAB] * 4)
    assert page.focused() == f"{chosen} ×"
    press(Keys.ENTER)
    assert page.seen(3) == order[:3]
    assert not page["filters"].is_displayed()
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
