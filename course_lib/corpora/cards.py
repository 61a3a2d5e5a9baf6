"""The cards of data/README.md and data/written/README.md: one section a source, with the number of rows measured."""

from __future__ import annotations

import re
from pathlib import Path

from ..runtime import CourseError, root

_ROWS = re.compile(r"^- Rows: .*$", re.MULTILINE)


class Card(str):
    """A card's Markdown text; Jupyter shows it formatted."""

    __slots__ = ()

    def _repr_markdown_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return str(self)


def path(name: str = "") -> Path:
    """Where the cards are, or that of a corpus: what the course itself wrote has a page of its own."""
    from . import CORPORA

    data = root() / "data"
    return data / "written" / "README.md" if name in CORPORA and CORPORA[name].written else data / "README.md"


def read(name: str) -> Card:
    """The section `## name` of its page. Raises CourseError where the page or the section is missing."""
    page = path(name)
    if not page.is_file():
        raise CourseError(f"The cards are in {page}, which is not there; they come with the course's repository.")
    section = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    if section is None:
        raise CourseError(f"{page.relative_to(root())} has no section '## {name}'; add a card for it.")
    return Card(section.group().strip())


def rows_line(name: str) -> str:
    """The card's line on rows, as measured now: what was kept for each split, and what was not."""
    from . import load_data, reading

    parts = ", ".join(f"{split} {len(rows):,}" for split, rows in load_data(name).items())
    account = str(reading(name)).splitlines()[0].partition(": ")[2]
    return f"- Rows: {parts} ({account})."


def refresh(name: str) -> None:
    """Measure the rows of one source again and write them into its card."""
    page, card = path(name), read(name)
    text = page.read_text("utf-8")
    page.write_text(text.replace(card, _ROWS.sub(lambda _: rows_line(name), card)), "utf-8")
