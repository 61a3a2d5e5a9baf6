"""Intervals: how far may a measured number be off?

Two sources of chance are told apart everywhere in the course. The ROWS of a test set are a sample of the texts we
could have been given: `bootstrap` draws them again. The SEEDS of a training run are a sample of the runs we could
have had: `seeds_interval` looks at how much they differ. An interval over seeds says nothing about other test
rows, and an interval over rows nothing about other seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from course_lib.evaluation.metrics import MEAN, Metric, from_function, metric_named
from course_lib.runtime import CourseError

CHUNK = 2**19  # resampled rows held in memory at once
FEW = 256  # up to this many distinct rows a resample is drawn as counts of them


@dataclass(frozen=True)
class Measured:
    """A number with the interval that goes with it: `0.812 [0.797, 0.826]`.

    `low` and `high` are NaN where there is no interval (a single run). `f"{measured:.1%}"` formats all three
    numbers; `0.81 in measured` asks whether a number lies inside.
    """

    value: float
    low: float
    high: float
    n: int  # rows or seeds behind it
    level: float = 0.95

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        if self.low != self.low:
            return f"{self.value:{spec}} [one run]"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)

    __repr__ = __str__

    def __float__(self) -> float:
        return float(self.value)

    def __contains__(self, number: float) -> bool:
        return self.low <= float(number) <= self.high


@dataclass(frozen=True, repr=False)
class Difference(Measured):
    """A paired difference a - b, its interval, and the probability of one as large if there were none (two-sided)."""

    p: float = float("nan")

    def __format__(self, spec: str) -> str:
        chance = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        return f"{super().__format__(spec or '+.3f')}, {chance}"

    def __str__(self) -> str:
        return format(self)

    __repr__ = __str__


def bootstrap(sample: Sequence, n_boot: int = 10_000, seed: int = 0, level: float = 0.95) -> Measured:
    """The percentile bootstrap interval of a mean, or of a metric (Efron 1979).

    `sample` is a sequence of numbers, one a row (their mean is measured), or a tuple
    `(metric, references, predictions)` or `(metric, references, predictions, scores)`, where the metric is a name
    of `METRICS` or a function `metric(references, predictions) -> float`. A function is called `n_boot` times.

        bootstrap([1, 0, 1, 1])                              # a mean of four rows
        bootstrap(("f1", references, predictions))

    The interval is the range of the middle 95 % of what resampled test sets give. Where every row is right it has no
    width, although the next row may well be wrong: small or perfect samples need more than a bootstrap.
    """
    metric, table, value = _prepare(sample)
    resampled = _resample(metric.resampled, table, n_boot, seed)
    low, high = _percentiles(resampled, level)
    return Measured(value, low, high, len(table), level)


def paired_bootstrap(
    a: Sequence, b: Sequence, n_boot: int = 10_000, seed: int = 0, level: float = 0.95
) -> Difference:
    """Is `a` better than `b` on the SAME rows? The difference a - b, its interval and a two-sided p-value.

    `a` and `b` are given as in `bootstrap`. Each resample draws the same rows for both, so what is hard for both
    cancels. The p-value is the share of resampled differences that lie as far from the measured difference as this
    lies from zero (Efron & Tibshirani 1993, section 16.4); it is never smaller than 1 / (n_boot + 1).
    """
    metric_a, table_a, value_a = _prepare(a)
    metric_b, table_b, value_b = _prepare(b)
    if len(table_a) != len(table_b):
        raise CourseError(
            f"A paired comparison needs the same rows on both sides, but a has {len(table_a)} and b has "
            f"{len(table_b)}. Evaluate both models on the same dataset."
        )
    if isinstance(a, tuple) and isinstance(b, tuple) and list(a[1]) != list(b[1]):
        raise CourseError(
            "A paired comparison needs the same rows in the same order, but the references of a and b differ. "
            "Evaluate both models on the same dataset, not shuffled."
        )
    width = table_a.shape[1]

    def difference(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return metric_a.resampled(weights, rows[:, :width]) - metric_b.resampled(weights, rows[:, width:])

    value = value_a - value_b
    resampled = _resample(difference, np.hstack([table_a, table_b]), n_boot, seed)
    low, high = _percentiles(resampled, level)
    resampled = resampled[np.isfinite(resampled)]
    as_far = np.abs(resampled - value) >= abs(value) - 1e-12
    return Difference(value, low, high, len(table_a), level, p=(1 + as_far.sum()) / (1 + len(resampled)))


def seeds_interval(values: Sequence[float], level: float = 0.95) -> Measured:
    """The t-interval of the mean over seeds: mean +- t * s / sqrt(n), with s the standard deviation over n seeds.

    It is where the mean of very many seeds may lie. One more run may well fall outside: see `next_run_interval`.
    """
    values, mean, deviation = _seeds(values)
    half = _t_quantile(level, len(values) - 1) * deviation / len(values) ** 0.5
    return Measured(mean, mean - half, mean + half, len(values), level)


def next_run_interval(values: Sequence[float], level: float = 0.95) -> Measured:
    """Where ONE more run may fall: mean +- t * s * sqrt(1 + 1/n), the prediction interval over n seeds.

    With five seeds it is 2.4 times as wide as the interval of the mean.
    """
    values, mean, deviation = _seeds(values)
    half = _t_quantile(level, len(values) - 1) * deviation * (1 + 1 / len(values)) ** 0.5
    return Measured(mean, mean - half, mean + half, len(values), level)


def paired_seeds(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """The difference a - b of runs that share their seeds, with the paired t-test's interval and p-value."""
    from scipy.special import stdtr

    if len(a) != len(b):
        raise CourseError(f"Runs are paired by seed, but a has {len(a)} and b has {len(b)}.")
    mean = seeds_interval(np.subtract(a, b), level)
    error = (mean.high - mean.low) / 2 / _t_quantile(level, mean.n - 1)
    if error:
        p = 2 * float(stdtr(mean.n - 1, -abs(mean.value) / error))
    else:
        p = 0.0 if mean.value else 1.0
    return Difference(mean.value, mean.low, mean.high, mean.n, level, p=p)


def holm(p_values: dict[str, float] | Sequence[float]) -> dict[str, float] | list[float]:
    """Adjust p-values for the number of comparisons made (Holm 1979); a dictionary comes back as a dictionary.

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one
    before it, none larger than 1. Comparing the result with .05 keeps the chance of even ONE false alarm at 5 %.
    """
    if isinstance(p_values, dict):
        return dict(zip(p_values, holm(list(p_values.values()))))
    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise CourseError(f"A p-value lies between 0 and 1, but {wrong[0]} was given.")
    adjusted, largest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _prepare(sample: Sequence) -> tuple[Metric, np.ndarray, float]:
    """A sample as `bootstrap` takes it -> the metric, its table of rows and its value."""
    if isinstance(sample, tuple) and sample and (isinstance(sample[0], str) or callable(sample[0])):
        metric = from_function(*sample[:3]) if callable(sample[0]) else metric_named(sample[0])
        metric.check(*sample[1:])
        return metric, metric.table(*sample[1:]), metric.value(*sample[1:])
    MEAN.check(None, sample)
    return MEAN, MEAN.table(None, sample), MEAN.value(None, sample)


def _resample(statistic: Callable, table: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    """`statistic(weights, rows)` over `n_boot` resamples.

    Equal rows are interchangeable: a resample is known by how often each distinct row was drawn.
    """
    rows, counts = np.unique(table, axis=0, return_counts=True)
    return np.concatenate([statistic(weights, rows) for weights in _draws(counts, n_boot, seed)])


def _draws(counts: np.ndarray, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """How often each distinct row is drawn when n = sum(counts) rows are drawn with replacement, (chunk, m) a time."""
    rng = np.random.default_rng(seed)
    n, m = int(counts.sum()), len(counts)
    if m <= FEW:
        yield rng.multinomial(n, counts / n, size=n_boot)
        return
    row_of = np.repeat(np.arange(m), counts)
    for start in range(0, n_boot, max(1, CHUNK // n)):
        size = min(max(1, CHUNK // n), n_boot - start)
        drawn = row_of[rng.integers(n, size=(size, n))]
        drawn += np.arange(size)[:, None] * m  # each resample counts in its own m bins
        yield np.bincount(drawn.ravel(), minlength=size * m).reshape(size, m)


def _percentiles(resampled: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise CourseError(f"An interval's level lies between 0 and 1, as .95 does, but {level} was given.")
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(resampled, [tail, 100 - tail])  # AUC has no value where only one class was drawn
    return float(low), float(high)


def _seeds(values: Sequence[float]) -> tuple[np.ndarray, float, float]:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise CourseError(
            f"An interval over seeds needs at least two runs, but {values.size} was given. One seed proves nothing."
        )
    return values, float(values.mean()), float(values.std(ddof=1))


def _t_quantile(level: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))
