"""The pictures in docs/page.md: bundles that `edgeq serve` serves, in a real browser."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome
from served_page import Page

import edgeq

WIDE, NARROW = 1000, 400
_COLOURS = 128
_PATIENCE_S = 300.0
_SHOWN_PAIRS = 48
"""Images that are searched."""

_SCENE = "002.png"
"""With four squares."""

_DAMAGES = ("corrosion", "crack", "spalling", "shadow")


@contextmanager
def served(bundle: Path, *flags: str) -> Iterator[str]:
    """The address of a service of a bundle, in a process of its own."""
    command = [sys.executable, "-m", "edgeq", "serve", str(bundle), "--port", "0", "--json", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        assert service.stdout is not None
        try:
            yield json.loads("".join(iter(service.stdout.readline, "}\n")) + "}")["address"]
        finally:
            service.terminate()


def searchable(demo: Path, work: Path) -> tuple[Path, Path]:
    """A bundle of the demo's text and image encoder, and a catalog of some of its images."""
    bundle, catalog, images = work / "search", work / "catalog", work / "images"
    if not bundle.exists():
        edgeq.prepare(demo / "clip-model", demo / "pairs", bundle, captions=demo / "captions.txt")
    if not catalog.exists():
        images.mkdir(exist_ok=True)
        for line in (demo / "pairs" / "pairs.jsonl").read_text().splitlines()[:_SHOWN_PAIRS]:
            pair = json.loads(line)
            name, caption = Path(pair["image"]), pair["captions"][0]
            (images / name).write_bytes((demo / "pairs" / name).read_bytes())
            (images / name).with_suffix(".txt").write_text(caption)
            damage = next((kind for kind in _DAMAGES if kind in caption), "none")
            (images / name).with_suffix(".json").write_text(json.dumps({"damage": damage}))
        edgeq.index_images(bundle, images, catalog)
    return bundle, catalog


def draw_pages(browser: Chrome, demo: Path, detector: Path, work: Path, output: Path) -> None:
    """Write page-NAME.png, and search-page.png.

    Args:
        browser: without a window.
        demo: what `make demo` made.
        detector: the bundle of the tests' detector, with `evaluation` beside it.
        work: where the bundle to search with is kept.
        output: folder of the pictures.
    """
    with served(demo / "vlm-bundle") as url:
        page = Page(browser, url, _PATIENCE_S)
        _asked(page, demo)
        for width, scheme in ((WIDE, "light"), (NARROW, "dark")):
            _draw(page, width, scheme, output / f"page-chat-{scheme}.png")
        page = Page(browser, f"{url}/docs", _PATIENCE_S)
        page.until("#described", 1)
        _draw(page, WIDE, "light", output / "page-api.png", tallest=1000)
    with served(detector) as url:
        page = Page(browser, url, _PATIENCE_S)
        page.until("#look", 1)
        _seen(page, (detector.parent / "evaluation" / _SCENE).read_bytes(), _SCENE)
        _draw(page, WIDE, "dark", output / "page-detector.png")
    with served(demo / "bundle") as url:
        page = Page(browser, url, _PATIENCE_S)
        page.until("#look", 1)
        with zipfile.ZipFile(demo / "evaluation.zip") as archive:
            name = next(each for each in archive.namelist() if each.endswith(".png"))
            _seen(page, archive.read(name), Path(name).name)
        _draw(page, NARROW, "light", output / "page-classifier.png")
    bundle, catalog = searchable(demo, work)
    with served(bundle, "--index", str(catalog)) as url:
        page = Page(browser, url, _PATIENCE_S)
        page.until("#text", 1)
        page["count"].clear()
        page["count"].send_keys("4")
        page["text"].send_keys("severe corrosion at the top left\n")
        page.until("#results .picture img", 4)
        page.all("#results .columns button")[0].click()
        page.until("#filters button", 1)
        page.until("#results .picture img", 4)
        _draw(page, WIDE, "light", output / "search-page.png")


def _asked(page: Page, demo: Path) -> None:
    """A conversation about two pictures."""
    page.until("#question", 1)
    questions = [json.loads(line) for line in (demo / "asked" / "questions.jsonl").read_text().splitlines()]
    for count, asked in enumerate((questions[2], questions[5]), start=1):
        page.give((demo / "asked" / asked["image"]).read_bytes(), asked["image"])
        page["question"].send_keys(asked["question"] + "\n")
        page.until("#conversation .facts", count)


def _seen(page: Page, data: bytes, name: str) -> None:
    """A picture that was looked at."""
    page.give(data, name)
    page.until("#results > li", 1)


def _draw(page: Page, width: int, scheme: str, file: Path, *, tallest: int = 2000) -> None:
    """The whole page, as wide as is said."""
    page.colours(scheme)
    page.narrow(width, tallest)  # so tall that no scrollbar takes of the width
    page.until("#figures > div, #described", len(page.all("#figures > div, #described")))
    page.narrow(width, height=min(page.run("return document.body.scrollHeight"), tallest))
    drawn = Image.open(io.BytesIO(page.browser.get_screenshot_as_png())).convert("RGB")
    drawn.quantize(_COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    page.colours("light")
