"""The checks of chapter 47."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch

    Adapter = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    Low = tuple[torch.Tensor, torch.Tensor, float]

# --- 47.1 -------------------------------------------------------------------------------------------------


@check_of("47.1", "A batch with two adapters", minutes=12)
def mixed_batch(attempt: Callable) -> None:
    """Every row with its own adapter, rows without one untouched; bottlenecks differ, rows come in any order."""
    import torch

    rng = random.Random(0)
    for rows in (["b", None, "a", "b", "a"], [None, "a", "a", None], ["a", "b"]):
        d, T = rng.randint(5, 7), rng.randint(3, 4)
        h = torch.randn(len(rows), T, d)
        adapters = {"a": _adapter(d, 2), "b": _adapter(d, 3)}
        kept, asked = h.clone(), list(rows)
        found = attempt(h, adapters, rows)
        if not torch.equal(h, kept):
            raise Wrong("47.1.in_place")
        if not isinstance(found, torch.Tensor) or found.shape != h.shape:
            raise Wrong("47.1.shape", found=getattr(found, "shape", type(found).__name__), right=tuple(h.shape))
        with torch.no_grad():
            _judge_rows(found, h, adapters, asked)
        numbers = [tensor for name in set(asked) - {None} for tensor in adapters[name]]
        got = [None] * len(numbers)
        if found.requires_grad:
            got = torch.autograd.grad(found.square().sum(), numbers, allow_unused=True)
        if any(gradient is None for gradient in got):
            raise Wrong("47.1.no_gradient")


def _adapter(d: int, r: int) -> Adapter:
    """W_down (r, d), b_down (r,), W_up (d, r), b_up (d,), all of size one."""
    import torch

    return tuple(torch.randn(shape).requires_grad_() for shape in ((r, d), (r,), (d, r), (d,)))


def _term(h: torch.Tensor, adapter: Adapter) -> torch.Tensor:
    W_down, b_down, W_up, b_up = adapter
    return (h @ W_down.T + b_down).relu() @ W_up.T + b_up


def _judge_rows(found: torch.Tensor, h: torch.Tensor, adapters: dict[str, Adapter], rows: list) -> None:
    import torch

    terms = {name: _term(h, adapter) for name, adapter in adapters.items()}
    nothing = torch.zeros_like(h)

    def by_row(of: Callable) -> torch.Tensor:
        return torch.stack([of(i, name) for i, name in enumerate(rows)])

    right = by_row(lambda i, name: h[i] + (nothing if name is None else terms[name])[i])
    if same(found, right):
        return
    empty = [i for i, name in enumerate(rows) if name is None]
    full = [i for i, name in enumerate(rows) if name is not None]
    if empty and same(found[full], right[full]):
        raise Wrong(_empty_row(found[empty], h[empty], adapters))
    delta = by_row(lambda i, name: (nothing if name is None else terms[name])[i])
    named = [
        ("47.1.delta_only", delta),
        ("47.1.nothing", h),
        ("47.1.twice", h + 2 * delta),
        ("47.1.summed", h + sum(terms.values())),
        ("47.1.averaged", h + sum(terms.values()) / len(terms)),
        ("47.1.no_up_bias", by_row(lambda i, name: h[i] + (delta[i] - adapters[name][3] if name else nothing[i]))),
        ("47.1.no_relu", by_row(lambda i, name: h[i] + (_linear(h, adapters[name])[i] if name else nothing[i]))),
        ("47.1.swapped", by_row(lambda i, name: h[i] + (terms["ab".replace(name, "")][i] if name else nothing[i]))),
        ("47.1.order", right[sorted(range(len(rows)), key=lambda i: (rows[i] is None, rows[i] or ""))]),
    ]
    for name in adapters:
        named.append(("47.1.one_for_all", h + terms[name]))
        named.append(("47.1.one_for_all", by_row(lambda i, own, name=name: h[i] + (terms[name][i] if own else 0))))
    for key, wrong in named:
        if same(found, wrong):
            raise Wrong(key)
    raise Wrong("47.1.value", row=next(i for i in range(len(rows)) if not same(found[i], right[i])))


def _linear(h: torch.Tensor, adapter: Adapter) -> torch.Tensor:
    W_down, b_down, W_up, b_up = adapter
    return (h @ W_down.T + b_down) @ W_up.T + b_up


def _empty_row(found: torch.Tensor, h: torch.Tensor, adapters: dict[str, Adapter]) -> str:
    """What happened to the rows that have no adapter."""
    if same(found, 0 * h):
        return "47.1.none_lost"
    for adapter in adapters.values():
        _, b_down, W_up, b_up = adapter
        biases = (b_up, b_down.relu() @ W_up.T, _term(0 * h, adapter))
        if any(same(found, h + bias) for bias in biases):
            return "47.1.none_gets_bias"
        if same(found, h + _term(h, adapter)):
            return "47.1.none_gets_adapter"
    return "47.1.none_value"


# --- 47.2 -------------------------------------------------------------------------------------------------


@check_of("47.2", "Merge two and measure interference", minutes=15)
def merge_two(attempt: Callable) -> None:
    """W + w1 s1 B1 A1 + w2 s2 B2 A2, and how far that is from the first alone, in units of what the first did."""
    import torch

    rng = random.Random(0)
    for weights in ((0.7, 0.2), (1.0, 1.0), (0.5, 0.5)):
        out, into = rng.randint(5, 7), rng.randint(8, 9)
        first = torch.randn(2, into), torch.randn(out, 2), 2.0
        second = torch.randn(2, into), torch.randn(out, 2), 0.5
        W, x = torch.randn(out, into), torch.randn(6, into)
        given = [W, x, *first[:2], *second[:2]]
        kept = [tensor.clone() for tensor in given]
        answer = attempt(W, first, second, weights, x)
        if any(not torch.equal(tensor, old) for tensor, old in zip(given, kept, strict=True)):
            raise Wrong("47.2.in_place")
        try:
            merged, share = answer
            share = float(share)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong("47.2.not_two", found=type(answer).__name__) from None
        if not isinstance(merged, torch.Tensor) or merged.shape != W.shape:
            raise Wrong("47.2.shape", found=getattr(merged, "shape", type(merged).__name__), right=tuple(W.shape))
        right = _merged(W, first, second, weights)
        if not same(merged, right, 1e-4):
            for key, wrong in _wrong_merges(W, first, second, weights):
                if same(merged, wrong, 1e-4) and not same(right, wrong, 1e-4):
                    raise Wrong(key)
            raise Wrong("47.2.value")
        for key, wrong in _shares(W, right, first, second, x):
            if abs(share - wrong) < 1e-3 * max(1.0, abs(wrong)):
                if key is None:
                    break
                raise Wrong(key)
        else:
            raise Wrong("47.2.share", found=f"{share:.3f}")


def _delta(low: Low) -> torch.Tensor:
    A, B, s = low
    return s * B @ A


def _merged(W: torch.Tensor, first: Low, second: Low, weights: tuple[float, float]) -> torch.Tensor:
    return W + weights[0] * _delta(first) + weights[1] * _delta(second)


def _wrong_merges(
    W: torch.Tensor, first: Low, second: Low, weights: tuple[float, float]
) -> list[tuple[str, torch.Tensor]]:
    (A1, B1, s1), (A2, B2, s2), (w1, w2) = first, second, weights
    one, two = _delta(first), _delta(second)
    apart = [(w1, w2), (0.5, 0.5), (w1 / (w1 + w2), w2 / (w1 + w2)), (1.0, 1.0), (w1**0.5, w2**0.5)]
    named = [
        ("47.2.separately", W + s * (v1 * B1 + v2 * B2) @ (v1 * A1 + v2 * A2))
        for v1, v2 in apart
        for s in (s1, s2, (s1 + s2) / 2, 1.0, s1 * s2, s1 + s2)
    ]
    roots = [(w * s) ** 0.5 for w, s in ((w1, s1), (w2, s2))]
    return [
        *named,
        ("47.2.separately", W + (roots[0] * B1 + roots[1] * B2) @ (roots[0] * A1 + roots[1] * A2)),
        ("47.2.separately", W + (w1 * s1 * B1 + w2 * s2 * B2) @ (w1 * A1 + w2 * A2)),
        ("47.2.separately", W + (w1 * s1 * B1 + w2 * s2 * B2) @ (A1 + A2)),
        ("47.2.no_scale", W + w1 * B1 @ A1 + w2 * B2 @ A2),
        ("47.2.one_scale", W + s1 * (w1 * B1 @ A1 + w2 * B2 @ A2)),
        ("47.2.one_scale", W + s2 * (w1 * B1 @ A1 + w2 * B2 @ A2)),
        ("47.2.weights_twice", W + w1**2 * one + w2**2 * two),
        ("47.2.no_weights", W + one + two),
        ("47.2.no_weights", W + (one + two) / 2),
        ("47.2.base_too", w1 * (W + one) + w2 * (W + two)),
        ("47.2.delta_only", w1 * one + w2 * two),
        ("47.2.swapped", W + w2 * one + w1 * two),
        ("47.2.first_only", W + w1 * one),
        ("47.2.nothing", W),
    ]


def _shares(
    W: torch.Tensor, merged: torch.Tensor, first: Low, second: Low, x: torch.Tensor
) -> list[tuple[str | None, float]]:
    """The right interference, under None, and the usual other numbers."""
    alone, other = W + _delta(first), W + _delta(second)
    off, own = x @ (merged - alone).T, x @ _delta(first).T
    rows = off.norm(dim=1) / own.norm(dim=1)
    total = (x @ _delta(second).T).norm()
    return [
        (None, float(off.norm() / own.norm())),
        ("47.2.on_weights", float((merged - alone).norm() / _delta(first).norm())),
        ("47.2.of_output", float(off.norm() / (x @ alone.T).norm())),
        ("47.2.inverted", float(own.norm() / off.norm())),
        ("47.2.not_divided", float(off.norm())),
        ("47.2.squared", float(off.norm() ** 2 / own.norm() ** 2)),
        ("47.2.mean_of_ratios", float(rows.mean())),
        ("47.2.of_second", float((x @ (merged - other).T).norm() / total)),
        ("47.2.of_second", float(off.norm() / total)),
        ("47.2.from_base", float((x @ (merged - W).T).norm() / own.norm())),
    ]


# --- 47.3 -------------------------------------------------------------------------------------------------


@check_of("47.3", "Task arithmetic", minutes=8)
def task_arithmetic(attempt: Callable) -> None:
    """base + sum of lambda times (tuned - base), for dictionaries of tensors; what is no float stays."""
    import torch

    for factors in ((1.0, -0.5), (0.3, 0.3, 0.3)):
        base = {"weight": torch.randn(4, 3), "bias": torch.randn(4), "position_ids": torch.arange(5)}
        tuned = [{name: t + torch.randn_like(t) if t.is_floating_point() else t.clone() for name, t in base.items()}
                 for _ in factors]  # fmt: skip
        kept = copy.deepcopy((base, tuned))
        found = attempt(base, tuned, list(factors))
        if not _equal((base, tuned), kept):
            raise Wrong("47.3.in_place")
        if not isinstance(found, dict) or found.keys() != base.keys():
            names = sorted(found) if isinstance(found, dict) else type(found).__name__
            raise Wrong("47.3.keys", found=names, right=sorted(base))
        ids = found["position_ids"]
        if ids.dtype != torch.int64 or not torch.equal(ids, base["position_ids"]):
            raise Wrong("47.3.integers", found=str(ids.dtype))
        if any(found[name].shape != base[name].shape for name in base):
            raise Wrong("47.3.value")
        _name_arithmetic(found, base, tuned, factors)


def _equal(now: tuple, then: tuple) -> bool:
    import torch

    pairs = zip([now[0], *now[1]], [then[0], *then[1]], strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def _name_arithmetic(found: dict, base: dict, tuned: list[dict], factors: tuple[float, ...]) -> None:
    names = [name for name in base if base[name].is_floating_point()]

    def agrees(of: Callable) -> bool:
        return all(same(found[name], of(base[name], [t[name] for t in tuned])) for name in names)

    def moved(b: torch.Tensor, each: list) -> torch.Tensor:
        return sum(k * (t - b) for k, t in zip(factors, each, strict=True))

    if agrees(lambda b, each: b + moved(b, each)):
        return
    wrong = [
        ("47.3.no_base_taken_off", lambda b, each: sum(k * t for k, t in zip(factors, each, strict=True))),
        ("47.3.base_twice", lambda b, each: b + sum(k * t for k, t in zip(factors, each, strict=True))),
        ("47.3.vectors_only", moved),
        ("47.3.mean", lambda b, each: b + moved(b, each) / len(each)),
        ("47.3.no_factors", lambda b, each: b + sum(t - b for t in each)),
        ("47.3.no_factors", lambda b, each: sum(each) / len(each)),
        ("47.3.sign", lambda b, each: b - moved(b, each)),
        ("47.3.first_only", lambda b, each: b + factors[0] * (each[0] - b)),
    ]
    for key, form in wrong:
        if agrees(form):
            raise Wrong(key)
    raise Wrong("47.3.value")


# --- 47.4 -------------------------------------------------------------------------------------------------


@check_of("47.4", "Replay", minutes=8)
def with_replay(attempt: Callable) -> None:
    """All new rows and as many old ones, drawn without repetition, that they are the wanted share; then shuffled."""
    import torch

    for new_rows, old_rows, share in ((60, 100, 0.25), (90, 300, 0.1), (40, 200, 0.5)):
        new, old = [f"new {i}" for i in range(new_rows)], [f"old {i}" for i in range(old_rows)]
        kept = list(new), list(old)
        random.seed(1)
        torch.manual_seed(1)
        rows = attempt(new, old, share, 0)
        if (new, old) != kept:
            raise Wrong("47.4.in_place")
        if not isinstance(rows, list):
            raise Wrong("47.4.not_list", found=type(rows).__name__)
        own, seen = [row for row in rows if row in set(new)], [row for row in rows if row in set(old)]
        _judge_replay(own, seen, new, old, share)
        random.seed(2)
        torch.manual_seed(2)
        if attempt(new, old, share, 0) != rows:
            raise Wrong("47.4.seed_ignored")
        other = attempt(new, old, share, 1)
        if set(other) == set(rows):
            raise Wrong("47.4.first_rows" if set(seen) == set(old[: len(seen)]) else "47.4.same_draw")
        if rows[: len(own)] == own or rows[-len(own) :] == own:
            raise Wrong("47.4.not_shuffled")
        if own == new:
            raise Wrong("47.4.new_in_order")


def _judge_replay(own: list, seen: list, new: list, old: list, share: float) -> None:
    """How many rows of each kind there are, and how many there should be."""
    if max(Counter(seen).values(), default=1) > 1:
        raise Wrong("47.4.repeated")
    wanted = round(share / (1 - share) * len(new))
    if len(own) < len(new):
        raise Wrong("47.4.new_lost", found=len(own), right=len(new))
    if abs(len(seen) - wanted) <= 1:
        return
    counts = {
        "47.4.nothing_old": 0, "47.4.all_old": len(old), "47.4.share_of_new": round(share * len(new)),
        "47.4.share_of_old": round(share * len(old)), "47.4.share_of_all": round(share * (len(new) + len(old))),
    }  # fmt: skip
    key = next((key for key, count in counts.items() if abs(len(seen) - count) <= 1), "47.4.count")
    raise Wrong(key, found=len(seen), right=wanted)
