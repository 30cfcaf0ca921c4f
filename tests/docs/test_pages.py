"""Every page: links, names of verbs, flags, targets and files, and what the README promises to be."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from doc_pages import PAGES, READ, ROOT, Block, blocks, lines, name_of

import edgeq
from edgeq.cli import VERBS, cli
from edgeq.plan.guards import GUARDS

ELSEWHERE = {
    "docs/catalog.md": "tests/docs/test_snippets.py",
    "docs/extending/backend.md": "tests/engine/test_extending_backend.py",
    "docs/extending/family.md": "tests/families/test_extending_family.py",
    "docs/extending/task.md": "tests/quality/tasks/test_task_page.py",
    "docs/memory-plan.md": "tests/docs/test_snippets.py",
    "docs/other-engines.md": "tests/docs/test_other_engines.py",
    "docs/vector-databases.md": "tests/docs/test_snippets.py",
}
"""Pages whose Python other files of tests run."""

SHOWN = {
    "docs/judge.md": "it asks a running server",
    "docs/lint.md": "it reads a file of the reader's",
    "docs/serving-retrieval.md": "it asks a running service",
    "docs/tensorrt-cache.md": "it is a class for TensorRT's builder",
}
"""Pages whose Python is compiled, and its calls of edgeq compared with their signatures."""

ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in ALL if block.language == "python"]
COMMANDS = [
    (block, line) for block in ALL if block.language in ("sh", "text", "console", "bash", "") for line in lines(block)
]


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    jobs = blocks("README.md", "python")
    assert len(jobs) == 5
    assert max(len(job.text.strip().splitlines()) for job in jobs) <= 4


def test_each_job_in_python_takes_six_lines_at_most() -> None:
    jobs = [block.text for block in blocks("docs/use/python.md", "python")]
    assert len(jobs) == 6
    assert max(len(job.strip().splitlines()) for job in jobs) <= 6


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_make_target_exists() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    made = {word for _, line in COMMANDS if line.startswith("make ") for word in shlex.split(line)[1:]}
    targets = sorted(word for word in made if re.fullmatch(r"[a-z][a-z-]*", word))
    assert {"demo", "test", "docs", "bench-vit"} <= set(targets)
    done = subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def verbs_called() -> Iterator[tuple[str, list[str]]]:
    """Each `edgeq VERB …` of a page that is not run: where it stands, and the words behind `edgeq`."""
    for block, line in COMMANDS:
        called = re.match(r"(?:sudo (?:-u edgeq )?)?edgeq ([a-z].*)", line)
        if called:
            yield f"{block.page}: {line}", shlex.split(called[1])


def test_every_verb_and_flag_that_is_shown_exists() -> None:
    seen = 0
    for where, words in verbs_called():
        assert words[0] in VERBS, where
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group):
            below = command.get_command(context, words.pop(0))
            assert below is not None, where
            command = below
        flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("-") and word.strip("-")}
        assert given <= flags | {"--help"}, where
        seen += 1
    assert seen > 60


def test_every_script_and_module_that_is_shown_exists() -> None:
    found = [match for _, line in COMMANDS for match in re.findall(r"python3? (-m )?([\w./]+)", line)]
    ours = [(bool(module), name) for module, name in found if name.startswith(("examples/", "benchmarks", "edgeq"))]
    assert len(ours) >= 4
    for module, name in ours:
        assert importlib.util.find_spec(name) if module else (ROOT / name).is_file(), name


def test_all_python_is_run_or_its_page_is_known() -> None:
    pages = {block.page for block in PYTHON} - set(READ)
    assert pages == ELSEWHERE.keys() | SHOWN.keys()
    for test in ELSEWHERE.values():
        assert (ROOT / test).is_file()


@pytest.mark.parametrize(
    "block", [block for block in PYTHON if block.page in SHOWN], ids=lambda block: f"{block.page}:{block.line}"
)
def test_python_that_is_shown_fits_the_signatures(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("edgeq"):
            assert all(hasattr(importlib.import_module(node.module), name.name) for name in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("edgeq."):
            called = getattr(edgeq, ast.unparse(node.func).removeprefix("edgeq."))
            inspect.signature(called).bind(*node.args, **{word.arg: None for word in node.keywords if word.arg})


def code_of_edgeq() -> str:
    """edgeq's code; a text that is written in pieces, one below the other, is one."""
    modules = (ROOT / "edgeq").rglob("*.py")
    return "\n".join(re.sub(r'"\s*\n\s*f?"', "", module.read_text(encoding="utf-8")) for module in modules)


def test_every_message_of_the_troubleshooting_is_one_that_edgeq_writes() -> None:
    messages = re.findall(r"^### `(.+)`$", (ROOT / "docs/help/troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    written = code_of_edgeq()
    assert len(messages) >= 30
    for message in messages:
        parts = [part for part in message.split("…") if len(part.strip()) > 3]
        assert parts
        for part in parts:
            assert part in written, f"{message}: {part!r}"


def test_every_guard_is_in_the_table() -> None:
    page = (ROOT / "docs/how/plan.md").read_text(encoding="utf-8")
    for guard in GUARDS:
        assert f"| {guard.code} | {guard.title} | {guard.why} |" in page.replace(
            "`--rescale-factor 1`", "--rescale-factor 1"
        )


def test_every_public_name_is_on_the_page_of_the_python_api() -> None:
    shown = re.findall(r"^::: edgeq\.(\w+)$", (ROOT / "docs/use/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(set(edgeq.__all__) - {"__version__"})


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (edgeq.__version__, "Apache-2.0")


def test_the_release_knows_where_the_version_stands() -> None:
    """The release workflow, which is not run here: its YAML is read, and the first thing that it asks is asked."""
    steps = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))["jobs"]["build"][
        "steps"
    ]
    asked = next(step["run"] for step in steps if "version=" in step.get("run", "")).splitlines()
    done = subprocess.run(
        ["sh", "-ec", asked[0] + "\necho $version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == edgeq.__version__
    assert any(step.get("run") == "make package" for step in steps)


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda form: form.stem
)
def test_an_issue_form_has_what_github_asks_for(form: Path) -> None:
    read = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= read.keys()
    for part in read["body"]:
        assert part["type"] in ("textarea", "input", "checkboxes")
        assert part["attributes"]["label"]
