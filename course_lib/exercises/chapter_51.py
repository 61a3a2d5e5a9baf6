"""The checks of chapter 51."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .registry import Wrong, check_of

if TYPE_CHECKING:
    import numpy as np

CLOSE = 1e-6


def _number(found: object) -> float | None:
    try:
        return float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _numbers(answer: object, count: int) -> list[float] | None:
    """`count` numbers out of a tuple, list or array; None if it is not that."""
    try:
        found = [float(number) for number in answer]  # type: ignore[union-attr]
    except (TypeError, ValueError):
        return None
    return found if len(found) == count else None


def _near(a: float, b: float) -> bool:
    return abs(a - b) < CLOSE


# --- 51.1 -------------------------------------------------------------------------------------------------


@check_of("51.1", "Precision, recall and F1 by hand", minutes=8)
def precision_recall_f1(attempt: Callable) -> None:
    """Tables on which every misreading gives other numbers; then the two tables without a denominator."""
    import numpy as np

    for hits, alarms, missed, rest in ((12, 5, 8, 75), (9, 16, 3, 40), (30, 6, 14, 20)):
        references = np.array([1] * hits + [0] * alarms + [1] * missed + [0] * rest)
        predictions = np.array([1] * (hits + alarms) + [0] * (missed + rest))
        order = np.random.default_rng(hits).permutation(len(references))
        answer = attempt(references[order].copy(), predictions[order].copy())
        found = _numbers(answer, 3)
        if found is None:
            raise Wrong("51.1.not_three", found=type(answer).__name__)
        _name_scores(found, hits, alarms, missed, rest)
    for references, predictions in (([1, 0, 1], [0, 0, 0]), ([0, 0], [1, 0])):
        try:
            with np.errstate(all="ignore"):
                found = _numbers(attempt(np.array(references), np.array(predictions)), 3)
        except ZeroDivisionError:
            raise Wrong("51.1.no_denominator") from None
        if found is None or any(math.isnan(number) for number in found):
            raise Wrong("51.1.no_denominator")
        if any(found):
            raise Wrong("51.1.zero_is_worst", found=found)


def _name_scores(found: list[float], hits: int, alarms: int, missed: int, rest: int) -> None:
    """Raise Wrong with the name of the misreading, unless precision, recall and F1 are right."""
    p, r = hits / (hits + alarms), hits / (hits + missed)
    f1 = 2 * p * r / (p + r)
    if all(_near(a, b) for a, b in zip(found, (p, r, f1))):
        return
    accuracy = (hits + rest) / (hits + alarms + missed + rest)
    p0, r0 = rest / (rest + missed), rest / (rest + alarms)
    f0 = 2 * p0 * r0 / (p0 + r0)
    gap = {"precision": f"{p:.3f}", "recall": f"{r:.3f}", "f1": f"{f1:.3f}"}
    shown = {f"found_{name}": f"{number:.3f}" for name, number in zip(("p", "r", "f"), found)}
    whole = {
        "51.1.per_cent": (100 * p, 100 * r, 100 * f1),
        "51.1.swapped": (r, p, f1),
        "51.1.class_0": (p0, r0, f0),
        "51.1.macro": ((p + p0) / 2, (r + r0) / 2, (f1 + f0) / 2),
    }
    for key, wrong in whole.items():
        if all(_near(a, b) for a, b in zip(found[:2], wrong[:2])):
            raise Wrong(key, **gap, **shown)
    n = hits + alarms + missed + rest
    parts = (
        (found[0], p, {"51.1.accuracy": (accuracy,), "51.1.share_of_all": (hits / n,)}, "51.1.precision"),
        (found[1], r, {"51.1.specificity": (r0,), "51.1.accuracy": (accuracy,), "51.1.share_of_all": (hits / n,)},
         "51.1.recall"),
        (found[2], f1, {
            "51.1.arithmetic": ((p + r) / 2,), "51.1.geometric": (math.sqrt(p * r),), "51.1.product": (p * r,),
            "51.1.half": (p * r / (p + r),), "51.1.accuracy": (accuracy,), "51.1.smaller": (min(p, r),),
            "51.1.by_frequency": (((hits + missed) * f1 + (alarms + rest) * f0) / n,),
        }, "51.1.f1"),
    )  # fmt: skip
    for number, right, named, otherwise in parts:
        if _near(number, right):
            continue
        for key, values in named.items():
            if any(_near(number, value) for value in values):
                raise Wrong(key, **gap, **shown)
        raise Wrong(otherwise, **gap, **shown)


# --- 51.2 -------------------------------------------------------------------------------------------------


@check_of("51.2", "AUC from scores", minutes=10)
def auc(attempt: Callable) -> None:
    """Probabilities with ties, logits with ties, and logits that are all negative."""
    import numpy as np

    rng = np.random.default_rng(0)
    for centre, digits in ((0.45, 1), (0.3, 1), (-3.0, 1)):
        labels = (rng.random(45) < 0.3).astype(int)
        scores = (centre + 0.25 * labels + rng.normal(0, 0.2, 45)).round(digits)
        if centre > 0:
            scores = scores.clip(0, 1)
        kept = labels.copy(), scores.copy()
        answer = attempt(labels, scores)
        if not (np.array_equal(labels, kept[0]) and np.array_equal(scores, kept[1])):
            raise Wrong("51.2.changes_input")
        found = _number(answer)
        if found is None:
            raise Wrong("51.2.not_a_number", found=type(answer).__name__)
        _name_auc(found, *kept)


def _name_auc(found: float, labels: np.ndarray, scores: np.ndarray) -> None:
    above, ties = _pairs(labels, scores)
    pairs = int(labels.sum() * (1 - labels).sum())
    right = (above + ties / 2) / pairs
    if _near(found, right):
        return
    hard = {round(_auc_of(labels, (scores > cut).astype(int)), 9) for cut in (0, 0.5, float(scores.mean()))}
    hard |= {round(_auc_of(labels, (scores >= cut).astype(int)), 9) for cut in (0, 0.5)}
    named: dict[str, tuple[float, ...]] = {
        "51.2.hard_labels": tuple(hard),
        "51.2.ties_lost": (above / pairs,),
        "51.2.ties_won": ((above + ties) / pairs,),
        "51.2.upside_down": (1 - right,),
        "51.2.not_divided": (above + ties / 2, above, above + ties),
        "51.2.all_pairs": tuple(
            (above + part * ties) / total
            for part in (0, 0.5, 1)
            for total in (len(labels) ** 2, len(labels) * (len(labels) - 1), len(labels) * (len(labels) - 1) / 2)
        ),
        "51.2.accuracy": tuple(
            float((called == labels).mean()) for cut in (0, 0.5) for called in (scores >= cut, scores > cut)
        ),
        "51.2.average_precision": (_average_precision(labels, scores),),
    }
    gap = {"found": f"{found:.3f}", "right": f"{right:.3f}"}
    for key, values in named.items():
        if any(_near(found, value) for value in values):
            raise Wrong(key, **gap)
    raise Wrong("51.2.value", **gap)


def _pairs(labels: np.ndarray, scores: np.ndarray) -> tuple[int, int]:
    """Pairs (row of class 1, row of class 0) in the right order, and those that tie."""
    ones, zeros = scores[labels == 1][:, None], scores[labels == 0]
    return int((ones > zeros).sum()), int((ones == zeros).sum())


def _auc_of(labels: np.ndarray, scores: np.ndarray) -> float:
    above, ties = _pairs(labels, scores)
    return (above + ties / 2) / int(labels.sum() * (1 - labels).sum())


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


# --- 51.3 -------------------------------------------------------------------------------------------------


TELLING = ((0, 2), (2, 0), (14, 3))  # (seed, allowed) on which no two ways of choosing let the same rows through


@check_of("51.3", "A threshold that must not lose mail", minutes=12)
def choose_threshold(attempt: Callable) -> None:
    """Sets on which every way of choosing acts differently; the answer is judged by what it lets through."""
    import numpy as np

    for seed, allowed in TELLING:
        validation, test = _mail(seed)
        kept = [column.copy() for column in (*validation, *test)]
        answer = attempt(*validation, allowed, *test)
        if not all(np.array_equal(a, b) for a, b in zip((*validation, *test), kept)):
            raise Wrong("51.3.changes_input")
        found = _numbers(answer, 2)
        if found is None:
            raise Wrong("51.3.not_two", found=type(answer).__name__)
        _name_threshold(*found, validation, test, allowed)


Mail = tuple["np.ndarray", "np.ndarray"]  # labels and scores


def _let_through(mail: Mail, threshold: float) -> tuple[int, int]:
    """How many ham are lost and how many spam caught at `score >= threshold`."""
    labels, scores = mail
    called = scores >= threshold
    return int((called & (labels == 0)).sum()), int((called & (labels == 1)).sum())


def _best(mail: Mail, allowed: int) -> float:
    """The smallest score of `mail` that loses at most `allowed` ham."""
    return min(float(score) for score in mail[1] if _let_through(mail, score)[0] <= allowed)


def _mail(seed: int) -> tuple[Mail, Mail]:
    """Validation and test mail, three rows in ten of them spam."""
    import numpy as np

    rng, drawn = np.random.default_rng(seed), []
    for size in (120, 150):
        labels = (rng.random(size) < 0.3).astype(int)
        drawn.append((labels, (1 / (1 + np.exp(-(2.4 * labels - 1.5 + rng.normal(0, 1, size))))).round(7)))
    return drawn[0], drawn[1]


def _other_thresholds(validation: Mail, test: Mail, allowed: int) -> dict[str, float]:
    """What each misreading chooses."""
    import numpy as np

    labels, scores = validation
    both = tuple(np.concatenate(pair) for pair in zip(validation, test))

    def f1(t: float) -> float:
        lost, caught = _let_through(validation, t)
        return 2 * caught / (lost + caught + labels.sum())

    return {
        "51.3.chosen_on_test": _best(test, allowed),
        "51.3.both_sets": _best(both, 2 * allowed + 1),
        "51.3.half": 0.5,
        "51.3.best_f1": float(max(scores, key=f1)),
        "51.3.one_too_many": _best(validation, allowed + 1),
        "51.3.spam_limited": float(
            max(s for s in scores if (labels == 1).sum() - _let_through(validation, s)[1] <= allowed)
        ),
    }


def _name_threshold(threshold: float, caught: float, validation: Mail, test: Mail, allowed: int) -> None:
    lost, hits = _let_through(validation, threshold)
    best_lost, best_hits = _let_through(validation, _best(validation, allowed))
    gap = {"threshold": f"{threshold:.3f}", "lost": lost, "allowed": allowed, "hits": hits, "best": best_hits}
    if (lost, hits) != (best_lost, best_hits):
        for key, other in _other_thresholds(validation, test, allowed).items():
            if key != "51.3.half" and (lost, hits) == _let_through(validation, other):
                raise Wrong(key, **gap)
        if _near(threshold, 0.5):
            raise Wrong("51.3.half", **gap)
        raise Wrong("51.3.loses_mail" if lost > allowed else "51.3.too_careful", **gap)
    test_lost, test_hits = _let_through(test, threshold)
    spam = int(test[0].sum())
    if _near(caught, test_hits / spam):
        return
    gap |= {"found": f"{caught:.3f}", "right": f"{test_hits / spam:.3f}"}
    named = {
        "51.3.caught_on_validation": hits / int(validation[0].sum()),
        "51.3.precision": test_hits / (test_hits + test_lost),
        "51.3.counted": float(test_hits),
        "51.3.ham_lost": test_lost / (len(test[0]) - spam),
        "51.3.accuracy": float(((test[1] >= threshold) == test[0]).mean()),
    }
    for key, value in named.items():
        if _near(caught, value):
            raise Wrong(key, **gap)
    raise Wrong("51.3.caught_value", **gap)


# --- 51.4 -------------------------------------------------------------------------------------------------


@check_of("51.4", "Expected calibration error", minutes=12)
def expected_calibration_error(attempt: Callable) -> None:
    """Uneven bins, an empty one, probabilities of exactly one, and errors in both directions."""
    import numpy as np

    rng = np.random.default_rng(0)
    for rows, bins in ((90, 10), (60, 5), (120, 10)):
        probabilities = np.concatenate([rng.beta(5, 2, rows) * 0.86 + 0.13, [1.0] * 8]).round(3)
        probabilities = np.where(np.isclose((probabilities * 10) % 1, 0), probabilities + 0.003, probabilities)
        probabilities[-8:] = 1.0
        slope = np.where(probabilities < 0.6, 0.9, 0.55)
        outcomes = (rng.random(len(probabilities)) < np.minimum(slope, probabilities + 0.3)).astype(int)
        order = rng.permutation(len(outcomes))
        outcomes, probabilities = outcomes[order], probabilities[order]
        kept = outcomes.copy(), probabilities.copy()
        with np.errstate(all="ignore"):
            answer = attempt(outcomes, probabilities, bins)
        if not (np.array_equal(outcomes, kept[0]) and np.array_equal(probabilities, kept[1])):
            raise Wrong("51.4.changes_input")
        found = _number(answer)
        if found is None:
            raise Wrong("51.4.not_a_number", found=type(answer).__name__)
        if math.isnan(found):
            raise Wrong("51.4.empty_bin")
        _name_error(found, *kept, bins)


def _name_error(found: float, outcomes: np.ndarray, probabilities: np.ndarray, bins: int) -> None:
    import numpy as np

    n = len(outcomes)
    number = np.minimum((probabilities * bins).astype(int), bins - 1)
    groups = [number == b for b in range(bins) if (number == b).any()]
    count = np.array([g.sum() for g in groups])
    said = np.array([probabilities[g].mean() for g in groups])
    happened = np.array([outcomes[g].mean() for g in groups])
    middle = np.array([(number[g][0] + 0.5) / bins for g in groups])
    gaps = np.abs(happened - said)
    right = float((count * gaps).sum() / n)
    if _near(found, right):
        return
    open_end = [(number == b) & (probabilities < 1) for b in range(bins)]
    equal = np.array_split(np.argsort(probabilities), bins)
    named: dict[str, tuple[float, ...]] = {
        "51.4.not_weighted": (float(gaps.mean()), float(gaps.sum() / bins)),
        "51.4.not_divided": (float(gaps.sum()), float((count * gaps).sum())),
        "51.4.largest": (float(gaps.max()),),
        "51.4.signed": tuple(s * float((outcomes - probabilities).mean()) for s in (1, -1)),
        "51.4.squared": (
            float((count * gaps**2).sum() / n), math.sqrt(float((count * gaps**2).sum() / n)),
            float(((outcomes - probabilities) ** 2).mean()),
        ),
        "51.4.row_by_row": (float(np.abs(outcomes - probabilities).mean()),),
        "51.4.middle_of_bin": (float((count * np.abs(happened - middle)).sum() / n),),
        "51.4.ones_lost": tuple(
            sum(abs((outcomes[g] - probabilities[g]).sum()) for g in open_end if g.any()) / total
            for total in (n, int((probabilities < 1).sum()))
        ),
        "51.4.equal_counts": (sum(abs((outcomes[g] - probabilities[g]).sum()) for g in equal) / n,),
        "51.4.per_cent": (100 * right,),
    }  # fmt: skip
    gap = {"found": f"{found:.3f}", "right": f"{right:.3f}", "bins": bins}
    for key, values in named.items():
        if any(_near(found, value) for value in values):
            raise Wrong(key, **gap)
    raise Wrong("51.4.value", **gap)
