"""Addition at the logits: f = g + b, one trained number for each word of the vocabulary.

    scores <- scores + b,    b in R^V

The most literal reading of f(x) = g(x) + h(x), with an h that does not even look at x: it can make words likelier
everywhere, and nothing else. It begins at zero: exact identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from .base import Method
from .sites import Site


@dataclass(frozen=True)
class VocabularyBias(Method):
    """A bias on the scores of a language model; it has nothing to choose."""

    family = "additive"
    paper = "- (the log-linear bias term)"
    formula = "scores <- scores + b"
    count = "V"
    why_no_merge = "the base's head over the vocabulary has no bias that could take it up"

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        if layout.lm_head is None:
            raise CourseError(
                f"A vocabulary bias adds to scores over the vocabulary, but {type(layout.model).__name__} has none. "
                "Attach it to a language model such as 'smollm2'."
            )
        yield Site("logits"), Bias(layout.vocabulary)


class Bias(nn.Module):
    """b, of shape (V,), whatever the states are."""

    def __init__(self, size: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, states: Tensor) -> Tensor:
        return self.bias.expand(*states.shape[:-1], -1)
