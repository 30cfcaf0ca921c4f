"""Which names of TensorRT a package uses, read from its source.

A value is known to be TensorRT's where it is

- the module: a parameter `trt`, what `load_tensorrt()` gives, or `self.NAME` that was given one of them;
- what a call, an attribute or an item of a list of such a value gives, also by way of local variables and `self.NAME`;
- a parameter annotated `Any` (or `self.NAME` of unknown origin) whose name stands in PARAMETERS.

Each use is a path from the module, calls as "()": ("Builder", "()", "create_network", "()", "num_layers").
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PARAMETERS", "Path_", "Use", "missing_name", "uses_in", "uses_of"]

Path_ = tuple[str, ...]

CALL = "()"

PARAMETERS = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "constant_layer": "IConstantLayer",
    "context": "IExecutionContext",
    "elementwise_layer": "IElementWiseLayer",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
"""What a parameter of this name and type Any is, in edgeq/tensorrt and edgeq/engine/tensorrt.py."""


@dataclass(frozen=True, order=True)
class Use:
    """One use of a name.

    Attributes:
        where: module and function, `edgeq.tensorrt.builder:_parse`.
        path: from the module to the name.
        keyword: of the call of it; empty where it is not one.
        guarded: whether the function asks `hasattr` for it.
    """

    where: str
    path: Path_
    keyword: str = ""
    guarded: bool = False


@dataclass
class Scope:
    """What names stand for: values, and the items of lists."""

    values: dict[str, Path_] = field(default_factory=dict)
    items: dict[str, Path_] = field(default_factory=dict)

    def inner(self) -> Scope:
        return Scope(dict(self.values), dict(self.items))


def uses_of(package: Path) -> list[Use]:
    """All uses in a package, sorted."""
    found: set[Use] = set()
    for file in sorted(package.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if "trt" in source or "tensorrt" in file.parts:
            parts = (package.name, *file.relative_to(package).with_suffix("").parts)
            found |= uses_in(source, ".".join(parts))
    return sorted(found)


def uses_in(source: str, module: str) -> set[Use]:
    """All uses in one module."""
    by_name = ".tensorrt." in f"{module}."
    return set(_walk(ast.parse(source), module, Scope(), by_name=by_name))


def missing_name(path: Path_, names: frozenset[str]) -> str:
    """The first name of a path that a list of names (`ILayer.precision`) lacks; empty where it lacks none.

    Such a list has no types. Of what a call gives, unless it is a class that was called, it is only asked whether any
    class has such a name; what an attribute holds is not looked at.
    """
    owner, value = "", "class"
    for step in path:
        if step == CALL:
            value = "class" if value == "class" and owner else "any"
        elif step.startswith("__") or value == "attribute":
            return ""
        elif value == "any":
            owner = f"{owner}().{step}"
            if not any(name.endswith(f".{step}") for name in names):
                return owner
            value = "attribute"
        else:
            owner = f"{owner}.{step}" if owner else step
            if owner not in names:
                return owner
            value = "class" if step[:1].isupper() else "attribute"
    return ""


def _walk(tree: ast.AST, where: str, scope: Scope, *, by_name: bool) -> Iterator[Use]:
    """The uses in a module, class or function, and in those inside it."""
    own = list(_own_nodes(tree))
    if isinstance(tree, ast.ClassDef):
        _learn_from_methods(tree, scope, by_name=by_name)
    for _ in range(3):  # what a name stands for may be said behind its first use, by way of other names
        for node in own:
            _learn(node, scope)
    yield from _uses(own, where, scope)
    for node in own:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = scope.inner()
            if not isinstance(node, ast.ClassDef):
                _learn_parameters(node, inside, by_name=by_name)
            separator = "." if ":" in where else ":"
            yield from _walk(node, f"{where}{separator}{node.name}", inside, by_name=by_name)


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything in a body without what is in the functions and classes in it."""
    for child in ast.iter_child_nodes(tree):
        yield child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for outside in (*child.decorator_list, *getattr(child, "bases", ())):
                yield from (outside, *ast.walk(outside))
        else:
            yield from _own_nodes(child)


def _learn_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope, *, by_name: bool) -> None:
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        scope.values.pop(argument.arg, None)
        scope.items.pop(argument.arg, None)
        kind = ast.unparse(argument.annotation) if argument.annotation else "Any"
        if argument.arg == "trt":
            scope.values["trt"] = ()
        elif by_name and kind == "Any" and argument.arg in PARAMETERS:
            scope.values[argument.arg] = (PARAMETERS[argument.arg], CALL)


def _learn_from_methods(tree: ast.ClassDef, scope: Scope, *, by_name: bool) -> None:
    """What `self.NAME` is, from all methods."""
    methods = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for method in [*methods, *methods]:
        inside = scope.inner()
        _learn_parameters(method, inside, by_name=by_name)
        for node in ast.walk(method):
            _learn(node, inside)
        known = {name: path for name, path in inside.values.items() if name.startswith("self.")}
        scope.values.update(known)
        for name in _set_on_self(method) - set(known):
            if by_name and name.lstrip("_") in PARAMETERS and name.startswith("_"):
                scope.values.setdefault(f"self.{name}", (PARAMETERS[name.lstrip("_")], CALL))


def _set_on_self(method: ast.FunctionDef) -> set[str]:
    """Names of attributes that a method sets without saying their type."""
    targets = [target for node in ast.walk(method) if isinstance(node, ast.Assign) for target in node.targets]
    return {target.attr for target in targets if isinstance(target, ast.Attribute) and _is_self(target.value)}


def _learn(node: ast.AST, scope: Scope) -> None:
    """What an assignment, a loop or a comprehension says of names."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            _bind(target, node.value, scope)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        _bind(node.target, node.value, scope)
    elif isinstance(node, ast.For | ast.comprehension):
        path = _item(node.iter, scope)
        if path is not None and isinstance(node.target, ast.Name):
            scope.values[node.target.id] = path


def _bind(target: ast.expr, value: ast.expr, scope: Scope) -> None:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for each, given in zip(target.elts, value.elts, strict=True):
            _bind(each, given, scope)
        return
    name = _name(target)
    if name is None:
        return
    if (path := path_of(value, scope)) is not None:
        scope.values[name] = path
    elif (path := _item(value, scope)) is not None:
        scope.items[name] = path


def _name(target: ast.expr) -> str | None:
    """`name` or `self.name`."""
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute) and _is_self(target.value):
        return f"self.{target.attr}"
    return None


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def path_of(node: ast.expr, scope: Scope) -> Path_ | None:
    """The path of an expression; None where it is not known to be TensorRT's."""
    name = _name(node)
    if name is not None and name in scope.values:
        return scope.values[name]
    if isinstance(node, ast.Attribute):
        path = path_of(node.value, scope)
        return None if path is None else (*path, node.attr)
    if isinstance(node, ast.Call):
        return _path_of_call(node, scope)
    if isinstance(node, ast.IfExp):
        return path_of(node.body, scope) or path_of(node.orelse, scope)
    return None


def _path_of_call(node: ast.Call, scope: Scope) -> Path_ | None:
    if isinstance(node.func, ast.Name) and node.func.id == "load_tensorrt":
        return ()
    if isinstance(node.func, ast.Name) and node.func.id == "getattr":
        return _asked(node, scope)
    path = path_of(node.func, scope)
    return None if path is None else (*path, CALL)


def _asked(node: ast.Call, scope: Scope) -> Path_ | None:
    """The path that `getattr(x, "name")` or `hasattr(x, "name")` asks for."""
    owner, name = node.args[0], node.args[1]
    path = path_of(owner, scope)
    constant = isinstance(name, ast.Constant) and isinstance(name.value, str)
    return (*path, str(name.value)) if path is not None and constant and isinstance(name, ast.Constant) else None


def _item(node: ast.expr, scope: Scope) -> Path_ | None:
    """The path of what is in a list."""
    name = _name(node)
    if name is not None:
        return scope.items.get(name)
    if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
        return path_of(node.elt, scope)
    if isinstance(node, ast.List | ast.Tuple) and node.elts:
        return path_of(node.elts[0], scope)
    return None


def _uses(nodes: Iterable[ast.AST], where: str, scope: Scope) -> Iterator[Use]:
    nodes = list(nodes)
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    guards = {path for node in calls if _calls(node, "hasattr") and (path := _asked(node, scope)) is not None}
    guards |= {
        path for node in calls if _calls(node, "getattr") and len(node.args) == 3 and (path := _asked(node, scope))
    }
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Call) and (path := path_of(node, scope)) and path[-1] != CALL:
            yield Use(where, path, guarded=path in guards)
    for node in calls:
        path = path_of(node.func, scope)
        for keyword in node.keywords if path else ():
            yield Use(where, path or (), keyword.arg or "", guarded=path in guards)


def _calls(node: ast.Call, name: str) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == name and len(node.args) >= 2
