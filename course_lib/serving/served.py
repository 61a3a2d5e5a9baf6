"""The model side of the service: one base, many additions, a batch in which every row names its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import tasks
from ..additive import Tuned, files, load
from ..bases import Base
from ..runtime import CourseError
from ..tasks.base import padded


class TooLong(CourseError):
    """A text of more tokens than the additions were trained to read."""


@dataclass(frozen=True)
class Row:
    """One text as tokens, and the addition that is to read it."""

    addition: str
    ids: list[int]


class Served:
    """A base under many classifying additions, which share their task."""

    def __init__(self, tuned: Tuned):
        if not isinstance(tuned.task, tasks.Classification):
            raise CourseError(
                f"The service answers for classifiers, but these additions are for {tuned.task or 'no task'}. "
                "Save additions that were attached with task=Classification(...)."
            )
        self.tuned, self.task, self.tokenizer = tuned, tuned.task, tuned.tokenizer

    @classmethod
    def from_folders(cls, base: Base, folders: Sequence[str | Path]) -> Served:
        """Put saved additions on one base, each under its folder's name.

        Raises CourseError for two folders of one name, for additions of different tasks, and for whatever
        `additive.load` refuses: files that are missing or damaged, another base.
        """
        if not folders:
            raise CourseError("Name at least one folder that holds a saved addition.")
        tuned: Tuned | None = None
        first: tuple[Path, dict] | None = None
        for folder in map(Path, folders):
            description = files.read(folder)[2]
            task = description and description["task"]  # peft's own files say nothing of texts and lengths
            if first and task and task != first[1]:
                raise CourseError(
                    f"{folder} is for the task {task}, but {first[0]} for {first[1]}: one service has one task. "
                    "Serve them apart."
                )
            first = first or (task and (folder, task))
            tuned = load(tuned or base, folder, name=folder.resolve().name)
        return cls(tuned)

    @property
    def names(self) -> list[str]:
        """The additions, in the order in which they were loaded."""
        return list(self.tuned.additions)

    def row(self, text: str, addition: str) -> Row:
        """A text as tokens. Raises TooLong rather than answer for a text that was cut without a word."""
        ids = self.tokenizer(text, verbose=False)["input_ids"]  # no advice of transformers' on long texts
        if len(ids) > self.task.max_length:
            raise TooLong(
                f"The text has {len(ids):,} tokens, and these additions read {self.task.max_length}. "
                "Send a shorter text, or its parts one by one."
            )
        return Row(addition, ids)

    @torch.no_grad()
    def answer(self, rows: Sequence[Row]) -> list[dict]:
        """One pass over a batch whose rows use different additions; probabilities rounded to six places."""
        device = next(self.tuned.model.parameters()).device
        ids = padded([row.ids for row in rows], self.tokenizer.pad_token_id, "right").to(device)  # (B, T)
        mask = padded([[1] * len(row.ids) for row in rows], 0, "right").to(device)
        output = self.tuned(input_ids=ids, attention_mask=mask, additions=[row.addition for row in rows])
        scores = self.task.scores(output, {}).tolist()  # (B, labels)
        return [
            {"addition": row.addition, "label": own.index(max(own)), "scores": [round(score, 6) for score in own]}
            for row, own in zip(rows, scores, strict=True)
        ]
