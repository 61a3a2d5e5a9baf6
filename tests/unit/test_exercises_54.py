"""The checks of chapter 54: right answers in several forms pass, each typical wrong one gets its own name."""

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from course_lib.exercises.registry import judge

# --- 54.1 -------------------------------------------------------------------------------------------------


def spans(tags):
    found = []
    for i, tag in enumerate(tags):
        continues = found and found[-1][2] == i and tag == f"I-{found[-1][0]}"
        if continues:
            found[-1][2] = i + 1
        elif tag != "O":
            found.append([tag[2:], i, i + 1])
    return found


def by_seqeval(tags):
    return {(kind, first, last + 1) for kind, first, last in get_entities(tags)}


@pytest.mark.parametrize("answer", [spans, by_seqeval])
def test_spans_accepts(answer):
    assert judge("54.1", answer).status == "right"


def merged(tags):
    found = []
    for i, tag in enumerate(tags):
        if tag != "O" and found and found[-1][2] == i and found[-1][0] == tag[2:]:
            found[-1][2] = i + 1
        elif tag != "O":
            found.append([tag[2:], i, i + 1])
    return found


def other_kind(tags):
    found = []
    for i, tag in enumerate(tags):
        if tag[0] == "I" and found and found[-1][2] == i:
            found[-1][2] = i + 1
        elif tag != "O":
            found.append([tag[2:], i, i + 1])
    return found


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("merged", merged),
        ("end_lost", lambda tags: [span for span in spans(tags) if span[2] < len(tags)]),
        ("inclusive", get_entities),
        ("prefix", lambda tags: [(f"B-{kind}", a, b) for kind, a, b in spans(tags)]),
        ("only_first", lambda tags: [(kind, a, a + 1) for kind, a, _ in spans(tags)]),
        ("each_word", lambda tags: [(tag[2:], i, i + 1) for i, tag in enumerate(tags) if tag != "O"]),
        ("kind_ignored", other_kind),
        ("orphan_dropped", lambda tags: [span for span in spans(tags) if tags[span[1]][0] == "B"]),
        ("nothing", lambda tags: []),
        ("type", lambda tags: 3),
        ("not_triples", lambda tags: [span[1:] for span in spans(tags)]),
        ("value", lambda tags: [(kind, a + 1, b + 1) for kind, a, b in spans(tags)]),
    ],
)
def test_spans_names(key, answer):
    assert judge("54.1", answer).key == f"54.1.{key}"


# --- 54.2 -------------------------------------------------------------------------------------------------


def entity_f1(references, predictions):
    true, said = (
        {(number, *span) for number, row in enumerate(rows) for span in by_seqeval(row)}
        for rows in (references, predictions)
    )
    return 2 * len(true & said) / (len(true) + len(said)) if true or said else 0.0


@pytest.mark.parametrize("answer", [entity_f1, lambda r, p: f1_score(r, p, zero_division=0)])
def test_f1_accepts(answer):
    assert judge("54.2", answer).status == "right"


def words(references, predictions):
    return [(a, b) for r, p in zip(references, predictions) for a, b in zip(r, p)]


def share(pairs):
    return sum(a == b for a, b in pairs) / max(1, len(pairs))


def with_spans(change, references, predictions):
    true, said = (
        {(number, *change(span)) for number, row in enumerate(rows) for span in by_seqeval(row)}
        for rows in (references, predictions)
    )
    return 2 * len(true & said) / max(1, len(true) + len(said))


def one_set(references, predictions):
    true, said = ({span for row in rows for span in by_seqeval(row)} for rows in (references, predictions))
    return 2 * len(true & said) / max(1, len(true) + len(said))


def word_f1(references, predictions):
    pairs = words(references, predictions)
    true, said = sum(a != "O" for a, _ in pairs), sum(b != "O" for _, b in pairs)
    return 2 * sum(a == b != "O" for a, b in pairs) / max(1, true + said)


def overlapping(references, predictions):
    hits = true = said = 0
    for r, p in zip(references, predictions):
        right, guessed = by_seqeval(r), by_seqeval(p)
        hits += sum(any(a == x and b < z and y < c for x, y, z in right) for a, b, c in guessed)
        true, said = true + len(right), said + len(guessed)
    return 2 * hits / max(1, true + said)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("token_accuracy", lambda r, p: share(words(r, p))),
        ("entity_token_accuracy", lambda r, p: share([(a, b) for a, b in words(r, p) if a != "O"])),
        ("token_f1", word_f1),
        ("mean_of_sentences", lambda r, p: sum(entity_f1([a], [b]) for a, b in zip(r, p)) / len(r)),
        ("one_set", one_set),
        ("kind_ignored", lambda r, p: with_spans(lambda span: span[1:], r, p)),
        ("overlap", overlapping),
        ("precision", lambda r, p: precision_score(r, p, zero_division=0)),
        ("recall", lambda r, p: recall_score(r, p, zero_division=0)),
        ("mean_not_harmonic",
         lambda r, p: (precision_score(r, p, zero_division=0) + recall_score(r, p, zero_division=0)) / 2),
        ("percent", lambda r, p: 100 * entity_f1(r, p)),
        ("empty", lambda r, p: entity_f1(r, p) if any(t != "O" for row in r + p for t in row) else 1.0),
        ("type", lambda r, p: [0.5]),
        ("value", lambda r, p: entity_f1(r, p) / 2),
    ],
)
def test_f1_names(key, answer):
    assert judge("54.2", answer).key == f"54.2.{key}"


# --- 54.3 -------------------------------------------------------------------------------------------------


def align(tags, word_ids):
    labels, last = [], None
    for word in word_ids:
        labels.append(-100 if word is None or word == last else tags[word])
        last = word
    return labels


def by_first_index(tags, word_ids):
    import numpy as np

    labels = np.full(len(word_ids), -100)
    for word, tag in enumerate(tags):
        labels[word_ids.index(word)] = tag
    return labels


@pytest.mark.parametrize("answer", [align, by_first_index])
def test_align_accepts(answer):
    assert judge("54.3", answer).status == "right"


def in_turn(tags, word_ids):
    rest = list(tags)
    return [-100 if word is None or not rest else rest.pop(0) for word in word_ids]


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("every", lambda tags, ids: [-100 if word is None else tags[word] for word in ids]),
        ("every", lambda tags, ids: [0 if word is None else tags[word] for word in ids]),
        ("specials", lambda tags, ids: [0 if w is None else t for w, t in zip(ids, align(tags, ids))]),
        ("zeros", lambda tags, ids: [0 if t == -100 else t for t in align(tags, ids)]),
        ("zeros", lambda tags, ids: [0 if w is not None and t == -100 else t for w, t in zip(ids, align(tags, ids))]),
        ("last", lambda tags, ids: align(tags, ids[::-1])[::-1]),
        ("by_position", in_turn),
        ("dropped", lambda tags, ids: [t for t in align(tags, ids) if t != -100]),
        ("dropped", lambda tags, ids: [t for t, w in zip(align(tags, ids), ids) if w is not None]),
        ("length", lambda tags, ids: align(tags, ids)[:-1]),
        ("type", lambda tags, ids: 3),
        ("value", lambda tags, ids: [t if t == -100 else t + 1 for t in align(tags, ids)]),
    ],
)
def test_align_names(key, answer):
    assert judge("54.3", answer).key == f"54.3.{key}"


# --- 54.4 -------------------------------------------------------------------------------------------------


def triple(words, tags):
    phrase = {role: " ".join(words[a : b + 1]) for role, a, b in get_entities(tags)}
    return phrase.get("agent"), phrase.get("verb"), phrase.get("patient")


def word_by_word(words, tags):
    parts = {"agent": [], "verb": [], "patient": []}
    for word, tag in zip(words, tags):
        if tag[2:] in parts:
            parts[tag[2:]].append(word)
    return [" ".join(part) or None for part in parts.values()]


@pytest.mark.parametrize("answer", [triple, word_by_word])
def test_triple_accepts(answer):
    assert judge("54.4", answer).status == "right"


def first_and_next(words, tags):
    found = [(role, " ".join(words[a : b + 1])) for role, a, b in get_entities(tags)]
    verb = next(phrase for role, phrase in found if role == "verb")
    others = [phrase for role, phrase in found if role not in ("verb", "time")]
    return others[0], verb, others[1] if len(others) > 1 else None


def instead_of_a_patient(words, tags):
    phrase = {role: " ".join(words[a : b + 1]) for role, a, b in get_entities(tags)}
    return phrase.get("agent"), phrase.get("verb"), phrase.get("patient", phrase.get("recipient"))


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("by_order", first_and_next),
        ("recipient", instead_of_a_patient),
        ("first_word", lambda words, tags: [part and part.split()[0] for part in triple(words, tags)]),
        ("empty", lambda words, tags: [part or "" for part in triple(words, tags)]),
        ("order", lambda words, tags: [triple(words, tags)[i] for i in (1, 0, 2)]),
        ("swapped", lambda words, tags: triple(words, tags)[::-1]),
        ("lists", lambda words, tags: [part and part.split() for part in triple(words, tags)]),
        ("type", lambda words, tags: 3),
        ("type", lambda words, tags: triple(words, tags)[:2]),
        ("value", lambda words, tags: [part and part.upper() for part in triple(words, tags)]),
    ],
)
def test_triple_names(key, answer):
    assert judge("54.4", answer).key == f"54.4.{key}"
