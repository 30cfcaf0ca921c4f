"""The pictures in docs/report.md and docs/page.md, of real bundles in a real browser.

`make pictures` makes them, after `make demo`.

The CNN and the vision-language model are the demo's. The detector is the one of the tests, which finds drawn squares.
It needs Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from chromium import chromium  # noqa: E402
from page_pictures import draw_pages  # noqa: E402
from square_detector import OPTIONS, PREPROCESS, SIDE, draw_scenes, write_detector  # noqa: E402

import edgeq  # noqa: E402

WIDTH, WINDOW, TALLEST, TOP = 1000, 3000, 3000, 1310
DROP = 0.1
"""Points of top-1 that the CNN may lose: so few that layers are looked for that stay in floating point."""

_PATIENCE_S = 300.0

_DIRECTORIES = {"cnn": "classifier", "detector": "detector", "vlm": "inspector"}
"""What users would call the bundles: a report's title is the name of the bundle's directory."""

SHOWN = {
    "cnn": ("header", "#figures", "#changed", "#layers"),
    "detector": ("header", "#figures", "#changed"),
    "vlm": ("header", "#plan", "#memory", "#changed"),
    "two": ("header", "#figures", "#memory"),
}
"""Report -> the parts that are on its picture."""


def make_bundles(demo: Path, work: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Bundles as their users would make them; those that are there already are taken as they are."""
    bundles = {name: work / _DIRECTORIES[name] for name in names}
    wanted = [name for name, bundle in bundles.items() if not bundle.exists()]
    if "cnn" in wanted:
        edgeq.prepare(
            demo / "model",
            demo / "calibration.zip",
            bundles["cnn"],
            evaluation=demo / "evaluation.zip",
            max_drop=DROP,
        )
    if "detector" in wanted:
        edgeq.prepare(
            write_detector(work / "detector-model"),
            draw_scenes(work / "calibration", 32, seed=1),
            bundles["detector"],
            evaluation=draw_scenes(work / "evaluation", 16, seed=2, size=2 * SIDE),
            preprocess=PREPROCESS,
            options=OPTIONS,
        )
    if "vlm" in wanted:
        edgeq.prepare(
            demo / "vlm-model",
            demo / "photographs",
            bundles["vlm"],
            evaluation=demo / "asked" / "questions.jsonl",
            device="orin-nx-16gb",
            context=512,
        )
    return bundles


def picture(browser: webdriver.Chrome, page: Path, parts: tuple[str, ...]) -> Image.Image:
    """The parts of a page below each other, no taller than `TALLEST`."""
    browser.set_window_size(WIDTH, WINDOW)
    browser.get(page.resolve().as_uri())
    shots = [
        Image.open(io.BytesIO(browser.find_element(By.CSS_SELECTOR, part).screenshot_as_png)).convert("RGB")
        for part in parts
    ]
    whole = Image.new("RGB", (max(each.width for each in shots) + 40, sum(each.height + 20 for each in shots)), "white")
    place = 10
    for each in shots:
        whole.paste(each, (20, place))
        place += each.height + 20
    return whole.crop((0, 0, whole.width, min(whole.height, TALLEST)))


def draw_reports(browser: webdriver.Chrome, demo: Path, bundles: dict[str, Path], scratch: Path, output: Path) -> None:
    """Write report-NAME.png, and report-top.png."""
    pages = {name: edgeq.report(bundle, scratch / f"{name}.html") for name, bundle in bundles.items()}
    pages["two"] = edgeq.report(bundles["cnn"], scratch / "two.html", beside=demo / "bundle")
    for name, page in pages.items():
        small = picture(browser, page, SHOWN[name]).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        small.save(output / f"report-{name}.png", optimize=True)
        if name == "cnn":  # for the README, which is read in three minutes
            top = small.crop((0, 0, small.width, min(small.height, TOP)))
            top.save(output / "report-top.png", optimize=True)


def main() -> None:
    """Write docs/report-NAME.png, docs/report-top.png, docs/page-NAME.png and docs/search-page.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=ROOT / "out" / "demo", help="Made by `make demo`.")
    parser.add_argument("--work", type=Path, help="Where bundles are kept for the next time.  [default: nowhere]")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    parser.add_argument("--only", choices=("report", "page"), help="One kind of pictures.  [default: both]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, chromium(Path(scratch) / "chromium") as browser:
        browser.set_page_load_timeout(_PATIENCE_S)
        work = given.work or Path(scratch) / "work"
        if given.only != "page":
            bundles = make_bundles(given.demo, work, ("cnn", "detector", "vlm"))
            draw_reports(browser, given.demo, bundles, Path(scratch), given.output)
        if given.only != "report":
            detector = make_bundles(given.demo, work, ("detector",))["detector"]
            draw_pages(browser, given.demo, detector, work, given.output)


if __name__ == "__main__":
    main()
