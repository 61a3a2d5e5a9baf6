"""What can go wrong around the loop, said in sentences; and Ctrl-C that waits for the step to be complete."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

import torch

from course_lib.runtime import CourseError


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    allowed = {str(kind): kind for kind in (torch.float32, torch.bfloat16, torch.float16)}
    name = f"torch.{str(dtype).removeprefix('torch.')}"
    if name not in allowed:
        raise CourseError(f"dtype is {dtype!r}; choose 'auto', 'float32', 'bfloat16' or 'float16'.")
    return allowed[name]


def require_length(model: torch.nn.Module, longest: int) -> None:
    """Stop with a sentence if a row is longer than the model's position table."""
    config = getattr(model, "config", None) or getattr(getattr(model, "model", None), "config", None)
    limit = getattr(config, "max_position_embeddings", None)
    if limit and longest > limit:
        raise CourseError(
            f"The longest row has {longest} tokens, but the model's position table ends at {limit}. "
            f"Truncate the text, for instance with the task's max_length={limit}."
        )


def require_labels(task: Any, features: list[dict]) -> None:
    """Stop with a sentence if a row's label is not one of the task's classes; on a GPU it would end the process."""
    classes, first = getattr(task, "labels", None), features[0].get("labels")
    if not isinstance(classes, int) or not isinstance(first, int):
        return
    for number, feature in enumerate(features):
        if not 0 <= feature["labels"] < classes:
            raise CourseError(
                f"Row {number} has the label {feature['labels']}, out of range: the task has {classes} classes, "
                f"numbered 0 to {classes - 1}. Check the label column, or give the task more labels."
            )


@contextlib.contextmanager
def explained_index_errors():
    """Torch reports labels, tokens and positions out of range as bare index errors: say what they mean."""
    try:
        yield
    except IndexError as error:
        if "Target" in str(error):
            raise CourseError(
                f"A label is out of range for the task's head ({error}): labels count from 0 and must be below the "
                "number of classes. Check the label column and the number of labels given to the task."
            ) from error
        raise CourseError(
            f"A token or position lies outside the model's tables ({error}): the tokenizer must be the model's own, "
            "and no row longer than the model's position table."
        ) from error


class PoliteInterrupt:
    """Holds the first Ctrl-C (a notebook's stop button) until the step is complete; a second one acts at once."""

    asked = False

    def __enter__(self) -> PoliteInterrupt:
        self.previous = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self.ask)
        return self

    def ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def raise_if_asked(self) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def __exit__(self, *_: Any) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
