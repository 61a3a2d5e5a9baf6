"""A small table that reads well as text, in a notebook and on paper."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"[-+−]?[\d.,]+\s*%?(\s*\[.*\])?(,? p [=<] [\d.]+)?|–|\[.*\]")


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header; columns of numbers are aligned to the right, in figures of equal width."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def _numeric(self, column: int) -> bool:
        return all(NUMBER.fullmatch(row[column]) for row in self.rows)

    def __str__(self) -> str:
        columns = range(len(self.header))
        widths = [max(_width(line[c]) for line in (self.header, *self.rows)) for c in columns]

        def line(cells: Sequence[str]) -> str:
            padded = [
                " " * (widths[c] - _width(cells[c])) + cells[c] if self._numeric(c) else
                cells[c] + " " * (widths[c] - _width(cells[c])) for c in columns
            ]
            return "  ".join(padded).rstrip()

        ruled = [line(self.header), "  ".join("-" * width for width in widths), *map(line, self.rows)]
        return "\n".join([*ruled, *([self.caption] if self.caption else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def cells(tag: str, line: Sequence[str]) -> str:
            side = ["right" if self._numeric(c) else "left" for c in range(len(line))]
            return "".join(
                f'<{tag} style="text-align: {side[c]}; white-space: nowrap">{html.escape(cell)}</{tag}>'
                for c, cell in enumerate(line)
            )

        caption = f'<caption style="caption-side: bottom">{html.escape(self.caption)}</caption>' if self.caption else ""
        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        return (
            f'<table style="font-variant-numeric: tabular-nums">{caption}<thead><tr>{cells("th", self.header)}</tr>'
            f"</thead><tbody>{body}</tbody></table>"
        )


def _width(text: str) -> int:
    """Columns a text takes in a terminal: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
