"""The task of pretraining a decoder: at every position, guess the token that comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import UNLEARNT, Task, column, logits_of, padded


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
        labels = padded([row[1:] for row in rows], UNLEARNT, "right")
        return {"input_ids": padded([row[:-1] for row in rows], 0, "right"), "labels": labels}

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits, labels = logits_of(output), batch["labels"]  # (B, n, V), (B, n)
        total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=UNLEARNT)
        return total, (labels != UNLEARNT).sum()

    def predictions(self, output, batch: dict[str, Tensor]) -> list[list[int]]:
        """The likeliest token at each position, row by row."""
        return logits_of(output).argmax(-1).tolist()

    def references(self, batch: dict[str, Tensor]) -> list[list[int]]:
        return batch["labels"].tolist()
