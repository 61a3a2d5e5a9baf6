"""The checks of chapter 55."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch

# --- 55.1 -------------------------------------------------------------------------------------------------


@check_of("55.1", "Leave the last out", minutes=8)
def split_by_time(attempt: Callable) -> None:
    """Rows in any order; the right answer is known by time, and the usual others by how they order and cut."""
    rng = random.Random(0)
    for _round in range(3):
        rows = [
            {"user": user, "item": item, "timestamp": rng.randint(0, 10**6)}
            for user in rng.sample(range(100), 5)
            for item in rng.sample(range(1, 50), rng.randint(5, 9))
        ]
        rng.shuffle(rows)
        given = [dict(row) for row in rows]
        answer = attempt(rows)
        if rows != given:
            raise Wrong("55.1.in_place")
        if not isinstance(answer, dict) or set(answer) != {row["user"] for row in rows}:
            raise Wrong("55.1.not_by_user", found=type(answer).__name__)
        for user, parts in answer.items():
            mine = [row for row in rows if row["user"] == user]
            _judge_user(parts, [row["item"] for row in sorted(mine, key=lambda row: row["timestamp"])], mine)


def _judge_user(parts: object, right: list[int], mine: list[dict]) -> None:
    try:
        train, validation, test = parts
        train = list(train)
    except (TypeError, ValueError):
        raise Wrong("55.1.not_three", found=repr(parts)[:60]) from None
    if (train, validation, test) == (right[:-2], right[-2], right[-1]):
        return
    if test in train or validation in train:
        raise Wrong("55.1.in_train")
    if (validation, test) == (right[-1], right[-2]):
        raise Wrong("55.1.swapped")
    as_given, by_item = [row["item"] for row in mine], sorted(right)
    orders = {"55.1.as_given": as_given, "55.1.by_item": by_item, "55.1.newest_first": right[::-1]}
    for key, order in orders.items():
        if train == order[:-2] and sorted((validation, test)) == sorted(order[-2:]):
            raise Wrong(key)
    if (validation, test) == (right[-2], right[-1]):
        raise Wrong("55.1.train_order" if sorted(train) == sorted(right[:-2]) else "55.1.train_lost")
    later = sum(right.index(item) > right.index(test) for item in train) if test in right else 0
    raise Wrong("55.1.leaks" if later else "55.1.value", later=later)


# --- 55.2 -------------------------------------------------------------------------------------------------


@check_of("55.2", "HR@k and NDCG@k over the whole catalogue", minutes=12)
def hit_rate_and_gain(attempt: Callable) -> None:
    """Small catalogues, k of 3 to 5, no ties; what the usual mistakes would give is computed beside the right."""
    import torch

    rng = random.Random(0)
    for _round in range(4):
        users, items, k = 8, rng.randint(14, 18), rng.randint(3, 5)
        scores = torch.randn(users, items + 1)
        scores[:, 0] = 1.0 + torch.rand(users)  # padding scores well
        targets, seen = torch.zeros(users, dtype=torch.long), []
        for user in range(users):
            order = (1 + scores[user, 1:].argsort(descending=True)).tolist()
            place = (k, k - 1, k + 1, 1, 0, 2, items - 1, k + 2)[user]
            targets[user] = order[place]
            seen.append([order[0]] if user == 1 else order[:2] if place > 1 else [order[-1]])
        given = scores.clone()
        answer = attempt(scores, targets, [list(items) for items in seen], k)
        try:
            hit_rate, gain = (float(number) for number in answer)
        except (TypeError, ValueError):
            raise Wrong("55.2.not_two", found=type(answer).__name__) from None
        right = _ranking(given, targets, seen, k)
        if _close((hit_rate, gain), right):
            if not torch.equal(scores, given):
                raise Wrong("55.2.in_place")
            continue
        if _close((gain, hit_rate), right):
            raise Wrong("55.2.order")
        for key, wrong in _wrong_rankings(given, targets, seen, k):
            if _close((hit_rate, gain), wrong):
                raise Wrong(key, k=k)
        if abs(hit_rate - right[0]) < 1e-6:
            raise Wrong("55.2.gain_value", found=f"{gain:.4f}", right=f"{right[1]:.4f}")
        raise Wrong("55.2.value", found=f"{hit_rate:.4f}", right=f"{right[0]:.4f}", k=k)


def _close(found: tuple[float, float], wanted: tuple[float, float]) -> bool:
    return all(abs(a - b) < 1e-5 for a, b in zip(found, wanted))


def _ranking(
    scores: torch.Tensor, targets: torch.Tensor, seen: list[list[int]], k: int, *, mask: bool = True,
    padding: bool = False, sign: int = 1, first: int = 1, cut: int | None = None, gain: Callable | None = None,
    gain_cut: bool = True,
) -> tuple[float, float]:  # fmt: skip
    """(HR, NDCG) with one thing done differently."""
    scores = sign * scores.double()
    hit_rate = total = 0.0
    gain = gain or (lambda rank: 1 / math.log2(rank + 1))
    for user, target in enumerate(targets.tolist()):
        ignored = set(seen[user] if mask else []) | (set() if padding else {0})
        others = [j for j in range(scores.shape[1]) if j not in ignored and j != target]
        rank = 1 + sum((scores[user, j] > scores[user, target]).item() for j in others)
        hit = rank <= (k if cut is None else cut)
        hit_rate += hit
        if hit or not gain_cut:
            total += gain(rank + first - 1)
    return hit_rate / len(targets), total / len(targets)


def _wrong_rankings(scores, targets, seen, k) -> list[tuple[str, tuple[float, float]]]:
    def other(**changed):
        return _ranking(scores, targets, seen, k, **changed)

    right = other()
    users = len(targets)
    return [
        ("55.2.seen_ranked", other(mask=False)),
        ("55.2.seen_ranked", other(mask=False, padding=True)),
        ("55.2.padding_ranked", other(padding=True)),
        ("55.2.upside_down", other(sign=-1)),
        ("55.2.one_short", other(cut=k - 1)),
        ("55.2.one_long", other(cut=k + 1)),
        ("55.2.rank_off", other(first=2)),
        ("55.2.natural_log", other(gain=lambda rank: 1 / math.log(rank + 1))),
        ("55.2.reciprocal", other(gain=lambda rank: 1 / rank)),
        ("55.2.not_cut", other(gain_cut=False)),
        ("55.2.sum", (right[0] * users, right[1] * users)),
    ]


# --- 55.3 -------------------------------------------------------------------------------------------------


@check_of("55.3", "Correct the sampled softmax", minutes=12)
def corrected_softmax(attempt: Callable) -> None:
    """Candidates drawn with unequal chances, some of them by accident the right item."""
    import torch

    for N, n, items in ((6, 5, 12), (4, 9, 30)):
        states, table = torch.randn(N, 4), torch.randn(items + 1, 4)
        states.requires_grad_()
        chance = torch.rand(items + 1) ** 3 + 0.01
        chance = chance / chance.sum()
        candidates = torch.stack([torch.randperm(items)[: n + 1] + 1 for _ in range(N)])
        candidates[0, 2] = candidates[0, 0]  # drawn by accident
        candidates[1, 1] = candidates[1, 0]
        answer = attempt(states, table, candidates, chance.log())
        if not isinstance(answer, torch.Tensor) or answer.ndim:
            raise Wrong("55.3.not_scalar", found=getattr(answer, "shape", type(answer).__name__))
        with torch.no_grad():
            right = _softmax_loss(states, table, candidates, chance)
            if not same(answer.detach(), right, 1e-4):
                for key, wrong in _wrong_losses(states, table, candidates, chance):
                    if same(answer.detach(), wrong, 1e-4):
                        raise Wrong(key)
                raise Wrong("55.3.value", found=f"{answer.item():.4f}", right=f"{right.item():.4f}")
        if not answer.requires_grad:
            raise Wrong("55.3.no_gradient")


def _softmax_loss(
    states, table, candidates, chance, *, correct: Callable | None = None, hits: str = "masked", dim: int = 1
) -> torch.Tensor:  # fmt: skip
    """The mean loss with one thing done differently; `correct(scores, log q of the candidates)` -> logits."""
    import torch

    log_q = chance.log()[candidates]  # (N, 1 + n)
    scores = (states[:, None] * table[candidates]).sum(-1)
    logits = scores - log_q if correct is None else correct(scores, log_q)
    if hits == "masked":
        accident = candidates == candidates[:, :1]
        accident[:, 0] = False
        logits = logits.masked_fill(accident, -torch.inf)
    return -logits.log_softmax(dim)[:, 0].mean()


def _wrong_losses(states, table, candidates, chance) -> list[tuple[str, torch.Tensor]]:
    import torch

    def other(**changed):
        return _softmax_loss(states, table, candidates, chance, **changed)

    def on_columns(right: bool):
        def correct(scores, log_q):
            kept = torch.zeros_like(log_q)
            kept[:, 0 if right else slice(1, None)] = 1
            return scores - kept * log_q

        return correct

    return [
        ("55.3.not_corrected", other(correct=lambda s, q: s)),
        ("55.3.not_corrected", other(correct=lambda s, q: s, hits="kept")),
        ("55.3.sign", other(correct=lambda s, q: s + q)),
        ("55.3.sign", other(correct=lambda s, q: s + q, hits="kept")),
        ("55.3.hits_kept", other(hits="kept")),
        ("55.3.negatives_only", other(correct=on_columns(False))),
        ("55.3.right_only", other(correct=on_columns(True))),
        ("55.3.no_log", other(correct=lambda s, q: s - q.exp())),
        ("55.3.divided", other(correct=lambda s, q: s / q.exp())),
        ("55.3.over_rows", other(dim=0)),
        ("55.3.sum", other() * len(states)),
        ("55.3.minus", -other()),
        ("55.3.all_items", -(states @ table[1:].T).log_softmax(1)
            .gather(1, candidates[:, :1] - 1).mean()),
    ]  # fmt: skip


# --- 55.4 -------------------------------------------------------------------------------------------------


@check_of("55.4", "Score what nobody has bought yet", minutes=8)
def cold_scores(attempt: Callable) -> None:
    """Known items by text and own vector, new ones by text alone."""
    import torch

    for V, m, d in ((9, 6, 4), (14, 5, 3)):
        h, text, W, own = torch.randn(d), torch.randn(V, m), torch.randn(d, m), torch.randn(V, d)
        is_new = torch.zeros(V, dtype=torch.bool)
        is_new[torch.randperm(V)[:3]] = True
        kept = [tensor.clone() for tensor in (h, text, W, own, is_new)]
        found = attempt(h, text, W, own, is_new)
        if any(not torch.equal(a, b) for a, b in zip(kept, (h, text, W, own, is_new))):
            raise Wrong("55.4.in_place")
        if not isinstance(found, torch.Tensor) or found.shape != (V,):
            raise Wrong("55.4.shape", found=getattr(found, "shape", type(found).__name__), right=(V,))
        read, trained = text @ W.T, own * ~is_new[:, None]
        right = (read + trained) @ h
        if same(found, right):
            continue
        unit = (read + trained) / (read + trained).norm(dim=1, keepdim=True)
        wrong = [
            ("55.4.noise", (read + own) @ h),
            ("55.4.text_only", read @ h),
            ("55.4.own_only", own @ h),
            ("55.4.own_only", trained @ h),
            ("55.4.either", torch.where(is_new[:, None], read, own) @ h),
            ("55.4.inverted", (read + own * is_new[:, None]) @ h),
            ("55.4.new_left_out", torch.where(is_new, 0.0, (read + own) @ h)),
            ("55.4.new_left_out", torch.where(is_new, -torch.inf, (read + own) @ h)),
            ("55.4.cosine", unit @ h),
            ("55.4.cosine", unit @ (h / h.norm())),
        ]
        for key, value in wrong:
            if same(found, value):
                raise Wrong(key)
        raise Wrong("55.4.value", gap=f"{(found - right).abs().max():.3g}")
