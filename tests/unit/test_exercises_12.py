"""The checks of chapter 12: right answers in several forms pass, each typical wrong one gets its own name."""

import random

import pytest

from course_lib.exercises.registry import judge


def by_formula(V, P, d, L):
    return (V + P) * d + L * (12 * d**2 + 13 * d) + 2 * d


def by_parts(V, P, d, L):
    linear, norm = (lambda into, out: into * out + out), 2 * d
    block = 4 * linear(d, d) + linear(d, 4 * d) + linear(4 * d, d) + 2 * norm
    return V * d + P * d + sum(block for _ in range(L)) + norm


@pytest.mark.parametrize("answer", [by_formula, by_parts])
def test_gpt2_parameters_accepts(answer):
    assert judge("12.1", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("tied_twice", lambda V, P, d, L: by_formula(V, P, d, L) + V * d),
        ("no_positions", lambda V, P, d, L: by_formula(V, P, d, L) - P * d),
        ("no_last_norm", lambda V, P, d, L: (V + P) * d + L * (12 * d**2 + 13 * d)),
        ("no_norms", lambda V, P, d, L: (V + P) * d + L * (12 * d**2 + 9 * d)),
        ("no_biases", lambda V, P, d, L: (V + P) * d + L * (12 * d**2 + 4 * d) + 2 * d),
        ("no_output", lambda V, P, d, L: (V + P) * d + L * (11 * d**2 + 12 * d) + 2 * d),
        ("one_way", lambda V, P, d, L: (V + P) * d + L * (8 * d**2 + 12 * d) + 2 * d),
        ("one_block", lambda V, P, d, L: (V + P) * d + 12 * d**2 + 13 * d + 2 * d),
        ("value", lambda V, P, d, L: 12 * L * d**2),
        ("float", lambda V, P, d, L: by_formula(V, P, d, L) / 1),
        ("none", lambda V, P, d, L: print(V)),
    ],
)
def test_gpt2_parameters_names(key, answer):
    assert judge("12.1", answer).key == f"12.1.{key}"


def by_sixteen(n, t, a, w):
    return (n - t) * w + 16 * t + a


def by_list(n, t, a, w):
    return sum([n * w - t * w, 4 * t, 4 * t, 4 * t, 4 * t, a])


@pytest.mark.parametrize("answer", [by_sixteen, by_list])
def test_training_bytes_accepts(answer):
    assert judge("12.2", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("one_moment", lambda n, t, a, w: (n - t) * w + 12 * t + a),
        ("no_moments", lambda n, t, a, w: (n - t) * w + 8 * t + a),
        ("no_activations", lambda n, t, a, w: (n - t) * w + 16 * t),
        ("all_sixteen", lambda n, t, a, w: 16 * n + a),
        ("frozen_gradients", lambda n, t, a, w: (n - t) * w + 12 * t + 4 * n + a),
        ("trained_only", lambda n, t, a, w: 16 * t + a),
        ("trained_in_weight_bytes", lambda n, t, a, w: n * w + 12 * t + a),
        ("trained_twice", lambda n, t, a, w: n * w + 16 * t + a),
        ("bits", lambda n, t, a, w: 8 * by_sixteen(n, t, a, w)),
        ("value", lambda n, t, a, w: 0),
    ],
)
def test_training_bytes_names(key, answer):
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
