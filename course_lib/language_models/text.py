"""From text to ids, and from a long text to windows that a model is trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..runtime import CourseError


def as_ids(text) -> Tensor:
    """Token ids (N,), int64: the UTF-8 bytes of a text as numbers from 0 to 255; numbers given stay as they are."""
    text = text.encode() if isinstance(text, str) else text
    if isinstance(text, bytes | bytearray):
        return torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
    return torch.as_tensor(text).long().reshape(-1)


def windows(ids, length: int) -> list[dict[str, Tensor]]:
    """Cut a long text (N,) into features for `cl.fit(model, ..., task=cl.tasks.NextToken())`.

    A window has length + 1 tokens: `length` that the model reads, each followed by one that it guesses. Neighbours
    share one token, so every token but the first is guessed once; what is left at the end is dropped.
    """
    ids = as_ids(ids)
    if len(ids) <= length:
        raise CourseError(
            f"A text of {len(ids)} tokens has no window of {length} tokens and one to guess: "
            "give a longer text or a shorter length."
        )
    return [{"input_ids": ids[start : start + length + 1]} for start in range(0, len(ids) - length, length)]
