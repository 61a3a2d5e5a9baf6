"""The checks of chapter 33: right answers in several forms pass, each typical wrong one gets its own name."""

import pytest
import torch

import course_lib as cl
from course_lib.exercises.registry import judge

# --- 33.1 ------------------------------------------------------------------------------------------------------------


def by_dice(ids, special, mask_id, vocabulary, rate, generator, choose=None, shares=(0.8, 0.9), pool=None):
    """The reference, with the places where it may go wrong left open."""
    ordinary = ~torch.isin(ids, torch.tensor(special))
    chosen = torch.rand(ids.shape, generator=generator) < rate
    chosen = chosen & ordinary if choose is None else choose(chosen, ordinary)
    pool = torch.tensor([i for i in range(vocabulary) if i not in special]) if pool is None else pool
    strangers = pool[torch.randint(len(pool), ids.shape, generator=generator)]
    dice = torch.rand(ids.shape, generator=generator)
    seen = torch.where(chosen & (dice < shares[0]), mask_id, ids)
    seen = torch.where(chosen & (dice >= shares[0]) & (dice < shares[1]), strangers, seen)
    return seen, ids.masked_fill(~chosen, -100)


def one_die(ids, special, mask_id, vocabulary, rate, generator):
    """One draw decides both whether a token is chosen and what it shows."""
    dice = torch.rand(ids.shape, generator=generator) / rate
    dice[torch.isin(ids, torch.tensor(special))] = 2.0
    ordinary = torch.tensor(sorted(set(range(vocabulary)) - set(special)))
    seen, labels = ids.clone(), torch.full_like(ids, -100)
    labels[dice < 1] = ids[dice < 1]
    seen[dice < 0.8] = mask_id
    random = (dice >= 0.8) & (dice < 0.9)
    seen[random] = ordinary[torch.randint(len(ordinary), (int(random.sum()),), generator=generator)]
    return seen, labels


def the_librarys(ids, special, mask_id, vocabulary, rate, generator):
    class Tokenizer:
        mask_token_id, all_special_ids = mask_id, special

        def __len__(self):
            return vocabulary

    return cl.tasks.MaskedTokens(rate=rate).mask(ids, Tokenizer(), generator)


@pytest.mark.parametrize("answer", [by_dice, one_die, the_librarys])
def test_masking_accepts(answer):
    assert judge("33.1", answer).status == "right"


def relabelled(change):
    def attempt(ids, special, mask_id, vocabulary, rate, generator):
        seen, labels = by_dice(ids, special, mask_id, vocabulary, rate, generator)
        return change(ids, seen, labels, mask_id)

    return attempt


def writing(ids, special, mask_id, vocabulary, rate, generator):
    seen, labels = by_dice(ids, special, mask_id, vocabulary, rate, generator)
    ids[:] = seen
    return ids, labels


def over_all_tokens(ids, special, mask_id, vocabulary, rate, generator):
    """80/10/10 over all tokens, 15 % of them in the loss."""
    seen, _ = by_dice(ids, special, mask_id, vocabulary, 1.0, generator)
    _, labels = by_dice(ids, special, mask_id, vocabulary, rate, generator)
    return seen, labels


def ignoring(ids, special, mask_id, vocabulary, rate, generator):
    return by_dice(ids, special, mask_id, vocabulary, rate, None)


def seeded(ids, special, mask_id, vocabulary, rate, generator):
    return by_dice(ids, special, mask_id, vocabulary, rate, torch.Generator().manual_seed(7))


def of_the_rest(*arguments):
    return by_dice(*arguments, shares=(0.8, 0.82))


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("none", lambda *a: print(len(a))),
        ("special_masked", lambda *a: by_dice(*a, choose=lambda chosen, ordinary: chosen)),
        ("all_scored", relabelled(lambda ids, seen, labels, mask: (seen, ids.clone()))),
        ("over_all", over_all_tokens),
        ("over_all", lambda *a: (over_all_tokens(*a)[0], by_dice(*a[:4], 0.999, a[5])[1])),
        ("kept_unscored", relabelled(lambda ids, seen, labels, mask: (seen, labels.masked_fill(seen == ids, -100)))),
        ("random_unscored", relabelled(lambda ids, seen, labels, mask: (seen, labels.masked_fill(seen != mask, -100)))),
        ("changed_unscored", relabelled(lambda ids, seen, labels, m: (seen, labels.masked_fill(seen == m, -100)))),
        ("labels_of_the_seen", relabelled(lambda ids, seen, labels, mask: (seen, seen.where(labels != -100, labels)))),
        ("labels", relabelled(lambda ids, seen, labels, mask: (seen, ids.roll(1, 1).where(labels != -100, labels)))),
        ("in_place", writing),
        ("always_the_same", seeded),
        ("generator", ignoring),
        ("rate", lambda *a: by_dice(*a[:4], 0.3, a[5])),
        ("only_masks", lambda *a: by_dice(*a, shares=(1.0, 1.0))),
        ("of_the_rest", of_the_rest),
        ("shares", lambda *a: by_dice(*a, shares=(0.5, 0.75))),
        ("special_drawn", lambda *a: by_dice(*a, pool=torch.arange(500))),
        ("no_token", lambda *a: by_dice(*a, pool=torch.arange(501, 1001))),
        ("one_stranger", lambda *a: by_dice(*a, pool=torch.tensor([7, 8]))),
        ("shape", lambda *a: tuple(part[0] for part in by_dice(*a))),
    ],
)
def test_masking_names(key, answer):
    assert judge("33.1", answer).key == f"33.1.{key}"


# --- 33.2 ------------------------------------------------------------------------------------------------------------


def by_loop(ids, hidden, sentinels, end):
    source, target, n = [], [], 0
    for i, (token, cut) in enumerate(zip(ids, hidden, strict=True)):
        if not cut:
            source.append(token)
            continue
        if i == 0 or not hidden[i - 1]:
            source.append(sentinels[n])
            target.append(sentinels[n])
            n += 1
        target.append(token)
    return source, [*target, end]


def by_groups(ids, hidden, sentinels, end):
    import itertools

    marks, source, target = iter(sentinels), [], []
    for cut, group in itertools.groupby(zip(ids, hidden, strict=True), key=lambda pair: pair[1]):
        tokens = [token for token, _ in group]
        mark = [next(marks)] if cut else []
        source += mark or tokens
        target += mark + tokens if cut else []
    return torch.tensor(source), torch.tensor([*target, end])


@pytest.mark.parametrize("answer", [by_loop, by_groups])
def test_sentinels_accept(answer):
    assert judge("33.2", answer).status == "right"


def one_for_each_token(ids, hidden, sentinels, end):
    source, target, n = [], [], 0
    for token, cut in zip(ids, hidden, strict=True):
        source.append(90 + n if cut else token)
        target += [90 + n, token] if cut else []
        n += cut
    return source, [*target, end]


def unmarked_source(ids, hidden, sentinels, end):
    return [i for i, cut in zip(ids, hidden, strict=True) if not cut], by_loop(ids, hidden, sentinels, end)[1]


def still_there(ids, hidden, sentinels, end):
    source, n = [], 0
    for i, (token, cut) in enumerate(zip(ids, hidden, strict=True)):
        if cut and (i == 0 or not hidden[i - 1]):
            source.append(sentinels[n])
            n += 1
        source.append(token)
    return source, by_loop(ids, hidden, sentinels, end)[1]


def counted(hidden):
    return sum(cut and (i == 0 or not hidden[i - 1]) for i, cut in enumerate(hidden))


def using_up(ids, hidden, sentinels, end):
    marks = list(sentinels)
    answer = by_loop(ids, hidden, marks, end)
    del sentinels[: counted(hidden)]
    return answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("none", lambda *a: print(len(a))),
        ("no_end", lambda i, h, s, e: (by_loop(i, h, s, e)[0], by_loop(i, h, s, e)[1][:-1])),
        ("one_each", one_for_each_token),
        ("same_sentinel", lambda i, h, s, e: by_loop(i, h, [s[0]] * 5, e)),
        ("target_unmarked", lambda i, h, s, e: (by_loop(i, h, s, e)[0], [t for t, c in zip(i, h) if c] + [e])),
        ("whole_target", lambda i, h, s, e: (by_loop(i, h, s, e)[0], [*i, e])),
        ("source_unmarked", unmarked_source),
        ("still_there", still_there),
        ("backwards", lambda i, h, s, e: by_loop(i, h, s[: counted(h)][::-1], e)),
        ("exchanged", lambda i, h, s, e: by_loop(i, h, s, e)[::-1]),
        ("kept_hidden", lambda i, h, s, e: by_loop(i, [not cut for cut in h], s, e)),
        ("in_place", using_up),
        ("value", lambda i, h, s, e: (by_loop(i, h, s, e)[0], by_loop(i, h, s, e)[1] * 2)),
    ],
)
def test_sentinels_name(key, answer):
    assert judge("33.2", answer).key == f"33.2.{key}"


def test_the_sentinel_behind_its_span_is_named():
    def behind(ids, hidden, sentinels, end):
        source, target = by_loop(ids, hidden, sentinels, end)
        out, mark = [], None
        for token in target:
            if token in sentinels or token == end:
                out += [mark] if mark is not None else []
                mark = token
            else:
                out.append(token)
        return source, [*out, end]

    assert judge("33.2", behind).key == "33.2.sentinel_behind"


# --- 33.3 ------------------------------------------------------------------------------------------------------------


def weighted(states, mask):
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def row_by_row(states, mask):
    return torch.stack([rows[real.bool()].mean(0) for rows, real in zip(states, mask, strict=True)])


def by_product(states, mask):
    shares = mask / mask.sum(1, keepdim=True)
    return torch.einsum("btd,bt->bd", states, shares)


@pytest.mark.parametrize("answer", [weighted, row_by_row, by_product])
def test_mean_state_accepts(answer):
    assert judge("33.3", answer).status == "right"


def clearing(states, mask):
    states[mask == 0] = 0
    return states.sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("none", lambda states, mask: print(mask.sum())),
        ("padding", lambda states, mask: states.mean(1)),
        ("divisor", lambda states, mask: (states * mask[..., None]).mean(1)),
        ("sum", lambda states, mask: (states * mask[..., None]).sum(1)),
        ("first", lambda states, mask: states[:, 0]),
        ("last_column", lambda states, mask: states[:, -1]),
        ("last", lambda states, mask: states[torch.arange(len(mask)), mask.sum(1) - 1]),
        ("largest", lambda states, mask: states.masked_fill(mask[..., None] == 0, -1e9).max(1).values),
        ("over_all", lambda states, mask: states[mask.bool()].mean(0)),
        ("in_place", clearing),
        ("shape", lambda states, mask: states * mask[..., None]),
        ("value", lambda states, mask: weighted(states, mask) + 1),
    ],
)
def test_mean_state_names(key, answer):
    assert judge("33.3", answer).key == f"33.3.{key}"


# --- 33.4 ------------------------------------------------------------------------------------------------------------


def in_one_batch(model, ids, mask_id, special):
    asked = [t for t, i in enumerate(ids.tolist()) if i not in special]
    rows = ids.repeat(len(asked), 1)
    rows[torch.arange(len(asked)), asked] = mask_id
    with torch.no_grad():
        log_p = model(rows).log_softmax(-1)
    return log_p[torch.arange(len(asked)), asked, ids[asked]].sum()


def one_by_one(model, ids, mask_id, special, seen=None, at=0, measure=None):
    """The reference, with the places where it may go wrong left open."""
    total = 0.0
    for t, token in enumerate(ids.tolist()):
        if token in special:
            continue
        if seen is None:
            row = ids.clone()
            row[t] = mask_id
        else:
            row = seen(ids.clone(), t)
        with torch.no_grad():
            logits = model(row[None])[0]
        total += (measure or (lambda logits, t, token: logits[t].log_softmax(-1)[token]))(logits, t + at, token).item()
    return total


@pytest.mark.parametrize("answer", [in_one_batch, one_by_one])
def test_pseudo_log_likelihood_accepts(answer):
    assert judge("33.4", answer).status == "right"


def piling_up(model, ids, mask_id, special):
    kept = ids.clone()

    def seen(row, t):
        kept[t] = mask_id
        return kept

    return one_by_one(model, ids, mask_id, special, seen=seen)


def all_at_once(model, ids, mask_id, special):
    hidden = ids.masked_fill(~torch.isin(ids, torch.tensor(special)), mask_id)
    return one_by_one(model, ids, mask_id, special, seen=lambda row, t: hidden)


def writing_ids(model, ids, mask_id, special):
    answer = one_by_one(model, ids, mask_id, special)
    ids[1] = mask_id
    return answer


def left_only(model, ids, mask_id, special):
    return one_by_one(
        model, ids, mask_id, special, seen=lambda row, t: torch.cat([row[:t], torch.full_like(row[t:], mask_id)])
    )


def count(ids, special):
    return sum(i not in special for i in ids.tolist())


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("none", lambda *a: print(len(a))),
        ("unmasked", lambda *a: one_by_one(*a, seen=lambda row, t: row)),
        ("together", all_at_once),
        ("piling_up", piling_up),
        ("left_only", left_only),
        ("shifted", lambda *a: one_by_one(*a, at=-1)),
        ("special", lambda model, ids, mask, special: one_by_one(model, ids, mask, [])),
        ("mean", lambda model, ids, mask, special: one_by_one(model, ids, mask, special) / count(ids, special)),
        ("negative", lambda *a: -one_by_one(*a)),
        ("logits", lambda *a: one_by_one(*a, measure=lambda logits, t, token: logits[t, token])),
        ("probabilities", lambda *a: one_by_one(*a, measure=lambda logits, t, token: logits[t].softmax(-1)[token])),
        ("over_positions", lambda *a: one_by_one(*a, measure=lambda logits, t, token: logits.log_softmax(0)[t, token])),
        ("in_place", writing_ids),
        ("value", lambda *a: one_by_one(*a) - 1),
    ],
)
def test_pseudo_log_likelihood_names(key, answer):
    assert judge("33.4", answer).key == f"33.4.{key}"


def test_bits_are_named():
    assert judge("33.4", lambda *a: one_by_one(*a) / torch.log(torch.tensor(2.0)).item()).key == "33.4.bits"
