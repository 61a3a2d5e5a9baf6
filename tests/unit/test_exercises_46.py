"""The checks of chapter 46: right answers in several forms pass, each typical wrong one gets its own name."""

import numpy as np
import pytest

from course_lib.exercises.registry import judge

# --- 46.1 -------------------------------------------------------------------------------------------------


def paired(a, b, n_boot, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(a), size=(n_boot, len(a)))
    low, high = np.percentile((a - b)[rows].mean(1), [2.5, 97.5])
    return (a - b).mean(), low, high


def by_loop(a, b, n_boot, seed):
    rng, found = np.random.default_rng(seed), []
    for _ in range(n_boot):
        rows = rng.choice(len(a), len(a))
        found.append(a[rows].mean() - b[rows].mean())
    found.sort()
    return [float(a.mean() - b.mean()), found[int(0.025 * n_boot)], found[int(0.975 * n_boot)]]


def by_theory(a, b, n_boot, seed):
    d = a - b
    half = 1.96 * d.std(ddof=1) / len(d) ** 0.5
    return d.mean(), d.mean() - half, d.mean() + half


@pytest.mark.parametrize("answer", [paired, by_loop, by_theory])
def test_paired_interval_accepts(answer):
    assert judge("46.1", answer).status == "right"


def resampled(a, b, n_boot, seed):
    rng = np.random.default_rng(seed)
    return (a - b)[rng.integers(len(a), size=(n_boot, len(a)))].mean(1)


def unpaired(a, b, n_boot, seed):
    rng = np.random.default_rng(seed)
    one, other = (x[rng.integers(len(x), size=(n_boot, len(x)))].mean(1) for x in (a, b))
    return (a.mean() - b.mean(), *np.percentile(one - other, [2.5, 97.5]))


def ends_subtracted(a, b, n_boot, seed):
    rng = np.random.default_rng(seed)
    one, other = (
        np.percentile(x[rng.integers(len(x), size=(n_boot, len(x)))].mean(1), [2.5, 97.5]) for x in (a, b)
    )
    return a.mean() - b.mean(), one[0] - other[1], one[1] - other[0]


def permuted(a, b, n_boot, seed):
    rng = np.random.default_rng(seed)
    means = [(a - b)[rng.permutation(len(a))].mean() for _ in range(100)]
    return ((a - b).mean(), *np.percentile(means, [2.5, 97.5]))


def percentiles(*levels):
    return lambda a, b, n, seed: ((a - b).mean(), *np.percentile(resampled(a, b, n, seed), levels))


def changed(how):
    return lambda *given: how(*paired(*given))


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("unpaired", unpaired),
        ("ends_subtracted", ends_subtracted),
        ("no_width", permuted),
        ("single_rows", lambda a, b, n, seed: ((a - b).mean(), *np.percentile(a - b, [1, 99]))),
        ("level", percentiles(5, 95)),
        ("one_deviation", percentiles(16, 84)),
        ("width", lambda a, b, n, seed: ((a - b).mean(), *percentiles(2.5, 97.5)(a[:200], b[:200], n, seed)[1:])),
        ("sign", lambda a, b, n, seed: paired(b, a, n, seed)),
        ("counts", lambda a, b, n, seed: ((a - b).sum(), *paired(a, b, n, seed)[1:])),
        ("of_resamples", lambda a, b, n, seed: (resampled(a, b, n, seed).mean(), *paired(a, b, n, seed)[1:])),
        ("difference", changed(lambda value, low, high: (value + 0.1, low, high))),
        ("swapped", changed(lambda value, low, high: (value, high, low))),
        ("around_zero", changed(lambda value, low, high: (value, low - value, high - value))),
        ("shifted", changed(lambda value, low, high: (value, low + 0.3, high + 0.3))),
        ("not_a_number", changed(lambda value, low, high: (value, float("nan"), high))),
        ("not_three", changed(lambda value, low, high: (low, high))),
        ("not_seeded", lambda a, b, n, seed: paired(a, b, n, None)),
    ],
)
def test_paired_interval_names(key, answer):
    assert judge("46.1", answer).key == f"46.1.{key}"


# --- 46.2 -------------------------------------------------------------------------------------------------


def fair_score(validation, test):
    return test[validation.mean(1).argmax()].mean()


def by_sorting(validation, test):
    order = sorted(range(len(test)), key=lambda rate: -sum(validation[rate]))
    return sum(test[order[0]]) / len(test[0])


@pytest.mark.parametrize("answer", [fair_score, by_sorting])
def test_fair_score_accepts(answer):
    assert judge("46.2", answer).status == "right"


def in_place(validation, test):
    found = fair_score(validation, test)
    validation.sort()
    return found


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("chosen_on_test", lambda v, t: t.mean(1).max()),
        ("best_seed", lambda v, t: t[v.mean(1).argmax()].max()),
        ("best_of_all", lambda v, t: t.max()),
        ("validation_reported", lambda v, t: v.mean(1).max()),
        ("index", lambda v, t: v.mean(1).argmax()),
        ("one_seed", lambda v, t: t[v.max(1).argmax()].mean()),
        ("each_seed", lambda v, t: t[v.argmax(0), range(v.shape[1])].mean()),
        ("no_choice", lambda v, t: t.mean()),
        ("worst", lambda v, t: t[v.mean(1).argmin()].mean()),
        ("both_used", lambda v, t: t[(v.mean(1) + t.mean(1)).argmax()].mean()),
        ("value", lambda v, t: t[0].min() / 2),
        ("changes_input", in_place),
        ("not_a_number", lambda v, t: t[v.mean(1).argmax()]),
    ],
)
def test_fair_score_names(key, answer):
    assert judge("46.2", answer).key == f"46.2.{key}"


# --- 46.3 -------------------------------------------------------------------------------------------------


def flaws(a, b):
    found = set()
    if "test" in (a["chosen on"], b["chosen on"]):
        found.add("chosen on test")
    if len(a["learning rates"]) != len(b["learning rates"]):
        found.add("rates")
    if a["training rows"] != b["training rows"]:
        found.add("rows")
    if a["steps"] != b["steps"]:
        found.add("steps")
    if set(a["seeds"]) != set(b["seeds"]) or len(set(a["seeds"])) < 2:
        found.add("seeds")
    if "best seed" in (a["reported"], b["reported"]):
        found.add("best seed")
    return found


def by_table(a, b):
    tests = {
        "chosen on test": a["chosen on"] == "test" or b["chosen on"] == "test",
        "rates": len(a["learning rates"]) != len(b["learning rates"]),
        "rows": a["training rows"] != b["training rows"],
        "steps": a["steps"] != b["steps"],
        "seeds": sorted(a["seeds"]) != sorted(b["seeds"]) or len(a["seeds"]) == 1,
        "best seed": "best seed" in [a["reported"], b["reported"]],
    }
    return [name for name, found in tests.items() if found]


@pytest.mark.parametrize("answer", [flaws, by_table])
def test_flaws_accepts(answer):
    assert judge("46.3", answer).status == "right"


def without(name):
    return lambda a, b: flaws(a, b) - {name}


def when(name, condition):
    """`name` is reported exactly where the condition holds."""
    return lambda a, b: (flaws(a, b) - {name}) | ({name} if condition(a, b) else set())


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("chosen_on_test", without("chosen on test")),
        ("both_on_test", when("chosen on test", lambda a, b: a["chosen on"] != b["chosen on"])),
        ("best_seed", without("best seed")),
        ("both_best_seed", when("best seed", lambda a, b: a["reported"] != b["reported"])),
        ("other_seeds", when("seeds", lambda a, b: len(a["seeds"]) < 2)),
        ("one_seed", when("seeds", lambda a, b: set(a["seeds"]) != set(b["seeds"]))),
        ("seeds_in_order", when("seeds", lambda a, b: a["seeds"] != b["seeds"] or len(a["seeds"]) < 2)),
        ("rates_differ", when("rates", lambda a, b: a["learning rates"] != b["learning rates"])),
        ("missed", without("steps")),
        ("missed", without("rates")),
        ("imagined", when("steps", lambda a, b: a["trained"] != b["trained"])),
        ("unknown", lambda a, b: {"parameters"} if a["trained"] != b["trained"] else flaws(a, b)),
        ("not_a_set", lambda a, b: bool(flaws(a, b))),
    ],
)
def test_flaws_names(key, answer):
    assert judge("46.3", answer).key == f"46.3.{key}"


# --- 46.4 -------------------------------------------------------------------------------------------------


def mean(values):
    return sum(values) / len(values)


def diagnose(train, validation):
    last = mean(train[-8:])
    if max(train) > 1.2:
        return "rate too high"
    if validation[-1] > 0.75:
        return "memorised"
    if validation[0] - validation[-1] < 0.03:
        return "nothing trains"
    return "rate too low" if last > 0.55 else "healthy"


def by_validation(train, validation):
    if max(validation) > 1.6 and max(train) > 1.5:
        return "rate too high"
    if validation[-1] > validation[0] + 0.2:
        return "memorised"
    fall = mean(validation[:2]) - mean(validation[-2:])
    return "nothing trains" if fall < 0.03 else "rate too low" if fall < 0.1 else "healthy"


@pytest.mark.parametrize("answer", [diagnose, by_validation])
def test_diagnose_accepts(answer):
    assert judge("46.4", answer).status == "right"


def training_only(train, validation):
    return diagnose(train, [0.7, 0.5] if mean(train[-8:]) < 0.55 else validation)


def said_instead(truth, said):
    return lambda train, validation: said if diagnose(train, validation) == truth else diagnose(train, validation)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("training_only", training_only),
        ("ends_only", lambda train, validation: diagnose([min(loss, 0.75) for loss in train], [0.7, validation[-1]])),
        ("noise", said_instead("nothing trains", "rate too low")),
        ("noise", said_instead("nothing trains", "healthy")),
        ("slow_is_alive", said_instead("rate too low", "nothing trains")),
        ("any_fall", lambda train, v: "healthy" if diagnose(train, v) == "rate too low" else diagnose(train, v)),
        ("blown_up", said_instead("rate too high", "memorised")),
        ("gap", said_instead("healthy", "memorised")),
        ("confused", said_instead("memorised", "rate too low")),
        ("unknown", lambda train, validation: "broken"),
        ("unknown", lambda train, validation: print()),
    ],
)
def test_diagnose_names(key, answer):
    assert judge("46.4", answer).key == f"46.4.{key}"
