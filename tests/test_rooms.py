"""The order of the rooms: a room imports only rooms above it, and the device half needs no workshop package."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "edgeq"

ROOMS = (
    "errors",
    "faults",
    "extras",
    "old_names",
    "strict_json",
    "files",
    "yaml_text",
    "artifact",
    "confined",
    "device",
    "cluster",
    "model",
    "families",
    "plan",
    "tensorrt",
    "engine",
    "calibrate",
    "quality",
    "bundle",
    "export",
    "quantize",
    "lint",
    "runtime",
    "frames",
    "vector_index",
    "engine_store",
    "handover",
    "catalog",
    "install",
    "doctor",
    "bench",
    "bundle_report",
    "track",
    "hub",
    "pipeline",
    "service",
    "demo",
    "judge",
    "api",
    "cli",
    "__main__",
)

DEVICE = (
    "errors",
    "faults",
    "extras",
    "old_names",
    "strict_json",
    "files",
    "yaml_text",
    "artifact",
    "confined",
    "device",
    "cluster",
    "model",
    "families",
    "plan",
    "tensorrt",
    "engine",
    "quality.answerer",
    "quality.estimate",
    "quality.latency",
    "quality.logits",
    "quality.token_parity",
    "quality.tasks",
    "bundle",
    "runtime",
    "frames",
    "vector_index",
    "engine_store",
    "catalog",
    "install",
    "doctor",
    "bench",
    "service",
    "api.device",
    "cli.device",
    "cli.completion",
    "cli.console",
    "cli.error_report",
    "cli.exit_statuses",
    "cli.flags",
    "cli.groups",
    "cli.invocation",
    "cli.progress",
)
"""Folders and files of the device half: each module in them is imported without a package of the workshop."""

ONNX = ("model.graph.element_types", "model.graph.wiring")
"""Files in these folders that need onnx: the workshop's."""

LANGUAGE = ("runtime.vlm",)
"""Of these, where the language model runs: there torch is needed on the device too."""

MOST_FILES = 21
"""In a folder: about twenty."""

WORKSHOP = ("onnx", "onnx_graphsurgeon", "onnxscript", "huggingface_hub", "matplotlib")
FOR_LANGUAGE = ("torch", "transformers", "safetensors", "bitsandbytes")


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = (package.name, *file.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(tree: ast.AST, module: str, known: dict[str, Path]) -> Iterator[str]:
    """The package's own modules that are imported anywhere in `tree`."""
    parent = module if known[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parent.split(".")[: len(parent.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name in known else source for name in names]
        else:
            continue
        yield from (name for name in names if name in known or name.split(".")[0] == module.split(".")[0])


def below(places: tuple[str, ...]) -> set[str]:
    """The modules that lie in these folders and files."""
    return {
        module for module in modules(PACKAGE) if any(f"{module}.".startswith(f"edgeq.{place}.") for place in places)
    }


def room(module: str) -> str:
    """The room a module lies in; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def violations(package: Path) -> list[str]:
    """Each import of a room below, in words; a module outside the known rooms is one too."""
    known = modules(package)
    found = [f"{module} is in no known room" for module in known if "." in module and room(module) not in ROOMS]
    at_once = loaded_at_once(package)
    for module, file in known.items():
        targets = imported(ast.parse(file.read_text(encoding="utf-8")), module, known)
        # The package itself names what it gives, from any room, for type checkers; it loads none of it.
        for target in targets if room(module) else at_once[module]:
            ours, theirs = room(module), room(target)
            if ours == theirs or not theirs:
                continue
            if theirs not in ROOMS or not ours or ours not in ROOMS or ROOMS.index(theirs) > ROOMS.index(ours):
                found.append(f"{module} imports {target}")
    return found


def loaded_at_once(package: Path) -> dict[str, set[str]]:
    """What each module imports while it is loaded: neither in functions nor for type checking only."""
    known = modules(package)
    found = {}
    for module, file in known.items():
        body = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if not isinstance(node, ast.If)]
        top = ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        found[module] = set(imported(top, module, known)) - {module}
    return found


def loaded_at_all(package: Path) -> dict[str, set[str]]:
    """What each module but the package itself imports, in functions too; not what is for type checking only."""
    known = modules(package)
    found = {}
    for module, file in known.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        checked = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ]
        for node in checked:
            node.body = []
        found[module] = set(imported(tree, module, known)) - {module, package.name}
    found.pop(package.name, None)
    return found


def test_a_room_imports_only_rooms_above_it() -> None:
    assert violations(PACKAGE) == []


def test_a_folder_can_be_scanned() -> None:
    folders = Counter(file.parent for file in modules(PACKAGE).values() if file.name != "__init__.py")
    assert {str(folder.relative_to(PACKAGE)): count for folder, count in folders.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize("graph", [loaded_at_once, loaded_at_all])
def test_no_module_is_loaded_in_a_circle(graph: Callable[[Path], dict[str, set[str]]]) -> None:
    try:
        TopologicalSorter(graph(PACKAGE)).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {error.args[1]}")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("model/pictures.py", "import edgeq.cli.console"),
        ("model/pictures.py", "from edgeq.plan.rules import plan_classifier"),
        ("model/pictures.py", "from edgeq.plan import rules"),
        ("model/pictures.py", "from edgeq import pipeline"),
        ("model/pictures.py", "from ..plan import rules"),
        ("model/pictures.py", "def late() -> None:\n    from edgeq.quality.judge import judge"),
        (
            "model/pictures.py",
            "if TYPE_CHECKING:\n    from edgeq.pipeline.classifier import Options",
        ),
        ("__init__.py", "from edgeq.model.pictures import ImageSet"),
        ("utils.py", ""),
    ],
)
def test_the_check_catches(tmp_path: Path, module: str, text: str) -> None:
    package = _made_up(tmp_path)
    assert violations(package) == []
    (package / module).write_text(text)
    assert len(violations(package)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from edgeq.errors import EdgeqError",
        "from edgeq import errors, __version__",
        "from ..errors import EdgeqError",
        "from . import source",
        "import json\nimport numpy.typing",
    ],
)
def test_the_check_lets_pass(tmp_path: Path, text: str) -> None:
    package = _made_up(tmp_path)
    (package / "model" / "pictures.py").write_text(text)
    assert violations(package) == []


def test_a_circle_inside_a_room_is_caught(tmp_path: Path) -> None:
    package = _made_up(tmp_path)
    (package / "model" / "pictures.py").write_text("from edgeq.model.source import open_model")
    (package / "model" / "source.py").write_text("from edgeq.model.pictures import ImageSet")
    with pytest.raises(CycleError):
        TopologicalSorter(loaded_at_once(package)).prepare()


def test_a_circle_through_a_function_is_caught(tmp_path: Path) -> None:
    package = _made_up(tmp_path)
    (package / "model" / "pictures.py").write_text("def late():\n    from edgeq.model.source import open_model")
    (package / "model" / "source.py").write_text("from edgeq.model.pictures import ImageSet")
    TopologicalSorter(loaded_at_once(package)).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter(loaded_at_all(package)).prepare()


def test_the_device_half_needs_no_workshop_package() -> None:
    code = f"""
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {WORKSHOP + FOR_LANGUAGE!r}:
            raise AssertionError(f"{{name}} is a workshop package")

sys.meta_path.insert(0, Refuse())
for name in {sorted(below(DEVICE) - below(ONNX) - below(LANGUAGE))!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_language_model_needs_no_workshop_package() -> None:
    """Read from the source: transformers itself imports some of them."""
    known = modules(PACKAGE)
    for module in below(LANGUAGE):
        nodes = list(ast.walk(ast.parse(known[module].read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & {*WORKSHOP}, module


def test_the_device_half_imports_nothing_of_the_workshop_half() -> None:
    """Imports within functions count as well. `edgeq` itself names both halves, and loads what is asked for."""
    known = modules(PACKAGE)
    device = (below(DEVICE) - below(ONNX)) | {"edgeq"}
    found = {
        (module, target)
        for module in device - {"edgeq"}
        for target in imported(ast.parse(known[module].read_text(encoding="utf-8")), module, known)
        if target not in device
    }
    assert found == set()


@pytest.mark.parametrize("module", sorted(modules(PACKAGE)))
def test_every_module_is_importable(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__doc__, f"{module} has no docstring"
    assert all(hasattr(loaded, name) for name in getattr(loaded, "__all__", ()))


def _made_up(tmp_path: Path) -> Path:
    """A small package in order, named as the real one."""
    package = tmp_path / "edgeq"
    for directory in ("model", "plan", "quality", "pipeline", "cli"):
        (package / directory).mkdir(parents=True)
        (package / directory / "__init__.py").write_text("")
    for module in (
        "errors",
        "pipeline/stages",
        "model/pictures",
        "model/source",
        "plan/rules",
        "quality/judge",
        "cli/console",
    ):
        (package / f"{module}.py").write_text("")
    (package / "__init__.py").write_text("__version__ = '0'")
    return package
