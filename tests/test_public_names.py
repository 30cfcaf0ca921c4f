"""What `import edgeq` gives: at once, in any order of imports, and the same to a type checker as to Python."""

from __future__ import annotations

import ast
import importlib
import json
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_rooms import FOR_LANGUAGE, WORKSHOP

import edgeq

STANDARD = set(sys.stdlib_module_names) | {"__main__"}

DEVICE_NAMES = (
    *("BenchReport", "Bundle", "BuiltEncoders", "BuiltEngine", "ClassScore", "EdgeqError", "ImageLike", "Installed"),
    *("Reply", "Verified"),
    *("bench_bundle", "build", "install_bundle", "open_bundle", "this_device", "verify"),
)

ORDERS = {
    "room first": "import edgeq.plan.rules; import edgeq; edgeq.plan_model; edgeq.plan.rules",
    "function first": "import edgeq; edgeq.plan_model; import edgeq.plan.rules; edgeq.plan.rules; edgeq.plan_model",
    "room as": "import edgeq; edgeq.quantize_model; import edgeq.quantize as room; room.__path__",
    "from room": "from edgeq import export_model; from edgeq.export.fold import KEPT_BY_PLAN; export_model",
    "both": "from edgeq import install, install_bundle; install.__path__; install_bundle.__call__",
    "by name": "import importlib, edgeq; edgeq.calibrate_model; importlib.import_module('edgeq.calibrate').__path__",
    "star": "from edgeq import *; calibrate_model, quantize_model, EdgeqError, Rule",
}


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_nothing_else() -> None:
    code = "import json, sys\nbefore = set(sys.modules)\nimport edgeq\nprint(json.dumps([*{*sys.modules} - before]))"
    loaded = set(json.loads(fresh(code)))
    assert {name for name in loaded if name.split(".")[0] not in STANDARD} == {"edgeq"}


@pytest.mark.parametrize("name", edgeq.__all__)
def test_each_name_is_there_and_documented(name: str) -> None:
    found = getattr(edgeq, name)
    assert name in dir(edgeq)
    assert name in ("__version__", "ImageLike") or found.__doc__


def test_type_checkers_see_the_same() -> None:
    """The imports under TYPE_CHECKING are the table that Python loads from."""
    tree = ast.parse(Path(edgeq.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == edgeq._PLACES
    assert sorted(edgeq.__all__) == sorted([*seen, "__version__"])


def test_no_name_is_that_of_a_room() -> None:
    """Importing a room sets an attribute of the package, which would take the place of what is public."""
    assert {module.name for module in pkgutil.iter_modules(edgeq.__path__)} & set(edgeq.__all__) == set()


@pytest.mark.parametrize("order", ORDERS.values(), ids=[*ORDERS])
def test_any_order_of_imports(order: str) -> None:
    fresh(order)


def test_functions_are_pickled_by_name() -> None:
    for name in ("plan_model", "prepare", "open_bundle"):
        found = getattr(edgeq, name)
        assert pickle.loads(pickle.dumps(found)) is found
        assert getattr(importlib.import_module(found.__module__), name) is found


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgeq' has no attribute 'quantise'"):
        edgeq.quantise  # type: ignore[attr-defined]  # noqa: B018


def test_a_device_needs_no_workshop_package() -> None:
    fresh(f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {WORKSHOP + FOR_LANGUAGE!r}:
            raise AssertionError(f"{{name}} is a workshop package")

sys.meta_path.insert(0, Refuse())
import edgeq
for name in {DEVICE_NAMES!r}:
    getattr(edgeq, name)
""")
