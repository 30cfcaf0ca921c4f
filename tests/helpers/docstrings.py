"""Reads the docstrings of a package, and finds what they leave out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Function = ast.FunctionDef | ast.AsyncFunctionDef
"""A definition of one."""

PARAMETERS = 3
"""From this number of parameters on a docstring has `Args:`."""

ARRAYS = {"NDArray", "ndarray", "Tensor"}
EXEMPT = {"override", "property", "cached_property", "overload", "command"}
"""Decorators of functions that others describe: a base, `Attributes:`, the implementation, a command's help."""

SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):\s*(.*)$")
REFERENCE = re.compile(r"\b(?:as|see)\s+(?:for\s+)?`([\w.]+)`", re.IGNORECASE)
SHAPE = re.compile(r"\[[^\[\]]*\]")
DTYPE = re.compile(r"\b(?:float(?:16|32|64)|u?int(?:8|16|32|64)|bool|dtypes?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Described:
    """A public function and the docstring that describes it; for `__init__` and `__post_init__` that of the class.

    Attributes:
        module: where it is.
        owner: the class it is a method of; empty for a function.
        function: the definition.
        text: the docstring, empty where there is none.
    """

    module: str
    owner: str
    function: Function
    text: str

    @property
    def place(self) -> str:
        """Where to look, as `module:line name`."""
        name = self.function.name
        return f"{self.module}:{self.function.lineno} {f'{self.owner}.{name}' if self.owner else name}"


@dataclass
class Package:
    """What is defined in some modules.

    Attributes:
        functions: the public ones.
        texts: docstrings of all functions by name, of methods also by `Class.name`: what `as` may refer to.
        dataclasses: the public ones by where they are, each with its fields and its docstring.
        methods: the methods of each class by name, each with its parameters.
        bases: of each class, by name.
    """

    functions: list[Described] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    dataclasses: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    methods: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    bases: dict[str, set[str]] = field(default_factory=dict)

    def above(self, name: str) -> set[str]:
        """The classes of which the class `name` is a kind: its bases, theirs, and protocols whose methods it has."""
        direct = self.bases.get(name, set()) | {each for each in self.bases if self._has_shape(name, each)}
        return direct | {further for base in self.bases.get(name, ()) for further in self.above(base)}

    def _has_shape(self, name: str, protocol: str) -> bool:
        """Whether a class has each method of a protocol, with the same parameters."""
        wanted, ours = self.methods[protocol], self.methods.get(name, {})
        same = all(ours.get(method) == names for method, names in wanted.items())
        return "Protocol" in self.bases[protocol] and name != protocol and bool(wanted) and same


def last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`, `c` and calls of both; empty for anything else."""
    node = node.func if isinstance(node, ast.Call) else node
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def definitions(body: Sequence[ast.stmt]) -> Iterator[ast.ClassDef | Function]:
    """Classes and functions of a body, those under an `if` or `try` among them, not those inside functions."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from definitions([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


def public(module: str, body: Sequence[ast.stmt], owner: ast.ClassDef | None = None) -> Iterator[Described]:
    """The public functions and methods of a module, and what makes an object of its public classes."""
    within = owner.name if owner else ""
    for node in definitions(body):
        if isinstance(node, ast.ClassDef):
            if not node.name.startswith("_"):
                yield from public(module, node.body, node)
        elif owner and node.name in {"__init__", "__post_init__"}:
            texts = [ast.get_docstring(described) or "" for described in (owner, node)]
            yield Described(module, within, node, "\n\n".join(texts))
        elif not node.name.startswith("_") and not EXEMPT & {last_name(mark) for mark in node.decorator_list}:
            yield Described(module, within, node, ast.get_docstring(node) or "")


def fields(node: ast.ClassDef) -> list[str]:
    """Names of a dataclass's public fields."""
    named = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
    names = [last_name(each.target) for each in named if last_name(each.annotation) != "ClassVar"]
    return [name for name in names if not name.startswith("_")]


def read_package(sources: Mapping[str, str]) -> Package:
    """What these modules, by name, define."""
    package = Package()
    for module, source in sources.items():
        tree = ast.parse(source)
        package.functions += public(module, tree.body)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | Function):
                package.texts.setdefault(node.name, []).append(ast.get_docstring(node) or "")
            if isinstance(node, ast.ClassDef):
                inside = [child for child in node.body if isinstance(child, Function)]
                if "dataclass" in map(last_name, node.decorator_list) and not node.name.startswith("_"):
                    place = f"{module}:{node.lineno} {node.name}"
                    package.dataclasses[place] = (fields(node), ast.get_docstring(node) or "")
                package.bases[node.name] = {last_name(base) for base in node.bases}
                package.methods[node.name] = {each.name: parameters(each) for each in inside}
                for each in inside:
                    package.texts.setdefault(f"{node.name}.{each.name}", []).append(ast.get_docstring(each) or "")
    return package


def sections(text: str) -> dict[str, list[str]]:
    """The lines of a docstring under the section they are in; those before the first under an empty name."""
    found: dict[str, list[str]] = {"": []}
    at = ""
    for line in text.splitlines():
        if (head := SECTION.match(line)) is not None:
            at = head[1]
            found[at] = [head[2]] if head[2] else []
        else:
            found[at].append(line)
    return found


def entries(lines: Sequence[str]) -> set[str]:
    """The names before the colons of `Args:`, `Attributes:` or `Raises:`; a line may have several."""
    heads = [line for line in lines if line.startswith("    ") and not line.startswith("     ")]
    return {name.strip(" *`") for line in heads if ":" in line for name in line.partition(":")[0].split(",")}


def referred(text: str, package: Package, seen: frozenset[str] = frozenset()) -> list[str]:
    """A docstring, and those of the functions it refers to with "as `name`" or "see `Class.name`"."""
    tails = [match.split(".")[-2:] for match in REFERENCE.findall(text)]
    names = {".".join(tail) if ".".join(tail) in package.texts else tail[-1] for tail in tails} - seen
    further = [other for name in sorted(names) for other in package.texts.get(name, ())]
    return [text, *(each for other in further for each in referred(other, package, seen | names))]


def said(each: Described, package: Package) -> list[str]:
    """A function's docstring, what that refers to, and for a method the same of what it overrides."""
    kinds = sorted(package.above(each.owner)) if each.owner else []
    overridden = [text for kind in kinds for text in package.texts.get(f"{kind}.{each.function.name}", ())]
    return [more for text in (each.text, *overridden) for more in referred(text, package)]


def parameters(function: Function) -> list[str]:
    """Names of the parameters, without self and cls."""
    given = function.args
    several = [each for each in (given.vararg, given.kwarg) if each]
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several)]
    return [name for name in names if name not in {"self", "cls"}]


def without_args(package: Package) -> list[str]:
    """Functions of three or more parameters of which `Args:` leaves one out, and all whose `Args:` names another."""
    found = []
    for each in package.functions:
        if each.function.name == "__post_init__":
            continue
        names = parameters(each.function)
        own = entries(sections(each.text).get("Args", ()))
        told = {name for text in said(each, package) for name in entries(sections(text).get("Args", ()))}
        missing = [name for name in names if name not in told] if len(names) >= PARAMETERS else []
        found += [f"{each.place}: Args: leaves out {', '.join(missing)}"] if missing else []
        found += [f"{each.place}: {name} is no parameter" for name in sorted(own - set(names))]
    return found


def without_attributes(package: Package) -> list[str]:
    """Dataclasses of three or more fields of which neither `Attributes:` nor `Args:` names each."""
    found = []
    for place, (names, text) in package.dataclasses.items():
        parts = sections(text)
        told = entries(parts.get("Attributes", ())) | entries(parts.get("Args", ()))
        missing = [name for name in names if name not in told] if len(names) >= PARAMETERS else []
        found += [f"{place}: Attributes: leaves out {', '.join(missing)}"] if missing else []
    return found


def holds_array(annotation: ast.expr | None) -> bool:
    """Whether a value of this type is an array or has some inside; a function that makes one does not."""
    if annotation is None:
        return False
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return holds_array(ast.parse(annotation.value, mode="eval").body)
    if last_name(annotation) == "Callable":
        return False
    inside = (node for node in ast.iter_child_nodes(annotation) if isinstance(node, ast.expr))
    return last_name(annotation) in ARRAYS or any(holds_array(node) for node in inside)


def without_shape(package: Package) -> list[str]:
    """Functions that give an array and do not say its shape and its dtype, before the sections or in `Returns:`."""
    found = []
    for each in package.functions:
        if not holds_array(each.function.returns):
            continue
        parts = [sections(text) for text in said(each, package)]
        told = "\n".join(line for part in parts for key in ("", "Returns", "Yields") for line in part.get(key, ()))
        missing = [what for what, mark in (("shape", SHAPE), ("dtype", DTYPE)) if not mark.search(told)]
        found += [f"{each.place}: no {' and no '.join(missing)} of its array"] if missing else []
    return found


def raised(node: ast.AST) -> Iterator[str]:
    """Names of the errors that a function makes and raises itself, not in functions inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            yield last_name(child.exc)
        yield from raised(child)


def without_raises(package: Package) -> list[str]:
    """Functions that raise an error and name neither it nor a kind of it, before the sections or in `Raises:`."""
    found = []
    for each in package.functions:
        told: set[str] = set()
        for text in said(each, package):
            parts = sections(text)
            told |= entries(parts.get("Raises", ())) | set(re.findall(r"\w+", " ".join(parts[""])))
        above = {name: package.above(name) for name in sorted(set(raised(each.function)))}
        ours = {name: kinds for name, kinds in above.items() if "EdgeqError" in kinds}
        missing = [name for name, kinds in ours.items() if not ({name} | kinds - {"EdgeqError"}) & told]
        found += [f"{each.place}: does not say that it raises {', '.join(missing)}"] if missing else []
    return found
