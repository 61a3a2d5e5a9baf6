"""The checks of chapter 32: right answers in several forms pass, each typical wrong one gets its own name."""

import math

import pytest
import torch

from course_lib.exercises.registry import judge

END = 9


def by_where(ids, lengths):
    real = torch.arange(1, ids.shape[1]) < lengths[:, None]
    return ids[:, :-1], torch.where(real, ids[:, 1:], -100)


def by_rows(ids, lengths):
    labels = ids[:, 1:].clone()
    for row, n in zip(labels, lengths.tolist()):
        row[n - 1 :] = -100
    return ids[:, :-1].clone(), labels


@pytest.mark.parametrize("answer", [by_where, by_rows])
def test_next_token_batch_accepts(answer):
    assert judge("32.1", answer).status == "right"


def rows_masked(labels, lengths, first):
    labels = labels.clone()
    for row, n in zip(labels, lengths.tolist()):
        row[max(0, n + first) :] = -100
    return labels


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("none", lambda ids, n: print(n)),
        ("pair", lambda ids, n: by_where(ids, n)[0]),
        ("not_shifted", lambda ids, n: (ids, ids)),
        ("not_shifted", lambda ids, n: (ids[:, :-1], rows_masked(ids[:, :-1], n, 0))),
        ("backwards", lambda ids, n: (ids[:, 1:], rows_masked(ids[:, :-1], n, -1))),
        ("wrapped", lambda ids, n: (ids, rows_masked(ids.roll(-1, 1), n, 0))),
        ("wrapped", lambda ids, n: (ids, ids.roll(-1, 1))),
        ("padding", lambda ids, n: (ids[:, :-1], ids[:, 1:])),
        ("by_token", lambda ids, n: (ids[:, :-1], ids[:, 1:].masked_fill(ids[:, 1:] == END, -100))),
        ("no_end", lambda ids, n: (ids[:, :-1], rows_masked(ids[:, 1:], n, -2))),
        ("one_padding", lambda ids, n: (ids[:, :-1], rows_masked(ids[:, 1:], n, 0))),
        ("twice", lambda ids, n: (ids[:, :-2], rows_masked(ids[:, 2:], n, -2))),
        ("answers_shown", lambda ids, n: (ids[:, 1:], by_where(ids, n)[1])),
        ("inputs", lambda ids, n: (ids[:, :-1] + 1, by_where(ids, n)[1])),
        ("inputs_shape", lambda ids, n: (ids, by_where(ids, n)[1])),
        ("shape", lambda ids, n: (ids, torch.zeros_like(ids))),
        ("value", lambda ids, n: (ids[:, :-1], torch.zeros_like(ids[:, :-1]))),
    ],
)
def test_next_token_batch_names(key, answer):
    assert judge("32.1", answer).key == f"32.1.{key}"


def test_writing_over_the_ids_is_named():
    def in_place(ids, lengths):
        labels = ids[:, 1:]
        for row, n in zip(labels, lengths.tolist()):
            row[n - 1 :] = -100
        return ids[:, :-1], labels

    assert judge("32.1", in_place).key == "32.1.in_place"


def rate(s, n, w, peak, low):
    if s < w:
        return peak * (s + 1) / (w + 1)
    return low + (peak - low) * (1 + math.cos(math.pi * (s - w) / (n - w))) / 2


def by_half_sine(s, n, w, peak, low):
    done = max(0.0, (s - w) / (n - w))
    fall = low + (peak - low) * math.cos(math.pi * done / 2) ** 2
    return min(peak * (s + 1) / (w + 1), peak) if s < w else fall


@pytest.mark.parametrize("answer", [rate, by_half_sine])
def test_learning_rate_accepts(answer):
    assert judge("32.2", answer).status == "right"


def falling(shape):
    return lambda s, n, w, peak, low: peak * (s + 1) / (w + 1) if s < w else shape(s, n, w, peak, low)


def half(x):
    return (1 + math.cos(math.pi * x)) / 2


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("none", lambda *setting: print(setting)),
        ("zero_start", lambda s, n, w, p, low: p * s / w if s < w else rate(s, n, w, p, low)),
        ("peak_twice", lambda s, n, w, p, low: p * (s + 1) / w if s < w else rate(s, n, w, p, low)),
        ("rise_from_floor",
         lambda s, n, w, p, low: low + (p - low) * (s + 1) / (w + 1) if s < w else rate(s, n, w, p, low)),
        ("no_warmup", lambda s, n, w, p, low: rate(s, n, 0, p, low)),
        ("from_zero", falling(lambda s, n, w, p, low: low + (p - low) * half(s / n))),
        ("too_short", falling(lambda s, n, w, p, low: low + (p - low) * half((s - w) / n))),
        ("whole_wave", falling(lambda s, n, w, p, low: low + (p - low) * half(2 * (s - w) / (n - w)))),
        ("quarter", falling(lambda s, n, w, p, low: low + (p - low) * math.cos(math.pi / 2 * (s - w) / (n - w)))),
        ("not_halved", falling(lambda s, n, w, p, low: low + (p - low) * 2 * half((s - w) / (n - w)))),
        ("no_floor", lambda s, n, w, p, low: rate(s, n, w, p, 0)),
        ("floor_on_top", falling(lambda s, n, w, p, low: low + p * half((s - w) / (n - w)))),
        ("floor_cut", falling(lambda s, n, w, p, low: max(low, p * half((s - w) / (n - w))))),
        ("linear", falling(lambda s, n, w, p, low: p + (low - p) * (s - w) / (n - w))),
        ("degrees", falling(lambda s, n, w, p, low: low + (p - low) * (1 + math.cos(180 * (s - w) / (n - w))) / 2)),
        ("ends_early", falling(lambda s, n, w, p, low: low + (p - low) * half((s - w) / (n - w - 1)))),
        ("shares", lambda s, n, w, p, low: rate(s, n, w, 1, low / p)),
        ("no_rise", lambda s, n, w, p, low: s * 0 / w + rate(s, n, w, p, low)),
        ("value", lambda s, n, w, p, low: p),
    ],
)  # fmt: skip
def test_learning_rate_names(key, answer):
    assert judge("32.2", answer).key == f"32.2.{key}"


def by_scatter(logits, p, temperature):
    q, order = (logits / temperature).softmax(-1).sort(descending=True)
    q = q.masked_fill(q.cumsum(0) - q >= p, 0)
    return torch.zeros_like(q).scatter(0, order, q / q.sum())


def by_loop(logits, p, temperature):
    q = (logits / temperature).softmax(-1).tolist()
    kept, total = [0.0] * len(q), 0.0
    for i in sorted(range(len(q)), key=lambda i: -q[i]):
        if total >= p:
            break
        kept[i] = q[i]
        total += q[i]
    return torch.tensor([value / total for value in kept])


@pytest.mark.parametrize("answer", [by_scatter, by_loop])
def test_nucleus_accepts(answer):
    assert judge("32.4", answer).status == "right"


def cut(logits, p, t, stay, renormalise=True, descending=True):
    q, order = (logits / t).softmax(-1).sort(descending=descending)
    q = q * stay(q, q.cumsum(0), p)
    return torch.zeros_like(q).scatter(0, order, q / q.sum() if renormalise else q)


def nuclear(q, total, p):
    return total - q < p


def one_more_shifted(q, total, p):
    below = total - q < p
    return torch.cat([torch.tensor([True]), below[:-1]])


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("none", lambda x, p, t: print(p)),
        ("shape", lambda x, p, t: by_scatter(x, p, t)[:2]),
        ("not_renormalised", lambda x, p, t: cut(x, p, t, nuclear, renormalise=False)),
        ("temperature_after",
         lambda x, p, t: (x / t).masked_fill(cut(x, p, 1, nuclear) == 0, -math.inf).softmax(-1)),
        ("one_too_few", lambda x, p, t: cut(x, p, t, lambda q, total, p: total <= p)),
        ("one_too_few", lambda x, p, t: cut(x, p, t, lambda q, total, p: (total < p) | (q == q.max()))),
        ("few_not_renormalised", lambda x, p, t: cut(x, p, t, lambda q, total, p: total < p, renormalise=False)),
        ("one_too_many", lambda x, p, t: cut(x, p, t, one_more_shifted)),
        ("threshold", lambda x, p, t: cut(x, p, t, lambda q, total, p: q >= 1 - p)),
        ("unlikely", lambda x, p, t: cut(x, p, t, nuclear, descending=False)),
        ("ordered", lambda x, p, t: by_scatter(x, p, t).sort(descending=True).values),
        ("multiplied", lambda x, p, t: by_scatter(x, p, 1 / t)),
        ("no_temperature", lambda x, p, t: by_scatter(x, p, 1)),
        ("no_cut", lambda x, p, t: (x / t).softmax(-1)),
        ("logits", lambda x, p, t: x / t * (by_scatter(x, p, t) > 0)),
        ("sharp", lambda x, p, t: by_scatter(x, p, t) if x.max() < 9 else cut(x, p, t, lambda q, total, p: q > 0)),
        ("nan", lambda x, p, t: by_scatter(x, p, t) * math.nan),
        ("sum", lambda x, p, t: by_scatter(x, p, t) * 2),
        ("value", lambda x, p, t: torch.full_like(x, 1 / len(x))),
    ],
)  # fmt: skip
def test_nucleus_names(key, answer):
    assert judge("32.4", answer).key == f"32.4.{key}"


def test_writing_over_the_logits_is_named():
    def in_place(logits, p, t):
        logits /= t
        return by_scatter(logits, p, 1)

    assert judge("32.4", in_place).key == "32.4.in_place"


def divided_at_the_end(model, parts, summed_loss):
    model.zero_grad()
    total, tokens = 0.0, 0
    for part in parts:
        loss, n = summed_loss(model, part)
        loss.backward()
        total, tokens = total + loss.item(), tokens + n
    for parameter in model.parameters():
        parameter.grad /= tokens
    return total / tokens


def divided_before(model, parts, summed_loss):
    tokens = sum(len(labels) for _, labels in parts)
    for parameter in model.parameters():
        parameter.grad = None
    mean = 0
    for part in parts:
        loss = summed_loss(model, part)[0] / tokens
        loss.backward()
        mean = mean + loss.detach()
    return mean


@pytest.mark.parametrize("answer", [divided_at_the_end, divided_before])
def test_accumulate_accepts(answer):
    assert judge("32.3", answer).status == "right"


def wrong(scale=lambda loss, n, parts: loss / n / len(parts), zero="once", at_once=False, result=None, step=False):
    def answer(model, parts, summed_loss):
        if zero != "never":
            model.zero_grad()
        total, tokens, last, losses = 0.0, 0, 0.0, []
        for part in parts:
            if zero == "always":
                model.zero_grad()
            loss, n = summed_loss(model, part)
            losses.append(scale(loss, n, parts))
            if not at_once:
                losses[-1].backward()
            total, tokens, last = total + loss.item(), tokens + n, loss.item() / n
        if at_once:
            sum(losses).backward()
        if step:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= parameter.grad
        return result(total, tokens, last) if result else total / tokens

    return answer


def of_means_said(model, parts, summed_loss):
    means = []

    def noted(model, part):
        loss, n = summed_loss(model, part)
        means.append(loss.item() / n)
        return loss, n

    divided_at_the_end(model, parts, noted)
    return sum(means) / len(means)


def right_scale(loss, n, parts):
    return loss / sum(len(labels) for _, labels in parts)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("mean_of_means", wrong()),
        ("sum_of_means", wrong(lambda loss, n, parts: loss / n)),
        ("not_divided", wrong(lambda loss, n, parts: loss)),
        ("by_parts", wrong(lambda loss, n, parts: loss / len(parts))),
        ("last_only", wrong(right_scale, zero="always")),
        ("last_only", wrong(lambda loss, n, parts: loss / n, zero="always")),
        ("stale", wrong(right_scale, zero="never")),
        ("loss_of_means", of_means_said),
        ("all_graphs", wrong(right_scale, at_once=True)),
        ("stepped", wrong(right_scale, step=True)),
        ("none", lambda model, parts, summed_loss: print(len(parts))),
        ("no_gradient", lambda model, parts, summed_loss: (divided_before(model, parts, summed_loss),
                                                           model.zero_grad())[0]),
        ("no_loss", wrong(right_scale, result=lambda *found: None)),
        ("loss_summed", wrong(right_scale, result=lambda total, n, last: total)),
        ("loss_last", wrong(right_scale, result=lambda total, n, last: last)),
        ("loss", wrong(right_scale, result=lambda total, n, last: 0.0)),
        ("value", wrong(lambda loss, n, parts: 3 * loss)),
    ],
)  # fmt: skip
def test_accumulate_names(key, answer):
    assert judge("32.3", answer).key == f"32.3.{key}"
