"""The checks of chapter 57: right answers in several forms pass, each typical wrong one gets its own name."""

import math
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from course_lib.exercises.registry import judge

# --- 57.1 -------------------------------------------------------------------------------------------------


def f_beta(p, r, beta):
    return (1 + beta**2) * p * r / (beta**2 * p + r) if p + r else 0.0


def weighted_harmonic(p, r, beta):
    if p == 0 or r == 0:
        return 0.0
    a = 1 / (1 + beta**2)
    return 1 / (a / p + (1 - a) / r)


@pytest.mark.parametrize("answer", [f_beta, weighted_harmonic, lambda *given: np.float64(f_beta(*given))])
def test_f_beta_accepts(answer):
    assert judge("57.1", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("arithmetic", lambda p, r, beta: (p + r) / 2),
        ("arithmetic", lambda p, r, beta: (p + beta**2 * r) / (1 + beta**2)),
        ("geometric", lambda p, r, beta: (p * r) ** 0.5),
        ("beta_not_squared", lambda p, r, beta: (1 + beta) * p * r / (beta * p + r) if p else 0.0),
        ("swapped", lambda p, r, beta: f_beta(r, p, beta)),
        ("half", lambda p, r, beta: p * r / (beta**2 * p + r) if p else 0.0),
        ("beta_ignored", lambda p, r, beta: f_beta(p, r, 1)),
        ("smaller", lambda p, r, beta: min(p, r)),
        ("zero", lambda p, r, beta: (1 + beta**2) * p * r / (beta**2 * p + r)),
        ("zero", lambda p, r, beta: f_beta(p, r, beta) if p else 1.0),
        ("value", lambda p, r, beta: f_beta(p, r, beta) + 0.01),
        ("no_number", lambda p, r, beta: "high"),
    ],
)
def test_f_beta_names(key, answer):
    assert judge("57.1", answer).key == f"57.1.{key}"


# --- 57.2 -------------------------------------------------------------------------------------------------


def weight(i, j, power):
    return abs(i - j) ** power if i != j else 0


def kappa(a, b, power):
    observed = sum(weight(i, j, power) for i, j in zip(a, b)) / len(a)
    expected = sum(weight(i, j, power) for i in a for j in b) / len(a) ** 2
    return 1 - observed / expected if expected else float("nan")


def by_sklearn(a, b, power):
    if len(set(a) | set(b)) == 1:
        return float("nan")
    return cohen_kappa_score(a, b, weights={0: None, 1: "linear", 2: "quadratic"}[power])


def by_matrix(a, b, power):
    labels = sorted(set(a) | set(b))
    O = np.array([[sum(x == i and y == j for x, y in zip(a, b)) for j in labels] for i in labels]) / len(a)
    E = np.outer(O.sum(1), O.sum(0))
    W = np.array([[weight(i, j, power) for j in labels] for i in labels])
    return float(1 - (W * O).sum() / (W * E).sum()) if (W * E).sum() else math.nan


@pytest.mark.parametrize("answer", [kappa, by_sklearn, by_matrix])
def test_kappa_accepts(answer):
    assert judge("57.2", answer).status == "right"


def raw(a, b, power=0):
    return sum(i == j for i, j in zip(a, b)) / len(a)


def apart(a, b, power):
    return sum(weight(i, j, power) for i, j in zip(a, b)) / len(a)


def by_chance(a, b, power):
    return sum(weight(i, j, power) for i in a for j in b) / len(a) ** 2


def pooled(a, b, power):
    both = Counter(a + b)
    return 1 - apart(a, b, power) / (
        sum(weight(i, j, power) * both[i] * both[j] for i in both for j in both) / (2 * len(a)) ** 2
    )


def even(a, b, power):
    labels = range(max(a + b) + 1)
    return 1 - apart(a, b, power) / (sum(weight(i, j, power) for i in labels for j in labels) / len(labels) ** 2)


def sorts(a, b, power):
    a.sort()
    return kappa(a, b, power)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("raw", raw),
        ("raw_weighted", lambda a, b, power: apart(a, b, power) if power else kappa(a, b, power)),
        ("raw_minus_chance", lambda a, b, power: by_chance(a, b, power) - apart(a, b, power)),
        ("pooled", pooled),
        ("even_chance", even),
        ("divided_by_expected", lambda a, b, power: raw(a, b) / (1 - by_chance(a, b, 0))),
        ("upside_down", lambda a, b, power: 1 - by_chance(a, b, power) / apart(a, b, power)),
        ("ratio", lambda a, b, power: apart(a, b, power) / by_chance(a, b, power)),
        ("clipped", lambda a, b, power: max(0.0, kappa(a, b, power))),
        ("unweighted", lambda a, b, power: kappa(a, b, 0)),
        ("other_power", lambda a, b, power: kappa(a, b, 1 if power else 0)),
        ("no_variation", lambda a, b, power: kappa(a, b, power) if len(set(a + b)) > 1 else 1.0),
        ("changed", sorts),
        ("value", lambda a, b, power: kappa(a, b, power) ** 3 - 0.1),
        ("no_number", lambda a, b, power: [kappa(a, b, power)]),
    ],
)
def test_kappa_names(key, answer):
    assert judge("57.2", answer).key == f"57.2.{key}"


# --- 57.3 -------------------------------------------------------------------------------------------------


def latency(seconds, warm_up, q):
    usual = sorted(seconds[warm_up:])
    return usual[math.ceil(q * len(usual) / 100) - 1]


def by_numpy(seconds, warm_up, q):
    return np.percentile(seconds[warm_up:], q, method="inverted_cdf")


def by_counting(seconds, warm_up, q):
    usual = seconds[warm_up:]
    return min(value for value in usual if 100 * sum(other <= value for other in usual) >= q * len(usual))


@pytest.mark.parametrize("answer", [latency, by_numpy, by_counting])
def test_latency_accepts(answer):
    assert judge("57.3", answer).status == "right"


def sorts_in_place(seconds, warm_up, q):
    right = latency(seconds, warm_up, q)
    seconds.sort()
    return right


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("mean_with_warm_up", lambda s, w, q: sum(s) / len(s)),
        ("mean", lambda s, w, q: sum(s[w:]) / len(s[w:])),
        ("warm_up_counted", lambda s, w, q: latency(s, 0, q)),
        ("sorted_first", lambda s, w, q: latency(sorted(s), w, q)),
        ("sorted_first", lambda s, w, q: latency(sorted(s, reverse=True), w, q)),
        ("other_end", lambda s, w, q: latency(s, w, 100 - q)),
        ("not_sorted", lambda s, w, q: s[w:][math.ceil(q * len(s[w:]) / 100) - 1]),
        ("one_off", lambda s, w, q: sorted(s[w:])[math.ceil(q * len(s[w:]) / 100)]),
        ("maximum", lambda s, w, q: max(s[w:])),
        ("milliseconds", lambda s, w, q: 1000 * latency(s, w, q)),
        ("interpolated", lambda s, w, q: np.percentile(s[w:], q)),
        ("changed", sorts_in_place),
        ("value", lambda s, w, q: latency(s, w, q) + 0.001),
        ("no_number", lambda s, w, q: s[w:]),
    ],
)
def test_latency_names(key, answer):
    assert judge("57.3", answer).key == f"57.3.{key}"


# --- 57.4 -------------------------------------------------------------------------------------------------


def micro_batches(requests, max_rows, max_wait):
    batches = []
    for time, name in requests:
        if batches and len(batches[-1]) < max_rows and time - batches[-1][0][0] <= max_wait:
            batches[-1].append((time, name))
        else:
            batches.append([(time, name)])
    return batches


def with_an_open_batch(requests, max_rows, max_wait):
    batches, batch = [], []
    for request in requests:
        if batch and (len(batch) == max_rows or request[0] > batch[0][0] + max_wait):
            batches.append(batch)
            batch = []
        batch.append(request)
    return [*batches, batch]


@pytest.mark.parametrize("answer", [micro_batches, with_an_open_batch])
def test_micro_batches_accepts(answer):
    assert judge("57.4", answer).status == "right"


def one_addition(requests, max_rows, max_wait):
    found = []
    for batch in micro_batches(requests, max_rows, max_wait):
        for _, group in groupby(sorted(batch, key=lambda r: r[1]), key=lambda r: r[1]):
            found.append(list(group))
    return found


def from_the_newest(requests, max_rows, max_wait):
    batches = []
    for request in requests:
        if batches and len(batches[-1]) < max_rows and request[0] - batches[-1][-1][0] <= max_wait:
            batches[-1].append(request)
        else:
            batches.append([request])
    return batches


def pops(requests, max_rows, max_wait):
    right = micro_batches(requests, max_rows, max_wait)
    requests.clear()
    return right


def cut(requests, rows):
    return [requests[i : i + rows] for i in range(0, len(requests), rows)]


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("one_addition_a_batch", one_addition),
        ("last_batch_lost", lambda r, n, w: micro_batches(r, n, w)[:-1]),
        ("from_the_newest", from_the_newest),
        ("never_waits_out", lambda r, n, w: cut(r, n)),
        ("too_full", lambda r, n, w: micro_batches(r, 10**6, 10**6)),
        ("too_full", lambda r, n, w: micro_batches(r, n + 1, w)),
        ("no_batches", lambda r, n, w: [[request] for request in r]),
        ("empty_batch", lambda r, n, w: [*micro_batches(r, n, w), []]),
        ("lost", lambda r, n, w: [batch[:1] for batch in micro_batches(r, n, w)]),
        ("order", lambda r, n, w: [batch[::-1] for batch in micro_batches(r, n, w)]),
        ("waits_too_long", lambda r, n, w: micro_batches(r, n, w + 2)),
        ("value", lambda r, n, w: micro_batches(r, n, w - 1)),
        ("changed", pops),
        ("no_lists", lambda r, n, w: iter(micro_batches(r, n, w))),
    ],
)
def test_micro_batches_names(key, answer):
    assert judge("57.4", answer).key == f"57.4.{key}"
