"""The checks of chapter 56."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from .registry import Wrong, check_of

# --- 56.1 -------------------------------------------------------------------------------------------------


@check_of("56.1", "When to say: I do not know", minutes=15)
def threshold(attempt: Callable) -> None:
    """Random scores; what the wrong thresholds would be is computed beside the right one."""
    rng = random.Random(0)
    cases = [
        ([0.9, 0.8, 0.7, 0.6], [True, True, False, True], 0.34),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [True, False, True, True, True, False], 0.2),
        *(_questions(rng, rng.randint(20, 40)) for _ in range(12)),
    ]
    for scores, right, limit in cases:
        given = list(scores), list(right)
        found = attempt(scores, right, limit)
        if (list(scores), list(right)) != given:
            raise Wrong("56.1.changed")
        if found is None:
            raise Wrong("56.1.none")
        _name_threshold(float(found), scores, right, limit)
    nothing = attempt([0.9, 0.8], [False, False], 0.1)
    if nothing is None or math.isnan(nothing) or _answered([0.9, 0.8], nothing):
        raise Wrong("56.1.nobody", found=nothing)
    tied = [0.9, 0.7, 0.7, 0.5], [True, True, False, True], 0.1
    if abs(_share(tied[0], tied[1], attempt(*tied)) - 0.0) > 1e-9:
        raise Wrong("56.1.tie")


def _questions(rng: random.Random, n: int) -> tuple[list[float], list[bool], float]:
    scores = [round(rng.random(), 3) for _ in range(n)]
    return scores, [rng.random() < 0.3 + 0.7 * score for score in scores], rng.choice([0.05, 0.1, 0.2, 0.3])


def _answered(scores: Sequence[float], threshold: float) -> list[int]:
    return [i for i, score in enumerate(scores) if score >= threshold]


def _share(scores: Sequence[float], right: Sequence[bool], threshold: float) -> float:
    """The share of wrong ones among the answered questions."""
    answered = _answered(scores, threshold)
    return sum(not right[i] for i in answered) / len(answered) if answered else 0.0


def _best(scores: Sequence[float], right: Sequence[bool], limit: float) -> float:
    allowed = [score for score in scores if _share(scores, right, score) <= limit]
    return min(allowed, default=math.inf)


def _name_threshold(found: float, scores: Sequence[float], right: Sequence[bool], limit: float) -> None:
    answered, best = _answered(scores, found), _best(scores, right, limit)
    if answered == _answered(scores, best):
        return
    wrong = sum(not right[i] for i in answered)

    def of_all(score: float) -> bool:
        return sum(not right[i] for i in _answered(scores, score)) / len(scores) <= limit

    def first_failure() -> float:
        ordered = sorted(set(scores), reverse=True)
        kept = math.inf
        for score in ordered:
            if _share(scores, right, score) > limit:
                break
            kept = score
        return kept

    def most_right() -> float:
        def good(score: float) -> int:
            return sum((right[i]) == (scores[i] >= score) for i in range(len(scores)))

        return max(sorted(set(scores)), key=good)

    beyond = [score for score in scores if score > best]
    suspects = {
        "56.1.of_all": min((score for score in scores if of_all(score)), default=math.inf),
        "56.1.first_failure": first_failure(),
        "56.1.accuracy": most_right(),
        "56.1.highest": max((score for score in scores if _share(scores, right, score) <= limit), default=math.inf),
        "56.1.strict": min(beyond, default=math.inf),
    }
    for key, suspect in suspects.items():
        if answered == _answered(scores, suspect):
            raise Wrong(key, threshold=f"{found:.3f}", wrong=wrong, answered=len(answered), limit=f"{limit:.0%}")
    key = "56.1.too_many" if answered and wrong / len(answered) > limit else "56.1.value"
    raise Wrong(key, threshold=f"{found:.3f}", wrong=wrong, answered=len(answered), limit=f"{limit:.0%}",
                best=f"{best:.3f}", could=len(_answered(scores, best)))  # fmt: skip


# --- 56.2 -------------------------------------------------------------------------------------------------


@check_of("56.2", "Keystrokes saved", minutes=15)
def keystrokes(attempt: Callable) -> None:
    """A typist over tables of suggestions; the usual miscounts are recognised by their totals."""
    cases = [
        ("hello there", {"he": "llo", "hello ": "there"}),
        ("the theory", {"the": "ory", "the the": "ory"}),
        ("aaa bbb ccc", {"": "aaa", "aaa ": "bcd", "aaa b": "bb", "aaa bbb": " ccc"}),
        ("plain text", {"pl": "ate", "plai": "d"}),
        ("abcd", {"a": "b", "ab": "cd"}),
        ("over", {"o": "verdone"}),
    ]
    for text, table in cases:
        asked: list[str] = []

        def suggest(typed: str, table: dict = table, asked: list = asked) -> str:
            asked.append(typed)
            return table.get(typed, "")

        found = attempt(text, suggest)
        if found is None:
            raise Wrong("56.2.none")
        right = _keys(text, table)
        if found == right:
            if any(not text.startswith(typed) for typed in asked):
                raise Wrong("56.2.not_typed", text=text)
            continue
        for key, options in {
            "56.2.free": {"price": 0},
            "56.2.wrong_accepted": {"trusting": True},
            "56.2.retyped": {"skip": False},
            "56.2.as_letters": {"letters": True},
            "56.2.never_empty": {"start": 1},
        }.items():
            if found == _keys(text, table, **options):
                raise Wrong(key, text=text, found=found, right=right)
        if isinstance(found, float) and abs(found - (1 - right / len(text))) < 1e-9:
            raise Wrong("56.2.share", found=f"{found:.3f}", right=right)
        if found == len(text) - right:
            raise Wrong("56.2.saved", found=found, right=right)
        raise Wrong("56.2.value", text=text, found=found, right=right)


def _keys(
    text: str, table: dict[str, str], price: int = 1, trusting: bool = False, skip: bool = True, letters: bool = False,
    start: int = 0,
) -> int:  # fmt: skip
    """Keys pressed: a letter, or one key that takes the whole suggestion where it is what comes next."""
    place = keys = 0
    while place < len(text):
        offer = table.get(text[:place], "") if place >= start else ""
        fits = bool(offer) and (trusting or text.startswith(offer, place))
        if fits:
            keys += len(offer) if letters else price
            place += len(offer) if skip else 1
        else:
            keys, place = keys + 1, place + 1
    return keys


# --- 56.3 -------------------------------------------------------------------------------------------------


@check_of("56.3", "A stop sequence", minutes=8)
def stop(attempt: Callable) -> None:
    """Completions with no, one and several stop sequences, in and out of the order of the list."""
    stops = ["\nclass ", "\ndef ", "\n#"]
    body = "    return x + 1"
    cases = [
        (body, stops),
        (f"{body}\ndef g(y):\n    return y", stops),
        (f"{body}\ndef g():\n    pass\ndef h():\n    pass", stops),
        (f"{body}\n# next\ndef g():\n    pass\nclass A:\n    pass", stops),
        ("    # a comment\n    def inner():\n        pass\n    return inner", stops),
        ("\ndef g():\n    pass", stops),
        (f"{body}\n#", stops),
    ]
    for text, given in cases:
        found = attempt(text, list(given))
        if not isinstance(found, str):
            raise Wrong("56.3.no_text", found=type(found).__name__)
        places = {stop: text.find(stop) for stop in given if stop in text}
        right = text[: min(places.values(), default=len(text))]
        if found == right:
            continue
        first_named = next(iter(places.values()), len(text))
        ends = [place + len(stop) for stop, place in places.items()]
        suspects = {
            "56.3.unchanged": text,
            "56.3.listed_first": text[:first_named],
            "56.3.last": text[: max((text.rfind(stop) for stop in places), default=len(text))],
            "56.3.kept": text[: min(ends, default=len(text))],
            "56.3.stripped": right.strip(),
            "56.3.first_line": text.split("\n")[0],
            "56.3.minus_one": text[:-1],
        }
        for key, suspect in suspects.items():
            if found == suspect or (key == "56.3.stripped" and found.strip() == suspect):
                raise Wrong(key, text=repr(text), found=repr(found))
        raise Wrong("56.3.value", text=repr(text), found=repr(found), right=repr(right))


# --- 56.4 -------------------------------------------------------------------------------------------------


@check_of("56.4", "pass@k without bias", minutes=12)
def pass_at_k(attempt: Callable) -> None:
    """Against the exact share of the draws; the plug-in estimate and its relatives are named."""
    cases = [(20, 3, 5), (10, 3, 1), (10, 3, 8), (10, 1, 10), (10, 0, 5), (10, 10, 3), (5, 4, 3), (200, 7, 100)]
    for n, c, k in cases:
        found = attempt(n, c, k)
        if found is None:
            raise Wrong("56.4.none")
        right = 1 - math.comb(n - c, k) / math.comb(n, k)
        if abs(float(found) - right) < 1e-9:
            continue
        suspects = {
            "56.4.with_replacement": 1 - (1 - c / n) ** k,
            "56.4.all_fail": math.comb(n - c, k) / math.comb(n, k),
            "56.4.pass_1": c / n,
            "56.4.any": float(c > 0),
            "56.4.times_k": min(1.0, k * c / n),
            "56.4.first_k": min(1.0, c / k),
            "56.4.every": math.comb(c, k) / math.comb(n, k),
        }
        if n - c < k:
            raise Wrong("56.4.few_wrong", n=n, c=c, k=k, found=f"{float(found):.3f}")
        for key, suspect in suspects.items():
            if abs(float(found) - suspect) < 1e-9:
                raise Wrong(key, n=n, c=c, k=k, found=f"{float(found):.3f}", right=f"{right:.3f}")
        raise Wrong("56.4.value", n=n, c=c, k=k, found=f"{float(found):.3f}", right=f"{right:.3f}")
