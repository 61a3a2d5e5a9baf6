"""What every task says: how rows become tokens, how tokens become batches, and what the loss is."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..architectures import HEADS
from ..runtime import CourseError

TASKS: dict[str, type[Task]] = {}
UNLEARNT = -100  # the label of a position without a loss: a prompt's, padding's


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


def logits_of(output) -> Tensor:
    """The scores in a model's answer: transformers' models name them, the course's own answer with nothing else."""
    return getattr(output, "logits", output)


def column(rows: dict[str, list], name: str, task: Task) -> list:
    """A column by name, or a sentence that says which there are."""
    if name not in rows:
        raise CourseError(f"{task} reads a column {name!r}, but the rows have: {', '.join(rows)}.")
    return rows[name]


def filled(template: str, rows: dict[str, list], task: Task) -> list[str]:
    """The template with each row's columns in its braces."""
    every_row = (dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True))
    try:
        return [template.format(**row) for row in every_row]
    except (KeyError, IndexError, ValueError) as error:
        raise CourseError(
            f"The template {template!r} of {type(task).__name__} cannot be filled ({error}): in its braces may stand "
            f"the columns that the rows have, which are {', '.join(rows)}."
        ) from error


def pad(features: Sequence[dict], tokenizer, labels: Tensor, side: str | None = None) -> dict[str, Tensor]:
    """input_ids and attention_mask (B, T), and cached states (B, T, d) if the features carry them."""
    ids = [torch.as_tensor(feature["input_ids"]) for feature in features]
    side = side or tokenizer.padding_side
    batch = {
        "input_ids": padded(ids, tokenizer.pad_token_id, side),
        "attention_mask": padded([torch.ones_like(i) for i in ids], 0, side),
        "labels": labels,
    }
    if "states" in features[0]:
        batch["states"] = padded([feature["states"] for feature in features], 0.0, side)
    return batch


def padded(rows: Sequence, value: float, side: str) -> Tensor:
    """Rows of different length as one tensor (B, T, ...), filled up with `value` on one side."""
    rows = [torch.as_tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


def with_new_head(model: nn.Module, tokenizer, auto: type, labels: int) -> nn.Module:
    """transformers' class for a task around the very modules of `model`, with a freshly drawn head.

    `auto` is the class that knows which class of the family has that head, such as AutoModelForTokenClassification.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = labels
    if config.pad_token_id is None:  # decoders' heads look for the last token that is not padding
        config.pad_token_id = config.eos_token_id if tokenizer is None else tokenizer.pad_token_id
    with torch.device("meta"):
        headed = auto.from_config(config)
    for name, _ in headed.base_model.named_children():
        setattr(headed.base_model, name, getattr(model.base_model, name))
    name = next(name for name in HEADS if hasattr(headed, name))
    head = getattr(headed, name).to_empty(device="cpu")
    for linear in (module for module in head.modules() if isinstance(module, nn.Linear)):
        linear.reset_parameters()
        nn.init.normal_(linear.weight, std=getattr(config, "initializer_range", 0.02))
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
    return headed


def require_writer(model: nn.Module, task: Task, encoder: bool) -> None:
    """Raise CourseError unless `model` writes token after token: with an encoder before the decoder, or without."""
    writes = hasattr(model, "can_generate") and model.can_generate()
    if writes and model.config.is_encoder_decoder == encoder:
        return
    name, asked = type(model).__name__, type(task).__name__
    if writes:
        other = "SequenceToSequence" if model.config.is_encoder_decoder else "Generation"
        raise CourseError(
            f"{asked} is a task for {'encoder-decoders' if encoder else 'decoders alone'}, and {name} is none. "
            f"Its task is {other}."
        )
    raise CourseError(
        f"{asked} needs a model that writes one token after another; {name} gives states, but no scores for the next "
        "token. Take a language model such as 'smollm2', or a task with a head: Classification, Tagging."
    )


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
