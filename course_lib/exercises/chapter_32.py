"""The checks of chapter 32."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch

UNLEARNT = -100


@check_of("32.1", "Inputs and shifted labels", minutes=10)
def next_token_batch(attempt: Callable) -> None:
    """Rows of several lengths, closed and padded by the same token; each usual mistake has its own table of labels."""
    import torch

    END, lengths = 9, torch.tensor([6, 4, 2, 6])
    ids = torch.tensor([[3, 1, 4, 1, 5, END], [2, 7, 1, END, END, END], [8, END, END, END, END, END],
                        [6, 9, 2, 6, 5, END]])  # fmt: skip
    kept = ids.clone()
    answer = attempt(ids, lengths)
    if answer is None:
        raise Wrong("32.1.none")
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("32.1.pair")
    inputs, labels = answer
    if not torch.equal(ids, kept):
        raise Wrong("32.1.in_place")
    T = ids.shape[1]
    place = torch.arange(1, T)
    real = place < lengths[:, None]  # (B, T - 1): is the token at this place one of the text's?

    def hidden(tokens: torch.Tensor, learnt: torch.Tensor) -> torch.Tensor:
        return tokens.masked_fill(~learnt, UNLEARNT)

    right = hidden(ids[:, 1:], real)
    early, late = place < lengths[:, None] - 1, place <= lengths[:, None]
    rolled = ids.roll(-1, 1)
    full = torch.arange(T) < lengths[:, None]
    named = {
        "32.1.not_shifted": [ids, ids[:, :-1], hidden(ids, full), hidden(ids[:, :-1], full[:, :-1]),
                             hidden(ids[:, :-1], real)],
        "32.1.backwards": [hidden(ids[:, :-1], real), ids.roll(1, 1), hidden(ids.roll(1, 1), full)],
        "32.1.wrapped": [rolled, hidden(rolled, full), hidden(rolled, torch.arange(1, T + 1) < lengths[:, None] + 1)],
        "32.1.padding": [ids[:, 1:]],
        "32.1.by_token": [hidden(ids[:, 1:], ids[:, 1:] != END)],
        "32.1.no_end": [hidden(ids[:, 1:], early)],
        "32.1.one_padding": [hidden(ids[:, 1:], late)],
        "32.1.twice": [hidden(ids[:, 2:], real[:, 1:])],
    }  # fmt: skip
    if same(labels, right, 0):
        if inputs.shape != right.shape:
            raise Wrong("32.1.inputs_shape", found=tuple(inputs.shape), right=tuple(right.shape))
        if same(inputs, ids[:, 1:], 0):
            raise Wrong("32.1.answers_shown")
        if not same(inputs, ids[:, :-1], 0):
            raise Wrong("32.1.inputs")
        return
    if same(inputs, ids[:, 1:], 0) and same(labels, hidden(ids[:, :-1], real), 0):
        raise Wrong("32.1.backwards")
    for key, wrongs in named.items():
        if any(same(labels, wrong, 0) for wrong in wrongs):
            raise Wrong(key)
    if labels.shape != right.shape:
        raise Wrong("32.1.shape", found=tuple(labels.shape), right=tuple(right.shape))
    row, column = (labels != right).nonzero()[0].tolist()
    raise Wrong("32.1.value", row=row, column=column, found=int(labels[row, column]), right=int(right[row, column]))


@check_of("32.2", "Warm-up and half a cosine", minutes=10)
def learning_rate(attempt: Callable) -> None:
    """The whole curve for several settings; the usual curves that look like it have names."""
    rng = random.Random(0)
    others = (
        (rng.randint(30, 90), rng.randint(3, 12), 10 ** rng.uniform(-4, -1), rng.uniform(0.05, 0.4)) for _ in range(4)
    )
    settings = [(40, 5, 1e-3, 1e-4), (20, 0, 2.0, 0.0), *((n, w, peak, part * peak) for n, w, peak, part in others)]

    def half(x: float) -> float:
        return (1 + math.cos(math.pi * x)) / 2

    def right(s, n, w, peak, low):
        return peak * (s + 1) / (w + 1) if s < w else low + (peak - low) * half((s - w) / (n - w))

    def fall(shape: Callable) -> Callable:  # the usual rise, another way down
        return lambda s, n, w, peak, low: peak * (s + 1) / (w + 1) if s < w else shape(s, n, w, peak, low)

    def rise(shape: Callable) -> Callable:
        return lambda s, n, w, peak, low: shape(s, n, w, peak, low) if s < w else right(s, n, w, peak, low)

    named = {
        "32.2.zero_start": rise(lambda s, n, w, peak, low: peak * s / w),
        "32.2.peak_twice": rise(lambda s, n, w, peak, low: peak * (s + 1) / w),
        "32.2.rise_from_floor": rise(lambda s, n, w, peak, low: low + (peak - low) * (s + 1) / (w + 1)),
        "32.2.no_warmup": lambda s, n, w, peak, low: low + (peak - low) * half(s / n),
        "32.2.from_zero": fall(lambda s, n, w, peak, low: low + (peak - low) * half(s / n)),
        "32.2.too_short": fall(lambda s, n, w, peak, low: low + (peak - low) * half((s - w) / n)),
        "32.2.whole_wave": fall(lambda s, n, w, peak, low: low + (peak - low) * half(2 * (s - w) / (n - w))),
        "32.2.quarter": fall(
            lambda s, n, w, peak, low: low + (peak - low) * math.cos(math.pi / 2 * (s - w) / (n - w))
        ),
        "32.2.not_halved": fall(lambda s, n, w, peak, low: low + (peak - low) * 2 * half((s - w) / (n - w))),
        "32.2.no_floor": fall(lambda s, n, w, peak, low: peak * half((s - w) / (n - w))),
        "32.2.floor_on_top": fall(lambda s, n, w, peak, low: low + peak * half((s - w) / (n - w))),
        "32.2.floor_cut": fall(lambda s, n, w, peak, low: max(low, peak * half((s - w) / (n - w)))),
        "32.2.linear": fall(lambda s, n, w, peak, low: peak + (low - peak) * (s - w) / (n - w)),
        "32.2.degrees": fall(lambda s, n, w, peak, low: low + (peak - low) * half((s - w) / (n - w) * 180 / math.pi)),
        "32.2.ends_early": fall(lambda s, n, w, peak, low: low + (peak - low) * half((s - w) / (n - w - 1))),
        "32.2.shares": lambda s, n, w, peak, low: right(s, n, w, 1.0, low / peak),
    }

    def curve(rate: Callable) -> list[list[float]]:
        return [[rate(s, *setting) for s in range(setting[0])] for setting in settings]

    def close(a: list[list[float]], b: list[list[float]], skip: int | None = None) -> bool:
        return all(
            math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-12)
            for number, (one, two) in enumerate(zip(a, b, strict=True)) if number != skip
            for x, y in zip(one, two, strict=True)
        )  # fmt: skip

    first = attempt(0, *settings[0])
    if first is None:
        raise Wrong("32.2.none")
    try:
        found, divided = curve(attempt), False
    except ZeroDivisionError:  # without a warm-up there is nothing to divide by
        found = [
            curve_of if number == 1 else [attempt(s, *setting) for s in range(setting[0])]
            for number, (setting, curve_of) in enumerate(zip(settings, curve(right), strict=True))
        ]
        divided = True
    if close(found, curve(right)):
        if divided:
            raise Wrong("32.2.no_rise")
        return
    for key, wrong in named.items():
        guarded = [[wrong(s, *setting) for s in range(setting[0])] if n != 1 or key not in
                   ("32.2.zero_start", "32.2.peak_twice") else curve(right)[1] for n, setting in enumerate(settings)]
        if close(found, guarded):
            raise Wrong(key)
    for setting, curve_found, wanted in zip(settings, found, curve(right), strict=True):
        for step, (a, b) in enumerate(zip(curve_found, wanted, strict=True)):
            if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12):
                raise Wrong("32.2.value", step=step, steps=setting[0], warmup=setting[1], found=a, right=b)


@check_of("32.3", "One step from unequal parts", minutes=15)
def accumulate(attempt: Callable) -> None:
    """Parts of 1 to 7 tokens; a model that remembers which graphs are alive when the next part begins."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Tanh(), nn.Linear(6, 11)).double()
    sizes = (7, 1, 3)
    parts = [(torch.randint(11, (n,)), torch.randint(11, (n,))) for n in sizes]

    def summed_loss(model, part):
        return F.cross_entropy(model(part[0]), part[1], reduction="sum"), len(part[1])

    def gradient(total) -> list[torch.Tensor]:
        return list(torch.autograd.grad(total, list(model.parameters())))

    def scaled(gradients, factor):
        return [factor * g for g in gradients]

    alone = [gradient(summed_loss(model, part)[0]) for part in parts]
    losses = [summed_loss(model, part)[0].item() for part in parts]
    together = [sum(gs) for gs in zip(*alone, strict=True)]
    of_means = [sum(g / n for g, n in zip(gs, sizes, strict=True)) for gs in zip(*alone, strict=True)]
    units = sum(sizes)
    right = scaled(together, 1 / units)
    stale = [torch.full_like(p, 0.5) for p in model.parameters()]
    named = {
        "32.3.mean_of_means": scaled(of_means, 1 / len(parts)),
        "32.3.sum_of_means": of_means,
        "32.3.not_divided": together,
        "32.3.by_parts": scaled(together, 1 / len(parts)),
    }
    left_over = {
        "32.3.last_only": [scaled(alone[-1], 1 / units), scaled(alone[-1], 1 / sizes[-1])],
        "32.3.stale": [[part * s + g for s, g in zip(stale, right, strict=True)] for part in (1, 1 / units)],
    }
    for parameter, old in zip(model.parameters(), stale, strict=True):
        parameter.grad = old.clone()
    before, alive, calls = [p.detach().clone() for p in model.parameters()], [], []

    def watched(model, part):
        calls.append(len(part[1]))
        # None, or as at the beginning: nothing was propagated back yet.
        alive.append(all(p.grad is None or torch.equal(p.grad, s) or not p.grad.any()
                         for p, s in zip(model.parameters(), stale, strict=True)))  # fmt: skip
        return summed_loss(model, part)

    answer = attempt(model, parts, watched)
    gradients = [p.grad for p in model.parameters()]
    if any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)):
        raise Wrong("32.3.stepped")
    if not calls:
        raise Wrong("32.3.none")
    if any(g is None for g in gradients) or not any(g.any() for g in gradients):
        raise Wrong("32.3.no_gradient")

    def equal(wanted) -> bool:
        return all(torch.allclose(g, w, atol=1e-8) for g, w in zip(gradients, wanted, strict=True))

    if not equal(right):
        for key, wrong in named.items():
            if equal(wrong):
                raise Wrong(key)
        for key, wrongs in left_over.items():
            if any(equal(wrong) for wrong in wrongs):
                raise Wrong(key)
        raise Wrong("32.3.value")
    if len(calls) > len(parts):
        raise Wrong("32.3.twice", calls=len(calls), parts=len(parts))
    if all(alive):
        raise Wrong("32.3.all_graphs")
    if answer is None:
        raise Wrong("32.3.no_loss")
    loss = answer.item() if isinstance(answer, torch.Tensor) else float(answer)
    other_losses = {
        "32.3.loss_of_means": sum(l / n for l, n in zip(losses, sizes, strict=True)) / len(parts),
        "32.3.loss_summed": sum(losses), "32.3.loss_last": losses[-1] / sizes[-1],
    }  # fmt: skip
    for key, wrong in other_losses.items():
        if math.isclose(loss, wrong, rel_tol=1e-6):
            raise Wrong(key)
    if not math.isclose(loss, sum(losses) / units, rel_tol=1e-6):
        raise Wrong("32.3.loss", found=loss, right=sum(losses) / units)


@check_of("32.4", "Nucleus sampling", minutes=15)
def nucleus(attempt: Callable) -> None:
    """Random scores in no order, sharp ones, ties with p; each usual cut is computed and recognised."""
    import torch

    generator, settings = torch.Generator().manual_seed(0), ((0.9, 1.0), (0.6, 0.5), (0.8, 1.7), (0.5, 1.3))
    cases = [  # logits (V,), p, temperature
        *((3 * torch.randn(12, generator=generator), p, t) for p, t in settings),
        (torch.tensor([0.0, 1.0, 9.0, 2.0]), 0.5, 1.0),  # the first token alone is more than p
        (torch.randn(6, generator=generator), 1.0, 0.8),  # all stay
    ]  # fmt: skip

    def cut(logits, p, t, keep: Callable, renormalise=True, before=True, sign=-1) -> torch.Tensor:
        """`keep(p of the tokens in order, sum up to and with each)` says which stay."""
        q = ((logits / t) if before else logits).softmax(-1)
        order = (sign * q).argsort()
        ordered = q[order]
        chosen = torch.zeros_like(q, dtype=torch.bool).scatter(0, order, keep(ordered, ordered.cumsum(0), p))
        kept = q * chosen
        if not before:  # the temperature after the cut
            kept = (logits / t).masked_fill(~chosen, -math.inf).softmax(-1)
        return kept / kept.sum() if renormalise else kept

    def nuclear(q, total, p):
        return total - q < p

    def unordered(q, total, p):
        return total <= p

    forms = {
        "32.4.not_renormalised": {"keep": nuclear, "renormalise": False},
        "32.4.temperature_after": {"keep": nuclear, "before": False},
        "32.4.one_too_few": {"keep": lambda q, total, p: total <= p},
        "32.4.one_too_many": {"keep": lambda q, total, p: torch.cat([torch.zeros(1), total[:-1] - q[:-1]]) < p},
        "32.4.threshold": {"keep": lambda q, total, p: q >= 1 - p},
        "32.4.unlikely": {"keep": nuclear, "sign": 1},
    }
    rights = [cut(logits, p, t, nuclear) for logits, p, t in cases]
    found = []
    for logits, p, t in cases:
        kept = logits.clone()
        answer = attempt(logits, p, t)
        if answer is None:
            raise Wrong("32.4.none")
        if not torch.equal(logits, kept):
            raise Wrong("32.4.in_place")
        if not isinstance(answer, torch.Tensor) or answer.shape != logits.shape:
            raise Wrong("32.4.shape", found=getattr(answer, "shape", type(answer).__name__), right=tuple(logits.shape))
        found.append(answer.float())
    if all(same(a, b) for a, b in zip(found, rights, strict=True)):
        return

    def all_are(wanted: list[torch.Tensor], but_for: tuple[int, ...] = ()) -> bool:
        pairs = enumerate(zip(found, wanted, strict=True))
        return all(n in but_for or torch.allclose(a, b, atol=1e-5, equal_nan=True) for n, (a, b) in pairs)

    variants = {key: [cut(*case, **form) for case in cases] for key, form in forms.items()}
    few = [cut(*case, lambda q, total, p: (total <= p) | (q == q.max())) for case in cases]
    if all_are(few, but_for=(5,)):  # with a guard, so that at least one token stays
        raise Wrong("32.4.one_too_few")
    variants["32.4.ordered"] = [right.sort(descending=True).values for right in rights]
    variants["32.4.multiplied"] = [cut(logits, p, 1 / t, nuclear) for logits, p, t in cases]
    variants["32.4.no_temperature"] = [cut(logits, p, 1.0, nuclear) for logits, p, t in cases]
    variants["32.4.no_cut"] = [(logits / t).softmax(-1) for logits, p, t in cases]
    variants["32.4.logits"] = [logits / t * (right > 0) for (logits, p, t), right in zip(cases, rights, strict=True)]
    for key, wanted in variants.items():
        # Where no token is left, or rounding decides whether the last one stays, an attempt may guard itself.
        if all_are(wanted, but_for=(4, 5)):
            raise Wrong(key)
    if all_are([cut(*case, **forms["32.4.one_too_few"], renormalise=False) for case in cases], but_for=(4, 5)):
        raise Wrong("32.4.few_not_renormalised")
    if any(answer.isnan().any() for answer in found):
        raise Wrong("32.4.nan")
    sums = [float(answer.sum()) for answer in found]
    if any(abs(total - 1) > 1e-4 for total in sums):
        raise Wrong("32.4.sum", found=next(total for total in sums if abs(total - 1) > 1e-4))
    if same(found[0], rights[0]) and not same(found[4], rights[4]):
        raise Wrong("32.4.sharp")
    for (_, p, t), a, b in zip(cases, found, rights, strict=True):
        if not same(a, b):
            raise Wrong("32.4.value", p=p, t=t, found=int((a > 0).sum()), right=int((b > 0).sum()))
