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


def windows(ids, length: int, guess_next: bool = True) -> list[dict[str, Tensor]]:
    """Cut a long text (N,) into features for `cl.fit(model, ..., task=cl.tasks.NextToken())`.

    A window has length + 1 tokens: `length` that the model reads, each followed by one that it guesses. Neighbours
    share one token, so every token but the first is guessed once; what is left at the end is dropped. With
    `guess_next=False` (for MaskedTokens and SpanDenoising) windows have `length` tokens and share none.
    """
    ids, more = as_ids(ids), int(guess_next)
    if len(ids) < length + more:
        raise CourseError(
            f"A text of {len(ids)} tokens has no window of {length + more} tokens: give a longer text or a shorter "
            "length."
        )
    return [{"input_ids": ids[i : i + length + more]} for i in range(0, len(ids) - length - more + 1, length)]
