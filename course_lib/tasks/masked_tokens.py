"""The task of pretraining an encoder: guess tokens that were hidden, from both sides (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime import CourseError
from .base import UNLEARNT, Task, column, logits_of, padded


@dataclass(frozen=True)
class MaskedTokens(Task):
    """Choose `rate` of the tokens and ask for them: 80 % of the chosen show the mask, 10 % a random token, 10 % stay.

    The last two keep the model honest about tokens that it sees: any of them might be wrong. Special tokens are never
    chosen, and only chosen ones count in the loss. A batch is masked anew each time it is made, from torch's generator;
    rows that hold labels already (`fixed` makes them, for validation) stay as they are.
    """

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    text: str = "text"
    max_length: int = 128

    def __post_init__(self):
        shares = (self.mask_share, self.random_share)
        if not 0 < self.rate <= 1 or min(shares) < 0 or sum(shares) > 1:
            raise CourseError(
                f"rate={self.rate} must lie above 0 and at most at 1, and mask_share={self.mask_share} and "
                f"random_share={self.random_share} must be shares that add up to at most 1."
            )

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        texts = column(rows, self.text, self)
        return {"input_ids": tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]}

    def mask(self, ids: Tensor, tokenizer, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """ids of any shape -> (what the model sees, labels): labels are the hidden tokens, and -100 elsewhere."""
        if tokenizer is None or getattr(tokenizer, "mask_token_id", None) is None:
            raise CourseError("MaskedTokens needs a tokenizer with a mask token: pass fit(..., tokenizer=...).")
        special = torch.tensor(tokenizer.all_special_ids)
        chosen = (torch.rand(ids.shape, generator=generator) < self.rate) & ~torch.isin(ids, special)
        labels = ids.masked_fill(~chosen, UNLEARNT)
        ordinary = torch.arange(len(tokenizer))
        ordinary = ordinary[~torch.isin(ordinary, special)]
        random = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]
        dice = torch.rand(ids.shape, generator=generator)
        seen = torch.where(chosen & (dice < self.mask_share), tokenizer.mask_token_id, ids)
        replaced = chosen & (dice >= self.mask_share) & (dice < self.mask_share + self.random_share)
        return torch.where(replaced, random, seen), labels

    def fixed(self, features: Sequence[dict], tokenizer, seed: int = 0) -> list[dict]:
        """Features masked once and for all, so that every evaluation asks the same."""
        generator = torch.Generator().manual_seed(seed)
        masked = (self.mask(torch.as_tensor(f["input_ids"]), tokenizer, generator) for f in features)
        return [{"input_ids": seen, "labels": labels} for seen, labels in masked]

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        pad = getattr(tokenizer, "pad_token_id", None) or 0
        ids = padded([feature["input_ids"] for feature in features], pad, "right")  # (B, T)
        lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        if "labels" in features[0]:
            labels = padded([feature["labels"] for feature in features], UNLEARNT, "right")
        else:
            ids, labels = self.mask(ids, tokenizer)
            ids, labels = torch.where(real, ids, pad), torch.where(real, labels, UNLEARNT)
        mask = {} if bool(real.all()) else {"attention_mask": real.long()}
        return {"input_ids": ids, **mask, "labels": labels}

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy, summed over the chosen tokens."""
        chosen = batch["labels"] != UNLEARNT
        logits = logits_of(output)[chosen]  # (chosen, V)
        return F.cross_entropy(logits.float(), batch["labels"][chosen], reduction="sum"), chosen.sum()

    def predictions(self, output, batch: dict[str, Tensor]) -> list[list[int]]:
        """The likeliest token at each chosen position, row by row."""
        likeliest = logits_of(output).argmax(-1)
        return [row[labels != UNLEARNT].tolist() for row, labels in zip(likeliest, batch["labels"])]

    def references(self, batch: dict[str, Tensor]) -> list[list[int]]:
        return [labels[labels != UNLEARNT].tolist() for labels in batch["labels"]]
