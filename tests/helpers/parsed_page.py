"""An HTML page as a browser would read it, without a browser: elements, attributes, and the text of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["Element", "parse_page"]

_EMPTY = frozenset({"meta", "img", "rect", "line", "circle", "path", "br", "link", "input"})


@dataclass
class Element:
    """One element."""

    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    own: str = ""

    def walk(self) -> Iterator[Element]:
        """This one and all below."""
        yield self
        for child in self.children:
            yield from child.walk()

    def all(self, *names: str) -> list[Element]:
        """Those below with one of these names, in the page's order."""
        return [each for each in self.walk() if each.name in names]

    @property
    def text(self) -> str:
        """Its text with that of those below."""
        return " ".join(part for each in self.walk() if (part := each.own.strip()))


class _Reader(HTMLParser):
    """A tree; an element that is closed out of turn is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("page", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in _EMPTY:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].own += data


def parse_page(html: str) -> Element:
    """The page's tree; AssertionError where elements are not closed in turn."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].name}> is not closed"
    return reader.root
