"""The checks of chapter 31."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch

# --- 31.1 -------------------------------------------------------------------------------------------------


@check_of("31.1", "Merge one pair", minutes=8)
def merge(attempt: Callable) -> None:
    """Runs of one letter, pairs at the ends, tokens of several letters, and forty random lists."""
    rng = random.Random(0)
    cases = [
        (list("lowest"), ("e", "s")),
        (list("bab"), ("a", "b")),
        (list("xyxyx"), ("x", "y")),
        (["th", "e", "t", "he"], ("th", "e")),
        (["ba", "b", "a", "b"], ("a", "b")),
        (["a"], ("a", "a")),
        ([], ("a", "a")),
        (list("aaa"), ("a", "a")),
        (list("aaaa"), ("a", "a")),
    ]
    cases += [(rng.choices(["a", "b", "ab"], k=rng.randint(0, 12)), tuple(rng.choices("ab", k=2))) for _ in range(40)]
    for tokens, pair in cases:
        given = list(tokens)
        found = attempt(given, pair)
        if found is None:
            raise Wrong("31.1.none")
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise Wrong("31.1.not_a_list", found=type(found).__name__)
        if given != tokens:
            raise Wrong("31.1.changes_input", before=tokens, after=given)
        if list(found) != _merged(tokens, pair, "".join(pair)):
            _name_wrong_merge(list(found), tokens, pair)


def _merged(tokens: Sequence, pair: tuple, new: object, times: int = -1) -> list:
    """The pair replaced by `new` from left to right, without overlap; at most `times` of them if not negative."""
    out, i = [], 0
    while i < len(tokens):
        if times and tuple(tokens[i : i + 2]) == pair:
            out.append(new)
            i, times = i + 2, times - 1
        else:
            out.append(tokens[i])
            i += 1
    return out


def _name_wrong_merge(found: list, tokens: list[str], pair: tuple[str, str]) -> None:
    """Raise Wrong with the name of what was done instead."""
    new = "".join(pair)
    right = _merged(tokens, pair, new)
    starts = {i for i in range(len(tokens) - 1) if tuple(tokens[i : i + 2]) == pair}
    seconds = {i + 1 for i in starts}
    each = [(i, new if i in starts else token) for i, token in enumerate(tokens)]
    named = {
        "31.1.overlap": [[token for i, token in each if i in starts or i not in seconds]],
        "31.1.right_to_left": [_merged(tokens[::-1], pair[::-1], new)[::-1]],
        "31.1.second_kept": [[token for _, token in each]],
        "31.1.first_only": [_merged(tokens, pair, new, times=1)],
        "31.1.nothing_merged": [tokens],
        "31.1.last_lost": [right[:-1], _merged(tokens[:-1], pair, new)],
        "31.1.pair_kept": [_merged(tokens, pair, pair), _merged(tokens, pair, list(pair))],
        "31.1.across": [" ".join(tokens).replace(" ".join(pair), new).split()],
    }
    for key, wrongs in named.items():
        if found in wrongs:
            raise Wrong(key, tokens=tokens, pair=pair, found=found, right=right)
    raise Wrong("31.1.value", tokens=tokens, pair=pair, found=found, right=right)


# --- 31.2 -------------------------------------------------------------------------------------------------


@check_of("31.2", "Find the leak, and split without it", minutes=12)
def honest_split(attempt: Callable) -> None:
    """Ninety texts of which a third is there twice or in other clothes: who is in train, who in test, how often."""
    texts, forms = _texts_with_copies()
    for share in (0.25, 0.4):
        train, test = _split(attempt, texts, share, seed=1)
        _require_honest(train, test, forms, share, texts)
    if not _same_split((train, test), _split(attempt, texts, 0.4, seed=1)):
        raise Wrong("31.2.not_reproducible")
    others = [_split(attempt, texts, 0.4, seed=seed) for seed in (2, 3)]
    if all(_same_split((train, test), other) for other in others):
        in_order = max(train) < min(test) or max(test) < min(train)
        raise Wrong("31.2.not_shuffled" if in_order else "31.2.seed_unused")


def _texts_with_copies() -> tuple[list[str], list[str]]:
    """Texts in the order of a file sorted by label, and the normal form of each."""
    from ..corpora import normalise

    kinds = ("dull", "warm")
    films = ("comedy", "drama", "western", "sequel", "remake")
    parts = ("plot", "cast", "music", "ending")
    once = [f"A {kind} {film}, above all its {part}." for kind in kinds for film in films for part in parts]
    texts = []
    for n, text in enumerate(once):
        texts.append(text)
        if n % 3 == 0:
            texts.append(text)
        if n % 4 == 1:
            texts += [text.upper(), f"  {text[:-1]} !!"]
    return texts, [normalise(text) for text in texts]


def _split(attempt: Callable, texts: list[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """The attempt's two lists of row numbers; anything else is named."""
    answer = attempt(list(texts), share, seed)
    try:
        parts = [list(part) for part in answer]
        train, test = parts
    except (TypeError, ValueError):
        raise Wrong("31.2.not_two", found=type(answer).__name__) from None
    if any(isinstance(row, str) for row in train + test):
        raise Wrong("31.2.texts")
    try:
        train, test = ([int(row) for row in part] for part in parts)
    except (TypeError, ValueError):
        raise Wrong("31.2.not_two", found=type(answer).__name__) from None
    if any(not 0 <= row < len(texts) for row in train + test):
        raise Wrong("31.2.range", rows=len(texts))
    return train, test


def _same_split(one: tuple[list[int], list[int]], other: tuple[list[int], list[int]]) -> bool:
    return all(set(a) == set(b) for a, b in zip(one, other, strict=True))


def _require_honest(train: list[int], test: list[int], forms: list[str], share: float, texts: list[str]) -> None:
    """Raise Wrong unless every text is in exactly one of the two, once, and the test set has its share of them."""
    if not train or not test:
        raise Wrong("31.2.empty", which="train" if not train else "test")
    if set(train) & set(test):
        raise Wrong("31.2.same_row", row=min(set(train) & set(test)))
    in_train, in_test = (Counter(forms[row] for row in part) for part in (train, test))
    both = in_train.keys() & in_test.keys()
    if both:
        form = min(both)
        pair = {
            "a": texts[next(row for row in train if forms[row] == form)],
            "b": texts[next(row for row in test if forms[row] == form)],
        }
        literal = {texts[row] for row in train} & {texts[row] for row in test}
        inside = [len(part) > len({texts[row] for row in part}) for part in (train, test)]
        count = {"count": len(both), "all": len(in_test)}
        if not literal:
            raise Wrong("31.2.exact_only", **pair, **count)
        raise Wrong("31.2.no_dedupe" if any(inside) else "31.2.dedupe_after", **pair, **count)
    distinct = len(set(forms))
    size = {"found": len(test), "wanted": round(share * distinct), "distinct": distinct}
    lost = set(forms) - in_train.keys() - in_test.keys()
    repeated = max(max(in_train.values()), max(in_test.values())) > 1
    if repeated:
        raise Wrong("31.2.copies_kept")
    if lost and all(forms.count(form) > 1 for form in lost):
        raise Wrong("31.2.all_copies_dropped", count=len(lost))
    if lost:
        raise Wrong("31.2.lost", count=len(lost))
    if abs(len(test) - share * distinct) > 1.5:
        swapped = abs(len(train) - share * distinct) <= 1.5
        smaller = len(test) < share * distinct
        key = "31.2.swapped" if swapped else "31.2.test_shrunk" if smaller else "31.2.share"
        raise Wrong(key, **size)


# --- 31.3 -------------------------------------------------------------------------------------------------

EOS = 0


@check_of("31.3", "Pack documents without letting them see each other", minutes=15)
def pack(attempt: Callable) -> None:
    """Documents shorter and longer than a row, one that holds the end mark itself, a rest that fills no row."""
    rng = random.Random(0)
    lengths = [3, 5, 1, 14, 2, 6, 4]  # with an end mark each 42 tokens, seven rows of six
    plain = [[rng.randint(1, 50) for _ in range(length)] for length in lengths]
    treacherous = [[7, EOS, 8, 9], [4, 5], *plain]
    for documents, length in ((plain, 8), (plain, 6), (treacherous, 8)):
        given = [list(document) for document in documents]
        answer = attempt(given, length, EOS)
        if given != documents:
            raise Wrong("31.3.changes_input")
        try:
            ids, mask = answer
        except (TypeError, ValueError):
            raise Wrong("31.3.not_two", found=type(answer).__name__) from None
        _require_rows(ids, documents, length)
        _require_mask(mask, ids, documents, length)


def _stream(documents: list[list[int]]) -> tuple[list[int], list[int]]:
    """All tokens, each document's end mark behind it, and the number of the document that each belongs to."""
    ids = [token for document in documents for token in [*document, EOS]]
    return ids, [n for n, document in enumerate(documents) for _ in range(len(document) + 1)]


def _require_rows(ids: torch.Tensor, documents: list[list[int]], length: int) -> None:
    """Raise Wrong unless `ids` is the stream of documents cut into full rows."""
    import torch

    stream, _ = _stream(documents)
    full = len(stream) // length * length
    if not isinstance(ids, torch.Tensor):
        raise Wrong("31.3.not_tensors", found=type(ids).__name__)
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise Wrong("31.3.ids_type", dtype=str(ids.dtype))
    right = torch.tensor(stream[:full]).view(-1, length)
    if ids.shape == right.shape and torch.equal(ids.long(), right):
        return
    found = ids.flatten().tolist()
    bare = [token for document in documents for token in document]
    before = [token for document in documents for token in [EOS, *document]]
    cut = [token for document in documents for token in [*document, EOS][: (len(document) + 1) // length * length]]
    shape = {"shape": tuple(ids.shape), "wanted": tuple(right.shape)}
    if ids.dim() != 2 or ids.shape[1] != length:
        raise Wrong("31.3.ids_shape", **shape)
    if found == bare[: len(bare) // length * length]:
        raise Wrong("31.3.no_eos")
    if found == before[: len(found)]:
        raise Wrong("31.3.eos_before")
    if found[:full] == stream[:full] and len(found) > full:
        raise Wrong("31.3.rest_padded", rest=len(stream) - full)
    if found == stream[: (len(stream) - 1) // length * length]:
        raise Wrong("31.3.last_eos")
    if found == cut:
        raise Wrong("31.3.document_dropped", length=length)
    starts = {tuple([*document, EOS][:length]) for document in documents}
    if all(any(tuple(row[: len(start)]) == start for start in starts) for row in ids.tolist()):
        raise Wrong("31.3.one_a_row", **shape)
    raise Wrong("31.3.ids_value", **shape)


def _require_mask(mask: torch.Tensor, ids: torch.Tensor, documents: list[list[int]], length: int) -> None:
    """Raise Wrong unless mask[b, i, j] says: j is not later than i, and of the same document."""
    import torch

    _, owner = _stream(documents)
    rows = ids.shape[0]
    own = torch.tensor(owner[: rows * length]).view(rows, length)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = own[:, :, None] == own[:, None, :]
    right = same & causal
    if not isinstance(mask, torch.Tensor):
        raise Wrong("31.3.not_tensors", found=type(mask).__name__)
    if tuple(mask.shape) == (rows, 1, length, length):
        mask = mask[:, 0]
    if mask.shape != right.shape:
        raise Wrong("31.3.mask_shape", shape=tuple(mask.shape), wanted=tuple(right.shape))
    if mask.is_floating_point() and bool((mask < 0).any()):
        raise Wrong("31.3.mask_additive")
    mask = mask.bool()
    if torch.equal(mask, right):
        return
    following = torch.tensor([0, *owner][: rows * length]).view(rows, length)  # the owner of the token before
    by_ids = torch.cat([torch.zeros(rows, 1), (ids == EOS).cumsum(1)[:, :-1]], dim=1)
    counted = (ids == EOS).cumsum(1)
    named = {
        "31.3.mask_across": [causal.expand_as(right)],
        "31.3.mask_not_causal": [same, same.transpose(1, 2)],
        "31.3.mask_inverted": [~right],
        "31.3.mask_transposed": [right.transpose(1, 2)],
        "31.3.mask_self": [same & causal.tril(-1)],
        "31.3.mask_first_row": [right[:1].expand_as(right)],
        "31.3.mask_eos": [(counted[:, :, None] == counted[:, None]) & causal],
        "31.3.mask_by_eos": [(by_ids[:, :, None] == by_ids[:, None]) & causal],
        "31.3.mask_shifted": [(following[:, :, None] == following[:, None]) & causal],
    }
    for key, wrongs in named.items():
        if any(torch.equal(mask, wrong) for wrong in wrongs):
            raise Wrong(key)
    b, i, j = (mask != right).nonzero()[0].tolist()
    raise Wrong("31.3.mask_value", b=b, i=i, j=j, found=bool(mask[b, i, j]), right=bool(right[b, i, j]))
