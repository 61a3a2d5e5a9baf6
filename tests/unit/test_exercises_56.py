"""The checks of chapter 56: right answers in several forms pass, each typical wrong one gets its own name."""

import math
import random

import pytest

from course_lib.exercises.registry import judge


def key_of(number, answer):
    return judge(number, answer).key.removeprefix(f"{number}.")


# --- 56.1 -------------------------------------------------------------------------------------------------


def by_candidates(scores, right, most_wrong):
    best = math.inf
    for t in scores:
        answered = [ok for score, ok in zip(scores, right) if score >= t]
        if answered.count(False) <= most_wrong * len(answered):
            best = min(best, t)
    return best


def by_walking(scores, right, most_wrong):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    best, wrong = 2.0, 0
    for n, i in enumerate(order, start=1):
        wrong += not right[i]
        last = n == len(order) or scores[order[n]] < scores[i]
        if last and wrong / n <= most_wrong:
            best = scores[i]
    return best


@pytest.mark.parametrize("answer", [by_candidates, by_walking])
def test_threshold_accepts(answer):
    assert judge("56.1", answer).status == "right"


def picking(choose, share):
    def answer(scores, right, most_wrong):
        good = [t for t in scores if share([ok for s, ok in zip(scores, right) if s >= t], scores) <= most_wrong]
        return choose(good, default=math.inf)

    return answer


def of_answered(answered, scores):
    return answered.count(False) / len(answered)


def stops_early(scores, right, most_wrong):
    best = math.inf
    for t in sorted(set(scores), reverse=True):
        if of_answered([ok for s, ok in zip(scores, right) if s >= t], scores) > most_wrong:
            break
        best = t
    return best


def most_accurate(scores, right, most_wrong):
    return max(sorted(set(scores)), key=lambda t: sum(ok == (s >= t) for s, ok in zip(scores, right)))


def ties_apart(scores, right, most_wrong):
    """Counts down the sorted list and forgets that equal scores go together."""
    pairs, best = sorted(zip(scores, right), key=lambda pair: (-pair[0], not pair[1])), math.inf
    for n in range(1, len(pairs) + 1):
        if of_answered([ok for _, ok in pairs[:n]], None) <= most_wrong:
            best = pairs[n - 1][0]
    return best


def above(scores, right, most_wrong):
    best = by_candidates(scores, right, most_wrong)
    return min((s for s in scores if s > best), default=math.inf)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("of_all", picking(min, lambda answered, scores: answered.count(False) / len(scores))),
        ("highest", picking(max, of_answered)),
        ("first_failure", stops_early),
        ("accuracy", most_accurate),
        ("tie", ties_apart),
        ("strict", above),
        ("none", lambda scores, right, most_wrong: print(end="")),
        ("changed", lambda scores, right, most_wrong: scores.sort() or 0.5),
        ("too_many", lambda scores, right, most_wrong: 0.0),
        ("nobody", lambda *a: by_candidates(*a) if any(a[1]) else 0.0),
    ],
)
def test_threshold_names(key, answer):
    assert key_of("56.1", answer) == key


# --- 56.2 -------------------------------------------------------------------------------------------------


def by_loop(text, suggest):
    typed, keys = "", 0
    while typed != text:
        offer = suggest(typed)
        typed += offer if offer and text[len(typed) :].startswith(offer) else text[len(typed)]
        keys += 1
    return keys


def by_recursion(text, suggest, typed=""):
    if typed == text:
        return 0
    offer = suggest(typed)
    fits = bool(offer) and text.startswith(typed + offer)
    return 1 + by_recursion(text, suggest, typed + (offer if fits else text[len(typed)]))


@pytest.mark.parametrize("answer", [by_loop, by_recursion])
def test_keystrokes_accepts(answer):
    assert judge("56.2", answer).status == "right"


def typist(price=1, trusting=False, skip=True, letters=False, start=0, back=lambda keys, text: keys):
    def answer(text, suggest):
        place = keys = 0
        while place < len(text):
            offer = suggest(text[:place]) if place >= start else ""
            if offer and (trusting or text.startswith(offer, place)):
                keys += len(offer) if letters else price
                place += len(offer) if skip else 1
            else:
                keys, place = keys + 1, place + 1
        return back(keys, text)

    return answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("free", typist(price=0)),
        ("wrong_accepted", typist(trusting=True)),
        ("retyped", typist(skip=False)),
        ("as_letters", typist(letters=True)),
        ("never_empty", typist(start=1)),
        ("share", typist(back=lambda keys, text: 1 - keys / len(text))),
        ("saved", typist(back=lambda keys, text: len(text) - keys)),
        ("value", typist(back=lambda keys, text: keys + 40)),
        ("none", lambda text, suggest: print(end="")),
    ],
)
def test_keystrokes_names(key, answer):
    assert key_of("56.2", answer) in (key, "retyped" if key == "as_letters" else key)


def test_asking_for_what_was_not_typed_is_named():
    def answer(text, suggest):
        suggest("something else")
        return by_loop(text, suggest)

    assert key_of("56.2", answer) == "not_typed"


# --- 56.3 -------------------------------------------------------------------------------------------------


def by_min(text, stops):
    return text[: min([text.find(stop) for stop in stops if stop in text] + [len(text)])]


def by_splitting(text, stops):
    for stop in stops:
        text = text.split(stop)[0]
    return text


@pytest.mark.parametrize("answer", [by_min, by_splitting])
def test_stop_accepts(answer):
    assert judge("56.3", answer).status == "right"


def listed_first(text, stops):
    return next((text[: text.find(stop)] for stop in stops if stop in text), text)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("unchanged", lambda text, stops: text),
        ("listed_first", listed_first),
        ("last", lambda text, stops: text[: max([text.rfind(s) for s in stops if s in text] or [len(text)])]),
        ("kept", lambda text, stops: text[: min([text.find(s) + len(s) for s in stops if s in text] or [len(text)])]),
        ("stripped", lambda text, stops: by_min(text, stops).strip()),
        ("first_line", lambda text, stops: text.split("\n")[0]),
        ("minus_one", lambda text, stops: text[: min((text.find(s) for s in stops if s in text), default=-1)]),
        ("no_text", lambda text, stops: len(text)),
        ("value", lambda text, stops: "something"),
    ],
)
def test_stop_names(key, answer):
    assert key_of("56.3", answer) == key


# --- 56.4 -------------------------------------------------------------------------------------------------


def by_product(n, c, k):
    if n - c < k:
        return 1.0
    return 1 - math.prod(1 - k / i for i in range(n - c + 1, n + 1))


def by_logs(n, c, k):
    missing = 1.0
    for i in range(k):
        missing *= max(0, n - c - i) / (n - i)
    return 1 - missing


@pytest.mark.parametrize("answer", [by_product, by_logs, lambda n, c, k: 1 - math.comb(n - c, k) / math.comb(n, k)])
def test_pass_at_k_accepts(answer):
    assert judge("56.4", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("with_replacement", lambda n, c, k: 1 - (1 - c / n) ** k),
        ("all_fail", lambda n, c, k: math.comb(n - c, k) / math.comb(n, k)),
        ("pass_1", lambda n, c, k: c / n),
        ("any", lambda n, c, k: float(c > 0)),
        ("times_k", lambda n, c, k: min(1, k * c / n)),
        ("first_k", lambda n, c, k: min(1, c / k)),
        ("every", lambda n, c, k: math.comb(c, k) / math.comb(n, k)),
        ("few_wrong", lambda n, c, k: 0.0 if n - c < k else by_product(n, c, k)),
        ("value", lambda n, c, k: 0.123),
        ("none", lambda n, c, k: print(end="")),
    ],
)
def test_pass_at_k_names(key, answer):
    assert key_of("56.4", answer) == key


def test_the_plug_in_estimate_is_too_low():
    """What the message of 56.4.with_replacement says, by simulation."""
    rng, p, n, k = random.Random(0), 0.3, 5, 4
    counts = [sum(rng.random() < p for _ in range(n)) for _ in range(20000)]
    unbiased = sum(by_product(n, c, k) for c in counts) / len(counts)
    plug_in = sum(1 - (1 - c / n) ** k for c in counts) / len(counts)
    true = 1 - (1 - p) ** k
    assert abs(unbiased - true) < 0.01
    assert plug_in < true - 0.03
