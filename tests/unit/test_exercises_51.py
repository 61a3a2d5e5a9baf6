"""The checks of chapter 51: right answers in several forms pass, each typical wrong one gets its own name."""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from course_lib.evaluation import calibration_error
from course_lib.exercises.registry import judge

# --- 51.1 -------------------------------------------------------------------------------------------------


def table(references, predictions):
    tp = sum(1 for y, p in zip(references, predictions) if y == 1 and p == 1)
    fp = sum(1 for y, p in zip(references, predictions) if y == 0 and p == 1)
    fn = sum(1 for y, p in zip(references, predictions) if y == 1 and p == 0)
    return tp, fp, fn, len(references) - tp - fp - fn


def ratio(a, b):
    return a / b if b else 0.0


def scores(tp, fp, fn, tn):
    p, r = ratio(tp, tp + fp), ratio(tp, tp + fn)
    return p, r, ratio(2 * p * r, p + r)


def by_hand(references, predictions):
    return scores(*table(references, predictions))


def by_arrays(references, predictions):
    hits = (references & predictions).sum()
    called, true = predictions.sum(), references.sum()
    return np.array([hits / max(called, 1), hits / max(true, 1), 2 * hits / max(called + true, 1)])


def by_library(references, predictions):
    return list(metrics.precision_recall_fscore_support(references, predictions, average="binary", zero_division=0)[:3])


@pytest.mark.parametrize("answer", [by_hand, by_arrays, by_library])
def test_scores_accepts(answer):
    assert judge("51.1", answer).status == "right"


def with_f1(mean):
    def answer(references, predictions):
        p, r, _ = by_hand(references, predictions)
        return p, r, mean(p, r)

    return answer


def changed(change):
    """`change` makes an answer of the right (p, r, f1) and the four counts."""
    return lambda y, said: change(by_hand(y, said), *table(y, said))


def other_class(references, predictions):
    return by_hand(1 - references, 1 - predictions)


def averaged(average):
    return lambda y, said: metrics.precision_recall_fscore_support(y, said, average=average, zero_division=0)[:3]


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("arithmetic", with_f1(lambda p, r: (p + r) / 2)),
        ("geometric", with_f1(lambda p, r: (p * r) ** 0.5)),
        ("product", with_f1(lambda p, r: p * r)),
        ("half", with_f1(lambda p, r: ratio(p * r, p + r))),
        ("smaller", with_f1(min)),
        ("f1", with_f1(lambda p, r: p + r)),
        ("by_frequency", lambda y, s: (*by_hand(y, s)[:2], metrics.f1_score(y, s, average="weighted"))),
        ("swapped", changed(lambda right, *counts: (right[1], right[0], right[2]))),
        ("accuracy", changed(lambda right, tp, fp, fn, tn: ((tp + tn) / (tp + fp + fn + tn), *right[1:]))),
        ("share_of_all", changed(lambda right, tp, fp, fn, tn: (tp / (tp + fp + fn + tn), *right[1:]))),
        ("specificity", changed(lambda right, tp, fp, fn, tn: (right[0], tn / (tn + fp), right[2]))),
        ("precision", changed(lambda right, tp, fp, fn, tn: (1 - right[0], *right[1:]))),
        ("recall", changed(lambda right, tp, fp, fn, tn: (right[0], 1 - right[1], right[2]))),
        ("per_cent", changed(lambda right, *counts: [100 * x for x in right])),
        ("class_0", other_class),
        ("macro", averaged("macro")),
        ("no_denominator", changed(lambda right, tp, fp, fn, tn: (tp / (tp + fp), right[1], right[2]))),
        ("no_denominator", lambda y, s: ((y & s).sum() / s.sum(), (y & s).sum() / y.sum(), by_hand(y, s)[2])),
        ("zero_is_worst", changed(lambda right, tp, fp, fn, tn: right if tp else (1.0, right[1], 0.0))),
        ("not_three", lambda y, s: by_hand(y, s)[2]),
    ],
)
def test_scores_names(key, answer):
    assert judge("51.1", answer).key == f"51.1.{key}"


# --- 51.2 -------------------------------------------------------------------------------------------------


def auc(labels, scores):
    ones, zeros = scores[labels == 1], scores[labels == 0]
    return np.mean([(a > b) + (a == b) / 2 for a in ones for b in zeros])


def by_curve(labels, scores):
    """The trapezes under the curve of all thresholds."""
    cuts = [np.inf, *np.unique(scores)[::-1]]
    tpr = [(scores[labels == 1] >= cut).mean() for cut in cuts]
    fpr = [(scores[labels == 0] >= cut).mean() for cut in cuts]
    return np.trapezoid(tpr, fpr)


def by_ranks(labels, scores):
    from scipy.stats import rankdata

    ones = labels.sum()
    return (rankdata(scores)[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(labels) - ones))


@pytest.mark.parametrize("answer", [auc, by_curve, by_ranks, metrics.roc_auc_score])
def test_auc_accepts(answer):
    assert judge("51.2", answer).status == "right"


def sorts_in_place(labels, scores):
    found = auc(labels, scores)
    scores.sort()
    return found


def pairs(labels, scores):
    return scores[labels == 1][:, None], scores[labels == 0]


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("hard_labels", lambda y, s: metrics.roc_auc_score(y, s > 0.5)),
        ("hard_labels", lambda y, s: metrics.roc_auc_score(y, s >= 0.5)),
        ("hard_labels", lambda y, s: metrics.balanced_accuracy_score(y, s > 0.5)),
        ("ties_lost", lambda y, s: np.greater(*pairs(y, s)).mean()),
        ("ties_won", lambda y, s: np.greater_equal(*pairs(y, s)).mean()),
        ("upside_down", lambda y, s: 1 - auc(y, s)),
        ("upside_down", lambda y, s: auc(1 - y, s)),
        ("not_divided", lambda y, s: np.greater(*pairs(y, s)).sum()),
        ("all_pairs", lambda y, s: np.greater(*pairs(y, s)).sum() / len(y) ** 2),
        ("accuracy", lambda y, s: ((s > 0.5) == y).mean()),
        ("average_precision", metrics.average_precision_score),
        ("value", lambda y, s: auc(y, s) ** 2),
        ("not_a_number", lambda y, s: metrics.roc_curve(y, s)),
        ("changes_input", sorts_in_place),
    ],
)
def test_auc_names(key, answer):
    assert judge("51.2", answer).key == f"51.2.{key}"


# --- 51.3 -------------------------------------------------------------------------------------------------


def lost(labels, scores, threshold):
    return ((scores >= threshold) & (labels == 0)).sum()


def caught(labels, scores, threshold):
    return (scores[labels == 1] >= threshold).mean()


def lowest(labels, scores, allowed):
    return min(t for t in scores if lost(labels, scores, t) <= allowed)


def choose(y, s, allowed, test_y, test_s):
    threshold = lowest(y, s, allowed)
    return threshold, caught(test_y, test_s, threshold)


def just_above_the_next_ham(y, s, allowed, test_y, test_s):
    threshold = np.nextafter(np.sort(s[y == 0])[::-1][allowed], 1)
    return np.array([threshold, caught(test_y, test_s, threshold)])


def by_loop(y, s, allowed, test_y, test_s):
    best = None
    for threshold in sorted(s, reverse=True):
        if lost(y, s, threshold) > allowed:
            break
        best = threshold
    return [best, np.mean(test_s[test_y == 1] >= best)]


@pytest.mark.parametrize("answer", [choose, just_above_the_next_ham, by_loop])
def test_threshold_accepts(answer):
    assert judge("51.3", answer).status == "right"


def at(pick):
    def answer(y, s, allowed, test_y, test_s):
        threshold = pick(y, s, allowed, test_y, test_s)
        return threshold, caught(test_y, test_s, threshold)

    return answer


def reported(report):
    def answer(y, s, allowed, test_y, test_s):
        threshold = lowest(y, s, allowed)
        return threshold, report(threshold, y, s, test_y, test_s)

    return answer


def overwrites(y, s, allowed, test_y, test_s):
    found = choose(y, s, allowed, test_y, test_s)
    s[:] = 0
    return found


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("chosen_on_test", at(lambda y, s, k, ty, ts: lowest(ty, ts, k))),
        ("both_sets", at(lambda y, s, k, ty, ts: lowest(np.append(y, ty), np.append(s, ts), 2 * k + 1))),
        ("half", at(lambda *given: 0.5)),
        ("best_f1", at(lambda y, s, *rest: max(s, key=lambda t: metrics.f1_score(y, s >= t)))),
        ("one_too_many", at(lambda y, s, k, *rest: np.sort(s[y == 0])[::-1][k])),
        ("spam_limited", at(lambda y, s, k, *rest: np.sort(s[y == 1])[k])),
        ("loses_mail", at(lambda y, s, *rest: 0.0)),
        ("too_careful", at(lambda *given: 1.0)),
        ("caught_on_validation", reported(lambda t, y, s, ty, ts: caught(y, s, t))),
        ("precision", reported(lambda t, y, s, ty, ts: ty[ts >= t].mean())),
        ("counted", reported(lambda t, y, s, ty, ts: (ts[ty == 1] >= t).sum())),
        ("ham_lost", reported(lambda t, y, s, ty, ts: (ts[ty == 0] >= t).mean())),
        ("accuracy", reported(lambda t, y, s, ty, ts: ((ts >= t) == ty).mean())),
        ("caught_value", reported(lambda t, y, s, ty, ts: 2.0)),
        ("not_two", lambda y, s, k, ty, ts: lowest(y, s, k)),
        ("changes_input", overwrites),
    ],
)
def test_threshold_names(key, answer):
    assert judge("51.3", answer).key == f"51.3.{key}"


# --- 51.4 -------------------------------------------------------------------------------------------------


def grouped(outcomes, probabilities, bins):
    number = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [(outcomes[number == b], probabilities[number == b]) for b in range(bins)]


def error(outcomes, probabilities, bins):
    return sum(abs((y - p).sum()) for y, p in grouped(outcomes, probabilities, bins)) / len(outcomes)


def by_edges(outcomes, probabilities, bins):
    """The usual form: bins that are open below and closed above."""
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for low, high in itertools.pairwise(edges):
        here = (probabilities > low) & (probabilities <= high)
        if here.any():
            total += here.mean() * abs(outcomes[here].mean() - probabilities[here].mean())
    return total


@pytest.mark.parametrize("answer", [error, by_edges, calibration_error])
def test_error_accepts(answer):
    assert judge("51.4", answer).status == "right"


def over_bins(combine):
    """`combine(counts, happened, said)` over the bins that have rows."""
    def answer(outcomes, probabilities, bins):
        full = [(len(y), y.mean(), p.mean()) for y, p in grouped(outcomes, probabilities, bins) if len(y)]
        return combine(*(np.array(column) for column in zip(*full)))

    return answer


def middles(outcomes, probabilities, bins):
    total = 0.0
    for b, (y, _p) in enumerate(grouped(outcomes, probabilities, bins)):
        total += len(y) * abs(y.mean() - (b + 0.5) / bins) if len(y) else 0
    return total / len(outcomes)


def ones_lost(outcomes, probabilities, bins):
    number, total = np.digitize(probabilities, np.linspace(0, 1, bins + 1)), 0.0
    for b in range(1, bins + 1):
        here = number == b
        total += abs((outcomes - probabilities)[here].sum())
    return total / len(outcomes)


def equal_counts(outcomes, probabilities, bins):
    gaps = (outcomes - probabilities)[np.argsort(probabilities)]
    return sum(abs(part.sum()) for part in np.array_split(gaps, bins)) / len(outcomes)


def with_empty_bins(outcomes, probabilities, bins):
    found = grouped(outcomes, probabilities, bins)
    return sum(len(y) * np.abs(y.sum() / np.float64(len(y)) - p.sum() / np.float64(len(y))) for y, p in found)


def overwrites_outcomes(outcomes, probabilities, bins):
    found = error(outcomes, probabilities, bins)
    outcomes[:] = 1 - outcomes
    return found


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_weighted", over_bins(lambda n, y, p: abs(y - p).mean())),
        ("not_divided", over_bins(lambda n, y, p: (n * abs(y - p)).sum())),
        ("largest", over_bins(lambda n, y, p: abs(y - p).max())),
        ("signed", over_bins(lambda n, y, p: abs((n * (y - p)).sum() / n.sum()))),
        ("squared", over_bins(lambda n, y, p: (n * (y - p) ** 2).sum() / n.sum())),
        ("squared", lambda y, p, bins: metrics.brier_score_loss(y, p)),
        ("row_by_row", lambda y, p, bins: np.abs(y - p).mean()),
        ("middle_of_bin", middles),
        ("ones_lost", ones_lost),
        ("equal_counts", equal_counts),
        ("per_cent", lambda *given: 100 * error(*given)),
        ("empty_bin", with_empty_bins),
        ("value", lambda *given: error(*given) ** 0.5),
        ("not_a_number", lambda y, p, bins: grouped(y, p, bins)),
        ("changes_input", overwrites_outcomes),
    ],
)
def test_error_names(key, answer):
    assert judge("51.4", answer).key == f"51.4.{key}"
