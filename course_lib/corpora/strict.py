"""Strict reading: every line of a file becomes a row or a reported problem, and none is lost in silence."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..runtime import CourseError

MAX_CHARACTERS = 20_000


class Problem(NamedTuple):
    """One line that could not be used: its number (from 1), why, and how it begins."""

    line_number: int
    reason: str
    text: str


class Problems(list):
    """A list of `Problem` that prints as a short table."""

    def __str__(self) -> str:
        if not self:
            return "no problems"
        shown = [f"{p.line_number:>7}  {p.reason:<50}  {_start(p.text)!r}" for p in self[:20]]
        more = [f"    ... and {len(self) - 20} more"] if len(self) > 20 else []
        return "\n".join([f"{'line':>7}  {'reason':<50}  text", *shown, *more])

    __repr__ = __str__

    def reasons(self) -> Counter:
        """How often each reason occurs, without the quoted values."""
        return Counter(re.sub(r"'.*'", "...", problem.reason) for problem in self)


class TsvRows(NamedTuple):
    """What `read_tsv` returns: `rows, problems = read_tsv(path)`."""

    rows: list[dict[str, Any]]
    problems: Problems


def _start(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


# --- one field -------------------------------------------------------------------------------------------------------
# A parser takes the characters of a field and returns its value, or raises ValueError with the reason.


def text(characters: str) -> str:
    """The field as it is, without spaces around it; must not be empty."""
    if not (stripped := characters.strip()):
        raise ValueError("empty text")
    return stripped


def integer(characters: str) -> int:
    """A whole number, in the digits 0 to 9."""
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", characters):
        raise ValueError(f"label {_start(characters.strip(), 20)!r} is not an integer")
    return int(characters)


def number(characters: str) -> float:
    """A finite number with a decimal point."""
    try:
        value = float(characters)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{_start(characters.strip(), 20)!r} is not a number")
    return value


def one_of(names: Sequence[str | int]) -> Callable[[str], int]:
    """The place of the field in `names`: one_of(["ham", "spam"]) reads "spam" as 1."""
    places = {str(name): place for place, name in enumerate(names)}

    def parse(characters: str) -> int:
        if (name := characters.strip()) not in places:
            known = ", ".join(list(places)[:6]) + (", ..." if len(places) > 6 else "")
            raise ValueError(f"unknown label {_start(name, 20)!r}; expected one of: {known}")
        return places[name]

    return parse


# --- a file ----------------------------------------------------------------------------------------------------------


def read_tsv(
    path: str | Path,
    schema: Mapping[str, Callable[[str], Any]] | None = None,
    *,
    labels: Sequence[str | int] | None = None,
    encoding: str = "utf-8",
    max_characters: int = MAX_CHARACTERS,
) -> TsvRows:
    """Read a `text TAB label` file as people have them; return the good rows and a list of the bad lines.

    A byte order mark and Windows line ends are no problem. A missing or extra tab, an empty text, a label that is
    no integer (or, where `labels` is given, not among them), bytes in another encoding, NUL bytes, blank lines and
    lines of more than `max_characters` are: each is listed with its line number and the reason, and the rest is used.

    schema: column name -> parser (`text`, `integer`, `number`, `one_of(names)`), in the order of the file;
        the default is {"text": text, "label": integer}, or with `labels` {"text": text, "label": one_of(labels)}.
    Raises CourseError if the file cannot be opened, or is UTF-16 and `encoding` does not say so.
    """
    if schema is None:
        schema = {"text": text, "label": integer if labels is None else one_of(labels)}
    rows, problems = [], Problems()
    for line_number, raw in enumerate(_lines(Path(path), encoding), start=1):
        try:
            rows.append(_parse(raw, schema, encoding, max_characters))
        except ValueError as reason:
            shown = raw if isinstance(raw, str) else raw[:400].decode(encoding, "replace")
            problems.append(Problem(line_number, str(reason), shown[:200]))
    return TsvRows(rows, problems)


def _lines(path: Path, encoding: str) -> list[bytes] | list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CourseError(
            f"The file {path} cannot be read ({error.strerror}). "
            "Give the path of a text file, one `text TAB label` a line."
        ) from None
    try:
        keeps_line_ends = "\n".encode(encoding) == b"\n"
    except LookupError:
        raise CourseError(
            f"'{encoding}' is not an encoding that Python knows; try 'utf-8', 'cp1252' or 'gb18030'."
        ) from None
    if keeps_line_ends:  # then a bad byte spoils its own line only
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise CourseError(f"{path.name} is in UTF-16, not {encoding}: call read_tsv(..., encoding='utf-16').")
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    else:
        try:
            lines = content.decode(encoding).removeprefix("\ufeff").split("\n")
        except UnicodeDecodeError as error:
            raise CourseError(f"{path.name} is not in {encoding}: {error.reason} at byte {error.start}.") from None
    return lines[:-1] if not lines[-1] else lines


def _parse(raw: bytes | str, schema: Mapping, encoding: str, max_characters: int) -> dict[str, Any]:
    if isinstance(raw, bytes):
        try:
            line = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(f"not {encoding}: byte 0x{raw[error.start]:02x} at {error.start + 1}") from None
    else:
        line = raw
    line = line.removesuffix("\r")
    if "\0" in line:
        raise ValueError("NUL byte")
    if not line.strip():
        raise ValueError("blank line")
    if "\r" in line:
        raise ValueError("carriage return inside the line (old Macintosh line ends?)")
    if len(line) > max_characters:
        raise ValueError(f"{len(line):,} characters, more than {max_characters:,}")
    fields = line.split("\t")
    if len(fields) < len(schema):
        raise ValueError("no tab" if len(fields) == 1 else f"{len(fields)} columns, expected {len(schema)}")
    if len(fields) > len(schema):
        raise ValueError(f"{len(fields) - 1} tabs, expected {len(schema) - 1}")
    return {name: parse(characters) for (name, parse), characters in zip(schema.items(), fields)}


# --- what happened while a corpus was read ---------------------------------------------------------------------------


@dataclass
class Reading:
    """The account of one reading: how many rows came in, and what became of those that are not in the data."""

    name: str = ""
    rows: int = 0
    problems: Problems = field(default_factory=Problems)
    left_out: Counter = field(default_factory=Counter)
    duplicates: int = 0
    contradictions: int = 0

    def problem(self, line_number: int, reason: str, text: str = "") -> None:
        """Note a line that could not be read."""
        self.problems.append(Problem(line_number, reason, text[:200]))

    def leave_out(self, reason: str) -> None:
        """Note a row that was read and left out on purpose."""
        self.left_out[reason] += 1

    def tsv(self, path: Path, schema: Mapping[str, Callable[[str], Any]], **options: Any) -> Iterator[dict[str, Any]]:
        """`read_tsv`, with the problems noted here."""
        found = read_tsv(path, schema, **options)
        self.problems.extend(found.problems)
        return iter(found.rows)

    def __str__(self) -> str:
        told = [
            f"{self.rows:,} usable rows read",
            f"{len(self.problems):,} malformed",
            f"{self.duplicates:,} duplicates dropped",
        ]
        if self.contradictions:
            told.append(f"{self.contradictions:,} dropped because the same text has two labels")
        told += [f"{count:,} left out: {reason}" for reason, count in self.left_out.items()]
        return f"{self.name}: " + "; ".join(told) + (f"\n{self.problems}" if self.problems else "")

    __repr__ = __str__
