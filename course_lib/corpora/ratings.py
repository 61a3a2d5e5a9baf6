"""MovieLens 100K: who gave which film how many stars, and when (Harper and Konstan 2015, doi:10.1145/2827872)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .strict import Reading, integer, number, read_tsv, text


def _field(characters: str) -> str:
    return characters.strip()


def _table(path: Path, reading: Reading, schema: dict) -> list[Row]:
    """The rows of one of RecBole's tables; its first line names columns and types."""
    rows, problems = read_tsv(path, schema)
    if not problems or problems[0].line_number != 1 or ":token" not in problems[0].text:
        raise ValueError(f"{path.name} does not begin with a line of column names")
    reading.problems.extend(problems[1:])
    return rows


def read(folder: Path, reading: Reading) -> Iterator[tuple[str, Row]]:
    """Rows of three tables: interactions in the order of time, users and items."""
    example = find(folder, "ml-100k/ml-100k.inter").parent
    schema = {"user": integer, "item": integer, "rating": number, "timestamp": integer}
    interactions = _table(example / "ml-100k.inter", reading, schema)
    users = _table(
        example / "ml-100k.user", reading,
        {"user": integer, "age": integer, "gender": text, "occupation": text, "postcode": _field},
    )  # fmt: skip
    items = _table(
        example / "ml-100k.item", reading,
        {"item": integer, "title": text, "year": _field, "genres": _field},
    )  # fmt: skip
    for row in sorted(interactions, key=lambda row: (row["timestamp"], row["user"], row["item"])):
        yield "interactions", row
    for row in users:
        yield "users", {name: row[name] for name in ("user", "age", "gender", "occupation")}
    for row in items:
        year = int(row["year"]) if row["year"].isdigit() else None
        yield "items", row | {"year": year, "genres": row["genres"].split()}


CORPORA = [
    Corpus(
        "ratings", "recbole", read,
        {
            "interactions": {"user": "int32", "item": "int32", "rating": "float32", "timestamp": "int64"},
            "users": {"user": "int32", "age": "int32", "gender": "string", "occupation": "string"},
            "items": {"item": "int32", "title": "string", "year": "int32", "genres": "list:string"},
        },
        tables=True,
    )
]  # fmt: skip
