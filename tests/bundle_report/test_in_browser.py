"""A report in a real browser, opened from a file: nothing is asked for elsewhere, and no policy is broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

import edgeq
from edgeq.bundle.manifest import write_manifest

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0"
HOSTILE = "<script>document.title='taken'</script><img src='http://127.0.0.1:9/x' onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
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
