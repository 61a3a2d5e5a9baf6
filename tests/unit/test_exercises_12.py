"""The checks of chapter 12: right answers in several forms pass, each typical wrong one gets its own name."""

import math
import random

import pytest

from course_lib.exercises.registry import judge


def by_formula(V, P, d, L):
    return (V + P + 2) * d + 2 * d + L * (12 * d**2 + 13 * d) + d * (d + 1)


def by_parts(V, P, d, L):
    linear, norm = (lambda into, out: into * out + out), 2 * d
    block = 4 * linear(d, d) + linear(d, 4 * d) + linear(4 * d, d) + 2 * norm
    return sum(rows * d for rows in (V, P, 2)) + norm + sum(block for _ in range(L)) + linear(d, d)


def gpt2(V, P, d, L):
    return (V + P) * d + L * (12 * d**2 + 13 * d) + 2 * d


@pytest.mark.parametrize("answer", [by_formula, by_parts])
def test_bert_parameters_accepts(answer):
    assert judge("12.1", answer).status == "right"


def test_the_count_is_transformers_bert():
    import torch
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
    with torch.device("meta"):
        model = BertModel(BertConfig(**sizes, vocab_size=70, max_position_embeddings=19))
    assert by_formula(70, 19, 24, 3) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("output", lambda V, P, d, L: by_formula(V, P, d, L) + V * d),
        ("no_positions", lambda V, P, d, L: by_formula(V, P, d, L) - P * d),
        ("two_d", lambda V, P, d, L: (V + P) * d + 2 * d + L * (12 * d**2 + 13 * d) + d * (d + 1)),
        ("four_d", lambda V, P, d, L: (V + P) * d + L * (12 * d**2 + 13 * d) + d * (d + 1)),
        ("last_norm", lambda V, P, d, L: by_formula(V, P, d, L) + 2 * d),
        ("no_pooler", lambda V, P, d, L: (V + P + 2) * d + 2 * d + L * (12 * d**2 + 13 * d)),
        ("pooler_bias", lambda V, P, d, L: by_formula(V, P, d, L) - d),
        ("like_gpt", gpt2),
        ("no_tokens", lambda V, P, d, L: by_formula(0, P, d, L)),
        ("no_block_norms", lambda V, P, d, L: by_formula(V, P, d, L) - L * 4 * d),
        ("norm_gain_only", lambda V, P, d, L: by_formula(V, P, d, L) - L * 2 * d - d),
        ("no_biases_at_all", lambda V, P, d, L: (V + P + 2) * d + d + L * (12 * d**2 + 2 * d) + d * d),
        ("heads", lambda V, P, d, L: by_formula(V, P, d, L) + 11 * L * 4 * (d * d + d)),
        ("no_norms", lambda V, P, d, L: (V + P + 2) * d + L * (12 * d**2 + 9 * d) + d * (d + 1)),
        ("no_biases", lambda V, P, d, L: (V + P + 2) * d + 2 * d + L * (12 * d**2 + 4 * d) + d * d),
        ("no_output", lambda V, P, d, L: by_formula(V, P, d, L) - L * d * (d + 1)),
        ("one_way", lambda V, P, d, L: by_formula(V, P, d, L) - L * (4 * d * d + d)),
        ("one_block", lambda V, P, d, L: by_formula(V, P, d, 1)),
        ("value", lambda V, P, d, L: 12 * L * d**2),
        ("float", lambda V, P, d, L: by_formula(V, P, d, L) / 1),
        ("none", lambda V, P, d, L: print(V)),
    ],
)
def test_bert_parameters_names(key, answer):
    assert judge("12.1", answer).key == f"12.1.{key}"


def with_bill(bill):
    """An answer to 12.2 that divides what a bill leaves of the card among the rows."""
    return lambda c, n, t, r, w: max(0, int((c - bill(n, t, w)) // r))


def by_sixteen(n, t, w):
    return (n - t) * w + 16 * t


def by_trial(card, parameters, trained, row, weight_bytes):
    left, rows = card - sum([weight_bytes * (parameters - trained), *[4 * trained] * 4]), 0
    rows = max(0, int(left / row) - 2)
    while (rows + 1) * row <= left:
        rows += 1
    return rows


@pytest.mark.parametrize("answer", [with_bill(by_sixteen), by_trial])
def test_largest_batch_accepts(answer):
    assert judge("12.2", answer).status == "right"


def test_largest_batch_accepts_a_float_that_is_whole():
    assert judge("12.2", lambda *plan: float(with_bill(by_sixteen)(*plan))).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("one_moment", with_bill(lambda n, t, w: (n - t) * w + 12 * t)),
        ("no_moments", with_bill(lambda n, t, w: (n - t) * w + 8 * t)),
        ("all_sixteen", with_bill(lambda n, t, w: 16 * n)),
        ("frozen_gradients", with_bill(lambda n, t, w: (n - t) * w + 12 * t + 4 * n)),
        ("trained_only", with_bill(lambda n, t, w: 16 * t)),
        ("trained_in_weight_bytes", with_bill(lambda n, t, w: n * w + 12 * t)),
        ("trained_twice", with_bill(lambda n, t, w: n * w + 16 * t)),
        ("frozen_moments", with_bill(lambda n, t, w: n * w + 4 * t + 8 * n)),
        ("all_frozen_too", with_bill(lambda n, t, w: n * w + 12 * n)),
        ("all_in_weight_bytes", with_bill(lambda n, t, w: (n + 3 * t) * w)),
        ("row_times_four", lambda c, n, t, r, w: with_bill(by_sixteen)(c, n, t, 4 * r, w)),
        ("nothing_standing", with_bill(lambda n, t, w: 0)),
        ("negative", lambda c, n, t, r, w: int((c - by_sixteen(n, t, w)) // r)),
        ("not_whole", lambda c, n, t, r, w: (c - by_sixteen(n, t, w)) / r),
        ("rounded_up", lambda c, n, t, r, w: max(0, math.ceil((c - by_sixteen(n, t, w)) / r))),
        ("rounded", lambda c, n, t, r, w: max(0, round((c - by_sixteen(n, t, w)) / r))),
        ("value", lambda c, n, t, r, w: 0),
        ("none", lambda *plan: print(len(plan))),
    ],
)
def test_largest_batch_names(key, answer):
    assert judge("12.2", answer).key == f"12.2.{key}"


def by_max(splits, score, k, tries, seed):
    rng = random.Random(seed)
    draws = [rng.sample(splits["train"], k) for _ in range(tries)]
    return max(draws, key=lambda examples: score(examples, splits["validation"]))


def by_loop(splits, score, k, tries, seed):
    rng, best, value = random.Random(seed), None, float("-inf")
    rows = list(splits["train"])
    for _ in range(tries):
        rng.shuffle(rows)
        examples = rows[:k]
        found = score(examples, splits["validation"])
        if found > value:
            best, value = examples, found
    return best


@pytest.mark.parametrize("answer", [by_max, by_loop])
def test_choose_examples_accepts(answer):
    assert judge("12.3", answer).status == "right"


def variant(source="train", judge_on="validation", choose=max, sample=None, repeats=1, generator=None):
    """by_max with one thing changed."""

    def answer(splits, score, k, tries, seed):
        rng = random.Random(seed) if generator is None else generator
        draws = [(sample or rng.sample)(splits[source], k) for _ in range(tries)]
        values = [max([score(examples, splits[judge_on]) for _ in range(repeats)]) for examples in draws]
        return draws[values.index(choose(values))]

    return answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("from_test", variant(source="test")),
        ("from_validation", variant(source="validation")),
        ("judged_on_test", variant(judge_on="test")),
        ("judged_on_train", variant(judge_on="train")),
        ("no_comparison", lambda splits, score, k, tries, seed: random.Random(seed).sample(splits["train"], k)),
        ("worst", variant(choose=min)),
        ("not_best", variant(choose=lambda values: sorted(values)[2])),
        ("repeated", variant(sample=lambda rows, k: [rows[0]] * k)),
        ("same_draw", variant(sample=lambda rows, k: random.Random(0).sample(rows, k))),
        ("tries", variant(repeats=2)),
        ("seed", variant(generator=random.Random())),
        ("count", lambda splits, score, k, tries, seed: by_max(splits, score, k + 1, tries, seed)),
        ("none", lambda *arguments: print(len(arguments))),
    ],
)
def test_choose_examples_names(key, answer):
    assert judge("12.3", answer).key == f"12.3.{key}"


def test_looking_at_the_test_rows_is_named():
    def looks(splits, score, k, tries, seed):
        len([row for row in splits["test"]])  # noqa: C416
        return by_max(splits, score, k, tries, seed)

    assert judge("12.3", looks).key == "12.3.read_test"
