"""One label for a text: a linear head on the state that stands for the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime import CourseError
from .base import Task, column, pad, with_new_head


@dataclass(frozen=True)
class Classification(Task):
    """Choose one of `labels` classes for the text in column `text`; the integer label stands in column `label`.

    Texts are cut to `max_length` tokens. The head is transformers' own: one linear layer on BERT's pooled [CLS] state
    or on a decoder's last state; in RoBERTa and T5 (the decoder's state at the end token) after a tanh layer.
    """

    labels: int = 2
    text: str = "text"
    label: str = "label"
    max_length: int = 128

    def __post_init__(self):
        if self.labels < 2:
            raise CourseError(f"A classifier needs at least two labels; labels={self.labels} was given.")

    def with_head(self, model: nn.Module, tokenizer=None) -> nn.Module:
        """transformers' classifier class around the very modules of `model`, with a freshly drawn head."""
        from transformers import AutoModelForSequenceClassification

        return with_new_head(model, tokenizer, AutoModelForSequenceClassification, self.labels)

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        texts, labels = column(rows, self.text, self), column(rows, self.label, self)
        wrong = [label for label in labels if not 0 <= label < self.labels]
        if wrong:
            raise CourseError(
                f"There is a label {wrong[0]}, but {self.labels} classes are numbered 0 to {self.labels - 1}. "
                "Give Classification the right number of labels, or renumber them."
            )
        encoded = tokenizer(texts, truncation=True, max_length=self.max_length)
        return {"input_ids": encoded["input_ids"], "labels": list(labels)}

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        return pad(features, tokenizer, torch.tensor([feature["labels"] for feature in features]))

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        """Cross-entropy, summed over the rows."""
        return F.cross_entropy(output.logits.float(), batch["labels"], reduction="sum"), len(batch["labels"])

    def scores(self, output, batch: dict[str, Tensor]) -> Tensor:
        """Probabilities (B, labels)."""
        return output.logits.float().softmax(-1)

    def predictions(self, output, batch: dict[str, Tensor]) -> list[int]:
        return output.logits.float().argmax(-1).tolist()

    def references(self, batch: dict[str, Tensor]) -> list[int]:
        return batch["labels"].tolist()
