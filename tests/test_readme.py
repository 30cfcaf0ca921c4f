"""The commands and the Python in the README are run, the links in every page lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeq.cli import run
from edgeq.demo import run as demo
from edgeq.demo.vlm import story
from edgeq.demo.vlm.report import SCENES
from edgeq.pipeline.stages import Progress

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = {".venv", ".venv-newest", "out", "node_modules"}
PAGES = sorted(page for page in ROOT.rglob("*.md") if not NOT_OURS & set(page.parts))


def blocks(page: Path) -> list[tuple[str, str]]:
    """The page's ```sh and ```python blocks in their order: the language, and what stands in it."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```(sh|python)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of the page's ```sh blocks."""
    return [line for language, text in blocks(page) if language == "sh" for line in text.splitlines() if line.strip()]


def test_the_readme_has_commands() -> None:
    assert sum(line.startswith("edgeq ") for line in commands(ROOT / "README.md")) >= 7


def test_each_job_in_python_takes_six_lines_at_most() -> None:
    jobs = [text for language, text in blocks(ROOT / "README.md") if language == "python"]
    assert len(jobs) == 6
    assert max(len(job.strip().splitlines()) for job in jobs) <= 6


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_exists(page: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    targets = [line.split()[1] for line in commands(ROOT / page) if line.startswith("make ")]
    assert targets
    for target in targets:
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def few_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo asks its vision-language model about four scenes: every command that follows finds what it needs."""

    def tell(work: Path, scenes: int, *, progress: Progress | None = None) -> story.Story:
        assert scenes == SCENES
        return story.tell(work, 4, progress=progress)

    monkeypatch.setattr(demo, "tell", tell)
    monkeypatch.setattr(story, "_PHOTOGRAPHS", 8)


@pytest.mark.usefixtures("few_reports", "quick_latency")
def test_every_edgeq_command_and_all_python_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the page, in one directory; the Python blocks are one session."""
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    for language, text in blocks(ROOT / "README.md"):
        if language == "python":
            capsys.readouterr()
            exec(compile(text, "README.md", "exec"), session)
            assert capsys.readouterr().out, text
            continue
        for line in filter(str.strip, text.splitlines()):
            program, *arguments = shlex.split(line)
            if program == "edgeq":
                assert run(arguments) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
