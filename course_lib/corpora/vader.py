"""Sentences with human ratings from four places: film reviews, product reviews, tweets, newspaper editorials.

Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.
"""

from __future__ import annotations

import html
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..runtime import CourseError
from .base import Columns, Corpus, Row, find
from .strict import Reading, number, text

NEUTRAL = 0.25  # about the standard error of a mean of 20 ratings: nearer to zero the sign is not known


def _columns(classes: int, neutral: float) -> Columns:
    names = ["negative", "positive"] if classes == 2 else ["negative", "neutral", "positive"]
    return {"text": "string", "label": names, "score": "float32", "document": "string"}


def _reader(file_name: str):
    def read(folder: Path, reading: Reading, *, classes: int, neutral: float) -> Iterator[Row]:
        if classes not in (2, 3):
            raise CourseError(f"classes is {classes}; give 2 (negative, positive) or 3 (with neutral between them).")
        schema = {"id": text, "score": number, "text": text}
        with (
            tempfile.TemporaryDirectory() as scratch,
            tarfile.open(find(folder, "hutto_ICWSM_2014.tar.gz")) as archive,
        ):
            path = Path(scratch) / "rows.txt"
            path.write_bytes(archive.extractfile(f"hutto_ICWSM_2014/{file_name}_GroundTruth.txt").read())
            rows = list(reading.tsv(path, schema))
        for row in rows:
            row["text"] = html.unescape(row["text"])
            row["document"] = row.pop("id").split("_")[0]
            if abs(row["score"]) >= neutral:
                row["label"] = "positive" if row["score"] > 0 else "negative"
            elif classes == 3:
                row["label"] = "neutral"
            else:
                reading.leave_out(f"mean rating nearer to zero than {neutral:g}")
                continue
            yield row

    return read


CORPORA = [
    Corpus(
        name,
        "vaderSentiment",
        _reader(file_name),
        _columns,
        label="label",
        options={"classes": 2, "neutral": NEUTRAL},
    )
    for name, file_name in {
        "movie-reviews": "movieReviewSnippets",
        "product-reviews": "amazonReviewSnippets",
        "tweets": "tweets",
        "editorials": "nytEditorialSnippets",
    }.items()
]
