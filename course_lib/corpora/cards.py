"""The cards of data/README.md: one section a source, with the number of rows measured."""

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


def path() -> Path:
    """Where the cards are."""
    return root() / "data" / "README.md"


def read(name: str) -> Card:
    """The section `## name` of data/README.md. Raises CourseError where the file or the section is missing."""
    if not path().is_file():
        raise CourseError(f"The cards are in {path()}, which is not there; they come with the course's repository.")
    section = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", path().read_text("utf-8"), re.MULTILINE | re.DOTALL)
    if section is None:
        raise CourseError(f"data/README.md has no section '## {name}'; add a card for it.")
    return Card(section.group().strip())


def rows_line(name: str) -> str:
    """The card's line on rows, as measured now: what was kept for each split, and what was not."""
    from . import load_data, reading

    parts = ", ".join(f"{split} {len(rows):,}" for split, rows in load_data(name).items())
    account = str(reading(name)).splitlines()[0].partition(": ")[2]
    return f"- Rows: {parts} ({account})."


def refresh(name: str) -> None:
    """Measure the rows of one source again and write them into its card."""
    text, card = path().read_text("utf-8"), read(name)
    path().write_text(text.replace(card, _ROWS.sub(lambda _: rows_line(name), card)), "utf-8")
