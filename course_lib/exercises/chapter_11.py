"""The checks of chapter 11."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch


def numbers(found) -> torch.Tensor:
    """A list, array or tensor of probabilities as float64."""
    import torch

    return torch.as_tensor(found, dtype=torch.float64).detach()


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    import torch

    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5, atol=1e-8, equal_nan=True)


@check_of("11.1", "Count what follows a context", minutes=12)
def next_probabilities(attempt: Callable) -> None:
    """Texts with overlaps, contexts at the end, never seen and empty; the usual counts are recognised by values."""
    import torch

    cases = [
        (b"banana bandana", b"an", 0.5, 256), (b"aaaaab", b"aa", 0.1, 128), (b"to be or not to be", b"be", 1.0, 256),
        (b"abcabc", b"zz", 0.5, 256), (b"abracadabra", b"", 2.0, 256), (b"abab", b"abab", 0.25, 200),
    ]  # fmt: skip

    def starts(text: bytes, gram: bytes) -> int:
        return sum(text.startswith(gram, i) for i in range(len(text) - len(gram) + 1))

    def counts(text: bytes, context: bytes, count: Callable = starts) -> list[int]:
        return [count(text, context + bytes([w])) for w in range(256)]

    def right(text, h, k, V):
        c = counts(text, h)[:V]
        return [(n + k) / (sum(c) + k * V) for n in c]

    def share(above: Callable, below: Callable) -> Callable:
        """A wrong form: (above(count), below(sum of counts)) in place of count + k and sum + k V."""

        def form(text, h, k, V):
            c = counts(text, h)[:V]
            total = below(text, h, k, V, sum(c))
            return [above(n, k) / total if total else math.inf if above(n, k) else math.nan for n in c]

        return form

    def without_overlaps(text, h, k, V):
        c = counts(text, h, lambda text, gram: text.count(gram))[:V]
        return [(n + k) / (sum(c) + k * V) for n in c]

    def by_count(text, h, k, V):
        c = counts(text, h, lambda text, gram: text.count(gram))[:V]
        return [(n + k) / (text.count(h) + k * V) for n in c]

    def before(text, h, k, V):
        c = [starts(text, bytes([w]) + h) for w in range(V)]
        return [(n + k) / (sum(c) + k * V) for n in c]

    def only_unseen(text, h, k, V):
        c = counts(text, h)[:V]
        return [(n or k) / (sum(c) + k * V) for n in c]

    named = [
        ("11.1.end", share(lambda n, k: n + k, lambda t, h, k, V, c: starts(t, h) + k * V)),
        ("11.1.overlap", without_overlaps),
        ("11.1.by_count", by_count),
        ("11.1.no_k", share(lambda n, k: n, lambda t, h, k, V, c: c)),
        ("11.1.k_above", share(lambda n, k: n + k, lambda t, h, k, V, c: c)),
        ("11.1.k_below", share(lambda n, k: n + k, lambda t, h, k, V, c: c + k)),
        ("11.1.v_below", share(lambda n, k: n + k, lambda t, h, k, V, c: c + V)),
        ("11.1.one", share(lambda n, k: n + 1, lambda t, h, k, V, c: c + V)),
        ("11.1.seen", share(lambda n, k: n + k, lambda t, h, k, V, c: c + k * len(set(t)))),
        ("11.1.joint", share(lambda n, k: n + k, lambda t, h, k, V, c: len(t) - len(h) + k * V)),
        ("11.1.joint", share(lambda n, k: n + k, lambda t, h, k, V, c: len(t) + k * V)),
        ("11.1.before", before),
        ("11.1.only_unseen", only_unseen),
    ]
    found = []
    for text, h, k, V in cases:
        try:
            answer = attempt(text, h, k, V)
        except ZeroDivisionError:
            raise Wrong("11.1.zero", context=h) from None
        if answer is None:
            raise Wrong("11.1.none")
        found.append(numbers(answer))
        if found[-1].shape != (V,):
            raise Wrong("11.1.shape", found=tuple(found[-1].shape), V=V)
    rights = [numbers(right(*case)) for case in cases]
    if all(map(close, found, rights)):
        return
    for key, wrong in named:
        if all(close(answer, numbers(wrong(*case))) for answer, case in zip(found, cases, strict=True)):
            raise Wrong(key)
    for answer, wanted, (text, h, _, _) in zip(found, rights, cases, strict=True):
        if not torch.isclose(answer.sum(), torch.ones((), dtype=torch.float64)):
            raise Wrong("11.1.sum", sum=f"{float(answer.sum()):.3f}", text=text, context=h)
        if not close(answer, wanted):
            raise Wrong("11.1.value", text=text, context=h)


@check_of("11.2", "Perplexity from logits", minutes=12)
def perplexity(attempt: Callable) -> None:
    """A padded batch of rows of unequal length; each usual slip gives another number."""
    import torch

    generator = torch.Generator().manual_seed(0)
    B, T, V = 3, 7, 11
    logits = 2 * torch.randn(B, T, V, generator=generator, dtype=torch.float64)
    ids = torch.randint(1, V, (B, T), generator=generator)
    mask = (torch.arange(T) < torch.tensor([[7], [3], [5]])).long()
    ids = ids * mask
    found = attempt(logits.clone(), ids.clone(), mask.clone())
    if found is None:
        raise Wrong("11.2.none")
    found = torch.as_tensor(found, dtype=torch.float64).detach()
    if found.numel() != 1:
        raise Wrong("11.2.shape", found=tuple(found.shape))
    found = float(found)

    def nats(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -scores.log_softmax(-1).gather(-1, targets[..., None])[..., 0]

    after, real = nats(logits[:, :-1], ids[:, 1:]), mask[:, 1:].bool()  # (B, T - 1)
    here, back, all_real = nats(logits, ids), nats(logits[:, 1:], ids[:, :-1]), mask.bool()
    raw = -logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    rows = torch.stack([row[chosen].mean() for row, chosen in zip(after, real, strict=True)])
    mean = float(after[real].mean())
    named = {
        "11.2.mean_of_exp": [after[real].exp().mean(), after.exp().mean()],
        "11.2.padding": [after.mean().exp()],
        "11.2.shift": [here[all_real].mean().exp(), here[:, :-1][real].mean().exp(), here[:, 1:][real].mean().exp()],
        "11.2.shift_and_padding": [here.mean().exp()],
        "11.2.backwards": [back[real].mean().exp(), back[mask[:, :-1].bool()].mean().exp(), back.mean().exp()],
        "11.2.mask_shift": [after[mask[:, :-1].bool()].mean().exp()],
        "11.2.nats": [mean], "11.2.bits": [mean / math.log(2)], "11.2.base": [2**mean],
        "11.2.rows": [rows.mean().exp()], "11.2.rows_exp": [rows.exp().mean()],
        "11.2.all_places": [(after * real).mean().exp(), (after * real).sum().div(B * T).exp()],
        "11.2.first": [after[real].sum().div(mask.sum()).exp()],
        "11.2.probability": [after[real].sum().exp()], "11.2.sign": [math.exp(-mean)],
        "11.2.softmax": [raw[real].mean().exp()],
        "11.2.mean_probability": [1 / (-after[real]).exp().mean()],
    }  # fmt: skip
    if math.isclose(found, math.exp(mean), rel_tol=1e-5):
        return
    for key, values in named.items():
        if any(math.isclose(found, float(value), rel_tol=1e-5) for value in values):
            raise Wrong(key, found=f"{found:.4g}", right=f"{math.exp(mean):.4g}")
    raise Wrong("11.2.value", found=f"{found:.4g}", right=f"{math.exp(mean):.4g}")


@check_of("11.3", "Bits per byte, whatever the tokens", minutes=6)
def bits_per_byte(attempt: Callable) -> None:
    """English and Chinese, few tokens and many; the units people stop at are recognised by values."""
    cases = [
        ([2.0, 0.5, 1.25, 3.0], "to be, or not"), ([1.5, 2.5, 0.25], "语言模型预测下一个词"),
        ([0.75] * 12, "naïve café"), ([4.0], "a"),
    ]  # fmt: skip
    found = [attempt(list(nats), text) for nats, text in cases]
    if any(answer is None for answer in found):
        raise Wrong("11.3.none")
    found = [float(answer) for answer in found]
    ln2 = math.log(2)
    forms = {
        "right": lambda n, t: sum(n) / ln2 / len(t.encode()),
        "11.3.nats": lambda n, t: sum(n) / len(t.encode()),
        "11.3.characters": lambda n, t: sum(n) / ln2 / len(t),
        "11.3.nats_characters": lambda n, t: sum(n) / len(t),
        "11.3.tokens": lambda n, t: sum(n) / ln2 / len(n),
        "11.3.nats_tokens": lambda n, t: sum(n) / len(n),
        "11.3.mean_per_byte": lambda n, t: sum(n) / len(n) / ln2 / len(t.encode()),
        "11.3.total": lambda n, t: sum(n) / ln2,
        "11.3.times": lambda n, t: sum(n) * ln2 / len(t.encode()),
        "11.3.perplexity": lambda n, t: math.exp(sum(n) / len(n)),
        "11.3.perplexity_bytes": lambda n, t: math.exp(sum(n) / len(t.encode())),
        "11.3.words": lambda n, t: sum(n) / ln2 / len(t.split()),
        "11.3.sign": lambda n, t: -sum(n) / ln2 / len(t.encode()),
        "11.3.eight": lambda n, t: sum(n) / ln2 / len(t.encode()) / 8,
    }
    for key, form in forms.items():
        if all(math.isclose(answer, form(*case), rel_tol=1e-6) for answer, case in zip(found, cases, strict=True)):
            if key == "right":
                return
            raise Wrong(key)
    for answer, case in zip(found, cases, strict=True):
        wanted = forms["right"](*case)
        if not math.isclose(answer, wanted, rel_tol=1e-6):
            raise Wrong("11.3.value", text=case[1], found=f"{answer:.4g}", right=f"{wanted:.4g}")


@check_of("11.4", "Back off, and still sum to one", minutes=15)
def back_off(attempt: Callable) -> None:
    """Counts with gaps, and a context never seen; forms that sum to 1 and forms that do not, by their values."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = [[4, 0, 1, 0, 2, 0], [1, 0, 0, 0, 0, 0], [0, 3, 0, 7, 1, 0], [0, 0, 0, 0, 0, 0]]
    cases = []
    for row, D in zip(rows, (0.75, 0.5, 0.6, 0.4), strict=True):
        lower = torch.rand(6, generator=generator, dtype=torch.float64) + 0.1
        cases.append((torch.tensor(row, dtype=torch.float64), lower / lower.sum(), D))
    found = []
    for c, q, D in cases:
        given = c.clone(), q.clone()
        answer = attempt(*given, D)
        if answer is None:
            raise Wrong("11.4.none")
        if not torch.equal(given[0], c) or not torch.equal(given[1], q):
            raise Wrong("11.4.in_place")
        found.append(numbers(answer))
        if found[-1].shape != c.shape:
            raise Wrong("11.4.shape", found=tuple(found[-1].shape))

    def either(seen: Callable, unseen: Callable) -> Callable:
        """Seen words get one share, the others another; a context never seen asks the lower order."""

        def form(c, q, D):
            if c.sum() == 0:
                return q
            left = D * (c > 0).sum() / c.sum()  # the mass that the discounts set free
            free = q[c == 0].sum()
            return torch.where(c > 0, seen(c, q, D), unseen(c, q, D, left, free))

        return form

    def counted(c, q, D):
        return (c - D) / c.sum()

    def scaled(form: Callable) -> Callable:
        return lambda *case: form(*case) / form(*case).sum()

    plain = either(counted, lambda c, q, D, left, free: left * q)
    stupid = either(lambda c, q, D: c / c.sum(), lambda c, q, D, left, free: 0.4 * q)
    named = [
        ("11.4.not_one", plain),
        ("11.4.interpolated", either(lambda c, q, D: counted(c, q, D) + D * (c > 0).sum() / c.sum() * q,
                                     lambda c, q, D, left, free: left * q)),
        ("11.4.stupid", stupid),
        ("11.4.stupid", either(counted, lambda c, q, D, left, free: 0.4 * q)),
        ("11.4.no_discount", either(lambda c, q, D: c / c.sum(), lambda c, q, D, left, free: left * q / free)),
        ("11.4.no_discount", either(lambda c, q, D: c / c.sum(), lambda c, q, D, left, free: left * q)),
        ("11.4.no_discount", either(lambda c, q, D: c / c.sum(), lambda c, q, D, left, free: q)),
        ("11.4.whole_lower", either(counted, lambda c, q, D, left, free: q)),
        ("11.4.whole_lower", either(counted, lambda c, q, D, left, free: q / free)),
        ("11.4.equal", either(counted, lambda c, q, D, left, free: (left / (c == 0).sum()).expand_as(q))),
        ("11.4.one_discount", either(counted, lambda c, q, D, left, free: D / c.sum() * q / free)),
        ("11.4.d_as_mass", either(counted, lambda c, q, D, left, free: D * q / free)),
        ("11.4.rescaled", scaled(plain)), ("11.4.rescaled", scaled(stupid)),
    ]  # fmt: skip
    right = either(counted, lambda c, q, D, left, free: left * q / free)
    seen_contexts = list(zip(found, cases, strict=True))[:-1]
    if all(close(answer, right(*case)) for answer, case in seen_contexts):
        if not close(found[-1], cases[-1][1]):
            raise Wrong("11.4.never_seen", found=[round(float(p), 3) for p in found[-1]])
        return
    for key, wrong in named:
        if all(close(answer, wrong(*case)) for answer, case in seen_contexts):
            raise Wrong(key, sum=f"{float(found[0].sum()):.3f}")
    for answer, (c, q, D) in seen_contexts:
        if (answer < 0).any():
            raise Wrong("11.4.negative")
        if not math.isclose(float(answer.sum()), 1, rel_tol=1e-5):
            raise Wrong("11.4.sum", sum=f"{float(answer.sum()):.3f}", counts=c.int().tolist())
        if not close(answer, right(c, q, D)):
            raise Wrong("11.4.value", counts=c.int().tolist())


@check_of("11.5", "The gradient of softmax and cross-entropy", minutes=12)
def gradient(attempt: Callable) -> None:
    """Against the formula, for usual logits and for large ones; forms that miss a piece by their values."""
    import torch

    generator = torch.Generator().manual_seed(0)
    N, V = 4, 6
    logits = 2 * torch.randn(N, V, generator=generator, dtype=torch.float64)
    targets = torch.tensor([2, 0, 5, 2])
    given = logits.clone()
    found = attempt(given, targets.clone())
    if found is None:
        raise Wrong("11.5.none")
    if not torch.equal(given.detach(), logits):
        raise Wrong("11.5.in_place")
    found = numbers(found)
    if found.shape != (N, V):
        raise Wrong("11.5.shape", found=tuple(found.shape), right=(N, V))
    p, y = logits.softmax(-1), torch.nn.functional.one_hot(targets, V).double()
    right = (p - y) / N
    at_target = p.gather(1, targets[:, None])  # (N, 1)
    named = [
        ("11.5.sum", p - y), ("11.5.sign", -right), ("11.5.sign_and_sum", y - p),
        ("11.5.all_numbers", right / V), ("11.5.over_v", (p - y) / V),
        ("11.5.no_target", p / N), ("11.5.no_target", p), ("11.5.target_only", right * y),
        ("11.5.target_only", (p - y) * y), ("11.5.of_p", -y / p / N), ("11.5.of_p", -y / p),
        ("11.5.of_log_p", -y / N), ("11.5.of_log_p", -y), ("11.5.diagonal", (p - y) * p * (1 - p) / N),
        ("11.5.diagonal", p * (1 - p) / N), ("11.5.diagonal", p * (1 - p)),
        ("11.5.diagonal", -(1 - p) * y / N), ("11.5.logits", (logits - y) / N), ("11.5.logits", logits - y),
        ("11.5.log_p", (logits.log_softmax(-1) - y) / N), ("11.5.of_the_probability", at_target * (y - p) / N),
        ("11.5.of_the_probability", at_target * (y - p)), ("11.5.over_batch", (logits.softmax(0) - y) / N),
        ("11.5.over_batch", logits.softmax(0) - y),
    ]  # fmt: skip
    if not close(found, right):
        for key, wrong in named:
            if close(found, wrong):
                raise Wrong(key)
        raise Wrong("11.5.value")
    large = torch.tensor([[800.0, 0.0, -800.0], [0.0, 900.0, 0.0]], dtype=torch.float64)
    answer = numbers(attempt(large.clone(), torch.tensor([1, 1])))
    if not close(answer, (large.softmax(-1) - torch.tensor([[0.0, 1, 0], [0, 1, 0]])) / 2):
        raise Wrong("11.5.overflow", found=[round(float(n), 3) for n in answer[0]])
