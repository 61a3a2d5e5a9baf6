"""The checks of chapter 12."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable

from .registry import Wrong, check_of


@check_of("12.1", "Count BERT's parameters", minutes=15)
def bert_parameters(attempt: Callable) -> None:
    """The count over random sizes; each part that is left out, or counted twice, has its name."""
    rng = random.Random(0)
    sizes = [(30522, 512, 768, 12), *((rng.randint(50, 999), rng.randint(8, 99), rng.randint(4, 64), rng.randint(2, 9))
                                      for _ in range(9))]
    found = [attempt(*size) for size in sizes]
    if found[0] is None:
        raise Wrong("12.1.none")

    def right(V, P, d, L):
        return (V + P) * d + 4 * d + L * (12 * d * d + 13 * d) + d * d + d

    gaps = {  # what the answer is too large by, and the mistake's name
        "12.1.output": lambda V, P, d, L: V * d,
        "12.1.no_positions": lambda V, P, d, L: -P * d,
        "12.1.no_tokens": lambda V, P, d, L: -V * d,
        "12.1.two_d": lambda V, P, d, L: -2 * d,  # the types or the norm: the two are equally large
        "12.1.four_d": lambda V, P, d, L: -4 * d,
        "12.1.last_norm": lambda V, P, d, L: 2 * d,
        "12.1.no_pooler": lambda V, P, d, L: -(d * d + d),
        "12.1.pooler_bias": lambda V, P, d, L: -d,
        "12.1.like_gpt": lambda V, P, d, L: -(d * d + d) - 2 * d,
        "12.1.no_norms": lambda V, P, d, L: -L * 4 * d - 2 * d,
        "12.1.no_block_norms": lambda V, P, d, L: -L * 4 * d,
        "12.1.norm_gain_only": lambda V, P, d, L: -L * 2 * d - d,
        "12.1.no_biases": lambda V, P, d, L: -L * 9 * d - d,
        "12.1.no_biases_at_all": lambda V, P, d, L: -L * 11 * d - 2 * d,
        "12.1.no_output": lambda V, P, d, L: -L * (d * d + d),
        "12.1.one_way": lambda V, P, d, L: -L * (4 * d * d + d),
        "12.1.one_block": lambda V, P, d, L: -(L - 1) * (12 * d * d + 13 * d),
        "12.1.heads": lambda V, P, d, L: (12 - 1) * L * 4 * (d * d + d),
    }
    V, P, d, L = sizes[0]
    for key, gap in gaps.items():
        if all(answer == right(*size) + gap(*size) for answer, size in zip(found, sizes, strict=True)):
            raise Wrong(key, found=f"{found[0]:,}", right=f"{right(V, P, d, L):,}")
    for answer, size in zip(found, sizes, strict=True):
        if answer != right(*size):
            V, P, d, L = size
            raise Wrong("12.1.value", V=V, P=P, d=d, L=L, found=answer, right=right(*size))
        try:
            operator.index(answer)
        except TypeError:
            raise Wrong("12.1.float", found=answer) from None


@check_of("12.2", "Find the largest batch that fits a card", minutes=12)
def largest_batch(attempt: Callable) -> None:
    """Random plans; what the wrong bill takes, before the rows come, shows in how many of them fit."""
    rng = random.Random(1)
    plans = []
    for weight_bytes in (4, 2, 1, 0.5, 2, 4):
        parameters, row = rng.randint(10**6, 10**7), rng.randint(100, 200)
        plans.append((20 * 10**7, parameters, rng.randint(10**5, 5 * 10**5), row, weight_bytes))
    plans += [(200_000, 7_000, 7_000, 50, 2), (112_000 + 150, 7_000, 7_000, 50, 2)]  # all is trained; exactly 3 rows
    plans += [(112_000 + 49, 7_000, 7_000, 50, 2), (100_000, 7_000, 7_000, 50, 2)]  # not one row; not the weights
    found = [attempt(*plan) for plan in plans]
    if found[0] is None:
        raise Wrong("12.2.none")

    def rows(standing, c, r):
        return max(0, int((c - standing) // r))

    def right(c, n, t, r, w):
        return rows((n - t) * w + 16 * t, c, r)

    named: list[tuple[str, Callable]] = [
        ("12.2.negative", lambda c, n, t, r, w: (c - (n - t) * w - 16 * t) // r),
        ("12.2.not_whole", lambda c, n, t, r, w: (c - (n - t) * w - 16 * t) / r),
        ("12.2.not_whole", lambda c, n, t, r, w: max(0, (c - (n - t) * w - 16 * t) / r)),
        ("12.2.rounded", lambda c, n, t, r, w: max(0, round((c - (n - t) * w - 16 * t) / r))),
        ("12.2.rounded_up", lambda c, n, t, r, w: max(0, -int(-(c - (n - t) * w - 16 * t) // r))),
        ("12.2.one_moment", lambda c, n, t, r, w: rows((n - t) * w + 12 * t, c, r)),  # or no gradient
        ("12.2.no_moments", lambda c, n, t, r, w: rows((n - t) * w + 8 * t, c, r)),
        ("12.2.frozen_moments", lambda c, n, t, r, w: rows(n * w + 4 * t + 8 * n, c, r)),
        ("12.2.all_frozen_too", lambda c, n, t, r, w: rows(n * w + 12 * n, c, r)),
        ("12.2.all_sixteen", lambda c, n, t, r, w: rows(16 * n, c, r)),
        ("12.2.frozen_gradients", lambda c, n, t, r, w: rows((n - t) * w + 12 * t + 4 * n, c, r)),
        ("12.2.trained_only", lambda c, n, t, r, w: rows(16 * t, c, r)),
        ("12.2.trained_in_weight_bytes", lambda c, n, t, r, w: rows(n * w + 12 * t, c, r)),
        ("12.2.trained_twice", lambda c, n, t, r, w: rows(n * w + 16 * t, c, r)),
        ("12.2.all_in_weight_bytes", lambda c, n, t, r, w: rows((n + 3 * t) * w, c, r)),
        ("12.2.nothing_standing", lambda c, n, t, r, w: rows(0, c, r)),
        ("12.2.row_times_four", lambda c, n, t, r, w: rows((n - t) * w + 16 * t, c, 4 * r)),
    ]
    rights = [right(*plan) for plan in plans]
    if found == rights:
        return
    for key, wrong in named:
        if all(abs(answer - wrong(*plan)) < 1e-6 for answer, plan in zip(found, plans, strict=True)):
            raise Wrong(key)
    for answer, value, (c, n, t, r, w) in zip(found, rights, plans, strict=True):
        if answer != value:
            raise Wrong("12.2.value", c=c, n=n, t=t, r=r, w=w, found=answer, right=value, standing=(n - t) * w + 16 * t)


class Rows(list):
    """A split that remembers whether anybody looked at it."""

    def __init__(self, rows: list, name: str):
        super().__init__(rows)
        self.name, self.read = name, False

    def __getitem__(self, index):
        self.read = True
        return super().__getitem__(index)

    def __iter__(self):
        self.read = True
        return super().__iter__()


@check_of("12.3", "Choose few-shot examples", minutes=12)
def choose_examples(attempt: Callable) -> None:
    """Who was asked what is written down: where examples came from, which rows decided, and whether the best won."""
    for seed in (0, 3):
        calls: list[tuple[tuple[int, ...], str, float]] = []
        splits = {
            name: Rows([{"id": start + i, "text": f"{name} {i}", "label": i % 2} for i in range(40)], name)
            for name, start in (("train", 0), ("validation", 1000), ("test", 2000))
        }
        quality = random.Random(17 + seed)
        worth = {i: quality.random() for start in (0, 1000, 2000) for i in range(start, start + 40)}

        def score(examples, rows, calls=calls, worth=worth):
            ids = tuple(row["id"] for row in examples)
            asked = {_split(row["id"]) for row in list.__iter__(rows)}  # unseen by the split: the score may look
            name = asked.pop() if len(asked) == 1 else "mixed"
            value = sum(worth[i] for i in ids) / max(1, len(ids)) + (0.5 if name == "train" else 0.0)
            calls.append((ids, name, value))
            return value

        chosen = attempt(splits, score, 4, 6, seed)
        if chosen is None:
            raise Wrong("12.3.none")
        if not isinstance(chosen, list | tuple) or not all(isinstance(row, dict) for row in chosen):
            raise Wrong("12.3.form", found=type(chosen).__name__)
        origins = {_split(i) for ids, _, _ in calls for i in ids} | {_split(row["id"]) for row in chosen}
        if "test" in origins:
            raise Wrong("12.3.from_test")
        if "validation" in origins:
            raise Wrong("12.3.from_validation")
        if not calls:
            raise Wrong("12.3.no_comparison")
        judged = {name for _, name, _ in calls}
        if "test" in judged:
            raise Wrong("12.3.judged_on_test")
        if judged != {"validation"}:
            raise Wrong("12.3.judged_on_train")
        if splits["test"].read:
            raise Wrong("12.3.read_test")
        if any(len(ids) != 4 for ids, _, _ in calls) or len(chosen) != 4:
            raise Wrong("12.3.count", k=4, found=len(chosen))
        if any(len(set(ids)) != len(ids) for ids, _, _ in calls):
            raise Wrong("12.3.repeated")
        if len(calls) != 6:
            raise Wrong("12.3.tries", tries=6, found=len(calls))
        if len({ids for ids, _, _ in calls}) == 1:
            raise Wrong("12.3.same_draw")
        ids = tuple(row["id"] for row in chosen)
        values = [value for _, _, value in calls]
        if ids == calls[values.index(min(values))][0]:
            raise Wrong("12.3.worst")
        if ids != calls[values.index(max(values))][0]:
            raise Wrong("12.3.not_best")
        first = [ids for ids, _, _ in calls]
        calls.clear()
        attempt(splits, score, 4, 6, seed)
        if [ids for ids, _, _ in calls] != first:
            raise Wrong("12.3.seed")


def _split(number: int) -> str:
    return ("train", "validation", "test")[number // 1000]
