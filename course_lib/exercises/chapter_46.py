"""The checks of chapter 46."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .registry import Wrong, check_of

if TYPE_CHECKING:
    import numpy as np


def _number(found: object) -> float | None:
    try:
        return float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


# --- 46.1 -------------------------------------------------------------------------------------------------


@check_of("46.1", "A paired bootstrap interval", minutes=12)
def paired_interval(attempt: Callable) -> None:
    """The width tells what was drawn: rows in pairs, rows apart, nothing, or single rows."""
    import numpy as np

    for seed, rows in ((0, 400), (1, 480)):
        a, b = _two_models(rows, seed)
        found = _three(attempt(a.copy(), b.copy(), 2000, 0))
        value, low, high = found
        right = float(a.mean() - b.mean())
        half = 1.96 * float((a - b).std()) / math.sqrt(rows)
        _require_difference(value, right, rows)
        if math.isnan(low) or math.isnan(high):
            raise Wrong("46.1.not_a_number")
        if low > high:
            raise Wrong("46.1.swapped")
        if high - low < 1e-9:
            raise Wrong("46.1.no_width")
        width = (high - low) / 2 / half
        apart = 1.96 * math.sqrt(float(a.var() + b.var()) / rows) / half
        both = 1.96 * (float(a.std()) + float(b.std())) / math.sqrt(rows) / half
        gap = {"found": f"{high - low:.3f}", "right": f"{2 * half:.3f}", "apart": f"{2 * half * apart:.3f}"}
        if high - low > 0.5:
            raise Wrong("46.1.single_rows", **gap)
        named = {
            "46.1.unpaired": (0.92 * apart, 1.08 * apart), "46.1.ends_subtracted": (0.92 * both, 1.08 * both),
            "46.1.level": (0.77, 0.885), "46.1.one_deviation": (0.42, 0.6),
        }  # fmt: skip
        for key, (least, most) in named.items():
            if least < width < most:
                raise Wrong(key, **gap)
        if abs(width - 1) > 0.11:
            raise Wrong("46.1.width", **gap)
        middle = (low + high) / 2
        if abs(middle) < 0.25 * half and abs(right) > half:
            raise Wrong("46.1.around_zero", value=f"{right:.3f}")
        if abs(middle - right) > 0.25 * half:
            raise Wrong("46.1.shifted", low=f"{low:.3f}", high=f"{high:.3f}", right=f"{right:.3f}")
        if any(not np.allclose(_three(attempt(a, b, 40, s)), _three(attempt(a, b, 40, s))) for s in range(6)):
            raise Wrong("46.1.not_seeded")


def _two_models(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rights and wrongs of two models that mostly fail on the same rows; a is better by about four points."""
    import numpy as np

    rng = np.random.default_rng(seed)
    a = np.zeros(rows)
    a[: round(0.8 * rows)] = 1
    b = a.copy()
    b[: round(0.06 * rows)] = 0
    b[-round(0.02 * rows) :] = 1
    order = rng.permutation(rows)
    return a[order], b[order]


def _three(answer: object) -> tuple[float, float, float]:
    try:
        value, low, high = (float(number) for number in answer)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise Wrong("46.1.not_three", found=type(answer).__name__) from None
    return value, low, high


def _require_difference(value: float, right: float, rows: int) -> None:
    if abs(value - right) < 1e-6:
        return
    if abs(value + right) < 1e-6:
        raise Wrong("46.1.sign", value=f"{value:+.3f}")
    if abs(value - right * rows) < 1e-6:
        raise Wrong("46.1.counts", value=f"{value:g}")
    if abs(value - right) < 0.004:
        raise Wrong("46.1.of_resamples", value=f"{value:.5f}", right=f"{right:.5f}")
    raise Wrong("46.1.difference", value=f"{value:.3f}", right=f"{right:.3f}")


# --- 46.2 -------------------------------------------------------------------------------------------------


@check_of("46.2", "The score one may report", minutes=8)
def fair_score(attempt: Callable) -> None:
    """Random tables on which every way to choose gives another number."""
    import numpy as np

    rng = np.random.default_rng(0)
    for rates, seeds in ((6, 5), (6, 3), (8, 5)):
        validation, test = _telling_tables(rng, rates, seeds)
        kept = validation.copy(), test.copy()
        answer = attempt(validation, test)
        if not (np.array_equal(validation, kept[0]) and np.array_equal(test, kept[1])):
            raise Wrong("46.2.changes_input")
        found = _number(answer)
        if found is None:
            raise Wrong("46.2.not_a_number", found=type(answer).__name__)
        ways = _ways(validation, test)
        if abs(found - ways["right"]) < 1e-9:
            continue
        gap = {"found": f"{found:.3f}", "right": f"{ways['right']:.3f}"}
        for key, value in ways.items():
            if key != "right" and abs(found - value) < 1e-9:
                raise Wrong(key, **gap)
        raise Wrong("46.2.value", **gap)


def _ways(validation: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """What each way of choosing reports: the right one first, then the misconceptions by name."""
    chosen = int(validation.mean(1).argmax())
    peak = int(validation.max(1).argmax())
    each = validation.argmax(0)
    return {
        "right": float(test[chosen].mean()),
        "46.2.chosen_on_test": float(test.mean(1).max()),
        "46.2.best_seed": float(test[chosen].max()),
        "46.2.best_of_all": float(test.max()),
        "46.2.validation_reported": float(validation[chosen].mean()),
        "46.2.index": float(chosen),
        "46.2.one_seed": float(test[peak].mean()),
        "46.2.each_seed": float(test[each, range(len(each))].mean()),
        "46.2.no_choice": float(test.mean()),
        "46.2.worst": float(test[int(validation.mean(1).argmin())].mean()),
        "46.2.both_used": float(test[int((validation + test).mean(1).argmax())].mean()),
    }


def _telling_tables(rng: np.random.Generator, rates: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    while True:
        validation, test = (rng.uniform(0.6, 0.85, (rates, seeds)).round(3) for _ in range(2))
        values = sorted(_ways(validation, test).values())
        if min(b - a for a, b in itertools.pairwise(values)) > 1e-6:
            return validation, test


# --- 46.3 -------------------------------------------------------------------------------------------------

FAIR = {
    "method": "parallel adapter", "trained": 76_898, "learning rates": (3e-4, 1e-3, 3e-3, 1e-2),
    "chosen on": "validation", "training rows": 256, "steps": 48, "seeds": (0, 1, 2, 3, 4), "reported": "mean",
}  # fmt: skip
FLAWS = ("chosen on test", "rates", "rows", "steps", "seeds", "best seed")


@check_of("46.3", "Spot the unfair comparison", minutes=10)
def flaws(attempt: Callable) -> None:
    """Pairs of protocols with one flaw, several, none, or only differences that are being compared."""
    other = FAIR | {"method": "full fine-tuning", "trained": 22_713_986, "learning rates": (3e-5, 1e-4, 3e-4, 1e-3)}
    cases: list[tuple[dict, dict, set[str]]] = [
        (FAIR, other, set()),
        (FAIR | {"chosen on": "test"}, other, {"chosen on test"}),
        (FAIR, other | {"chosen on": "test"}, {"chosen on test"}),
        (FAIR | {"chosen on": "test"}, other | {"chosen on": "test"}, {"chosen on test"}),
        (FAIR, other | {"learning rates": (2e-5,)}, {"rates"}),
        (FAIR, other | {"training rows": 2000}, {"rows"}),
        (FAIR | {"steps": 480}, other, {"steps"}),
        (FAIR, other | {"seeds": (5, 6, 7, 8, 9)}, {"seeds"}),
        (FAIR | {"seeds": (0,)}, other | {"seeds": (0,)}, {"seeds"}),
        (FAIR | {"reported": "best seed"}, other, {"best seed"}),
        (FAIR | {"reported": "best seed"}, other | {"reported": "best seed"}, {"best seed"}),
        (FAIR | {"seeds": (4, 3, 2, 1, 0)}, other, set()),
        (FAIR | {"steps": 480, "chosen on": "test"}, other | {"learning rates": (1e-4,)},
         {"steps", "chosen on test", "rates"}),
    ]  # fmt: skip
    for a, b, right in cases:
        answer = attempt(dict(a), dict(b))
        if isinstance(answer, str) or not isinstance(answer, list | tuple | set | frozenset):
            raise Wrong("46.3.not_a_set", found=type(answer).__name__)
        found = set(answer)
        if found - set(FLAWS):
            raise Wrong("46.3.unknown", found=sorted(map(str, found - set(FLAWS)))[0], names=", ".join(FLAWS))
        _name_flaw(found, right, a, b)


def _name_flaw(found: set[str], right: set[str], a: dict, b: dict) -> None:
    """Raise Wrong for the first flaw that is missed, or seen where there is none."""
    if found == right:
        return
    missed, imagined = right - found, found - right
    if "chosen on test" in missed:
        raise Wrong("46.3.both_on_test" if a["chosen on"] == b["chosen on"] else "46.3.chosen_on_test")
    if "best seed" in missed:
        raise Wrong("46.3.both_best_seed" if a["reported"] == b["reported"] else "46.3.best_seed")
    if "seeds" in missed:
        raise Wrong("46.3.one_seed" if a["seeds"] == b["seeds"] else "46.3.other_seeds")
    if missed:
        raise Wrong("46.3.missed", name=sorted(missed)[0])
    if "rates" in imagined:
        raise Wrong("46.3.rates_differ")
    if "seeds" in imagined:
        raise Wrong("46.3.seeds_in_order")
    raise Wrong("46.3.imagined", name=sorted(imagined)[0])


# --- 46.4 -------------------------------------------------------------------------------------------------

KINDS = ("healthy", "nothing trains", "rate too low", "rate too high", "memorised")
MISTAKEN = {  # (what it is, what was said)
    ("memorised", "healthy"): "46.4.training_only",
    ("rate too high", "nothing trains"): "46.4.ends_only",
    ("rate too high", "memorised"): "46.4.blown_up",
    ("nothing trains", "rate too low"): "46.4.noise",
    ("nothing trains", "healthy"): "46.4.noise",
    ("rate too low", "nothing trains"): "46.4.slow_is_alive",
    ("rate too low", "healthy"): "46.4.any_fall",
    ("healthy", "memorised"): "46.4.gap",
}


@check_of("46.4", "Diagnose a run from its curves", minutes=15)
def diagnose(attempt: Callable) -> None:
    """Curves of every kind, noisy as small batches are; three draws of each."""
    rng = random.Random(0)
    for steps in (60, 90, 60):
        for kind in KINDS:
            train, validation = curves(kind, steps, rng)
            said = attempt(list(train), list(validation))
            if said not in KINDS:
                raise Wrong("46.4.unknown", found=repr(said)[:40], names=", ".join(KINDS))
            if said != kind:
                seen = {"first": _mean(train[:8]), "last": _mean(train[-8:]), "validation": validation[-1]}
                shown = {name: f"{value:.2f}" for name, value in seen.items()}
                raise Wrong(MISTAKEN.get((kind, said), "46.4.confused"), said=said, kind=kind, **shown)


def curves(kind: str, steps: int, rng: random.Random) -> tuple[list[float], list[float]]:
    """Losses of a classifier of two classes: of each step, and of ten evaluations over the run (guessing: .693)."""

    def level(done: float) -> tuple[float, float]:
        fall, spike = 1 - math.exp(-3.5 * done), math.exp(-((done - 0.2) ** 2) / 0.01)
        return {
            "healthy": (0.70 - 0.45 * fall, 0.70 - 0.27 * fall),
            "nothing trains": (0.715, 0.71),
            "rate too low": (0.71 - 0.10 * done, 0.71 - 0.08 * done),
            "rate too high": (0.70 + 2.2 * spike + 0.03 * fall, 0.72 + 1.1 * (done < 0.3)),
            "memorised": (0.70 - 0.62 * done, 0.69 + 0.75 * done**2),
        }[kind]  # fmt: skip

    noise = 0.035
    train = [level((step + 1) / steps)[0] + rng.gauss(0, noise) for step in range(steps)]
    validation = [level((part + 1) / 10)[1] + rng.gauss(0, 0.006) for part in range(10)]
    return train, validation


def _mean(values: Sequence[Any]) -> float:
    return sum(values) / len(values)
