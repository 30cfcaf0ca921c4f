"""What a report is made of, whatever it is written as. Texts are plain: who writes them escapes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar, Final

from edgeq.bundle_report.drawing import Drawing

__all__ = ["MOST_ROWS", "Block", "Chart", "Document", "Paragraph", "Picture", "Pictures", "Section", "Table"]

MOST_ROWS: Final = 2000
"""Of a table; a plan of a large network has some hundred layers."""


@dataclass(frozen=True)
class Paragraph:
    """A sentence or two; `warning` sets it apart."""

    kind: ClassVar[str] = "paragraph"

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """Rows below a header.

    Attributes:
        title: above it; empty for none.
        header: of each column.
        rows: a text for each column.
        numbers: columns that are set to the right, counted from 0.
        folded: it is shown when it is asked for.
        left_out: rows that are not shown.
    """

    kind: ClassVar[str] = "table"

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    folded: bool = False
    left_out: int = 0

    @classmethod
    def of(
        cls,
        title: str,
        header: tuple[str, ...],
        rows: Iterable[tuple[str, ...]],
        *,
        numbers: Iterable[int] = (),
        folded: bool = False,
        most: int = MOST_ROWS,
    ) -> Table:
        """A table of at most so many rows; of the others it says how many there are.

        Args:
            title, header, rows, numbers, folded: as the attributes.
            most: rows that are shown.
        """
        left = iter(rows)
        shown = tuple(islice(left, most))
        return cls(title, header, shown, frozenset(numbers), folded, sum(1 for _ in left))


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        source: a data URI that was made here; None where the picture is not at hand.
        alternative: what is to be seen, for who does not see it.
        lines: below it: what each text is, and the text.
    """

    source: str | None
    alternative: str
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pictures:
    """Pictures in rows.

    Attributes:
        title: above them.
        items: in order.
        wide: each is two pictures in one.
    """

    kind: ClassVar[str] = "pictures"

    title: str
    items: tuple[Picture, ...]
    wide: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing, and the same figures as a table."""

    kind: ClassVar[str] = "chart"

    drawing: Drawing
    table: Table


Block = Paragraph | Table | Pictures | Chart


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it.

    Attributes:
        name: a word that links lead to.
        title: for people.
        blocks: in order.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """The whole.

    Attributes:
        title: the heading.
        lead: a sentence below it.
        sections: in order.
        facts: what stands at the top, what each is and its value.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...] = field(default=())
