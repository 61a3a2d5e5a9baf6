"""Questions and answers written for a chat bot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..runtime import CourseError
from .base import Corpus, Row, find
from .splits import normalise
from .strict import Reading

LANGUAGES = {"en": "english", "zh": "chinese"}


def read(folder: Path, reading: Reading, *, language: str) -> Iterator[Row]:
    """Rows of question, answer and topic: the first two lines of each exchange."""
    import yaml

    if language not in LANGUAGES:
        raise CourseError(f"faq has no language '{language}'; it has: {', '.join(LANGUAGES)}.")
    for path in sorted(find(folder, f"data/{LANGUAGES[language]}/ai.yml").parent.glob("*.yml")):
        for number, exchange in enumerate(yaml.safe_load(path.read_text("utf-8"))["conversations"], start=1):
            question, answer = ([" ".join(str(line or "").split()) for line in exchange] + ["", ""])[:2]
            if question and answer:
                yield {"question": question, "answer": answer, "topic": path.stem}
            else:
                reading.problem(number, f"no question or no answer in {path.name}", question)


CORPORA = [
    Corpus(
        "faq", "chatterbot-corpus", read, {"question": "string", "answer": "string", "topic": "string"},
        split_on=lambda row: normalise(row["question"]),
        same_as=lambda row: f"{normalise(row['question'])}\t{normalise(row['answer'])}",
        options={"language": "en"},
    )
]  # fmt: skip
