"""The task of pretraining a decoder: at every position, guess the token that comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Task, column

IGNORED = -100  # cross_entropy's mark for positions without a target


@dataclass(frozen=True)
class NextToken(Task):
    """Cross-entropy of each token given those before it, summed over the positions that have one.

    Features hold n + 1 input_ids (`language_models.windows` cuts them from a long text; of rows with a column `text` at
    most `max_length` + 1 tokens are taken): the model reads the first n and is asked for the last n. Works with the
    course's models, which answer with logits, and with those of transformers.
    """

    text: str = "text"
    max_length: int = 128

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        ids = tokenizer(column(rows, self.text, self), truncation=True, max_length=self.max_length + 1)["input_ids"]
        return {"input_ids": [row for row in ids if len(row) > 1]}

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        """Shorter rows are filled up behind their end, where a causal model's answers do not reach back."""
        rows = [torch.as_tensor(feature["input_ids"]) for feature in features]
        if len({len(row) for row in rows}) == 1:
            ids = torch.stack(rows)  # (B, n + 1)
            return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
        ids = torch.nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=IGNORED)
        return {"input_ids": ids, "labels": labels}

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = getattr(output, "logits", output)  # (B, n, V)
        labels = batch["labels"]
        total = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED
        )
        return total, (labels != IGNORED).sum()

    def predictions(self, output, batch: dict[str, Tensor]) -> list[list[int]]:
        """The likeliest token at each position, row by row."""
        return getattr(output, "logits", output).argmax(-1).tolist()

    def references(self, batch: dict[str, Tensor]) -> list[list[int]]:
        return batch["labels"].tolist()
