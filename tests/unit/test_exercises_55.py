"""The checks of chapter 55: right answers in several forms pass, each typical wrong one gets its own name."""

import math
import random

import pytest
import torch
from torch.nn import functional as F

from course_lib.exercises.registry import judge

# --- 55.1 -------------------------------------------------------------------------------------------------


def by_user(rows):
    users = {}
    for row in rows:
        users.setdefault(row["user"], []).append(row)
    return users


def cut(items):
    return items[:-2], items[-2], items[-1]


def ordered(key, reverse=False):
    """Each user's items sorted by `key`, then cut."""
    def answer(rows):
        sort = (lambda taken: sorted(taken, key=key, reverse=reverse)) if key else list
        return {user: cut([row["item"] for row in sort(taken)]) for user, taken in by_user(rows).items()}

    return answer


def time(row):
    return row["timestamp"]


right_split = ordered(time)


def with_pandas(rows):
    import pandas

    table = pandas.DataFrame(rows).sort_values("timestamp")
    return {int(user): cut(list(taken["item"])) for user, taken in table.groupby("user")}


@pytest.mark.parametrize("answer", [right_split, with_pandas])
def test_split_accepts(answer):
    assert judge("55.1", answer).status == "right"


def changed(change):
    return lambda rows: {user: change(*parts) for user, parts in right_split(rows).items()}


def at_random(rows):
    answer = {}
    for user, taken in by_user(rows).items():
        items = [row["item"] for row in sorted(taken, key=time)]
        first, second = random.Random(user).sample(items[:-2], 2)
        answer[user] = [item for item in items if item not in (first, second)], first, second
    return answer


def sorts_in_place(rows):
    rows.sort(key=time)
    return right_split(rows)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("leaks", at_random),
        ("as_given", ordered(None)),
        ("by_item", ordered(lambda row: row["item"])),
        ("newest_first", ordered(time, reverse=True)),
        ("swapped", changed(lambda train, validation, test: (train, test, validation))),
        ("in_train", changed(lambda train, validation, test: ([*train, validation], validation, test))),
        ("train_order", changed(lambda train, validation, test: (train[::-1], validation, test))),
        ("train_lost", changed(lambda train, validation, test: (train[1:], validation, test))),
        ("not_three", changed(lambda train, validation, test: (train, test))),
        ("not_by_user", lambda rows: list(right_split(rows).values())),
        ("in_place", sorts_in_place),
        ("value", changed(lambda train, validation, test: (train, -1, test))),
    ],
)
def test_split_names(key, answer):
    assert judge("55.1", answer).key == f"55.1.{key}"


# --- 55.2 -------------------------------------------------------------------------------------------------


def ranks_of(scores, targets, seen, mask=True, padding=False):
    scores = scores.clone()
    wanted = scores[torch.arange(len(scores)), targets]
    if not padding:
        scores[:, 0] = -torch.inf
    if mask:
        for user, items in enumerate(seen):
            scores[user, items] = -torch.inf
    return 1 + (scores > wanted[:, None]).sum(1)


def metrics(gain=lambda r: 1 / torch.log2(r + 1.0), cut=lambda r, k: r <= k, gain_cut=True, **masks):
    def answer(scores, targets, seen, k):
        ranks = ranks_of(scores, targets, seen, **masks)
        hit = cut(ranks, k).float()
        return hit.mean(), (gain(ranks) * (hit if gain_cut else 1)).mean()

    return answer


right_metrics = metrics()


def by_lists(scores, targets, seen, k):
    hits = gain = 0
    for row, target, owned in zip(scores.tolist(), targets.tolist(), seen):
        offered = [j for j in range(1, len(row)) if j not in owned]
        top = sorted(offered, key=lambda j: -row[j])[:k]
        if target in top:
            hits += 1
            gain += 1 / math.log2(top.index(target) + 2)
    return hits / len(targets), gain / len(targets)


@pytest.mark.parametrize("answer", [right_metrics, by_lists])
def test_metrics_accept(answer):
    assert judge("55.2", answer).status == "right"


def masks_in_place(scores, targets, seen, k):
    answer = right_metrics(scores, targets, seen, k)
    scores[:, 0] = -torch.inf
    return answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("seen_ranked", metrics(mask=False)),
        ("seen_ranked", metrics(mask=False, padding=True)),
        ("padding_ranked", metrics(padding=True)),
        ("upside_down", lambda scores, *rest: right_metrics(-scores, *rest)),
        ("one_short", metrics(cut=lambda r, k: r < k)),
        ("one_long", metrics(cut=lambda r, k: r <= k + 1)),
        ("rank_off", metrics(gain=lambda r: 1 / torch.log2(r + 2.0))),
        ("natural_log", metrics(gain=lambda r: 1 / torch.log(r + 1.0))),
        ("reciprocal", metrics(gain=lambda r: 1 / r)),
        ("not_cut", metrics(gain_cut=False)),
        ("sum", lambda scores, *rest: [len(scores) * number for number in right_metrics(scores, *rest)]),
        ("order", lambda *given: right_metrics(*given)[::-1]),
        ("not_two", lambda *given: right_metrics(*given)[0]),
        ("in_place", masks_in_place),
        ("gain_value", metrics(gain=lambda r: 0.5 / r)),
        ("value", lambda *given: (0.123, 0.1)),
    ],
)
def test_metrics_name(key, answer):
    assert judge("55.2", answer).key == f"55.2.{key}"


# --- 55.3 -------------------------------------------------------------------------------------------------


def corrected(correct=lambda s, q: s - q, masked=True, dim=1, finish=lambda loss: loss.mean()):
    def answer(states, table, candidates, log_q):
        logits = correct(torch.einsum("nd,ncd->nc", states, table[candidates]), log_q[candidates])
        accident = candidates == candidates[:, :1]
        accident[:, 0] = False
        if masked:
            logits = logits.masked_fill(accident, -torch.inf)
        return finish(-logits.log_softmax(dim)[:, 0])

    return answer


right_loss = corrected()


def by_torch(states, table, candidates, log_q):
    logits = (table[candidates] @ states[:, :, None])[..., 0] - log_q[candidates]
    again = torch.zeros_like(candidates, dtype=torch.bool)
    again[:, 1:] = candidates[:, 1:] == candidates[:, :1]
    logits = torch.where(again, torch.tensor(-1e9), logits)
    return F.cross_entropy(logits, torch.zeros(len(states), dtype=torch.long))


@pytest.mark.parametrize("answer", [right_loss, by_torch])
def test_loss_accepts(answer):
    assert judge("55.3", answer).status == "right"


def only(column):
    def correct(scores, q):
        kept = torch.zeros_like(q)
        kept[:, column] = 1
        return scores - kept * q

    return correct


def over_all(states, table, candidates, log_q):
    return F.cross_entropy((states @ table.T)[:, 1:], candidates[:, 0] - 1)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_corrected", corrected(lambda s, q: s)),
        ("not_corrected", corrected(lambda s, q: s, masked=False)),
        ("sign", corrected(lambda s, q: s + q)),
        ("hits_kept", corrected(masked=False)),
        ("negatives_only", corrected(only(slice(1, None)))),
        ("right_only", corrected(only(0))),
        ("no_log", corrected(lambda s, q: s - q.exp())),
        ("divided", corrected(lambda s, q: s / q.exp())),
        ("over_rows", corrected(dim=0)),
        ("sum", corrected(finish=lambda loss: loss.sum())),
        ("minus", corrected(finish=lambda loss: -loss.mean())),
        ("all_items", over_all),
        ("no_gradient", lambda *given: right_loss(*given).detach()),
        ("not_scalar", corrected(finish=lambda loss: loss)),
        ("value", corrected(finish=lambda loss: 3 * loss.mean())),
    ],
)
def test_loss_names(key, answer):
    assert judge("55.3", answer).key == f"55.3.{key}"


# --- 55.4 -------------------------------------------------------------------------------------------------


def right_scores(h, text, W, own, is_new):
    return (text @ W.T + own.masked_fill(is_new[:, None], 0)) @ h


def one_by_one(h, text, W, own, is_new):
    found = []
    for t, e, new in zip(text, own, is_new):
        vector = W @ t
        if not new:
            vector = vector + e
        found.append(h.dot(vector))
    return torch.stack(found)


@pytest.mark.parametrize("answer", [right_scores, one_by_one])
def test_cold_scores_accept(answer):
    assert judge("55.4", answer).status == "right"


def writes_over(h, text, W, own, is_new):
    own[is_new] = 0
    return (text @ W.T + own) @ h


def cosine(h, text, W, own, is_new):
    return F.normalize(text @ W.T + own * ~is_new[:, None], dim=1) @ F.normalize(h, dim=0)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("noise", lambda h, text, W, own, is_new: (text @ W.T + own) @ h),
        ("text_only", lambda h, text, W, own, is_new: text @ W.T @ h),
        ("own_only", lambda h, text, W, own, is_new: own @ h),
        ("either", lambda h, text, W, own, is_new: torch.where(is_new, text @ W.T @ h, own @ h)),
        ("inverted", lambda h, text, W, own, is_new: right_scores(h, text, W, own, ~is_new)),
        ("new_left_out", lambda *given: right_scores(*given).masked_fill(given[-1], -torch.inf)),
        ("new_left_out", lambda *given: right_scores(*given) * ~given[-1]),
        ("cosine", cosine),
        ("in_place", writes_over),
        ("shape", lambda *given: right_scores(*given)[None]),
        ("value", lambda *given: 2 * right_scores(*given)),
    ],
)
def test_cold_scores_name(key, answer):
    assert judge("55.4", answer).key == f"55.4.{key}"
