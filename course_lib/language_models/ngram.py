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
CELLS = 2**22  # probabilities computed at once: 32 MB


@dataclass
class Table:
    """Counts of the n-grams of one order."""

    grams: np.ndarray  # (M,) sorted n-grams; n-gram = context * V + next token
    counts: np.ndarray  # (M,)
    contexts: np.ndarray  # (K,) sorted contexts, each once
    first: np.ndarray  # (K + 1,) followers of context k are grams[first[k]:first[k + 1]]
    totals: np.ndarray  # (K,) counts summed over the followers
    discount: float  # taken from every count by Kneser-Ney

    @classmethod
    def of(cls, grams: np.ndarray, counts: np.ndarray, vocabulary: int, discount: float) -> Table:
        contexts, first = np.unique(grams // vocabulary, return_index=True)
        totals = np.add.reduceat(counts, first)
        return cls(grams, counts, contexts, np.append(first, len(grams)), totals, discount)


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
        self.tables, V, different = [], self.vocabulary, None
        for order in range(self.order, 0, -1):
            if self.smoothing == "kneser-ney" and order < self.order:  # by the different tokens seen in front
                grams, counts = np.unique(different % V**order, return_counts=True)
            else:
                grams, counts = np.unique(numbers(ids, order, V), return_counts=True)
            different = np.union1d(grams, numbers(ids[:order], order, V))  # nothing stands in front of a text's first
            lowered = discount(counts) if self.smoothing == "kneser-ney" else 0.0
            self.tables.insert(0, Table.of(grams, counts, V, lowered))
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
        logits = np.empty((B * T, self.vocabulary), dtype=np.float32)
        step = max(1, CELLS // self.vocabulary)
        for start in range(0, B * T, step):
            rows = slice(start, start + step)
            with np.errstate(divide="ignore"):
                self.fill(logits[rows], contexts[:, rows], length[rows])
        return torch.from_numpy(logits).view(B, T, -1).to(input_ids.device)

    def fill(self, logits: np.ndarray, contexts: np.ndarray, length: np.ndarray) -> None:
        """Put in log p (P, V) for P positions; contexts[n] (P,) are their last n tokens, if `length` (P,) allows n.

        Orders are taken from below, and positions with the same context share their work.
        """
        V, shorter, p = self.vocabulary, np.zeros(1, dtype=np.int64), np.full((1, self.vocabulary), 1 / self.vocabulary)
        for n, table in enumerate(self.tables):
            here = np.flatnonzero(length >= n)
            longer, place = np.unique(contexts[n, here], return_inverse=True)
            p = p[np.searchsorted(shorter, longer % V ** max(0, n - 1))]  # (contexts of n tokens, V)
            self.refine(p, longer, table)
            ends = length[here] == n
            logits[here[ends]] = np.log(p)[place[ends]]
            shorter = longer

    def refine(self, p: np.ndarray, contexts: np.ndarray, table: Table) -> None:
        """Change p (P, V), what the contexts without their oldest token said, to what the `contexts` (P,) say."""
        found = np.searchsorted(table.contexts, contexts)
        known = np.take(table.contexts, found, mode="clip") == contexts
        if self.smoothing == "add-k":
            p[~known] = 1 / self.vocabulary
        rows, found = np.flatnonzero(known), found[known]
        followers, totals = table.first[found + 1] - table.first[found], table.totals[found]
        # Every (context, follower) pair, one after the other.
        pair = np.repeat(np.arange(len(rows)), followers)
        entry = np.arange(len(pair)) - np.repeat(followers.cumsum() - followers, followers) + table.first[found][pair]
        token, counts = table.grams[entry] % self.vocabulary, table.counts[entry]
        if self.smoothing == "add-k":
            totals = totals + self.k * self.vocabulary
            p[rows] = (self.k / totals)[:, None]
            p[rows[pair], token] = (counts + self.k) / totals[pair]
        else:
            p[rows] *= (table.discount * followers / totals)[:, None]
            p[rows[pair], token] += (counts - table.discount) / totals[pair]

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
