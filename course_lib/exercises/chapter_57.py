"""The checks of chapter 57."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from .registry import Wrong, check_of


def close(found: Any, wanted: float) -> bool:
    """A number, and the right one, up to rounding."""
    return not isinstance(found, bool) and math.isclose(float(found), wanted, rel_tol=1e-6, abs_tol=1e-9)


def number(found: Any, key: str) -> float:
    """An answer as a float; raises Wrong(key) for what is none."""
    try:
        return float(found)
    except (TypeError, ValueError):
        raise Wrong(key, found=type(found).__name__) from None


# --- 57.1 -------------------------------------------------------------------------------------------------


@check_of("57.1", "F-beta", minutes=6)
def f_beta(attempt: Callable) -> None:
    """(1 + b^2) P R / (b^2 P + R): the usual other means are recognised by their values."""
    for p, r, beta in ((0.9, 0.3, 1.0), (0.3, 0.9, 2.0), (0.8, 0.6, 0.5), (0.99, 0.01, 1.0)):
        found, right = number(attempt(p, r, beta), "57.1.no_number"), _f(p, r, beta)
        if close(found, right):
            continue
        named = {
            "57.1.arithmetic": [(p + r) / 2, (p + beta**2 * r) / (1 + beta**2), (p + beta * r) / (1 + beta)],
            "57.1.geometric": [math.sqrt(p * r)],
            "57.1.beta_not_squared": [(1 + beta) * p * r / (beta * p + r)],
            "57.1.swapped": [_f(r, p, beta)],
            "57.1.half": [p * r / (p + r), p * r / (beta**2 * p + r)],
            "57.1.beta_ignored": [_f(p, r, 1.0)],
            "57.1.smaller": [min(p, r)],
        }
        for key, values in named.items():
            if any(close(found, value) for value in values):
                raise Wrong(key, p=p, r=r, beta=beta, found=f"{found:.4g}", right=f"{right:.4g}")
        raise Wrong("57.1.value", p=p, r=r, beta=beta, found=f"{found:.4g}", right=f"{right:.4g}")
    try:
        found = number(attempt(0.0, 0.0, 1.0), "57.1.no_number")
    except ZeroDivisionError:
        raise Wrong("57.1.zero") from None
    if not close(found, 0.0):
        raise Wrong("57.1.zero")


def _f(p: float, r: float, beta: float) -> float:
    return (1 + beta**2) * p * r / (beta**2 * p + r)


# --- 57.2 -------------------------------------------------------------------------------------------------


@check_of("57.2", "Cohen's weighted kappa", minutes=15)
def kappa(attempt: Callable) -> None:
    """1 - sum(w O) / sum(w E) with w = |i - j|^power, or i != j for power 0; raw agreement is no kappa."""
    rng = random.Random(0)
    for labels, power, agree in ((2, 0, 0.8), (3, 0, 0.4), (4, 2, 0.5), (5, 1, 0.3)):
        a = [min(labels - 1, int(rng.expovariate(1.2))) for _ in range(60)]
        b = [x if rng.random() < agree else rng.randrange(labels) for x in a]
        kept = list(a), list(b)
        found, right = number(attempt(a, b, power), "57.2.no_number"), _kappa(a, b, power)
        if (a, b) != kept:
            raise Wrong("57.2.changed")
        if not close(found, right):
            _name_kappa(found, a, b, labels, power, right)
    opposite = attempt([0, 1, 0, 1], [1, 0, 1, 0], 0)
    if not close(opposite, -1.0):
        raise Wrong("57.2.clipped" if close(opposite, 0.0) else "57.2.value", found=opposite, right=-1, power=0)
    one_word = attempt([1, 1, 1], [1, 1, 1], 0)
    if not (isinstance(one_word, float) and math.isnan(one_word)):
        raise Wrong("57.2.no_variation", found=one_word)


def _weight(i: int, j: int, power: int) -> float:
    return abs(i - j) ** power if i != j else 0.0


def _kappa(a: list[int], b: list[int], power: int, pairs: list[tuple[int, int]] | None = None) -> float:
    """1 - observed / expected disagreement; `pairs` are those that chance would make."""
    pairs = pairs or [(x, y) for x in a for y in b]
    observed = sum(_weight(x, y, power) for x, y in zip(a, b)) / len(a)
    expected = sum(_weight(x, y, power) for x, y in pairs) / len(pairs)
    return 1 - observed / expected


def _name_kappa(found: float, a: list[int], b: list[int], labels: int, power: int, right: float) -> None:
    n = len(a)
    raw = sum(x == y for x, y in zip(a, b)) / n
    by_chance = sum(_weight(x, y, power) for x in a for y in b) / n**2
    apart = sum(_weight(x, y, power) for x, y in zip(a, b)) / n
    both = Counter(a) + Counter(b)
    pooled = sum(_weight(i, j, power) * both[i] * both[j] for i in both for j in both) / (2 * n) ** 2
    even = sum(_weight(i, j, power) for i in range(labels) for j in range(labels)) / labels**2
    expected = sum(Counter(a)[i] * Counter(b)[i] for i in range(labels)) / n**2
    named = [
        ("57.2.raw", raw),
        ("57.2.raw_weighted", 1 - apart),
        ("57.2.raw_weighted", apart),
        ("57.2.raw_minus_chance", raw - expected),
        ("57.2.raw_minus_chance", by_chance - apart),
        ("57.2.pooled", 1 - apart / pooled),
        ("57.2.even_chance", 1 - apart / even),
        ("57.2.divided_by_expected", raw / expected if expected else math.nan),
        ("57.2.upside_down", 1 - by_chance / apart if apart else math.nan),
        ("57.2.ratio", apart / by_chance),
        ("57.2.clipped", max(0.0, right)),
    ]
    if power:
        named += [("57.2.unweighted", _kappa(a, b, 0)), ("57.2.other_power", _kappa(a, b, 3 - power))]
    for key, value in named:
        if close(found, value):
            raise Wrong(key, found=f"{found:.3f}", right=f"{right:.3f}", power=power)
    raise Wrong("57.2.value", found=f"{found:.3f}", right=f"{right:.3f}", power=power)


# --- 57.3 -------------------------------------------------------------------------------------------------


@check_of("57.3", "A latency that means something", minutes=8)
def latency(attempt: Callable) -> None:
    """The q-th percentile by nearest rank, of what came after the warm-up."""
    rng = random.Random(0)
    for n, warm_up, q in ((60, 10, 90), (101, 20, 50), (30, 0, 95), (12, 4, 99)):
        slow = [round(rng.uniform(0.5, 4), 3) for _ in range(warm_up)]
        usual = [round(rng.expovariate(20) + 0.02, 4) for _ in range(n - warm_up - 2)] + [0.9, 1.7]
        rng.shuffle(usual)
        seconds = slow + usual
        kept = list(seconds)
        found = number(attempt(seconds, warm_up, q), "57.3.no_number")
        if seconds != kept:
            raise Wrong("57.3.changed")
        right = _rank(usual, q)
        if close(found, right):
            continue
        mean = sum(usual) / len(usual)
        named = [
            ("57.3.mean_with_warm_up", sum(seconds) / n),
            ("57.3.mean", mean),
            ("57.3.warm_up_counted", _rank(seconds, q)),
            ("57.3.sorted_first", _rank(sorted(seconds)[warm_up:], q)),
            ("57.3.sorted_first", _rank(sorted(seconds, reverse=True)[warm_up:], q)),
            ("57.3.other_end", _rank(usual, 100 - q)),
            ("57.3.not_sorted", usual[math.ceil(q / 100 * len(usual)) - 1]),
            ("57.3.maximum", max(usual)),
            ("57.3.one_off", sorted(usual)[min(math.ceil(q / 100 * len(usual)), len(usual) - 1)]),
            ("57.3.one_off", sorted(usual)[max(math.ceil(q / 100 * len(usual)) - 2, 0)]),
            ("57.3.milliseconds", 1000 * right),
            ("57.3.interpolated", _between(usual, q)),
        ]
        for key, value in named:
            if close(found, value):
                raise Wrong(key, found=f"{found:.4g}", right=f"{right:.4g}", q=q, warm_up=warm_up)
        raise Wrong("57.3.value", found=f"{found:.4g}", right=f"{right:.4g}", q=q, warm_up=warm_up)


def _rank(values: list[float], q: float) -> float:
    """The smallest value that at least q per cent do not exceed."""
    return sorted(values)[max(math.ceil(q * len(values) / 100) - 1, 0)]


def _between(values: list[float], q: float) -> float:
    """numpy's default: linear interpolation between two values."""
    place = q / 100 * (len(values) - 1)
    low, ordered = math.floor(place), sorted(values)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(values) - 1)] - ordered[low])


# --- 57.4 -------------------------------------------------------------------------------------------------


@check_of("57.4", "A micro-batching router", minutes=20)
def micro_batches(attempt: Callable) -> None:
    """Batches close when full or when their oldest has waited max_wait; an addition's name decides nothing."""
    rng = random.Random(0)
    for rows, wait, gap in ((6, 5, 3.0), (3, 10, 4.0), (8, 6, 1.0), (2, 0, 1.5)):
        times, now = [], 0
        for _ in range(30):
            now += 1 + int(rng.expovariate(1 / gap))
            times.append(now)
        requests = [(time, rng.choice(["reviews", "spam", "topics"])) for time in times]
        kept = list(requests)
        found = attempt(requests, rows, wait)
        if requests != kept:
            raise Wrong("57.4.changed")
        _judge_batches(found, requests, rows, wait)


def _judge_batches(found: Any, requests: list[tuple], rows: int, wait: float) -> None:
    right = _batches(requests, rows, wait)
    if not isinstance(found, list) or not all(isinstance(batch, list) for batch in found):
        raise Wrong("57.4.no_lists", found=type(found).__name__)
    if found == right:
        return
    flat = [request for batch in found for request in batch]
    if any(not batch for batch in found):
        raise Wrong("57.4.empty_batch")
    if len(flat) < len(requests) and flat == requests[: len(flat)]:
        raise Wrong("57.4.last_batch_lost", missing=len(requests) - len(flat))
    if Counter(map(repr, flat)) != Counter(map(repr, requests)):
        raise Wrong("57.4.lost", found=len(flat), right=len(requests))
    if max(map(len, found)) > rows:
        raise Wrong("57.4.too_full", found=max(map(len, found)), right=rows)
    if all(len(batch) == 1 for batch in found):
        raise Wrong("57.4.no_batches")
    if len(found) > len(right) and all(len({name for _, name in batch}) == 1 for batch in found):
        raise Wrong("57.4.one_addition_a_batch", found=len(found), right=len(right))
    if flat != requests:
        raise Wrong("57.4.order")
    if found == [requests[i : i + rows] for i in range(0, len(requests), rows)]:
        raise Wrong("57.4.never_waits_out", wait=wait)
    if found == _batches(requests, rows, wait, newest=True):
        raise Wrong("57.4.from_the_newest", wait=wait)
    longest = max(batch[-1][0] - batch[0][0] for batch in found)
    if longest > wait:
        raise Wrong("57.4.waits_too_long", found=longest, right=wait)
    raise Wrong("57.4.value", found=len(found), right=len(right), rows=rows, wait=wait)


def _batches(requests: list[tuple], rows: int, wait: float, newest: bool = False) -> list[list[tuple]]:
    """The right batches; with `newest`, each arrival starts the clock anew."""
    batches: list[list[tuple]] = []
    for request in requests:
        last = batches[-1] if batches else None
        since = last[-1 if newest else 0][0] if last else 0
        if last and len(last) < rows and request[0] <= since + wait:
            last.append(request)
        else:
            batches.append([request])
    return batches
