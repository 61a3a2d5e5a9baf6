"""N-grams: count what followed, and when a context is rare, ask a shorter one (Shannon 1948, Kneser and Ney 1995).

An n-gram of tokens is one integer, its digits in base V, so that a table of n-grams is a sorted array: the followers of
a context stand next to each other in it, and all positions of a text are looked up at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime import CourseError
from .text import as_ids

SMOOTHINGS = ("kneser-ney", "add-k")
ROWS = 4096  # positions whose V probabilities are computed at once


@dataclass
class Table:
    """Counts of the n-grams of one order."""

    grams: np.ndarray  # (M,) sorted n-grams; n-gram = context * V + next token
    counts: np.ndarray  # (M,)
    contexts: np.ndarray  # (K,) sorted contexts, each once
    first: np.ndarray  # (K + 1,) followers of context k are grams[first[k]:first[k + 1]]
    totals: np.ndarray  # (K,) counts summed over the followers
    discount: float = 0.0  # taken from every count by Kneser-Ney

    @classmethod
    def of(cls, grams: np.ndarray, counts: np.ndarray, vocabulary: int) -> Table:
        contexts, first = np.unique(grams // vocabulary, return_index=True)
        totals = np.add.reduceat(counts, first)
        return cls(grams, counts, contexts, np.append(first, len(grams)), totals)


class NGram(nn.Module):
    """ids (B, T) -> logits (B, T, V), the logarithms of the next token's probabilities. `fit(ids)` counts.

    smoothing="kneser-ney"   interpolated: with h' the context h without its oldest token and D the order's discount,
                             p(w | h) = max(c(h w) - D, 0) / c(h) + D n(h) / c(h) p(w | h'), n(h) the different
                             followers of h; below the top order c counts the different tokens seen in front
                             (Chen and Goodman 1999). Under order 1 stands the uniform distribution.
    smoothing="add-k"        p(w | h) = (c(h w) + k) / (c(h) + k V); with k = 0 maximum likelihood, which gives what was
                             never seen a logit of minus infinity.
    """

    def __init__(self, order: int = 5, vocabulary: int = 256, smoothing: str = "kneser-ney", k: float = 1.0):
        super().__init__()
        if smoothing not in SMOOTHINGS:
            raise CourseError(f"smoothing={smoothing!r} is not known; choose one of {', '.join(SMOOTHINGS)}.")
        if order < 1 or vocabulary**order >= 2**63:
            raise CourseError(
                f"Order {order} over {vocabulary} tokens does not fit the tables, which number n-grams by 63 bits: "
                "choose an order of at least 1, a smaller order or a smaller vocabulary."
            )
        self.order, self.vocabulary, self.smoothing, self.k = order, vocabulary, smoothing, k
        self.context, self.reach = None, max(1, order - 1)
        self.tables: list[Table] = []  # orders 1 to `order`; add-k keeps each order for the first positions of a text

    def fit(self, ids) -> NGram:
        """Count the n-grams of one long text, N token ids (or a string, whose bytes they are)."""
        ids = as_ids(ids).numpy()
        if len(ids) < self.order:
            raise CourseError(f"A text of {len(ids)} tokens holds no {self.order}-gram: give a longer one.")
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            raise CourseError(
                f"The ids go from {ids.min()} to {ids.max()}, the vocabulary from 0 to {self.vocabulary - 1}."
            )
        self.tables = []
        kneser_ney, above = self.smoothing == "kneser-ney", None
        for order in range(self.order, 0, -1):
            if kneser_ney and above is not None:  # the different tokens in front: (n + 1)-grams without their first
                seen = above % self.vocabulary**order
            else:
                seen = numbers(ids, order, self.vocabulary)
            above, counts = np.unique(seen, return_counts=True)
            table = Table.of(above, counts, self.vocabulary)
            if kneser_ney:
                table.discount = discount(counts)
            self.tables.insert(0, table)
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        """Log-probabilities (B, T, V), float32; position t sees the last order - 1 ids up to t."""
        if not self.tables:
            raise CourseError("This n-gram model has counted nothing yet: call fit(ids) first.")
        ids = input_ids.cpu().numpy()  # (B, T)
        B, T = ids.shape
        contexts = np.zeros((self.order, B, T), dtype=np.int64)  # contexts[n]: the last n tokens as one number
        for n in range(1, self.order):
            contexts[n] = contexts[n - 1]
            contexts[n, :, n - 1 :] += ids[:, : max(0, T - n + 1)] * self.vocabulary ** (n - 1)
        length = np.minimum(np.arange(1, T + 1), self.order - 1)  # how many tokens position t has behind it, and itself
        contexts, length = contexts.reshape(self.order, -1), np.tile(length, B)
        logits = torch.empty(B * T, self.vocabulary)
        for start in range(0, B * T, ROWS):
            rows = slice(start, start + ROWS)
            with np.errstate(divide="ignore"):
                logits[rows] = torch.from_numpy(np.log(self.probabilities(contexts[:, rows], length[rows])))
        return logits.view(B, T, -1).to(input_ids.device)

    def probabilities(self, contexts: np.ndarray, length: np.ndarray) -> np.ndarray:
        """(P, V) for P positions; contexts[n] (P,) are their last n tokens, of which the first `length` (P,) exist."""
        p = np.full((contexts.shape[1], self.vocabulary), 1 / self.vocabulary)
        for n, table in enumerate(self.tables):
            rows = np.flatnonzero(length == n if self.smoothing == "add-k" else length >= n)
            place = np.searchsorted(table.contexts, contexts[n, rows])
            known = np.take(table.contexts, place, mode="clip") == contexts[n, rows]
            rows, place = rows[known], place[known]  # elsewhere the shorter context's answer stands
            first, followers = table.first[place], table.first[place + 1] - table.first[place]
            # every (position, follower) pair, one after the other
            which = np.repeat(np.arange(len(rows)), followers)
            entry = np.arange(len(which)) - np.repeat(followers.cumsum() - followers, followers) + first[which]
            token, counts, totals = table.grams[entry] % self.vocabulary, table.counts[entry], table.totals[place]
            if self.smoothing == "add-k":
                whole = totals + self.k * self.vocabulary
                p[rows] = (self.k / whole)[:, None]
                p[rows[which], token] = (counts + self.k) / whole[which]
            else:
                p[rows] *= (table.discount * followers / totals)[:, None]
                p[rows[which], token] += (counts - table.discount) / totals[which]
        return p

    def num_parameters(self) -> int:
        """How many counts are kept."""
        return sum(len(table.counts) for table in self.tables)


def numbers(ids: np.ndarray, order: int, vocabulary: int) -> np.ndarray:
    """All n-grams of a text (N,) as integers (N - n + 1,)."""
    N = len(ids) - order + 1
    grams = np.zeros(N, dtype=np.int64)
    for n in range(order):
        grams = grams * vocabulary + ids[n : n + N]
    return grams


def discount(counts: np.ndarray) -> float:
    """Ney, Essen and Kneser's estimate n1 / (n1 + 2 n2), from how many counts are one and two; 0.5 without either."""
    ones, twos = int((counts == 1).sum()), int((counts == 2).sum())
    return ones / (ones + 2 * twos) if ones and twos else 0.5
