"""Metrics of a ranked list with one right answer: at which rank does the item stand that was taken next?

The whole catalogue is ranked, without what the user has already taken. Ranks count from 1. Items that tie with the
right one stand before it, so that a model that scores everything alike is the worst possible and not a perfect one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from course_lib.runtime import CourseError


def ranks(
    scores: np.ndarray, targets: Sequence[int], seen: Sequence[Sequence[int]], catalogue: Sequence[int] | None = None
) -> np.ndarray:
    """(U,) ranks of each user's target among all items of the catalogue that the user has not taken.

    scores (U, V): one number for each user and item; a target keeps its place even if it was taken before.
    seen: the numbers of the items that each user has taken. catalogue: the items on sale, by default all but item 0,
    which is padding. Raises CourseError if the numbers of users differ or a target is not in the catalogue.
    """
    scores, targets = np.asarray(scores, dtype=float), np.asarray(targets, dtype=int)
    if not len(scores) == len(targets) == len(seen):
        raise CourseError(
            f"Each user needs scores, a target and a history, but there are {len(scores)} rows of scores, "
            f"{len(targets)} targets and {len(seen)} histories."
        )
    if np.isnan(scores).any():
        raise CourseError("Some scores are not numbers (NaN): nothing can be ranked. Look at the model's training.")
    on_sale = np.zeros(scores.shape[1], dtype=bool)
    on_sale[list(catalogue) if catalogue is not None else slice(1, None)] = True
    if not on_sale[targets].all():
        raise CourseError(f"The target {targets[~on_sale[targets]][0]} is not among the items that are ranked.")
    users = np.arange(len(targets))
    before = scores >= scores[users, targets][:, None]  # (U, V), ties included
    before &= on_sale
    for user, items in enumerate(seen):
        before[user, list(items)] = False
    before[users, targets] = False
    return 1 + before.sum(axis=1)


def hits(ranks: np.ndarray, k: int = 10) -> np.ndarray:
    """(U,) 1 where the right item is among the first k; the mean is HR@k."""
    return (np.asarray(ranks) <= k).astype(float)


def gains(ranks: np.ndarray, k: int = 10) -> np.ndarray:
    """(U,) 1 / log2(rank + 1) among the first k, else 0; the mean is NDCG@k, because the best possible gain is 1.

    Discounted cumulative gain is Jarvelin and Kekalainen's (2002); with one right item its ideal value is 1.
    """
    ranks = np.asarray(ranks)
    return np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)


def sampled_ranks(ranks: np.ndarray, candidates: np.ndarray, negatives: int = 100, seed: int = 0) -> np.ndarray:
    """(U,) the ranks that a test against `negatives` random items would have found.

    Of `candidates` (U,) other items, rank - 1 stand before the right one. Drawing negatives without replacement, the
    number of those drawn that do is hypergeometric: no scores are needed (Krichene and Rendle, KDD 2020).
    """
    ranks, candidates = np.asarray(ranks), np.asarray(candidates)
    if (candidates < negatives).any():
        raise CourseError(f"{negatives} negatives cannot be drawn from {candidates.min()} items.")
    rng = np.random.default_rng(seed)
    return 1 + rng.hypergeometric(ranks - 1, candidates - (ranks - 1), negatives)
