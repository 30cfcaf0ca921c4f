"""A real browser, Debian's Chromium with its driver, that keeps what it has to complain of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import WAIT_S
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

WANTED = os.environ.get("EDGEQ_BROWSER") == "1"
"""`make test-browser`: a browser that is missing is a failure, and no skip."""


def found(*names: str) -> str:
    """The path of a program; the test is skipped without it, or fails where a browser is wanted."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        told = f"no {names[0]}: apt-get install chromium chromium-driver"
        if WANTED:
            pytest.fail(told)
        pytest.skip(told)
    return path


@contextmanager
def chromium(profile: Path, *, camera: bool = False) -> Iterator[webdriver.Chrome]:
    """A browser without a window, which asks for nothing but what it is told to.

    Args:
        profile: an empty directory for what it keeps.
        camera: it has a simulated one, and gives it to pages without asking.
    """
    options = Options()
    options.binary_location = found("chromium", "chromium-browser", "google-chrome")
    driver = found("chromedriver")  # named, or selenium would download one
    flags = ["headless=new", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-extensions"]
    flags += ["disable-background-networking", "disable-component-update", "disable-sync", f"user-data-dir={profile}"]
    if camera:
        flags += ["use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"]
    if os.geteuid() == 0:
        flags.append("no-sandbox")  # Chromium refuses root its sandbox
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(driver))
    try:
        browser.set_page_load_timeout(WAIT_S)
        browser.set_script_timeout(WAIT_S)
        yield browser
    finally:
        browser.quit()
