"""A report in a real browser, opened from a file: nothing is asked for elsewhere, no policy is broken, all read it."""

from __future__ import annotations

import base64
import io
import json
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from pypdf import PdfReader
from retrieval_bundle import retrieval_bundle
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium_axe_python import Axe
from square_detector import detector_place

import edgeq
from edgeq.bundle.manifest import write_manifest

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0"
PRINTED = 718
"""Pixels between the margins of A4, as Chromium has them: 21 cm without 2 cm, at 96 to an inch."""
CUT = """
return [...document.querySelectorAll("body, .scroll, table, svg, li")]
  .filter((each) => each.scrollWidth > each.clientWidth + 1 || each.getBoundingClientRect().right > innerWidth + 1)
  .map((each) => each.outerHTML.slice(0, 100));
"""
AXE_S = 120.0
"""A slow machine takes long over the contrast of a thousand elements."""
SVG_ALONE = "{runOnly: ['svg-img-alt']}"
HOSTILE = "<script>document.title='taken'</script><img src='http://127.0.0.1:9/x' onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        browser.set_script_timeout(AXE_S)
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a bundle whose classes and guards are hostile."""
    bundle = shutil.copytree(OLD / "classifier", tmp_path_factory.mktemp("hostile") / HOSTILE.replace("/", "")[:40])
    write_manifest(bundle, labels=(HOSTILE, "b", "c"), allowed={"EQ104": HOSTILE})
    return edgeq.report(bundle, bundle.parent / "report.html")


def messages(browser: Chrome) -> list[Any]:
    """What the browser has written to its log since it was last asked."""
    log: Any = browser.get_log
    return list(log("browser"))


def test_nothing_is_asked_for_and_nothing_runs(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [each for each in asked if not each.startswith("data:")] == []
    assert messages(browser) == []
    assert browser.title.endswith("edgeq report")
    assert HOSTILE in browser.find_element(By.ID, "guards").text
    shown = browser.execute_script("return [...document.images].map((each) => each.naturalWidth)")
    assert len(shown) == 8
    assert all(shown)


def test_its_style_is_the_one_that_the_policy_allows(browser: Chrome, page: Path) -> None:
    """A second style, and a script, are refused by the browser itself."""
    browser.get(page.as_uri())
    border = "return getComputedStyle(document.querySelector('h2')).borderTopStyle"
    assert browser.execute_script(border) == "solid"
    add = (
        "document.head.appendChild(Object.assign(document.createElement(arguments[0]), {textContent: arguments[1]}));"
        "return document.title"
    )
    before = browser.title
    assert browser.execute_script(add, "script", "document.title = 'taken'") == before
    browser.execute_script(add, "style", "h2 { border-top-style: dotted !important }")
    assert browser.execute_script(border) == "solid"
    refused = [json.dumps(entry) for entry in messages(browser)]
    assert len(refused) == 2
    assert all("Content Security Policy" in entry for entry in refused)


def test_it_fits_a_narrow_window_and_the_plan_unfolds(browser: Chrome, page: Path) -> None:
    browser.set_window_size(500, 900)
    browser.get(page.as_uri())
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
    details = browser.find_elements(By.CSS_SELECTOR, "#plan details")[-1]
    cell = details.find_element(By.CSS_SELECTOR, "tbody td")
    assert not cell.is_displayed()
    details.find_element(By.TAG_NAME, "summary").click()
    assert cell.is_displayed()


@pytest.fixture(scope="module", params=["classifier", "vlm", "two", "detector", "retrieval"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a bundle of each kind, and of two beside each other."""
    output, bundle, beside = tmp_path_factory.mktemp("kinds") / "report.html", OLD / "classifier", None
    if request.param == "vlm":
        bundle = OLD / "vlm"
    elif request.param == "two":
        beside = OLD / "vlm"
    elif request.param == "detector":
        bundle = detector_place(tmp_path_factory) / "bundle"
    elif request.param == "retrieval":
        bundle = retrieval_bundle(tmp_path_factory)
    return edgeq.report(bundle, output, beside=beside)


def squeezed(text: str) -> str:
    """Without spaces and ligatures, which paper has where it has room."""
    return unicodedata.normalize("NFKC", "".join(text.split()))


def faults(browser: Chrome, options: str = "{}") -> list[str]:
    """What axe-core finds that keeps people from using the page as it is now."""
    axe = Axe(browser)
    axe.inject()
    result = axe.run(options=options)
    return [f"{fault['id']} {node['target']}" for fault in result["violations"] for node in fault["nodes"]]


def test_axe_finds_no_fault(browser: Chrome, kind: Path) -> None:
    browser.set_window_size(1000, 900)
    browser.get(kind.as_uri())
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert faults(browser) == []
    browser.execute_script("document.querySelector('svg[role=img]').removeAttribute('aria-labelledby')")
    browser.execute_script("document.querySelector('svg[role=img] > title').remove()")
    assert any("svg-img-alt" in fault for fault in faults(browser, SVG_ALONE)), "what is wrong is found"


def test_printed_it_is_text_and_nothing_is_cut(browser: Chrome, kind: Path) -> None:
    """What is folded away on the screen is on paper, the last row of the longest table too."""
    browser.get(kind.as_uri())
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    pages = [page.extract_text() for page in PdfReader(io.BytesIO(base64.b64decode(printed["data"]))).pages]
    text = squeezed("".join(pages))
    assert all(page.strip() for page in pages)
    rows = "return [...document.querySelectorAll('h2, tbody tr:last-child > *')].map((each) => each.textContent)"
    wanted = [squeezed(each) for each in browser.execute_script(rows)]
    assert len(wanted) > 10
    assert [each for each in wanted if each not in text] == []
    try:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        size = {"width": PRINTED, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script("return innerWidth") == PRINTED
        assert browser.execute_script(CUT) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
