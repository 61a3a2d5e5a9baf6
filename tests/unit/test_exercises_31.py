"""The checks of chapter 31: right answers in several forms pass, each typical wrong one gets its own name."""

import random

import pytest
import torch

from course_lib.corpora import normalise
from course_lib.exercises.registry import judge

# --- 31.1 -------------------------------------------------------------------------------------------------


def merge(tokens, pair):
    merged, i = [], 0
    while i < len(tokens):
        if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def by_looking_back(tokens, pair):
    left, right = pair
    merged, fresh = [], False  # fresh: the last token of `merged` was made here and may not be merged again
    for token in tokens:
        if merged and not fresh and merged[-1] == left and token == right:
            merged[-1], fresh = left + right, True
        else:
            merged.append(token)
            fresh = False
    return tuple(merged)


def by_recursion(tokens, pair):
    if tuple(tokens[:2]) == pair:
        return ["".join(pair), *by_recursion(tokens[2:], pair)]
    return [tokens[0], *by_recursion(tokens[1:], pair)] if tokens else []


@pytest.mark.parametrize("answer", [merge, by_looking_back, by_recursion])
def test_merge_accepts(answer):
    assert judge("31.1", answer).status == "right"


def starts_of(tokens, pair):
    return [i for i in range(len(tokens) - 1) if (tokens[i], tokens[i + 1]) == pair]


def overlap(tokens, pair):
    starts = starts_of(tokens, pair)
    return [
        "".join(pair) if i in starts else token for i, token in enumerate(tokens) if i in starts or i - 1 not in starts
    ]


def second_kept(tokens, pair):
    starts = starts_of(tokens, pair)
    return ["".join(pair) if i in starts else token for i, token in enumerate(tokens)]


def first_only(tokens, pair):
    starts = starts_of(tokens, pair)[:1]
    return [*tokens[: starts[0]], "".join(pair), *tokens[starts[0] + 2 :]] if starts else list(tokens)


def last_lost(tokens, pair):
    merged, i = [], 0
    while i < len(tokens) - 1:
        hit = (tokens[i], tokens[i + 1]) == pair
        merged.append("".join(pair) if hit else tokens[i])
        i += 2 if hit else 1
    return merged


def in_place(tokens, pair):
    i = 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            tokens[i : i + 2] = ["".join(pair)]
        i += 1
    return tokens


def no_bounds(tokens, pair):
    return [tokens[i] for i in range(len(tokens)) if (tokens[i], tokens[i + 1]) != pair]


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("31.1.none", lambda tokens, pair: print(merge(tokens, pair))),
        ("31.1.not_a_list", lambda tokens, pair: "".join(tokens)),
        ("31.1.changes_input", in_place),
        ("31.1.overlap", overlap),
        ("31.1.right_to_left", lambda tokens, pair: mirrored(tokens, pair)),
        ("31.1.second_kept", second_kept),
        ("31.1.first_only", first_only),
        ("31.1.nothing_merged", lambda tokens, pair: list(tokens)),
        ("31.1.last_lost", last_lost),
        ("31.1.pair_kept", lambda tokens, pair: [pair if t == "".join(pair) else t for t in merge(tokens, pair)]),
        ("31.1.across", lambda tokens, pair: " ".join(tokens).replace(" ".join(pair), "".join(pair)).split()),
        ("31.1.value", lambda tokens, pair: [*merge(tokens, pair), "end"]),
        ("general.raised", no_bounds),
    ],
)
def test_merge_names(key, answer):
    assert judge("31.1", answer).key == key


def mirrored(tokens, pair):
    backwards = merge([token[::-1] for token in reversed(tokens)], (pair[1][::-1], pair[0][::-1]))
    return [token[::-1] for token in reversed(backwards)]


# --- 31.2 -------------------------------------------------------------------------------------------------


def honest_split(texts, share, seed):
    first = {}
    for row, text in enumerate(texts):
        first.setdefault(normalise(text), row)
    rows = list(first.values())
    random.Random(seed).shuffle(rows)
    size = round(share * len(rows))
    return rows[size:], rows[:size]


def with_the_last_copies(texts, share, seed):
    forms = {normalise(text): row for row, text in enumerate(texts)}
    test_forms = set(random.Random(seed).sample(sorted(forms), round(share * len(forms))))
    train = [row for form, row in forms.items() if form not in test_forms]
    return torch.tensor(train), tuple(forms[form] for form in test_forms)


@pytest.mark.parametrize("answer", [honest_split, with_the_last_copies])
def test_honest_split_accepts(answer):
    assert judge("31.2", answer).status == "right"


def once(rows, key):
    """The first row of each key."""
    return list({key(row): row for row in reversed(rows)}.values())[::-1]


def shuffled(rows, seed):
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows


def no_dedupe(texts, share, seed):
    rows = shuffled(range(len(texts)), seed)
    size = round(share * len(rows))
    return rows[size:], rows[:size]


def dedupe_after(texts, share, seed):
    return tuple(once(part, lambda row: normalise(texts[row])) for part in no_dedupe(texts, share, seed))


def exact_only(texts, share, seed):
    rows = shuffled(once(range(len(texts)), lambda row: texts[row]), seed)
    size = round(share * len(rows))
    return rows[size:], rows[:size]


def smaller_test(texts, share, seed):
    train, test = dedupe_after(texts, share, seed)
    seen = {normalise(texts[row]) for row in train}
    return train, [row for row in test if normalise(texts[row]) not in seen]


def train_shrunk(texts, share, seed):
    train, test = dedupe_after(texts, share, seed)
    seen = {normalise(texts[row]) for row in test}
    return [row for row in train if normalise(texts[row]) not in seen], test


def copies_kept(texts, share, seed):
    train, _ = honest_split(texts, share, seed)
    seen = {normalise(texts[row]) for row in train}
    return tuple(
        [row for row in range(len(texts)) if (normalise(texts[row]) in seen) == side] for side in (True, False)
    )


def all_copies_dropped(texts, share, seed):
    forms = [normalise(text) for text in texts]
    rows = shuffled([row for row, form in enumerate(forms) if forms.count(form) == 1], seed)
    size = round(share * len(rows))
    return rows[size:], rows[:size]


def not_shuffled(texts, share, seed):
    rows = sorted(honest_split(texts, share, seed)[0] + honest_split(texts, share, seed)[1])
    size = round(share * len(rows))
    return rows[:-size], rows[-size:]


def not_reproducible(texts, share, seed):
    return honest_split(texts, share, random.random())


def changed(change):
    return lambda texts, share, seed: change(*honest_split(texts, share, seed), texts)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_two", lambda texts, share, seed: len(texts)),
        ("not_two", lambda texts, share, seed: {"train": [0], "test": [1], "validation": [2]}),
        ("texts", changed(lambda train, test, texts: tuple([texts[row] for row in part] for part in (train, test)))),
        ("range", changed(lambda train, test, texts: (train, [*test, len(texts)]))),
        ("empty", changed(lambda train, test, texts: (train + test, []))),
        ("same_row", changed(lambda train, test, texts: (train + test[:1], test))),
        ("no_dedupe", no_dedupe),
        ("dedupe_after", dedupe_after),
        ("exact_only", exact_only),
        ("copies_kept", copies_kept),
        ("all_copies_dropped", all_copies_dropped),
        ("lost", changed(lambda train, test, texts: (train[:-10], test))),
        ("test_shrunk", smaller_test),
        ("share", train_shrunk),
        ("swapped", changed(lambda train, test, texts: (test, train))),
        ("not_shuffled", not_shuffled),
        ("seed_unused", lambda texts, share, seed: honest_split(texts, share, 7)),
        ("not_reproducible", not_reproducible),
    ],
)
def test_honest_split_names(key, answer):
    assert judge("31.2", answer).key == f"31.2.{key}"


# --- 31.3 -------------------------------------------------------------------------------------------------


def stream_of(documents, eos):
    ids, owners = [], []
    for number, document in enumerate(documents):
        ids += [*document, eos]
        owners += [number] * (len(document) + 1)
    return ids, owners


def pack(documents, length, eos):
    ids, owners = stream_of(documents, eos)
    rows = len(ids) // length
    ids = torch.tensor(ids[: rows * length]).view(rows, length)
    owners = torch.tensor(owners[: rows * length]).view(rows, length)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return ids, (owners[:, :, None] == owners[:, None, :]) & causal


def with_loops(documents, length, eos):
    ids, owners = stream_of(documents, eos)
    starts = range(0, len(ids) - length + 1, length)
    mask = [
        [[int(j <= i and owners[s + i] == owners[s + j]) for j in range(length)] for i in range(length)] for s in starts
    ]
    return [torch.tensor([ids[s : s + length] for s in starts]), torch.tensor(mask)]


def with_heads(documents, length, eos):
    ids, mask = pack(documents, length, eos)
    return ids.int(), mask[:, None]


@pytest.mark.parametrize("answer", [pack, with_loops, with_heads])
def test_pack_accepts(answer):
    assert judge("31.3", answer).status == "right"


def rows_of(ids, length):
    rows = len(ids) // length
    return torch.tensor(ids[: rows * length]).view(rows, length)


def other_ids(change):
    """The right answer with the rows replaced by those of change(documents, length, eos); its mask is never reached."""
    return lambda documents, length, eos: (change(documents, length, eos), pack(documents, length, eos)[1])


def other_mask(change):
    """The right rows with the mask change(ids, mask)."""

    def answer(documents, length, eos):
        ids, mask = pack(documents, length, eos)
        return ids, change(ids, mask)

    return answer


def blocks(numbers):
    length = numbers.shape[1]
    return (numbers[:, :, None] == numbers[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()


def joined(documents, before=(), after=()):
    return [token for document in documents for token in [*before, *document, *after]]


def padded(documents, length, eos):
    ids, _ = stream_of(documents, eos)
    return rows_of(ids + [eos] * (-len(ids) % length), length)


def grows_its_input(documents, length, eos):
    for document in documents:
        document.append(eos)
    return pack([document[:-1] for document in documents], length, eos)


def late_owner(documents, length, eos):
    ids, owners = stream_of(documents, eos)
    return rows_of(ids, length), blocks(rows_of([0, *owners[:-1]], length))


def each_alone(documents, length, eos):
    return rows_of([t for d in documents for t in [*d, eos][: (len(d) + 1) // length * length]], length)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_two", lambda *given: pack(*given)[0]),
        ("not_tensors", lambda *given: tuple(part.tolist() for part in pack(*given))),
        ("changes_input", grows_its_input),
        ("ids_type", other_ids(lambda *given: pack(*given)[0].float())),
        ("ids_shape", other_ids(lambda *given: pack(*given)[0].flatten())),
        ("no_eos", other_ids(lambda documents, length, eos: rows_of(joined(documents), length))),
        ("eos_before", other_ids(lambda documents, length, eos: rows_of(joined(documents, before=[eos]), length))),
        ("last_eos", other_ids(lambda documents, length, eos: rows_of(stream_of(documents, eos)[0][:-1], length))),
        ("rest_padded", other_ids(padded)),
        ("document_dropped", other_ids(each_alone)),
        (
            "one_a_row",
            other_ids(
                lambda documents, length, eos: torch.tensor(
                    [([*document, eos] + [eos] * length)[:length] for document in documents]
                )
            ),
        ),
        ("ids_value", other_ids(lambda *given: pack(*given)[0] + 1)),
        ("mask_shape", other_mask(lambda ids, mask: torch.ones_like(ids))),
        ("mask_additive", other_mask(lambda ids, mask: torch.zeros(mask.shape).masked_fill(~mask, -1e9))),
        ("mask_across", other_mask(lambda ids, mask: torch.ones_like(mask).tril())),
        ("mask_not_causal", other_mask(lambda ids, mask: mask | mask.transpose(1, 2))),
        ("mask_inverted", other_mask(lambda ids, mask: ~mask)),
        ("mask_transposed", other_mask(lambda ids, mask: mask.transpose(1, 2))),
        ("mask_self", other_mask(lambda ids, mask: mask & ~torch.eye(mask.shape[1], dtype=torch.bool))),
        ("mask_first_row", other_mask(lambda ids, mask: mask[:1].expand_as(mask))),
        ("mask_eos", other_mask(lambda ids, mask: blocks((ids == 0).cumsum(1)))),
        ("mask_by_eos", other_mask(lambda ids, mask: blocks((ids == 0).cumsum(1) - (ids == 0).long()))),
        ("mask_shifted", late_owner),
        ("mask_value", other_mask(lambda ids, mask: torch.ones_like(mask))),
    ],
)
def test_pack_names(key, answer):
    assert judge("31.3", answer).key == f"31.3.{key}"
