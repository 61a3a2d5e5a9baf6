"""What somebody who takes this course might ask, in our own words, and the answers of docs/faq.md.

data/written/course-questions.tsv has lines `split TAB question TAB topics`: the FAQ's questions whose answer would do,
" | " between them, or nothing where the FAQ has no answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..runtime import root
from .base import Corpus, Row
from .strict import Reading

FILE = "course-questions.tsv"
ENTRY = re.compile(r"^\*\*(.+?)\*\*(?: \(00\d.*?？\))?\s(.+?)(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


def page() -> Path:
    """The FAQ."""
    return root() / "docs" / "faq.md"


def answers(text: str) -> Iterator[Row]:
    """The entries of the FAQ page: topic (its question) and answer, without comments and link targets."""
    for topic, answer in ENTRY.findall(text):
        answer = re.sub(r"<!--.*?-->", "", answer)
        answer = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", answer).replace("*", "")
        yield {"topic": topic, "answer": " ".join(answer.split())}


def read(folder: Path, reading: Reading) -> Iterator[tuple[str, Row]]:
    """Rows of the tables train, validation, test (questions) and answers."""
    entries = list(answers(page().read_text("utf-8")))
    known = {entry["topic"] for entry in entries}
    for number, line in enumerate((folder / FILE).read_text("utf-8").splitlines(), start=1):
        parts = line.split("\t")
        topics = [topic for topic in parts[-1].split(" | ") if topic]
        if len(parts) != 3 or parts[0] not in ("train", "validation", "test") or not parts[1] or set(topics) - known:
            reading.problem(number, "no split, no question, or a topic that is not in docs/faq.md", line)
        else:
            yield parts[0], {"question": parts[1], "topics": topics}
    for entry in entries:
        yield "answers", entry


@dataclass(frozen=True)
class WithAnswers(Corpus):
    """A corpus of ours that also reads docs/faq.md: a change there makes its cached rows stale too."""

    def version(self) -> str:
        return f"{super().version()}-{hashlib.sha256(page().read_bytes()).hexdigest()[:8]}"


QUESTION = {"question": "string", "topics": "list:string"}
ANSWER = {"topic": "string", "answer": "string"}
CORPORA = [
    WithAnswers(
        "course-questions", None, read,
        {"train": QUESTION, "validation": QUESTION, "test": QUESTION, "answers": ANSWER},
        tables=True, written=FILE,
    )
]  # fmt: skip
