"""The checks of chapter 54."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

from .registry import Wrong, check_of

KINDS = ("PER", "ORG", "LOC")
Span = tuple[str, int, int]

# --- 54.1 -------------------------------------------------------------------------------------------------


@check_of("54.1", "Spans from BIO tags", minutes=10)
def spans_from_tags(attempt: Callable) -> None:
    """Short sequences, each made for one mistake, then random ones; every usual mistake is recognised by its spans."""
    rng = random.Random(0)
    made = ["O B-PER I-PER I-PER O", "B-PER O B-LOC", "O B-PER", "B-PER B-PER O", "B-PER I-PER B-PER I-PER O",
            "B-PER I-ORG O", "O I-LOC I-LOC O", "O O", ""]
    drawn = [" ".join(_random_tags(rng, rng.randint(4, 9))) for _ in range(40)]
    for line in made + drawn:
        tags = line.split()
        found = attempt(list(tags))
        if not isinstance(found, list | tuple | set):
            raise Wrong("54.1.type", found=type(found).__name__)
        try:
            found = sorted(((kind, int(first), int(end)) for kind, first, end in found), key=_by_place)
        except (TypeError, ValueError):
            raise Wrong("54.1.not_triples", found=str(found)[:60]) from None
        _name(found, tags, _spans(tags), _WRONG_SPANS, "54.1.value")


def _by_place(span: Span) -> tuple:
    return span[1], span[2], str(span[0])


def _random_tags(rng: random.Random, length: int) -> list[str]:
    """BIO tags in which entities touch, and an I now and then continues nothing."""
    tags: list[str] = []
    for _ in range(length):
        kinds = [tags[-1][2:]] * 3 if tags and tags[-1] != "O" else []
        kind = rng.choice([*kinds, *KINDS])
        tags.append(rng.choice(["O", f"B-{kind}", f"I-{kind}"]))
    return tags


def _spans(tags: list[str]) -> list[Span]:
    found, first = [], None
    for i, tag in enumerate([*tags, "O"]):
        if first is not None and tag != f"I-{tags[first][2:]}":
            found.append((tags[first][2:], first, i))
            first = None
        if first is None and tag != "O":
            first = i
    return found


def _merged(tags: list[str], by_kind: bool = True) -> list[Span]:
    """Runs of tags that are not O, B and I being the same: touching entities flow together."""
    names = [tag[2:] if by_kind else ("" if tag == "O" else "x") for tag in tags]
    found = [(tags[i][2:], i, j) for i, j in _runs(names) if names[i]]
    return sorted(found, key=_by_place)


def _runs(names: list[str]) -> list[tuple[int, int]]:
    edges = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]] + [len(names)]
    return list(itertools.pairwise(edges))


def _kind_ignored(tags: list[str]) -> list[Span]:
    plain = [tag if tag == "O" else f"{tag[0]}-x" for tag in tags]
    return [(tags[first][2:], first, end) for _, first, end in _spans(plain)]


def _starts_with_b(tags: list[str]) -> list[Span]:
    return [span for span in _spans(tags) if tags[span[1]][0] == "B"]


def _end_lost(tags: list[str]) -> list[Span]:
    return [span for span in _spans(tags) if span[2] < len(tags)]


_WRONG_SPANS = [
    ("54.1.merged", _merged),
    ("54.1.end_lost", _end_lost),
    ("54.1.inclusive", lambda tags: [(kind, first, end - 1) for kind, first, end in _spans(tags)]),
    ("54.1.prefix", lambda tags: [(tags[first], first, end) for _, first, end in _spans(tags)]),
    ("54.1.only_first", lambda tags: [(kind, first, first + 1) for kind, first, _ in _spans(tags)]),
    ("54.1.each_word", lambda tags: [(tag[2:], i, i + 1) for i, tag in enumerate(tags) if tag != "O"]),
    ("54.1.kind_ignored", _kind_ignored),
    ("54.1.merged", lambda tags: _merged(tags, by_kind=False)),
    ("54.1.orphan_dropped", _starts_with_b),
    ("54.1.nothing", lambda tags: []),
]


def _name(found: object, given: object, right: object, named: list[tuple[str, Callable]], otherwise: str) -> None:
    """Raise Wrong with the key of the first wrong way that gives `found`, unless it is right."""
    if found == right:
        return
    for key, wrong in named:
        if found == wrong(given):
            raise Wrong(key)
    raise Wrong(otherwise, given=given, found=found, right=right)


# --- 54.2 -------------------------------------------------------------------------------------------------


@check_of("54.2", "Entity F1", minutes=10)
def entity_f1(attempt: Callable) -> None:
    """F1 over the whole spans of all sentences; what else is often reported is recognised by its value."""
    rng = random.Random(1)
    cases = [_pair("B-PER I-PER O O O O", "B-PER O O O O O"), _pair("O O", "O O"), _pair("B-PER O", "O O"),
             _pair("O O O", "B-LOC O O")]
    while len(cases) < 12:
        references = [_tidy(rng, rng.randint(4, 9)) for _ in range(4)]
        predictions = [_disturbed(rng, row) for row in references]
        values = [way(references, predictions) for way in (_f1, *(way for _, way in _WRONG_F1))]
        if len({round(value, 4) for value in values}) == len(values):
            cases.append((references, predictions))
    for references, predictions in cases:
        found = attempt([list(row) for row in references], [list(row) for row in predictions])
        try:
            found = float(found)
        except (TypeError, ValueError):
            raise Wrong("54.2.type", found=type(found).__name__) from None
        right = _f1(references, predictions)
        if _close(found, right):
            continue
        if not any(tag != "O" for row in references + predictions for tag in row):
            raise Wrong("54.2.empty", found=f"{found:g}")
        for key, way in _WRONG_F1:
            if _close(found, way(references, predictions)):
                raise Wrong(key)
        raise Wrong("54.2.value", references=references, predictions=predictions, found=f"{found:.3f}",
                    right=f"{right:.3f}")


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, abs_tol=1e-6)


def _pair(reference: str, prediction: str) -> tuple[list[list[str]], list[list[str]]]:
    return [reference.split()], [prediction.split()]


def _tidy(rng: random.Random, length: int) -> list[str]:
    """BIO tags with at least one entity of two words."""
    tags: list[str] = ["B-PER", "I-PER"]
    while len(tags) < length:
        kind = rng.choice(KINDS)
        tags += rng.choice([["O"], ["O"], [f"B-{kind}"], [f"B-{kind}", f"I-{kind}"]])
    return tags


def _disturbed(rng: random.Random, tags: list[str]) -> list[str]:
    """The same tags with an entity shortened, renamed or left out here and there."""
    out = list(tags)
    for kind, first, end in _spans(tags):
        change = rng.choice(["keep", "keep", "shorten", "rename", "drop"])
        if change == "drop" or (change == "shorten" and end - first == 1):
            out[first:end] = ["O"] * (end - first)
        elif change == "shorten":
            out[end - 1] = "O"
        elif change == "rename":
            other = KINDS[(KINDS.index(kind) + 1) % len(KINDS)]
            out[first:end] = [f"{tag[:2]}{other}" for tag in out[first:end]]
    return out


def _ratio(found: float, predicted: float, true: float) -> float:
    return 2 * found / (predicted + true) if predicted + true else 0.0


def _counts(references: list, predictions: list, of: Callable = _spans) -> tuple[int, int, int]:
    pairs = [(set(of(r)), set(of(p))) for r, p in zip(references, predictions, strict=True)]
    return sum(len(r & p) for r, p in pairs), sum(len(p) for _, p in pairs), sum(len(r) for r, _ in pairs)


def _f1(references: list, predictions: list) -> float:
    return _ratio(*_counts(references, predictions))


def _accuracy(references: list, predictions: list, only_entities: bool = False) -> float:
    pairs = [(r, p) for row, said in zip(references, predictions, strict=True) for r, p in zip(row, said, strict=True)]
    pairs = [pair for pair in pairs if not only_entities or pair[0] != "O"]
    return sum(r == p for r, p in pairs) / max(1, len(pairs))


def _token_f1(references: list, predictions: list) -> float:
    return _ratio(*_counts(references, predictions, lambda row: [(t, i) for i, t in enumerate(row) if t != "O"]))


def _mean_f1(references: list, predictions: list) -> float:
    return sum(_f1([r], [p]) for r, p in zip(references, predictions, strict=True)) / len(references)


def _in_one_set(references: list, predictions: list) -> float:
    true, said = ({span for row in rows for span in _spans(row)} for rows in (references, predictions))
    return _ratio(len(true & said), len(said), len(true))


def _without_kind(references: list, predictions: list) -> float:
    return _ratio(*_counts(references, predictions, lambda row: [span[1:] for span in _spans(row)]))


def _overlap(references: list, predictions: list) -> float:
    hits = 0
    for row, said in zip(references, predictions, strict=True):
        hits += sum(any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for b in _spans(row)) for a in _spans(said))
    _, predicted, true = _counts(references, predictions)
    return _ratio(hits, predicted, true)


def _precision(references: list, predictions: list) -> float:
    found, predicted, _ = _counts(references, predictions)
    return found / predicted if predicted else 0.0


def _recall(references: list, predictions: list) -> float:
    found, _, true = _counts(references, predictions)
    return found / true if true else 0.0


_WRONG_F1 = [
    ("54.2.token_accuracy", _accuracy),
    ("54.2.entity_token_accuracy", lambda r, p: _accuracy(r, p, only_entities=True)),
    ("54.2.token_f1", _token_f1),
    ("54.2.mean_of_sentences", _mean_f1),
    ("54.2.one_set", _in_one_set),
    ("54.2.kind_ignored", _without_kind),
    ("54.2.overlap", _overlap),
    ("54.2.precision", _precision),
    ("54.2.recall", _recall),
    ("54.2.mean_not_harmonic", lambda r, p: (_precision(r, p) + _recall(r, p)) / 2),
    ("54.2.percent", lambda r, p: 100 * _f1(r, p)),
]

# --- 54.3 -------------------------------------------------------------------------------------------------


@check_of("54.3", "Align labels with subwords", minutes=8)
def align_labels(attempt: Callable) -> None:
    """One label for the first token of each word, -100 elsewhere; padding and special tokens own no word."""
    rng = random.Random(2)
    made = [([4, 5], [None, 0, 0, 0, 1, None]), ([3, 0, 5], [None, 0, 1, 2, None])]
    drawn = []
    for _ in range(20):
        tags = [rng.randint(0, 6) for _ in range(rng.randint(3, 6))]
        owners = [word for word in range(len(tags)) for _ in range(rng.randint(1, 3))]
        drawn.append((tags, [None, *owners, None, *[None] * rng.randint(0, 2)]))
    for tags, owners in made + drawn:
        found = attempt(list(tags), list(owners))
        try:
            found = [int(label) for label in found]
        except (TypeError, ValueError):
            raise Wrong("54.3.type", found=str(found)[:60]) from None
        for key, way in _WRONG_LABELS:
            if found == way(tags, owners) != _labels(tags, owners):
                raise Wrong(key)
        if len(found) != len(owners):
            raise Wrong("54.3.length", found=len(found), right=len(owners))
        if found != _labels(tags, owners):
            raise Wrong("54.3.value", tags=tags, owners=owners, found=found, right=_labels(tags, owners))


def _labels(tags: list[int], owners: list) -> list[int]:
    before = [None, *owners]
    return [-100 if word is None or word == last else tags[word] for word, last in zip(owners, before)]


def _every(tags: list[int], owners: list, special: int = -100) -> list[int]:
    return [special if word is None else tags[word] for word in owners]


def _last(tags: list[int], owners: list) -> list[int]:
    return _labels(tags, owners[::-1])[::-1]


def _zeros(labels: list[int], where: list[bool]) -> list[int]:
    return [0 if chosen else label for label, chosen in zip(labels, where, strict=True)]


def _by_position(tags: list[int], owners: list) -> list[int]:
    """One tag after the other along the tokens that are of a word."""
    rest = iter(tags)
    return [-100 if word is None else next(rest, -100) for word in owners]


_WRONG_LABELS = [
    ("54.3.every", _every),
    ("54.3.every", lambda tags, owners: _every(tags, owners, special=0)),
    ("54.3.specials", lambda tags, owners: _zeros(_labels(tags, owners), [word is None for word in owners])),
    ("54.3.zeros", lambda tags, owners: _zeros(_labels(tags, owners), [
        word is not None and label == -100 for word, label in zip(owners, _labels(tags, owners), strict=True)])),
    ("54.3.zeros", lambda tags, owners: _zeros(_labels(tags, owners), [
        label == -100 for label in _labels(tags, owners)])),
    ("54.3.last", _last),
    ("54.3.by_position", _by_position),
    ("54.3.dropped", lambda tags, owners: [label for label in _labels(tags, owners) if label != -100]),
    ("54.3.dropped", lambda tags, owners: [
        label for label, word in zip(_labels(tags, owners), owners, strict=True) if word is not None]),
]

# --- 54.4 -------------------------------------------------------------------------------------------------

_SENTENCES = [  # (words, tags), each made for one mistake
    ("Mara/agent sold/verb the/patient boat/patient ./O"),
    ("The/patient boat/patient was/O sold/verb by/O Mara/agent Lind/agent ./O"),
    ("Ivo/recipient was/O given/verb the/patient big/patient key/patient by/O Mara/agent ./O"),
    ("Yesterday/time ,/O Mara/agent called/verb Ivo/patient ./O"),
    ("The/patient letter/patient was/O never/O answered/verb ./O"),
    ("Mara/agent sold/verb Ivo/recipient bread/patient ./O"),
    ("Mara/agent wrote/verb to/O Ivo/recipient on/O Monday/time ./O"),
    ("To/O Ivo/recipient Brandt/recipient Mara/agent gave/verb up/verb the/patient shop/patient ./O"),
]


@check_of("54.4", "From roles to a triple", minutes=10)
def roles_to_triple(attempt: Callable) -> None:
    """Active, passive, fronted, with a recipient between, and with a role that is not there."""
    for line in _SENTENCES:
        words, roles = map(list, zip(*(item.rsplit("/", 1) for item in line.split()), strict=True))
        tags = ["O" if role == "O" else f"{'I' if i and roles[i - 1] == role else 'B'}-{role}"
                for i, role in enumerate(roles)]
        found = attempt(list(words), list(tags))
        try:
            found = tuple(found)
        except TypeError:
            raise Wrong("54.4.type", found=type(found).__name__) from None
        if len(found) != 3:
            raise Wrong("54.4.type", found=str(found)[:60])
        if any(isinstance(part, list | tuple) for part in found):
            raise Wrong("54.4.lists")
        given = words, roles
        _name(found, given, _triple(given), _WRONG_TRIPLES, "54.4.value")


def _phrases(given: tuple) -> dict[str, str]:
    words, roles = given
    return {role: " ".join(w for w, r in zip(words, roles, strict=True) if r == role) for role in dict.fromkeys(roles)
            if role != "O"}


def _triple(given: tuple, names: tuple[str, ...] = ("agent", "verb", "patient")) -> tuple:
    return tuple(_phrases(given).get(name) for name in names)


def _by_order(given: tuple, arguments: tuple[str, ...] = ("agent", "patient", "recipient")) -> tuple:
    """What stands first is taken for the one who acts, what stands next for the one acted on."""
    phrases = _phrases(given)
    others = [phrase for role, phrase in phrases.items() if role in arguments] + [None, None]
    return others[0], phrases["verb"], others[1]


def _patient_or_recipient(given: tuple) -> tuple:
    agent, verb, patient = _triple(given)
    return agent, verb, patient or _phrases(given).get("recipient")


def _first_words(given: tuple) -> tuple:
    return tuple(phrase and phrase.split()[0] for phrase in _triple(given))


_EVERY = ("agent", "patient", "recipient", "time")
_WRONG_TRIPLES = [
    ("54.4.recipient", lambda given: _triple(given, ("agent", "verb", "recipient"))),
    ("54.4.recipient", _patient_or_recipient),
    ("54.4.by_order", _by_order),
    ("54.4.by_order", lambda given: _by_order(given, ("agent", "patient"))),
    ("54.4.by_order", lambda given: _by_order(given, _EVERY)),
    ("54.4.first_word", _first_words),
    ("54.4.empty", lambda given: tuple(phrase or "" for phrase in _triple(given))),
    ("54.4.order", lambda given: _triple(given, ("agent", "patient", "verb"))),
    ("54.4.order", lambda given: _triple(given, ("verb", "agent", "patient"))),
    ("54.4.swapped", lambda given: _triple(given, ("patient", "verb", "agent"))),
]
