"""The checks of chapter 42."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch


def require_shape(found: object, wanted: torch.Tensor, key: str) -> None:
    """Raise Wrong under `key` unless `found` is a tensor of the wanted shape."""
    import torch

    if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise Wrong(key, found=shape, right=tuple(wanted.shape))


@check_of("42.1", "A bottleneck adapter", minutes=8)
def adapter(attempt: Callable) -> None:
    """h + W_up relu(W_down h + b_down) + b_up on states of several shapes; h is left alone, gradients pass."""
    import torch

    for shape in ((5, 6), (2, 3, 6), (6,)):
        d, r = 6, 4
        h = torch.randn(*shape, requires_grad=True)
        weights = [torch.randn(*size, requires_grad=True) for size in ((r, d), (r,), (d, r), (d,))]
        W_down, b_down, W_up, b_up = weights
        kept = h.detach().clone()
        found = attempt(h, *weights)
        down = h @ W_down.T + b_down
        delta = down.relu() @ W_up.T + b_up
        right = h + delta
        if found is None:
            raise Wrong("42.1.none")
        if not torch.equal(h, kept):
            raise Wrong("42.1.in_place")
        named = {
            "42.1.delta_only": delta,
            "42.1.linear": h + down @ W_up.T + b_up,
            "42.1.relu_last": h + (down @ W_up.T + b_up).relu(),
            "42.1.relu_of_sum": (h + delta).relu(),
            "42.1.relu_both": h + delta.relu(),
            "42.1.relu_first": h + (h.relu() @ W_down.T + b_down) @ W_up.T + b_up,
            "42.1.no_biases": h + (h @ W_down.T).relu() @ W_up.T,
            "42.1.no_down_bias": h + (h @ W_down.T).relu() @ W_up.T + b_up,
            "42.1.no_up_bias": h + down.relu() @ W_up.T,
            "42.1.bias_after_relu": h + ((h @ W_down.T).relu() + b_down) @ W_up.T + b_up,
            "42.1.multiplied": h * delta,
            "42.1.multiplied_gate": h * (1 + delta),
        }
        require_shape(found, right, "42.1.shape")
        if not same(found, right):
            for key, wrong in named.items():
                if same(found, wrong):
                    raise Wrong(key)
            raise Wrong("42.1.value")
        wanted = torch.autograd.grad(right.sum(), [h, *weights])
        got = [None] * 5
        if found.requires_grad:
            got = torch.autograd.grad(found.sum(), [h, *weights], allow_unused=True)
        if any(a is None or not same(a, b) for a, b in zip(got, wanted, strict=True)):
            raise Wrong("42.1.no_gradient")


@check_of("42.2", "Parallel against sequential", minutes=10)
def add_beside_or_after(attempt: Callable) -> None:
    """norm(x + h + f(h)) and norm(x + h + s f(x)) over distinguishable parts; other sums are named."""
    import torch
    from torch import nn

    d, s = 6, 4.0
    x = torch.randn(2, 5, d)
    sublayer, norm = nn.Sequential(nn.Linear(d, 9), nn.GELU(), nn.Linear(9, d)), nn.LayerNorm(d)
    f = nn.Sequential(nn.Linear(d, 3), nn.ReLU(), nn.Linear(3, d))
    nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    nn.init.normal_(norm.bias, std=0.3)
    with torch.no_grad():
        h = sublayer(x)
        rights = {"sequential": norm(x + h + f(h)), "parallel": norm(x + h + s * f(x))}
        kept = x.clone()
        found = {where: attempt(x, sublayer, norm, f, s, where) for where in rights}
        beside, after = [norm(x + h + t * f(x)) for t in (1, s)], [norm(x + h + t * f(h)) for t in (1, s)]
        everywhere = [  # whichever form was asked for
            ("42.2.scaled_sum", norm(x + s * (h + f(x)))),
            ("42.2.scaled_sum", norm(x + s * (h + f(h)))),
            ("42.2.no_answer", norm(x + f(x))),
            ("42.2.no_answer", norm(x + s * f(x))),
            ("42.2.no_answer", norm(x + f(h))),
            ("42.2.no_addition", norm(x + h)),
            ("42.2.after_the_norm", norm(x + h) + f(x)),
            ("42.2.after_the_norm", norm(x + h) + s * f(x)),
            ("42.2.after_the_norm", norm(x + h) + f(h)),
            ("42.2.no_norm", x + h + s * f(x)),
            ("42.2.no_norm", x + h + f(h)),
            ("42.2.into_the_sublayer", norm(x + sublayer(x + f(x)))),
            ("42.2.into_the_sublayer", norm(x + sublayer(x + s * f(x)))),
            ("42.2.reads_the_sum", norm(x + h + f(x + h))),
            ("42.2.reads_the_sum", norm(x + h + s * f(x + h))),
            ("42.2.no_stream", norm(h + f(h))),
            ("42.2.no_stream", norm(h + s * f(x))),
        ]
        own = {
            "sequential": [
                ("42.2.sequential_scaled", after[1]),
                ("42.2.sequential_reads_x", beside[0]),
                ("42.2.sequential_reads_x", beside[1]),
            ],
            "parallel": [
                ("42.2.parallel_unscaled", beside[0]),
                ("42.2.parallel_reads_h", after[0]),
                ("42.2.parallel_reads_h", after[1]),
            ],
        }
    if not torch.equal(x, kept):
        raise Wrong("42.2.in_place")
    if any(answer is None for answer in found.values()):
        raise Wrong("42.2.none")
    for where, right in rights.items():
        require_shape(found[where], right, "42.2.shape")
    if same(found["sequential"], rights["parallel"]) and same(found["parallel"], rights["sequential"]):
        raise Wrong("42.2.swapped")
    for where, right in rights.items():
        if same(found[where], right):
            continue
        for key, wrong in [*everywhere, *own[where]]:
            if same(found[where], wrong):
                raise Wrong(key)
        raise Wrong("42.2.value", where=where)


@check_of("42.3", "What an adapter costs", minutes=10)
def adapter_numbers(attempt: Callable) -> None:
    """The counts of three methods over random sizes; each part left out, or counted twice, has its name."""
    rng = random.Random(0)
    others = [
        (4 * rng.randint(9, 200), 4 * rng.randint(1, 30), rng.randint(2, 24), rng.choice((2, 4))) for _ in range(6)
    ]
    sizes = [(384, 16, 6, 4), *others]

    def one(d: int, r: int) -> int:
        return 2 * d * r + d + r

    rights: dict[str, Callable] = {
        "pfeiffer": lambda d, r, L, n: L * one(d, r),
        "houlsby": lambda d, r, L, n: 2 * L * one(d, r) + (2 * L + 1) * 2 * d,
        "compacter": lambda d, r, L, n: 4 * L * (d + r) + n**3 + 2 * L * (d + r),
    }
    wrongs: dict[str, list[tuple[str, Callable]]] = {
        "pfeiffer": [
            ("42.3.no_biases", lambda d, r, L, n: L * 2 * d * r),
            ("42.3.one_matrix", lambda d, r, L, n: L * (d * r + r)),
            ("42.3.one_block", lambda d, r, L, n: one(d, r)),
            ("42.3.two_in_pfeiffer", lambda d, r, L, n: 2 * L * one(d, r)),
            ("42.3.one_bias", lambda d, r, L, n: L * (2 * d * r + d)),
            ("42.3.one_bias", lambda d, r, L, n: L * (2 * d * r + r)),
        ],
        "houlsby": [
            ("42.3.no_norms", lambda d, r, L, n: 2 * L * one(d, r)),
            ("42.3.one_in_houlsby", lambda d, r, L, n: L * one(d, r)),
            ("42.3.one_in_houlsby", lambda d, r, L, n: L * one(d, r) + (2 * L + 1) * 2 * d),
            ("42.3.no_first_norm", lambda d, r, L, n: 2 * L * one(d, r) + 2 * L * 2 * d),
            ("42.3.half_norms", lambda d, r, L, n: 2 * L * one(d, r) + (2 * L + 1) * d),
            ("42.3.no_biases", lambda d, r, L, n: 2 * L * 2 * d * r + (2 * L + 1) * 2 * d),
        ],
        "compacter": [
            ("42.3.own_a", lambda d, r, L, n: 4 * L * (d + r) + 4 * L * n**3 + 2 * L * (d + r)),
            ("42.3.own_a", lambda d, r, L, n: 4 * L * (d + r) + 2 * L * n**3 + 2 * L * (d + r)),
            ("42.3.own_a", lambda d, r, L, n: 4 * L * (d + r) + L * n**3 + 2 * L * (d + r)),
            ("42.3.no_kronecker_biases", lambda d, r, L, n: 4 * L * (d + r) + n**3),
            ("42.3.no_a", lambda d, r, L, n: 4 * L * (d + r) + 2 * L * (d + r)),
            ("42.3.one_a", lambda d, r, L, n: 4 * L * (d + r) + n**2 + 2 * L * (d + r)),
            ("42.3.dense", lambda d, r, L, n: 2 * L * one(d, r)),
            ("42.3.one_in_compacter", lambda d, r, L, n: 2 * L * (d + r) + n**3 + L * (d + r)),
        ],
    }
    for method, right in rights.items():
        found = [attempt(method, *size) for size in sizes]
        if all(answer is None for answer in found):
            raise Wrong("42.3.none", method=method)
        if all(answer == right(*size) for answer, size in zip(found, sizes, strict=True)):
            for answer in found:
                try:
                    operator.index(answer)
                except TypeError:
                    raise Wrong("42.3.float", found=answer) from None
            continue
        for key, wrong in wrongs[method]:
            if all(answer == wrong(*size) for answer, size in zip(found, sizes, strict=True)):
                raise Wrong(key)
        d, r, L, n = next(size for answer, size in zip(found, sizes, strict=True) if answer != right(*size))
        raise Wrong(
            "42.3.value", method=method, d=d, r=r, L=L, n=n, found=attempt(method, d, r, L, n), right=right(d, r, L, n)
        )


@check_of("42.4", "The Kronecker product", minutes=8)
def kronecker(attempt: Callable) -> None:
    """The block matrix with A_ij B in block (i, j), for oblong factors; the usual confusions are recognised."""
    import torch

    for a, b, c, d in ((3, 3, 3, 3), (2, 3, 4, 5), (3, 2, 2, 7), (1, 4, 3, 1)):
        A, B = torch.randn(a, b), torch.randn(c, d)
        right, found = torch.kron(A, B), attempt(A.clone(), B.clone())
        if found is None:
            raise Wrong("42.4.none")
        outer = torch.einsum("ij,kl->ijkl", A, B)
        if isinstance(found, torch.Tensor) and found.ndim == 4:
            raise Wrong("42.4.four_dimensions", found=tuple(found.shape))
        if isinstance(found, torch.Tensor) and a == b == c == d and (same(found, A * B) or same(found, A @ B)):
            raise Wrong("42.4.other_product")
        require_shape(found, right, "42.4.shape")
        if same(found, right):
            continue
        named = [
            ("42.4.swapped", torch.kron(B, A)),
            ("42.4.order", outer.reshape(a * c, b * d)),
            ("42.4.order", outer.permute(0, 2, 3, 1).reshape(a * c, b * d)),
            ("42.4.order", outer.permute(2, 0, 1, 3).reshape(a * c, b * d)),
            ("42.4.sum", (A[:, None, :, None] + B[None, :, None, :]).reshape(a * c, b * d)),
        ]
        for key, wrong in named:
            if same(found, wrong):
                raise Wrong(key)
        raise Wrong("42.4.value")
