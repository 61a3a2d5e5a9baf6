"""How many letters must change? Levenshtein's distance from one text to many at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distances(text: Sequence, others: Sequence[Sequence]) -> np.ndarray:
    """Insertions, deletions and substitutions that turn `text` into each of n others: (n,) (Levenshtein 1966).

    A text is a string, or a list of tokens. The usual table of one pair, (1 + len(text)) x (1 + length), is filled row
    by row for all others together.
    """
    lengths = np.array([len(other) for other in others], dtype=int)
    widest = int(lengths.max(initial=0))
    numbers: dict = {}
    code = np.full((len(others), widest), -1)
    for row, other in enumerate(others):
        code[row, : len(other)] = [numbers.setdefault(token, len(numbers)) for token in other]
    above = np.tile(np.arange(widest + 1), (len(others), 1))  # from nothing to the first j tokens: j insertions
    for i, token in enumerate(text, start=1):
        changed = above[:, :-1] + (code != numbers.get(token, -2))
        row = np.empty_like(above)
        row[:, 0] = i
        row[:, 1:] = np.minimum(above[:, 1:] + 1, changed)
        # an insertion costs 1 a place: the least of row[k] + (j - k) over all k <= j
        above = np.minimum.accumulate(row - np.arange(widest + 1), axis=1) + np.arange(widest + 1)
    return above[np.arange(len(others)), lengths]
