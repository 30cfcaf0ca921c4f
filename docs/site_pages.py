"""MkDocs hook: pages outside docs/ stand in the site as well, and links lead to where pages stand there.

A page of the repository is written for who reads it in a checkout: its links are paths. Outside docs/ a page keeps its
path in the site (`jetson/README.md`), in docs/ it loses the folder's name. A link to a file that is no page of the
site, code say, becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs/"
OUTSIDE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "calib_data/README.md",
    "docker/README.md",
    "edgeq/README.md",
    "engines/README.md",
    "examples/README.md",
    "jetson/FIRST_DAY.md",
    "jetson/README.md",
    "tests/README.md",
    "tests/golden/jetson/README.md",
)

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring the pages outside docs/ in, under their paths."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the paths of links, which hold in the repository, into paths of the site."""
    del config
    here = page.file.src_uri if page.file.src_uri in OUTSIDE else DOCS + page.file.src_uri

    def lead(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        text = _LINK.sub(lead, text)  # a picture that is a link
        path, anchor, name = target.partition("#")
        if not path or ":" in path:
            return f"{mark}[{text}]({target})"
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        if (ROOT / there).is_dir():
            there += "/README.md"
        found = files.get_file_from_path(there.removeprefix(DOCS))
        if found is None:
            if not (ROOT / there.removesuffix("/README.md")).exists():
                return f"{mark}[{text}]({target})"  # for MkDocs to complain of
            return text
        relative = posixpath.relpath(found.src_uri, posixpath.dirname(page.file.src_uri) or ".")
        return f"{mark}[{text}]({relative}{anchor}{name})"

    fenced = re.split(r"^( *```.*?^ *```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if odd % 2 else _LINK.sub(lead, part) for odd, part in enumerate(fenced))
