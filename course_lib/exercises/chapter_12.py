"""The checks of chapter 12."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable

from .registry import Wrong, check_of


@check_of("12.1", "Count GPT-2's parameters", minutes=10)
def gpt2_parameters(attempt: Callable) -> None:
    """The count over random sizes; each part that is left out, or counted twice, has its name."""
    rng = random.Random(0)
    sizes = [(50257, 1024, 768, 12), *((rng.randint(50, 999), rng.randint(8, 99), rng.randint(4, 64), rng.randint(2, 9))
                                       for _ in range(9))]
    found = [attempt(*size) for size in sizes]
    if found[0] is None:
        raise Wrong("12.1.none")

    def right(V, P, d, L):
        return (V + P) * d + L * (12 * d * d + 13 * d) + 2 * d

    gaps = {  # what the answer is too large by, and the mistake's name
        "tied_twice": lambda V, P, d, L: V * d,
        "no_positions": lambda V, P, d, L: -P * d,
        "no_tokens": lambda V, P, d, L: -V * d,
        "no_last_norm": lambda V, P, d, L: -2 * d,
        "no_norms": lambda V, P, d, L: -L * 4 * d - 2 * d,
        "no_block_norms": lambda V, P, d, L: -L * 4 * d,
        "norm_gain_only": lambda V, P, d, L: -L * 2 * d - d,
        "no_biases": lambda V, P, d, L: -L * 9 * d,
        "no_biases_at_all": lambda V, P, d, L: -L * 11 * d - d,
        "no_output": lambda V, P, d, L: -L * (d * d + d),
        "one_way": lambda V, P, d, L: -L * (4 * d * d + d),
        "one_block": lambda V, P, d, L: -(L - 1) * (12 * d * d + 13 * d),
        "heads": lambda V, P, d, L: (12 - 1) * L * 4 * (d * d + d),
        "head_bias": lambda V, P, d, L: V,
    }
    V, P, d, L = sizes[0]
    for key, gap in gaps.items():
        if all(answer == right(*size) + gap(*size) for answer, size in zip(found, sizes, strict=True)):
            raise Wrong(f"12.1.{key}", found=f"{found[0]:,}", right=f"{right(V, P, d, L):,}")
    for answer, size in zip(found, sizes, strict=True):
        if answer != right(*size):
            V, P, d, L = size
            raise Wrong("12.1.value", V=V, P=P, d=d, L=L, found=answer, right=right(*size))
        try:
            operator.index(answer)
        except TypeError:
            raise Wrong("12.1.float", found=answer) from None


@check_of("12.2", "Count the bytes of a training step", minutes=10)
def training_bytes(attempt: Callable) -> None:
    """The bill over random plans; a part that is left out, or charged to what is frozen, is named."""
    rng = random.Random(1)
    plans = []
    for weight_bytes in (4, 2, 1, 2, 4):
        parameters = rng.randint(10**6, 10**7)
        plans.append((parameters, rng.randint(10**3, 10**5), rng.randint(10**5, 10**6), weight_bytes))
    plans.append((7_000, 7_000, 500, 2))  # all is trained
    found = [attempt(*plan) for plan in plans]
    if found[0] is None:
        raise Wrong("12.2.none")
    named: dict[str, Callable] = {
        "one_moment": lambda n, t, a, w: (n - t) * w + 12 * t + a,  # or no gradient: one message names both
        "no_moments": lambda n, t, a, w: (n - t) * w + 8 * t + a,
        "no_activations": lambda n, t, a, w: (n - t) * w + 16 * t,
        "frozen_moments": lambda n, t, a, w: n * w + 4 * t + 8 * n + a,
        "all_frozen_too": lambda n, t, a, w: n * w + 12 * n + a,
        "all_sixteen": lambda n, t, a, w: 16 * n + a,
        "frozen_gradients": lambda n, t, a, w: (n - t) * w + 4 * t + 4 * n + 8 * t + a,
        "trained_only": lambda n, t, a, w: 16 * t + a,
        "trained_in_weight_bytes": lambda n, t, a, w: n * w + 12 * t + a,
        "trained_twice": lambda n, t, a, w: n * w + 16 * t + a,
        "all_in_weight_bytes": lambda n, t, a, w: (n + 3 * t) * w + a,
        "activations_times_four": lambda n, t, a, w: (n - t) * w + 16 * t + 4 * a,
        "bits": lambda n, t, a, w: 8 * ((n - t) * w + 16 * t + a),
    }

    def right(n, t, a, w):
        return (n - t) * w + 16 * t + a

    for key, wrong in named.items():
        if all(answer == wrong(*plan) for answer, plan in zip(found, plans, strict=True)):
            raise Wrong(f"12.2.{key}")
    for answer, (n, t, a, w) in zip(found, plans, strict=True):
        if answer != right(n, t, a, w):
            raise Wrong("12.2.value", n=n, t=t, a=a, w=w, found=answer, right=right(n, t, a, w))


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
