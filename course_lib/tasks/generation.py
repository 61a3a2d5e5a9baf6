"""Text after text: a decoder goes on from a prompt, and learns the target that stands behind it.

    prompt        target
    p_1 ... p_m   y_1 ... y_n   end          loss = - sum_t log P(y_t | p, y_<t), the end token included

The prompt is read, not learnt: its tokens carry no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime import CourseError
from .base import UNLEARNT, Task, filled, logits_of, pad, padded, require_writer


@dataclass(frozen=True)
class Generation(Task):
    """Continue `template`, filled with the row's columns, with `target`, filled likewise, and then stop.

    Prompts keep their last `max_length` tokens, targets their first `max_target`; the unit of the loss is the token.
    `evaluate` lets the model write, and compares texts.
    """

    template: str = "{source}\n"
    target: str = "{target}"
    max_length: int = 128
    max_target: int = 64

    metrics: ClassVar = ("exact_match", "chrf")
    encoder: ClassVar = False  # is the prompt read by an encoder, or by the decoder that goes on from it?

    def with_head(self, model: nn.Module, tokenizer=None) -> nn.Module:
        """The model as it is, if it writes from left to right."""
        require_writer(model, self, self.encoder)
        return model

    # --- learning -------------------------------------------------------------------------------------------

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        prompts, texts = self.prompts(rows, tokenizer), filled(self.target, rows, self)
        targets = [
            ids[: self.max_target] if len(ids) > self.max_target else [*ids, tokenizer.eos_token_id]
            for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]
        ]
        pairs = list(zip(prompts, targets, strict=True))
        return {
            "input_ids": [prompt + target for prompt, target in pairs],
            "labels": [[UNLEARNT] * len(prompt) + target for prompt, target in pairs],
            "reference": texts,
        }

    def prompts(self, rows: dict[str, list], tokenizer) -> list[list[int]]:
        """The tokens that the model is given before it writes."""
        if tokenizer.eos_token_id is None:
            raise CourseError("This tokenizer has no end token, so no model could learn where to stop: set eos_token.")
        prompts = tokenizer(filled(self.template, rows, self))["input_ids"]
        if not all(prompts):
            raise CourseError(f"The template {self.template!r} gave a prompt of no tokens: put some words in it.")
        return [ids[-self.max_length :] for ids in prompts]

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        """Padded on the left, so that targets end in the last column: only their scores are computed."""
        labels = padded([feature["labels"] for feature in features], UNLEARNT, "left")
        batch = pad(features, tokenizer, labels, "left")
        prompt = (labels == UNLEARNT) & batch["attention_mask"].bool()
        longest = int((labels != UNLEARNT).sum(1).max())
        return {**batch, "prompt_mask": prompt.long(), "logits_to_keep": longest + 1}

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy, summed over the targets' tokens."""
        scores, labels = self.aligned(output, batch)
        loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=UNLEARNT)
        return loss, (labels != UNLEARNT).sum()

    def aligned(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scores (B, t, V) and the tokens (B, t) they are for: position i speaks of token i + 1."""
        scores = logits_of(output).float()
        return scores[:, :-1], batch["labels"][:, -scores.shape[1] :][:, 1:]

    def predictions(self, output, batch: dict[str, Tensor]) -> list[list[int]]:
        """The token that is likeliest at each place of the target, given the true ones before it."""
        scores, labels = self.aligned(output, batch)
        return [row[chosen].tolist() for row, chosen in zip(scores.argmax(-1), labels != UNLEARNT, strict=True)]

    def references(self, batch: dict[str, Tensor]) -> list[list[int]]:
        """The targets' tokens."""
        return [row[row != UNLEARNT].tolist() for row in batch["labels"]]

    # --- writing --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self, model: nn.Module, rows: Sequence[dict], tokenizer=None, *, batch_size: int = 16, **options: Any
    ) -> list[str]:
        """What `model` writes for each row (raw, or encoded), up to the end token, in the order of the rows.

        Rows of similar length share a batch. `options` go to the model's `generate`, which is greedy unless they say
        otherwise (num_beams=4, do_sample=True, ...).
        """
        tokenizer = tokenizer or getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise CourseError("Text needs a tokenizer: attach to load_base(...), or give tokenizer=.")
        rows = list(rows)
        if rows and "input_ids" in rows[0]:
            prompts = [self.prompt_of(feature) for feature in rows]
        else:
            prompts = self.prompts({name: [row[name] for row in rows] for name in rows[0]}, tokenizer) if rows else []
        options = {"max_new_tokens": self.max_target + 1, "do_sample": False, **options}
        side = tokenizer.padding_side if self.encoder else "left"
        device = next(model.parameters()).device
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        texts = [""] * len(prompts)
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            ids = padded([prompts[i] for i in chosen], tokenizer.pad_token_id, side).to(device)
            mask = padded([[1] * len(prompts[i]) for i in chosen], 0, side).to(device)
            said = model.generate(
                ids, attention_mask=mask, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
                **options,
            )
            said = said if self.encoder else said[:, ids.shape[1] :]  # a decoder's answer begins with its prompt
            for i, text in zip(chosen, tokenizer.batch_decode(said, skip_special_tokens=True), strict=True):
                texts[i] = text
        return texts

    @staticmethod
    def prompt_of(feature: dict) -> list[int]:
        """The prompt's tokens of an encoded row."""
        length = next(place for place, label in enumerate(feature["labels"]) if label != UNLEARNT)
        return list(feature["input_ids"][:length])
