"""Which of some paths the imported TensorRT lacks: resolve_names.py PATHS.json prints JSON.

The file holds a list of [path, keyword]. What a call gives and a property holds is read from the bindings' docstrings.
Printed is a list of the same length: what is missing, in words, or null; "?" where a value's type is not known.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from pathlib import Path
from typing import Any

from edgeq.tensorrt.loading import load_tensorrt

tensorrt: Any = load_tensorrt()
RETURNS = re.compile(r"->\s*([\w.:]+)")
UNKNOWN = object()


def resolve(path: list[str], keyword: str) -> str | None:
    value: Any = tensorrt
    for index, step in enumerate(path):
        if value is UNKNOWN:
            return "?"
        if step == "()":
            value = value if isinstance(value, type) else returned(value.__doc__)
            continue
        if not hasattr(value, step):
            return f"{'.'.join(path[: index + 1])} does not exist"
        member = getattr(value, step)
        value = returned(member.fget.__doc__) if isinstance(member, property) else member
    return takes(value, keyword) if keyword else None


def returned(text: str | None) -> Any:
    """The class that the first signature of a docstring gives."""
    found = RETURNS.search(text or "")
    name = re.split(r"[.:]", found[1])[-1] if found else ""
    places = ((tensorrt, name), (tensorrt, name.removeprefix("I")), (builtins, name))  # IParserError is ParserError
    return next((getattr(place, each) for place, each in places if name and hasattr(place, each)), UNKNOWN)


def takes(value: Any, keyword: str) -> str | None:
    if value is UNKNOWN:
        return "?"
    text = (vars(value)["__init__"] if isinstance(value, type) else value).__doc__
    if re.search(rf"[(,] ?{keyword}:", text or ""):
        return None
    return f"{getattr(value, '__name__', value)} takes no {keyword}"


if __name__ == "__main__":
    print(json.dumps([resolve(path, keyword) for path, keyword in json.loads(Path(sys.argv[1]).read_text())]))
