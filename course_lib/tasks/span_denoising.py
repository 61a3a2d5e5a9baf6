"""The task of pretraining an encoder-decoder: write down the spans that were cut out (Raffel et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime import CourseError
from .base import UNLEARNT, Task, column, logits_of, padded


@dataclass(frozen=True)
class SpanDenoising(Task):
    """Cut out spans, `rate` of all tokens and `span` long on average; a sentinel stands for each.

        text      the cat sat on the mat today
        source    the <0> on the <1> today
        target    <0> cat sat <1> mat <end>

    Batches are cut anew each time they are made, from torch's generator. The tokenizer has sentinels (`Bytes(sentinels=
    32)`, or T5's); the decoder starts from its begin token or, as T5's does, from its padding.
    """

    rate: float = 0.15
    span: float = 3.0
    text: str = "text"
    max_length: int = 128

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        texts = column(rows, self.text, self)
        ids = tokenizer(texts, truncation=True, max_length=self.max_length, add_special_tokens=False)["input_ids"]
        return {"input_ids": [row for row in ids if len(row) > 1]}

    def noise(self, length: int) -> Tensor:
        """Which of `length` tokens are cut out, as booleans: spans of random lengths, text before each of them."""
        hidden = min(max(round(length * self.rate), 1), length - 1)
        spans = min(max(round(hidden / self.span), 1), length - hidden)
        kept, cut = lengths(length - hidden, spans), lengths(hidden, spans)
        pieces = torch.stack([kept, cut], dim=1).flatten()  # text, span, text, span, ...
        return (torch.arange(2 * spans) % 2 == 1).repeat_interleave(pieces)

    def corrupt(self, ids: Tensor, tokenizer) -> tuple[Tensor, Tensor]:
        """ids (n,) -> (source, target)."""
        hidden = self.noise(len(ids))
        before = torch.cat([torch.zeros(1, dtype=torch.bool), hidden[:-1]])
        starts = hidden & ~before
        marks = torch.tensor(sentinels(tokenizer))
        if starts.sum() > len(marks):
            raise CourseError(
                f"A text of {len(ids)} tokens lost {int(starts.sum())} spans, but the tokenizer has {len(marks)} "
                "sentinels: give it more, or shorten the texts."
            )
        marked = torch.where(starts, marks[(starts.cumsum(0) - 1).clamp_min(0)], ids)
        source = marked[~hidden | starts]
        target = [torch.stack([marked[i], ids[i]]) if starts[i] else ids[i : i + 1] for i in hidden.nonzero()[:, 0]]
        return source, torch.cat([*target, torch.tensor([tokenizer.eos_token_id])])

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        pairs = [self.corrupt(torch.as_tensor(feature["input_ids"]), tokenizer) for feature in features]
        sources, targets = zip(*pairs)
        pad, begin = tokenizer.pad_token_id, getattr(tokenizer, "bos_token_id", None)
        begin = torch.tensor([pad if begin is None else begin])
        return {
            "input_ids": padded(sources, pad, "right"),
            "attention_mask": padded([torch.ones_like(source) for source in sources], 0, "right"),
            "decoder_input_ids": padded([torch.cat([begin, target[:-1]]) for target in targets], pad, "right"),
            "labels": padded(targets, UNLEARNT, "right"),
        }

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy, summed over the target's tokens."""
        logits, labels = logits_of(output), batch["labels"]
        total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=UNLEARNT)
        return total, (labels != UNLEARNT).sum()


def lengths(total: int, parts: int) -> Tensor:
    """`total` cut at random into `parts` lengths of at least 1, every way of cutting equally likely."""
    cuts = torch.randperm(total - 1)[: parts - 1].sort().values + 1
    return torch.diff(torch.cat([torch.tensor([0]), cuts, torch.tensor([total])]))


def sentinels(tokenizer) -> list[int]:
    """The ids that may stand for spans, the first span's first."""
    if getattr(tokenizer, "sentinel_ids", None):
        return tokenizer.sentinel_ids
    known = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    found = [known[name] for name in (f"<extra_id_{n}>" for n in range(len(known))) if name in known]
    if not found:
        raise CourseError("SpanDenoising needs a tokenizer with sentinels, such as Bytes(sentinels=32) or T5's.")
    return found
