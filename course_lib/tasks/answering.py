"""One word as the answer: a language model is asked, and its next token, over the whole vocabulary, is what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime import CourseError
from .base import Task, column, filled, pad, require_writer


@dataclass(frozen=True)
class Answer(Task):
    """Fill `template` with the row's columns and answer with `words[label]`, one token each.

    No head is added: the model's own scores over its vocabulary are used, and the loss is cross-entropy over all of
    them. A prediction is the token that is said, of all in the vocabulary.
    """

    words: tuple[str, ...] = (" negative", " positive")
    template: str = "Review: {text}\nSentiment:"
    label: str = "label"
    max_length: int = 128

    def with_head(self, model: nn.Module, tokenizer=None) -> nn.Module:
        """The model as it is, if it can answer at all."""
        require_writer(model, self, encoder=False)
        return model

    def word_ids(self, tokenizer) -> list[int]:
        """The token id of each word; an error names a word that is more than one token."""
        ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in self.words]
        for word, tokens in zip(self.words, ids, strict=True):
            if len(tokens) != 1:
                raise CourseError(f"{word!r} is {len(tokens)} tokens in this vocabulary; choose a word of one.")
        return [tokens[0] for tokens in ids]

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        labels = column(rows, self.label, self)
        words = self.word_ids(tokenizer)
        ids = tokenizer(filled(self.template, rows, self))["input_ids"]
        # the question stands at the end, so what is too long loses its beginning
        return {"input_ids": [i[-self.max_length :] for i in ids], "labels": [words[label] for label in labels]}

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        """Padded on the left, so that the answer is what follows the last column; only its scores are computed."""
        batch = pad(features, tokenizer, torch.tensor([feature["labels"] for feature in features]))
        return {**batch, "logits_to_keep": 1}

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        """Cross-entropy over the whole vocabulary at the answer, summed over the rows."""
        scores = output.logits[:, -1].float()
        return F.cross_entropy(scores, batch["labels"], reduction="sum"), len(batch["labels"])

    def predictions(self, output, batch: dict[str, Tensor]) -> list[int]:
        """The token id that the model says."""
        return output.logits[:, -1].float().argmax(-1).tolist()

    def references(self, batch: dict[str, Tensor]) -> list[int]:
        return batch["labels"].tolist()

    def scores(self, output, batch: dict[str, Tensor]) -> Tensor:
        """Scores over the whole vocabulary (B, V): restricted to the words, they make the two-way choice."""
        return output.logits[:, -1].float()
