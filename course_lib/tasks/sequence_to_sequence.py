"""From text to text: an encoder reads the source, a decoder writes the target.

    encoder   x_1 x_2 ... x_m
    decoder   start y_1 ... y_n      learns   y_1 ... y_n end:   its inputs are its labels, one place to the right
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..runtime import CourseError
from .base import UNLEARNT, filled, logits_of, pad, padded
from .generation import Generation


@dataclass(frozen=True)
class SequenceToSequence(Generation):
    """Read `template`, filled with the row's columns, and write `target`, filled likewise.

    Both are cut at their ends, sources to `max_length` tokens and targets to `max_target`, the end token kept. `start`
    is the id of the token that the decoder begins with, by default the padding token, as in T5.
    """

    template: str = "{source}"
    start: int | None = None

    encoder: ClassVar = True

    def with_head(self, model: nn.Module, tokenizer=None) -> nn.Module:
        """The model as it is, if it has an encoder and a decoder, and the decoder begins with `start`."""
        super().with_head(model, tokenizer)
        theirs = model.config.decoder_start_token_id
        ours = model.config.pad_token_id if self.start is None else self.start
        if theirs is not None and theirs != ours:
            raise CourseError(
                f"{type(model).__name__}'s decoder begins with token {theirs}, not {ours}: "
                f"give SequenceToSequence(start={theirs}, ...)."
            )
        return model

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        texts = filled(self.target, rows, self)
        labels = tokenizer(texts, truncation=True, max_length=self.max_target)["input_ids"]
        return {"input_ids": self.prompts(rows, tokenizer), "labels": labels, "reference": texts}

    def prompts(self, rows: dict[str, list], tokenizer) -> list[list[int]]:
        sources = filled(self.template, rows, self)
        return tokenizer(sources, truncation=True, max_length=self.max_length)["input_ids"]

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        labels = padded([feature["labels"] for feature in features], UNLEARNT, "right")
        start = tokenizer.pad_token_id if self.start is None else self.start
        inputs = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)  # one place to the right
        inputs = inputs.masked_fill(inputs == UNLEARNT, tokenizer.pad_token_id)
        return {**pad(features, tokenizer, labels), "decoder_input_ids": inputs}

    def aligned(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scores (B, t, V) and labels (B, t): the inputs were shifted, so the two stand at the same places."""
        return logits_of(output).float(), batch["labels"]

    @staticmethod
    def prompt_of(feature: dict) -> list[int]:
        return list(feature["input_ids"])
