"""What stands in the pages: the repository's Markdown, its blocks of code, and the lines of a shell in them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "READ", "ROOT", "Block", "blocks", "cells", "lines", "name_of"]

ROOT = Path(__file__).resolve().parents[2]
_NOT_OURS = {".venv", ".venv-newest", ".venv-docs", "out", "node_modules"}
PAGES = sorted(page for page in ROOT.rglob("*.md") if not _NOT_OURS & set(page.relative_to(ROOT).parts))

READ = (
    "README.md",
    "docs/start/quickstart.md",
    "docs/start/install.md",
    "docs/start/your-model.md",
    "docs/tutorials/cnn.md",
    "docs/tutorials/vit.md",
    "docs/tutorials/detector.md",
    "docs/tutorials/drone.md",
    "docs/tutorials/search.md",
    "docs/how/plan.md",
    "docs/how/sensitivity.md",
    "docs/how/vision-language.md",
    "docs/how/text-and-images.md",
    "docs/report.md",
    "docs/use/device.md",
    "docs/use/python.md",
    "docs/use/trackers.md",
    "docs/bench.md",
)
"""In the order in which they are read. What stood on a page before, to the letter, is not run again."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: from the repository's root.
        line: of the page, where its first line stands.
        language: `sh` and `python` are run as they stand, others are shown.
    """

    page: str
    line: int
    language: str
    text: str


def name_of(page: Path) -> str:
    """Its path from the repository's root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path | str, *languages: str) -> list[Block]:
    """The page's blocks in these languages, in their order; all where none is named."""
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    return [
        Block(name_of(path), text.count("\n", 0, found.start(2)) + 1, found[1], found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        if not languages or found[1] in languages
    ]


def lines(block: Block) -> list[str]:
    """The commands of a block: continued lines in one, no comments, no prompt, no output behind a prompt."""
    joined = re.sub(r"\\\n\s*", "", block.text).splitlines()
    if block.language == "console":
        joined = [line.removeprefix("$ ") for line in joined if line.startswith("$ ")]
    return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]


def cells(notebook: Path) -> list[Block]:
    """A notebook's cells of code, which have no outputs: `!` begins a command."""
    found = []
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            text = "".join(cell["source"]) + "\n"
            found.append(Block(name_of(notebook), number, "sh" if text[0] == "!" else "python", text.lstrip("!")))
    return found
