"""One tag for each word: a linear head on the state of every token, read at the first token of a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime import CourseError
from .base import Task, column, pad, padded, with_new_head

UNLABELLED = -100  # tokens that are not the first of a word: no loss, no prediction


@dataclass(frozen=True)
class Tagging(Task):
    """Choose one of `tags` for each word of the column `words`; the true ones (names or numbers) stand in `label`.

    Words are often several tokens; the first one carries the word's tag. Encoders see the whole sentence from every
    word, a decoder only what stands before it. A row longer than `max_length` tokens is an error, for its last words
    would get no tag.
    """

    tags: tuple[str, ...]
    words: str = "tokens"
    label: str = "tags"
    max_length: int = 256

    metrics: ClassVar = ("entity_precision", "entity_recall", "entity_f1")

    def __post_init__(self):
        object.__setattr__(self, "tags", tuple(self.tags))
        if len(set(self.tags)) < 2:
            raise CourseError(f"A tagger chooses between at least two tags; {self.tags} was given.")

    def with_head(self, model: nn.Module, tokenizer=None) -> nn.Module:
        """transformers' token classifier around the very modules of `model` (T5: its encoder), with a new head."""
        from transformers import AutoModelForTokenClassification

        return with_new_head(model, tokenizer, AutoModelForTokenClassification, len(self.tags))

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        sentences, tags = column(rows, self.words, self), column(rows, self.label, self)
        encoded = tokenizer([" ".join(words) for words in sentences], return_offsets_mapping=True)
        labels = []
        for words, row, ids, spans in zip(
            sentences, tags, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            if len(words) != len(row):
                raise CourseError(f"Each word needs a tag, but {len(words)} words have {len(row)}: {' '.join(words)!r}")
            if len(ids) > self.max_length:
                raise CourseError(
                    f"A row of {len(words)} words is {len(ids)} tokens long, and max_length is {self.max_length}: its "
                    f"last words would get no tag. Raise max_length or split the row, which begins {words[:5]}."
                )
            first = first_tokens(words, spans)
            numbers = [UNLABELLED] * len(ids)
            for token, tag in zip(first, row, strict=True):
                numbers[token] = self._number(tag)
            labels.append(numbers)
        return {"input_ids": encoded["input_ids"], "labels": labels}

    def _number(self, tag: str | int) -> int:
        if tag in self.tags:
            return self.tags.index(tag)
        if isinstance(tag, int) and 0 <= tag < len(self.tags):
            return tag
        raise CourseError(f"The data has the tag {tag!r}; Tagging was given {len(self.tags)}: {', '.join(self.tags)}.")

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        labels = padded([feature["labels"] for feature in features], UNLABELLED, tokenizer.padding_side)
        return pad(features, tokenizer, labels)

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy, summed over the words."""
        scores, labels = output.logits.float().flatten(0, 1), batch["labels"].flatten()
        return F.cross_entropy(scores, labels, reduction="sum", ignore_index=UNLABELLED), (labels != UNLABELLED).sum()

    def predictions(self, output, batch: dict[str, Tensor]) -> list[list[str]]:
        """A tag for each word of each row."""
        return self._named(output.logits.float().argmax(-1), batch["labels"])

    def references(self, batch: dict[str, Tensor]) -> list[list[str]]:
        return self._named(batch["labels"], batch["labels"])

    def _named(self, numbers: Tensor, labels: Tensor) -> list[list[str]]:
        rows = zip(numbers, labels != UNLABELLED, strict=True)
        return [[self.tags[number] for number in row[chosen].tolist()] for row, chosen in rows]


def first_tokens(words: list[str], spans: list[tuple[int, int]]) -> list[int]:
    """The place of each word's first token, given the span of characters that each token covers in " ".join(words)."""
    owner = [number for number, word in enumerate(words) for _ in f"{word} "]  # of each character
    space = [letter == " " for word in words for letter in f"{word} "]
    first: dict[int, int] = {}
    for token, (start, end) in enumerate(spans):
        seen = next((c for c in range(start, end) if not space[c]), None)  # special tokens and spaces cover no word
        if seen is not None:
            first.setdefault(owner[seen], token)
    lost = [word for number, word in enumerate(words) if number not in first]
    if lost:
        raise CourseError(f"The word {lost[0]!r} has no token in this vocabulary: take it and its tag out of the row.")
    return [first[number] for number in range(len(words))]
