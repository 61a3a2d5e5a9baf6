"""What every task says: how rows become tokens, how tokens become batches, and what the loss is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime import CourseError

TASKS: dict[str, type[Task]] = {}


class Task:
    """Base of the task dataclasses."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        TASKS[cls.__name__] = cls

    def with_head(self, model: nn.Module, tokenizer=None) -> nn.Module:
        """The model with the head that this task needs; as it is, if it needs none."""
        return model

    def encode(self, rows: dict[str, list], tokenizer) -> dict[str, list]:
        """Columns of text -> columns of tokens: at least input_ids and labels."""
        raise NotImplementedError

    def collate(self, features: Sequence[dict], tokenizer) -> dict[str, Tensor]:
        """Features -> one padded batch. Every key but "labels" is an input of the model."""
        raise NotImplementedError

    def loss(self, output, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        """The loss summed over what is predicted, and how much that is."""
        raise NotImplementedError

    def predictions(self, output, batch: dict[str, Tensor]) -> list:
        raise NotImplementedError

    def references(self, batch: dict[str, Tensor]) -> list:
        raise NotImplementedError

    def features(self, dataset: Iterable[dict], tokenizer) -> list[dict]:
        """A dataset (or list of rows) as a list of encoded features; features pass through as they are."""
        rows = list(dataset)
        if not rows:
            raise CourseError("The dataset is empty: there is no row to encode.")
        if "input_ids" in rows[0]:
            return rows
        if tokenizer is None:
            raise CourseError("Text needs a tokenizer: attach to load_base(...), or give tokenizer=.")
        columns = self.encode({key: [row[key] for row in rows] for key in rows[0]}, tokenizer)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def inputs_of(batch: dict) -> dict:
    """What the model is given of a batch: everything but the labels, which the task's loss reads."""
    return {key: value for key, value in batch.items() if key != "labels"}


def column(rows: dict[str, list], name: str, task: Task) -> list:
    """A column by name, or a sentence that says which there are."""
    if name not in rows:
        raise CourseError(f"{task} reads a column {name!r}, but the rows have: {', '.join(rows)}.")
    return rows[name]


def pad(features: Sequence[dict], tokenizer, labels: Tensor) -> dict[str, Tensor]:
    """input_ids and attention_mask (B, T), and cached states (B, T, d) if the features carry them."""
    ids = [torch.as_tensor(feature["input_ids"]) for feature in features]
    side = tokenizer.padding_side
    batch = {
        "input_ids": _padded(ids, tokenizer.pad_token_id, side),
        "attention_mask": _padded([torch.ones_like(i) for i in ids], 0, side),
        "labels": labels,
    }
    if "states" in features[0]:
        batch["states"] = _padded([feature["states"] for feature in features], 0.0, side)
    return batch


def _padded(rows: list[Tensor], value: float, side: str) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


def describe(task: Task) -> dict:
    """A task as JSON: its name and fields."""
    return {"name": type(task).__name__, **dataclasses.asdict(task)}


def from_description(description: dict) -> Task:
    """The task that `describe` described."""
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in description.items()}
    name = fields.pop("name")
    if name not in TASKS:
        raise CourseError(f"There is no task called {name!r}; there are: {', '.join(TASKS)}.")
    return TASKS[name](**fields)
