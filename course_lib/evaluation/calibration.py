"""Calibration: of the rows about which a model is 80 % sure, is it right in 80 %?

`outcomes` are zeros and ones, what happened; `probabilities` what was said about them. For two classes that is the
true class and the probability of class 1; for more, whether the answer was right and the probability of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from course_lib.runtime import CourseError


@dataclass(frozen=True)
class Bin:
    """The rows whose probability lies in [low, high), the last bin's end included."""

    low: float
    high: float
    count: int
    said: float  # mean probability of these rows
    happened: float  # share of them with outcome 1


def reliability_bins(outcomes: Sequence[int], probabilities: Sequence[float], bins: int = 10) -> list[Bin]:
    """Rows grouped by their probability into `bins` ranges of equal width; empty ranges are left out.

    Raises CourseError if the columns differ in length, are empty, or hold no probabilities.
    """
    outcomes, probabilities = np.asarray(outcomes, dtype=float), np.asarray(probabilities, dtype=float)
    if outcomes.shape != probabilities.shape or outcomes.ndim != 1 or not len(outcomes):
        raise CourseError(
            f"Calibration compares one outcome with one probability a row, but got shapes {outcomes.shape} and "
            f"{probabilities.shape}. For several classes pass whether the answer was right, and its probability."
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise CourseError("A probability lies between 0 and 1; these look like logits: take their softmax first.")
    if not np.isin(outcomes, (0, 1)).all():
        raise CourseError("An outcome is 0 or 1: whether the row is of class 1, or whether the answer was right.")
    number = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [
        Bin(b / bins, (b + 1) / bins, int(here.sum()), float(probabilities[here].mean()), float(outcomes[here].mean()))
        for b in range(bins)
        if (here := number == b).any()
    ]


def calibration_error(outcomes: Sequence[int], probabilities: Sequence[float], bins: int = 10) -> float:
    """The expected calibration error: sum over bins of count / n times |happened - said| (Naeini et al. 2015).

    It depends on the bins, and chance alone makes it larger than zero: with few rows a perfect model has one too.
    """
    found = reliability_bins(outcomes, probabilities, bins)
    return sum(b.count * abs(b.happened - b.said) for b in found) / len(outcomes)


def temperature(labels: Sequence[int], logits: np.ndarray) -> float:
    """The T at which softmax(logits / T) has the smallest cross-entropy on these rows (Guo et al. 2017).

    `logits` (n, C) may be log-probabilities, which differ from logits by a number a row. T > 1 makes a model less
    sure, T < 1 surer; the order of the classes, and so every answer, stays. Fit it on validation rows.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    labels, logits = np.asarray(labels), np.asarray(logits, dtype=float)
    if logits.ndim != 2 or len(labels) != len(logits):
        raise CourseError(f"Temperature needs logits (n, C) and n labels; got {logits.shape} and {labels.shape}.")

    def cross_entropy(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-4, 4), method="bounded").x))
