"""Each registered family keeps to the contract, and nothing outside `edgeq/families` asks for a model type."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from family_contract import check_family
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from edgeq.families.base import Family
from edgeq.families.registry import FAMILIES

PACKAGE = Path(__file__).resolve().parents[2] / "edgeq"
OWN = ("families", "demo")
"""Folders that may name a model type: the families, and the demo's own model."""

REGISTERED = {model_type for family in FAMILIES for model_type in family.model_types}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_keeps_to_the_contract(family: Family, tmp_path: Path) -> None:
    check_family(family, tmp_path)


def test_no_model_type_and_no_name_is_in_two_families() -> None:
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_every_family_in_the_folder_is_registered() -> None:
    shared = {"__init__", "base", "registry", "modules", "structure", "tiles"}
    found = {
        (file.stem, target.id)
        for file in (PACKAGE / "families").glob("*.py")
        if file.stem not in shared
        for statement in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Call)
        if isinstance(target := statement.target, ast.Name) and ast.unparse(statement.value.func) == "Family"
    }
    imported = {
        (str(statement.module).rpartition(".")[2], name.name)
        for statement in ast.parse((PACKAGE / "families" / "registry.py").read_text(encoding="utf-8")).body
        if isinstance(statement, ast.ImportFrom)
        for name in statement.names
    }
    assert found <= imported
    assert len(found) == len(FAMILIES)


def test_families_are_read_without_the_packages_of_the_workshop() -> None:
    code = (
        "import sys, edgeq.families.registry\n"
        "print([name for name in ('torch', 'transformers', 'onnx', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def model_types() -> set[str]:
    """Words that a comparison with a model type would have.

    Those of the registered families, the beginnings of these (`qwen`), the types of their halves, and what else
    transformers calls a vision-language model; of the last only names that are no words of other fields.
    """
    stems = {match.group() for name in REGISTERED if (match := re.match("[a-z]{4,}", name))}
    halves = {name for name in CONFIG_MAPPING_NAMES if any(name.startswith(f"{known}_") for known in REGISTERED)}
    others = {name for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if re.search(r"[\d_]", name)}
    return {*REGISTERED, *stems, *halves, *others, "pixtral", "clip_vision_model", "siglip_vision_model"}


def named(source: str, types: set[str]) -> Iterator[str]:
    """Model types in the strings of a module; what is only written for people, docstrings, does not count."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield from types & set(re.findall(r"\w+", node.value))


def test_no_model_type_is_named_outside_the_families() -> None:
    types = model_types()
    assert {"llava", "qwen", "mllama_text_model", "gemma3_text", "internvl_vision", "mistral3"} <= types
    files = [file for file in PACKAGE.rglob("*.py") if file.relative_to(PACKAGE).parts[0] not in OWN]
    assert len(files) > 200
    found = {str(file.relative_to(PACKAGE)): sorted(named(file.read_text("utf-8"), types)) for file in files}
    assert {file: names for file, names in found.items() if names} == {}, "a fact about a family belongs to its file"


@pytest.mark.parametrize(
    "source",
    [
        'nested = model_type in ("idefics3", "smolvlm")',
        'if model_type.startswith("qwen"): pass',
        'CLASSES = {"mllama_text_model": "MllamaForCausalLM"}',
        'def f():\n    """Docstring."""\n    return f"a gemma3 model"',
    ],
)
def test_the_scan_catches(source: str) -> None:
    assert list(named(source, model_types()))


def test_the_scan_lets_docstrings_pass() -> None:
    assert not list(named('"""Of a llava model."""\nNAME = "vision"\n"""As llava_next has it."""', model_types()))
