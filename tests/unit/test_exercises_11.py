"""The checks of chapter 11: right answers in several forms pass, each typical wrong one gets its own name."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_lib.exercises.registry import judge


def by_counter(text, context, k, V):
    n = len(context)
    followers = Counter(text[i + n] for i in range(len(text) - n) if text[i : i + n] == context)
    total = followers.total() + k * V
    return [(followers[w] + k) / total for w in range(V)]


def by_tensor(text, context, k, V):
    counts = torch.full((V,), float(k))
    for i in range(len(context), len(text)):
        if text[i - len(context) : i] == context:
            counts[text[i]] += 1
    return counts / counts.sum()


def by_array(text, context, k, V):
    return np.array(by_counter(text, context, k, V))


@pytest.mark.parametrize("answer", [by_counter, by_tensor, by_array])
def test_next_probabilities_accepts(answer):
    assert judge("11.1", answer).status == "right"


def counts_of(text, context, V):
    n = len(context)
    found = [0] * V
    for i in range(len(text) - n):
        if text[i : i + n] == context:
            found[text[i + n]] += 1
    return found


def divided(above, below):
    def answer(text, context, k, V):
        counts = counts_of(text, context, V)
        total = below(text, context, k, V, sum(counts))
        return (torch.tensor([above(n, k) for n in counts], dtype=torch.float64) / total).tolist()

    return answer


def occurrences(text, context):
    return sum(text[i : i + len(context)] == context for i in range(len(text) - len(context) + 1))


def with_count(text, context, k, V):
    counts = [text.count(context + bytes([w])) for w in range(V)]
    return [(n + k) / (sum(counts) + k * V) for n in counts]


def with_count_of_context(text, context, k, V):
    return [(text.count(context + bytes([w])) + k) / (text.count(context) + k * V) for w in range(V)]


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("end", divided(lambda n, k: n + k, lambda t, h, k, V, c: occurrences(t, h) + k * V)),
        ("overlap", with_count),
        ("by_count", with_count_of_context),
        ("no_k", divided(lambda n, k: n, lambda t, h, k, V, c: c)),
        ("k_above", divided(lambda n, k: n + k, lambda t, h, k, V, c: c)),
        ("k_below", divided(lambda n, k: n + k, lambda t, h, k, V, c: c + k)),
        ("v_below", divided(lambda n, k: n + k, lambda t, h, k, V, c: c + V)),
        ("one", divided(lambda n, k: n + 1, lambda t, h, k, V, c: c + V)),
        ("seen", divided(lambda n, k: n + k, lambda t, h, k, V, c: c + k * len(set(t)))),
        ("joint", divided(lambda n, k: n + k, lambda t, h, k, V, c: len(t) + k * V)),
        ("before", lambda t, h, k, V: by_counter(t[::-1], h[::-1], k, V)),
        ("only_unseen", divided(lambda n, k: n or k, lambda t, h, k, V, c: c + k * V)),
        ("zero", lambda t, h, k, V: [n / sum(counts_of(t, h, V)) for n in counts_of(t, h, V)]),
        ("shape", lambda t, h, k, V: by_counter(t, h, k, V)[:10]),
        ("sum", divided(lambda n, k: n + k, lambda t, h, k, V, c: c + k * V + 1)),
        ("value", lambda t, h, k, V: [1 / V] * V),
        ("none", lambda t, h, k, V: print("nothing")),
    ],
)
def test_next_probabilities_names(key, answer):
    assert judge("11.1", answer).key == f"11.1.{key}"


def nats(logits, ids, reduction="none"):
    return F.cross_entropy(logits.transpose(1, 2), ids, reduction=reduction)


def by_cross_entropy(logits, ids, mask):
    targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()).exp()


def by_gather(logits, ids, mask):
    log_p = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    return math.exp(-(log_p * mask[:, 1:]).sum() / mask[:, 1:].sum())


def by_loops(logits, ids, mask):
    total, count = 0.0, 0
    for row, tokens, real in zip(logits.tolist(), ids.tolist(), mask.tolist(), strict=True):
        for t in range(1, len(tokens)):
            if real[t]:
                total += math.log(sum(math.exp(z) for z in row[t - 1])) - row[t - 1][tokens[t]]
                count += 1
    return math.exp(total / count)


@pytest.mark.parametrize("answer", [by_cross_entropy, by_gather, by_loops])
def test_perplexity_accepts(answer):
    assert judge("11.2", answer).status == "right"


def scored(logits, ids, mask):
    return nats(logits[:, :-1], ids[:, 1:])[mask[:, 1:] == 1]


def rows(logits, ids, mask):
    found = nats(logits[:, :-1], ids[:, 1:]) * mask[:, 1:]
    return found.sum(1) / mask[:, 1:].sum(1)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("mean_of_exp", lambda z, ids, m: scored(z, ids, m).exp().mean()),
        ("padding", lambda z, ids, m: nats(z[:, :-1], ids[:, 1:]).mean().exp()),
        ("shift", lambda z, ids, m: nats(z, ids)[m == 1].mean().exp()),
        ("shift_and_padding", lambda z, ids, m: nats(z, ids).mean().exp()),
        ("backwards", lambda z, ids, m: nats(z[:, 1:], ids[:, :-1])[m[:, 1:] == 1].mean().exp()),
        ("mask_shift", lambda z, ids, m: nats(z[:, :-1], ids[:, 1:])[m[:, :-1] == 1].mean().exp()),
        ("nats", lambda *a: scored(*a).mean()),
        ("bits", lambda *a: scored(*a).mean() / math.log(2)),
        ("base", lambda *a: 2 ** scored(*a).mean()),
        ("rows", lambda *a: rows(*a).mean().exp()),
        ("rows_exp", lambda *a: rows(*a).exp().mean()),
        ("all_places", lambda z, ids, m: (nats(z[:, :-1], ids[:, 1:]) * m[:, 1:]).mean().exp()),
        ("first", lambda z, ids, m: (scored(z, ids, m).sum() / m.sum()).exp()),
        ("probability", lambda *a: scored(*a).sum().exp()),
        ("sign", lambda *a: (-scored(*a).mean()).exp()),
        ("softmax", lambda z, ids, m: (-z[:, :-1].gather(-1, ids[:, 1:, None])[..., 0])[m[:, 1:] == 1].mean().exp()),
        ("mean_probability", lambda *a: 1 / (-scored(*a)).exp().mean()),
        ("shape", lambda *a: rows(*a).exp()),
        ("value", lambda *a: scored(*a).mean().exp() + 1),
        ("none", lambda *a: print("nothing")),
    ],
)
def test_perplexity_names(key, answer):
    assert judge("11.2", answer).key == f"11.2.{key}"


@pytest.mark.parametrize(
    "answer",
    [
        lambda nats, text: sum(nats) / math.log(2) / len(text.encode()),
        lambda nats, text: sum(math.log2(math.exp(n)) for n in nats) / len(bytes(text, "utf8")),
        lambda nats, text: torch.tensor(nats).double().sum() / math.log(2) / len(text.encode("utf-8")),
    ],
)
def test_bits_per_byte_accepts(answer):
    assert judge("11.3", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("nats", lambda n, t: sum(n) / len(t.encode())),
        ("characters", lambda n, t: sum(n) / math.log(2) / len(t)),
        ("nats_characters", lambda n, t: sum(n) / len(t)),
        ("tokens", lambda n, t: sum(n) / math.log(2) / len(n)),
        ("nats_tokens", lambda n, t: sum(n) / len(n)),
        ("mean_per_byte", lambda n, t: sum(n) / len(n) / math.log(2) / len(t.encode())),
        ("total", lambda n, t: sum(n) / math.log(2)),
        ("times", lambda n, t: sum(n) * math.log(2) / len(t.encode())),
        ("perplexity", lambda n, t: math.exp(sum(n) / len(n))),
        ("perplexity_bytes", lambda n, t: math.exp(sum(n) / len(t.encode()))),
        ("words", lambda n, t: sum(n) / math.log(2) / len(t.split())),
        ("sign", lambda n, t: -sum(n) / math.log(2) / len(t.encode())),
        ("eight", lambda n, t: sum(n) / math.log(2) / len(t.encode()) / 8),
        ("value", lambda n, t: 1.0),
        ("none", lambda n, t: print("nothing")),
    ],
)
def test_bits_per_byte_names(key, answer):
    assert judge("11.3", answer).key == f"11.3.{key}"


def by_where(c, q, D):
    if c.sum() == 0:
        return q
    seen = c > 0
    left = D * seen.sum() / c.sum()
    return torch.where(seen, (c - D) / c.sum(), left * q / q[~seen].sum())


def by_rest(c, q, D):
    if not c.any():
        return q.clone()
    p = (c - D).clamp(min=0) / c.sum()
    unseen = c == 0
    p[unseen] = (1 - p.sum()) * q[unseen] / q[unseen].sum()
    return p


def as_list(c, q, D):
    return by_where(c, q, D).tolist()


@pytest.mark.parametrize("answer", [by_where, by_rest, as_list])
def test_back_off_accepts(answer):
    assert judge("11.4", answer).status == "right"


def backing(seen, unseen):
    def answer(c, q, D):
        if c.sum() == 0:
            return q
        left = D * (c > 0).sum() / c.sum()
        return torch.where(c > 0, seen(c, q, D, left), unseen(c, q, D, left))

    return answer


def cut(c, q, D, left=None):
    return (c - D) / c.sum()


def in_place(c, q, D):
    c[c > 0] -= D
    return c


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_one", backing(cut, lambda c, q, D, left: left * q)),
        ("interpolated", lambda c, q, D: (c - D).clamp(min=0) / c.sum() + D * (c > 0).sum() / c.sum() * q),
        ("stupid", backing(lambda c, q, D, left: c / c.sum(), lambda c, q, D, left: 0.4 * q)),
        ("no_discount", backing(lambda c, q, D, left: c / c.sum(), lambda c, q, D, left: left * q)),
        ("no_discount", backing(lambda c, q, D, left: c / c.sum(), lambda c, q, D, left: q)),
        ("whole_lower", backing(cut, lambda c, q, D, left: q)),
        ("equal", backing(cut, lambda c, q, D, left: left / (c == 0).sum() * torch.ones_like(q))),
        ("one_discount", backing(cut, lambda c, q, D, left: D / c.sum() * q / q[c == 0].sum())),
        ("d_as_mass", backing(cut, lambda c, q, D, left: D * q / q[c == 0].sum())),
        ("rescaled", lambda c, q, D: torch.where(c > 0, cut(c, q, D), D * (c > 0).sum() / c.sum() * q)
            / torch.where(c > 0, cut(c, q, D), D * (c > 0).sum() / c.sum() * q).sum()),
        ("never_seen", lambda c, q, D: torch.where(
            c > 0, cut(c, q, D), D * (c > 0).sum() / c.sum() * q / q[c == 0].sum())),
        ("in_place", in_place),
        ("negative", lambda c, q, D: (c - D) / c.sum()),
        ("sum", backing(cut, lambda c, q, D, left: 0.1 + 0 * q)),
        ("value", lambda c, q, D: q),
        ("shape", lambda c, q, D: by_where(c, q, D)[:3]),
        ("none", lambda c, q, D: print("nothing")),
    ],
)  # fmt: skip
def test_back_off_names(key, answer):
    assert judge("11.4", answer).key == f"11.4.{key}"


def by_softmax(logits, targets):
    p = logits.softmax(-1)
    p[torch.arange(len(targets)), targets] -= 1
    return p / len(targets)


def by_autograd(logits, targets):
    logits = logits.clone().requires_grad_()
    F.cross_entropy(logits, targets).backward()
    return logits.grad


def by_hand(logits, targets):
    odds = (logits - logits.max(-1, keepdim=True).values).exp()
    return (odds / odds.sum(-1, keepdim=True) - F.one_hot(targets, logits.shape[1])) / len(logits)


@pytest.mark.parametrize("answer", [by_softmax, by_autograd, by_hand])
def test_gradient_accepts(answer):
    assert judge("11.5", answer).status == "right"


def py(logits, targets):
    return logits.softmax(-1), F.one_hot(targets, logits.shape[1])


def overflowing(logits, targets):
    odds = logits.exp()
    return (odds / odds.sum(-1, keepdim=True) - F.one_hot(targets, logits.shape[1])) / len(logits)


def over_the_logits(logits, targets):
    logits -= 1
    return by_softmax(logits, targets)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("sum", lambda z, t: by_softmax(z, t) * len(t)),
        ("sign", lambda z, t: -by_softmax(z, t)),
        ("sign_and_sum", lambda z, t: -by_softmax(z, t) * len(t)),
        ("all_numbers", lambda z, t: by_softmax(z, t) / z.shape[1]),
        ("over_v", lambda z, t: by_softmax(z, t) * len(t) / z.shape[1]),
        ("no_target", lambda z, t: z.softmax(-1) / len(t)),
        ("target_only", lambda z, t: by_softmax(z, t) * py(z, t)[1]),
        ("of_p", lambda z, t: -py(z, t)[1] / z.softmax(-1) / len(t)),
        ("of_log_p", lambda z, t: -py(z, t)[1] / len(t)),
        ("diagonal", lambda z, t: z.softmax(-1) * (1 - z.softmax(-1)) / len(t)),
        ("logits", lambda z, t: (z - py(z, t)[1]) / len(t)),
        ("log_p", lambda z, t: (z.log_softmax(-1) - py(z, t)[1]) / len(t)),
        ("of_the_probability", lambda z, t: -z.softmax(-1).gather(1, t[:, None]) * by_softmax(z, t)),
        ("over_batch", lambda z, t: (z.softmax(0) - py(z, t)[1]) / len(t)),
        ("overflow", overflowing),
        ("in_place", over_the_logits),
        ("value", lambda z, t: by_softmax(z, t) + 1),
        ("shape", lambda z, t: F.cross_entropy(z, t)),
        ("none", lambda z, t: print("nothing")),
    ],
)
def test_gradient_names(key, answer):
    assert judge("11.5", answer).key == f"11.5.{key}"
