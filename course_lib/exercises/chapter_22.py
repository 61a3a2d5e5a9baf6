"""The checks of chapter 22."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable

from .registry import Wrong, check_of


@check_of("22.1", "LayerNorm", minutes=10)
def normalise(attempt: Callable) -> None:
    """LayerNorm on streams far from zero mean; the usual variants are recognised by their values."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, gain, bias, epsilon = 3 * noise(2, 5, 6) + 2, 1 + noise(6) / 2, noise(6), 0.3
    kept = x.clone()
    found = attempt(x, gain, bias, epsilon)
    if found is None:
        raise Wrong("22.1.none")
    if not torch.equal(x, kept):
        raise Wrong("22.1.in_place")
    right = F.layer_norm(x, (6,), gain, bias, epsilon)
    if found.shape != x.shape:
        raise Wrong("22.1.shape", found=tuple(found.shape), right=tuple(x.shape))

    def form(mean, variance, root=None) -> torch.Tensor:
        return gain * (x - mean) / (root if root is not None else (variance + epsilon).sqrt()) + bias

    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    unbiased = x.var(-1, keepdim=True)
    one = (1, 1, 1)
    named = [
        ("22.1.unbiased", form(mean, unbiased)),
        ("22.1.epsilon_outside", form(mean, variance, variance.sqrt() + epsilon)),
        ("22.1.unbiased", form(mean, unbiased, unbiased.sqrt() + epsilon)),
        ("22.1.no_epsilon", form(mean, variance, variance.sqrt())),
        ("22.1.no_root", form(mean, variance, variance + epsilon)),
        ("22.1.no_mean", form(0, variance)),
        ("22.1.rms", gain * x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() + bias),
        ("22.1.no_gain", (x - mean) / (variance + epsilon).sqrt() + bias),
        ("22.1.no_bias", gain * (x - mean) / (variance + epsilon).sqrt()),
        ("22.1.neither", (x - mean) / (variance + epsilon).sqrt()),
        ("22.1.over_time", form(x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True))),
        ("22.1.over_batch", form(x.mean((0, 1), keepdim=True), x.var((0, 1), unbiased=False, keepdim=True))),
        ("22.1.over_all", form(x.mean().view(one), x.var(unbiased=False).view(one))),
        ("22.1.over_row", form(x.mean((1, 2), keepdim=True), x.var((1, 2), unbiased=False, keepdim=True))),
        ("22.1.length_one", gain * (x - mean) / (x - mean).norm(dim=-1, keepdim=True) + bias),
        ("22.1.length_one", x / x.norm(dim=-1, keepdim=True)),
    ]
    if torch.allclose(found.double(), right, atol=1e-5):
        return
    for key, wrong in named:
        if torch.allclose(found.double(), wrong, atol=1e-5):
            raise Wrong(key)
    raise Wrong("22.1.value")


@check_of("22.2", "A post-norm block", minutes=10)
def post_norm_block(attempt: Callable) -> None:
    """The block over distinguishable parts; other arrangements of the same parts are recognised by their values."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    d = 8
    x = torch.randn(2, 5, d)
    norm1, norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
    attention, ffn = nn.Linear(d, d), nn.Sequential(nn.Linear(d, 16), nn.GELU(), nn.Linear(16, d))
    for norm in (norm1, norm2):
        nn.init.normal_(norm.weight, mean=1.0, std=0.3)
        nn.init.normal_(norm.bias, std=0.3)
    with torch.no_grad():
        a, f = attention, ffn
        y = norm1(x + a(x))
        right = norm2(y + f(y))
        pre = x + a(norm1(x))
        swapped = norm2(x + a(x))
        first = norm2(x + f(x))
        named = {
            "22.2.pre_norm": pre + f(norm2(pre)),
            "22.2.no_residual": norm2(f(norm1(a(x)))),
            "22.2.no_first": norm2(norm1(a(x)) + f(norm1(a(x)))),
            "22.2.no_second": norm2(f(y)),
            "22.2.norm_of_the_term": x + norm1(a(x)) + norm2(f(x + norm1(a(x)))),
            "22.2.parallel": norm2(y + f(x)),
            "22.2.from_start": norm2(x + f(y)),
            "22.2.from_unnormalised": norm2(x + a(x) + f(x + a(x))),
            "22.2.one_norm": norm1(y + f(y)),
            "22.2.swapped_norms": norm1(swapped + f(swapped)),
            "22.2.no_norms": x + a(x) + f(x + a(x)),
            "22.2.no_second_norm": y + f(y),
            "22.2.ffn_first": norm1(first + a(first)),
            "22.2.first_only": y,
        }
        found = attempt(x.clone(), attention, norm1, ffn, norm2)
    if found is None:
        raise Wrong("22.2.none")
    if not isinstance(found, torch.Tensor) or found.shape != x.shape:
        raise Wrong("22.2.shape", found=getattr(found, "shape", type(found).__name__))
    if torch.allclose(found, right, atol=1e-5):
        return
    for key, wrong in named.items():
        if torch.allclose(found, wrong, atol=1e-5):
            raise Wrong(key)
    raise Wrong("22.2.value")


@check_of("22.3", "Count a Llama", minutes=10)
def llama_parameters(attempt: Callable) -> None:
    """The count over random sizes; each part that is left out, or counted as GPT-2's, has its name."""
    rng = random.Random(0)
    others = (
        (rng.randint(99, 999), 16 * rng.randint(3, 40), 8 * rng.randint(1, 20), rng.randint(99, 999), rng.randint(2, 9))
        for _ in range(8)
    )
    sizes = [(49152, 576, 192, 1536, 30), *others]
    found = [attempt(*size) for size in sizes]
    if found[0] is None:
        raise Wrong("22.3.none")

    def block(d, k, n):
        return 2 * d * d + 2 * d * k + 3 * d * n + 2 * d

    def right(V, d, k, n, L):
        return V * d + L * block(d, k, n) + d

    in_a_block = {  # what a block is counted too large by
        "22.3.full_keys": lambda d, k, n: 2 * d * d - 2 * d * k,
        "22.3.no_gate": lambda d, k, n: -d * n,
        "22.3.no_block_norms": lambda d, k, n: -2 * d,
        "22.3.one_norm": lambda d, k, n: -d,
        "22.3.biases": lambda d, k, n: 2 * d + 2 * k + 2 * n + d,
        "22.3.no_output": lambda d, k, n: -d * d,
        "22.3.one_of_key_value": lambda d, k, n: -d * k,
        "22.3.square_keys": lambda d, k, n: 2 * k * k - 2 * d * k,
        "22.3.output_from_keys": lambda d, k, n: d * k - d * d,
        "22.3.like_gpt": lambda d, k, n: 12 * d * d + 13 * d - block(d, k, n),
    }
    gaps: dict[str, Callable] = {
        "22.3.output": lambda V, d, k, n, L: V * d,
        "22.3.no_tokens": lambda V, d, k, n, L: -V * d,
        "22.3.no_last_norm": lambda V, d, k, n, L: -d,
        "22.3.one_block": lambda V, d, k, n, L: -(L - 1) * block(d, k, n),
        "22.3.only_a_block": lambda V, d, k, n, L: block(d, k, n) - right(V, d, k, n, L),
        "22.3.no_norms": lambda V, d, k, n, L: -L * 2 * d - d,
        "22.3.layer_norms": lambda V, d, k, n, L: L * 2 * d + d,
    }
    for key, gap in in_a_block.items():
        gaps[key] = lambda V, d, k, n, L, gap=gap: L * gap(d, k, n)
    for key, gap in gaps.items():
        if all(answer == right(*size) + gap(*size) for answer, size in zip(found, sizes, strict=True)):
            raise Wrong(key)
    for answer, size in zip(found, sizes, strict=True):
        if answer != right(*size):
            V, d, k, n, L = size
            raise Wrong("22.3.value", V=V, d=d, k=k, n=n, L=L, found=answer, right=right(*size))
        try:
            operator.index(answer)
        except TypeError:
            raise Wrong("22.3.float", found=answer) from None


@check_of("22.4", "Find the block that sees the future", minutes=15)
def find_leak(attempt: Callable) -> None:
    """Stacks with the leak at every place, large and small, and stacks without one."""
    import torch
    from torch import nn

    class Mixing(nn.Module):
        """Position t gets a weighted sum over the positions that its mask shows; one matrix after it."""

        def __init__(self, d: int, T: int, leak: str = ""):
            super().__init__()
            self.map = nn.Linear(d, d)
            weights = torch.rand(T, T).tril()
            if leak == "everywhere":
                weights = torch.rand(T, T)
            if leak == "next":
                weights += torch.diag(torch.full((T - 1,), 0.3), 1)
            if leak == "first":  # only the first position looks ahead, and only one step
                weights[0, 1] = 0.3
            if leak == "prefix":  # the first three see each other; the last position reaches nobody
                weights[:3, :3] = torch.rand(3, 3)
            self.register_buffer("weights", weights / weights.sum(-1, keepdim=True))

        def forward(self, x):
            return x + torch.tanh(self.map(self.weights @ x))

    torch.manual_seed(0)
    T, d = 6, 8
    stacks = [
        (5, 2, "everywhere"), (5, 0, "everywhere"), (5, 4, "next"), (4, 1, "first"), (4, None, ""), (1, 0, "next"),
        (3, 1, "prefix"),
    ]
    answers, rights = [], []
    for layers, place, leak in stacks:
        blocks = [Mixing(d, T, leak if i == place else "") for i in range(layers)]
        x = torch.randn(1, T, d)
        kept = x.clone()
        with torch.no_grad():
            answers.append(attempt(blocks, x))
        rights.append(place)
        if not torch.equal(x, kept):
            raise Wrong("22.4.in_place")
    if all(answer is None for answer in answers):
        raise Wrong("22.4.none")
    if answers[4] is not None and not isinstance(answers[4], bool) and answers[4] == 0 and answers[1] == 0:
        raise Wrong("22.4.always_first" if answers[0] == 0 else "22.4.no_leak", found=answers[4])
    pairs = [(a, r) for a, r in zip(answers, rights, strict=True) if r is not None]
    if all(isinstance(a, bool) for a in answers):
        raise Wrong("22.4.truth")
    if all(a == r + 1 for a, r in pairs):
        raise Wrong("22.4.from_one")
    if answers[4] is not None:
        raise Wrong("22.4.no_leak", found=answers[4])
    if (answers[3] is None or answers[6] is None) and answers[0] == 2:
        raise Wrong("22.4.one_position")
    if answers[2] is None and answers[0] == 2:
        raise Wrong("22.4.one_position")
    for (layers, place, _leak), answer in zip(stacks, answers, strict=True):
        if answer != place:
            raise Wrong("22.4.value", layers=layers, right=place, found=answer)
