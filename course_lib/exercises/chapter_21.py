"""The checks of chapter 21."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    from torch import Tensor


def weights(Q: Tensor, K: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(Q K^T / sqrt d) over the keys, or another `scale`; a query that may see nothing gets zeros."""
    scores = Q @ K.mT * (Q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1).nan_to_num(0)


def require_tensor(found: object, wanted: Tensor, no_tensor: str, other_shape: str) -> None:
    """Raise Wrong with one of two keys unless `found` is a tensor of the wanted shape."""
    import torch

    if not isinstance(found, torch.Tensor):
        raise Wrong(no_tensor, found=type(found).__name__)
    if found.shape != wanted.shape:
        raise Wrong(other_shape, found=tuple(found.shape), right=tuple(wanted.shape))


def name_wrong(found: Tensor, right: Tensor, named: dict[str, list[Tensor]], otherwise: str) -> None:
    """Raise Wrong with the key under which `found` stands, unless it is right."""
    if same(found, right):
        return
    for key, values in named.items():
        if any(same(found, value) for value in values):
            raise Wrong(key)
    raise Wrong(otherwise, gap=f"{(found - right).abs().max():.2g}")


# --- 21.1 -------------------------------------------------------------------------------------------------


@check_of("21.1", "Scaled dot-product attention with a mask", minutes=15)
def attention(attempt: Callable) -> None:
    """Heads in front, T != S, d != d_v; then masks, a hidden key that would win, an empty row, scores of 1,000."""
    import torch

    Q, K, V = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 7)
    _require_unmasked(attempt(Q, K, V), Q, K, V)
    same_length = torch.randn(6, 8), torch.randn(6, 8), torch.randn(6, 3)
    _require_unmasked(attempt(*same_length), *same_length)
    _require_mask(attempt, *same_length, torch.ones(6, 6, dtype=torch.bool).tril())
    hidden = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    hidden[0, ..., 3:] = False
    _require_mask(attempt, Q, K, V, hidden)
    _require_hidden(attempt, Q, K, V, hidden)
    _require_empty_row(attempt, Q, K, V)
    big = attempt(1000 * Q, K, V)
    if big.isnan().any() or not same(big, weights(1000 * Q, K) @ V, 1e-3):
        raise Wrong("21.1.overflow")


def _require_unmasked(found: object, Q: Tensor, K: Tensor, V: Tensor) -> None:
    """Raise Wrong unless `found` is softmax(QK^T / sqrt d) V."""
    import torch
    from torch.nn import functional as F

    right, s, d = weights(Q, K) @ V, Q @ K.mT, Q.shape[-1]
    if isinstance(found, torch.Tensor) and found.shape == s.shape != right.shape:
        raise Wrong("21.1.no_values" if same(found, weights(Q, K)) else "21.1.article")
    require_tensor(found, right, "21.1.not_a_tensor", "21.1.shape")
    over_all = (s / d**0.5).flatten(-2).softmax(-1).view(s.shape)
    named = {
        "21.1.no_scale": [s.softmax(-1) @ V],
        "21.1.scale": [
            *((s / c).softmax(-1) @ V for c in (d, V.shape[-1] ** 0.5, K.shape[-2] ** 0.5, Q.shape[-2] ** 0.5)),
            (s * d**0.5).softmax(-1) @ V,
        ],
        "21.1.scale_after": [s.softmax(-1) / d**0.5 @ V, right / d**0.5],
        "21.1.over_queries": [(s / d**0.5).softmax(-2) @ V, s.softmax(-2) @ V, *_other_axes(s / d**0.5, V)],
        "21.1.over_all": [over_all @ V],
        "21.1.no_softmax": [s @ V, s / d**0.5 @ V],
        "21.1.not_normalised": [(s / d**0.5).exp() @ V, s.exp() @ V],
        "21.1.unit_length": [F.normalize(right, dim=-1)],
        "21.1.sum_of_scores": [
            s / s.sum(-1, keepdim=True) @ V,
            s / d**0.5 / (s / d**0.5).sum(-1, keepdim=True) @ V,
        ],
    }
    name_wrong(found, right, named, "21.1.value")


def _other_axes(scores: Tensor, V: Tensor) -> list[Tensor]:
    """The softmax over a batch or head axis instead."""
    return [scores.softmax(axis) @ V for axis in range(scores.dim() - 2)]


def _require_mask(attempt: Callable, Q: Tensor, K: Tensor, V: Tensor, mask: Tensor) -> None:
    """Raise Wrong unless what `mask` hides takes no part in the softmax."""
    import torch

    kept = mask.clone()
    found = attempt(Q, K, V, mask)
    if not torch.equal(mask, kept):
        raise Wrong("21.1.mask_changed")
    A, s = weights(Q, K), Q @ K.mT / Q.shape[-1] ** 0.5
    right = weights(Q, K, mask) @ V
    require_tensor(found, right, "21.1.not_a_tensor", "21.1.shape")
    seen = mask.expand(s.shape)
    nothing = torch.zeros_like(s)
    named = {
        "21.1.mask_ignored": [A @ V],
        "21.1.mask_inverted": [weights(Q, K, ~mask) @ V],
        "21.1.mask_after": [(A * seen) @ V],
        "21.1.mask_times_scores": [torch.where(seen, s, nothing).softmax(-1) @ V],
        "21.1.mask_added": [(s + seen.float()).softmax(-1) @ V],
        "21.1.mask_no_scale": [weights(Q, K, mask, scale=1.0) @ V],
    }
    if found.isnan().any():
        inverted = s.masked_fill(seen, -math.inf).softmax(-1) @ V  # its last row sees nothing
        turned_round = same(found.nan_to_num(9), inverted.nan_to_num(9))
        raise Wrong("21.1.mask_inverted" if turned_round else "21.1.mask_nan")
    name_wrong(found, right, named, "21.1.mask_value")


def _require_hidden(attempt: Callable, Q: Tensor, K: Tensor, V: Tensor, mask: Tensor) -> None:
    """Raise Wrong if a hidden key that would win every comparison changes anything."""
    K, V = K.clone(), V.clone()
    K[0, :, 4] = 400 * Q[0].mean(-2)
    V[0, :, 4] = 1e6
    if not same(attempt(Q, K, V, mask), weights(Q, K, mask) @ V, 1e-4):
        raise Wrong("21.1.late")


def _require_empty_row(attempt: Callable, Q: Tensor, K: Tensor, V: Tensor) -> None:
    """Raise Wrong unless a query that may see nothing answers zeros, and gradients stay finite and right."""
    import torch

    Q, K, V = (tensor.clone().requires_grad_() for tensor in (Q, K, V))
    mask = torch.rand(4, 5) < 0.7
    mask[0], mask[1:, 0] = False, True
    found, right = attempt(Q, K, V, mask), weights(Q, K, mask) @ V
    if found.isnan().any():
        raise Wrong("21.1.empty_nan")
    if found[..., 0, :].any():
        key = "21.1.empty_mean" if same(found[..., 0, :], V.mean(-2)) else "21.1.empty_row"
        raise Wrong(key)
    if not same(found, right):
        raise Wrong("21.1.empty_others")
    if not found.requires_grad:
        raise Wrong("21.1.no_gradient")
    wanted = torch.autograd.grad((right * right.detach()).sum(), (Q, K, V))
    got = torch.autograd.grad((found * right.detach()).sum(), (Q, K, V), allow_unused=True)
    if any(gradient is None for gradient in got):
        raise Wrong("21.1.no_gradient")
    if any(gradient.isnan().any() for gradient in got):
        raise Wrong("21.1.gradient_nan")
    if not all(same(gradient, true, 1e-4) for gradient, true in zip(got, wanted, strict=True)):
        raise Wrong("21.1.no_gradient")


# --- 21.2 -------------------------------------------------------------------------------------------------


@check_of("21.2", "Many heads by reshaping", minutes=15)
def multi_head(attempt: Callable) -> None:
    """Two batches, T != H, with and without a causal mask; the silent mixtures of heads and time are named."""
    import torch

    for B, T, H, h in [(2, 6, 3, 4), (3, 5, 2, 6)]:
        d = H * h
        X, W = torch.randn(B, T, d), [torch.randn(d, d) / d**0.5 for _ in range(4)]
        for mask in (None, torch.ones(T, T, dtype=torch.bool).tril()):
            found = attempt(X, *W, H, mask)
            right = _heads(X, W, H, mask)
            if isinstance(found, torch.Tensor) and found.shape == (B, T, h):
                raise Wrong("21.2.heads_summed")
            require_tensor(found, right, "21.2.not_a_tensor", "21.2.shape")
            name_wrong(found, right, _wrong_heads(X, W, H, mask), "21.2.value")
    if not _passes_gradients(attempt, X, W, H):
        raise Wrong("21.2.no_gradient")


def _heads(X: Tensor, W: list[Tensor], H: int, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """Multi-head attention: cut the columns into H heads, attend in each, join them, and apply W_O."""
    Q, K, V = ((X @ w).unflatten(-1, (H, -1)).transpose(1, 2) for w in W[:3])  # (B, H, T, h)
    return (weights(Q, K, mask, scale) @ V).transpose(1, 2).flatten(-2) @ W[3]


def _wrong_heads(X: Tensor, W: list[Tensor], H: int, mask: Tensor | None) -> dict[str, list[Tensor]]:
    """What typical mistakes give."""
    B, T, d = X.shape
    Q, K, V = (X @ w for w in W[:3])
    Qh, Kh, Vh = (t.unflatten(-1, (H, -1)).transpose(1, 2) for t in (Q, K, V))
    heads = weights(Qh, Kh, mask) @ Vh  # (B, H, T, h), right so far
    mixed = [t.view(B, H, T, -1) for t in (Q, K, V)]
    mixed_heads = weights(mixed[0], mixed[1], mask) @ mixed[2]
    strided = [t.unflatten(-1, (-1, H)).movedim(-1, 1) for t in (Q, K, V)]  # head i takes columns i, i + H, ...
    strided_heads = weights(strided[0], strided[1], mask) @ strided[2]
    named = {
        "21.2.no_output": [heads.transpose(1, 2).flatten(-2)],
        "21.2.mixed_in": [
            mixed_heads.transpose(1, 2).flatten(-2) @ W[3],
            mixed_heads.reshape(B, T, d) @ W[3],
        ],
        "21.2.mixed_out": [heads.reshape(B, T, d) @ W[3], heads.transpose(-1, -2).reshape(B, T, d) @ W[3]],
        "21.2.strided": [
            strided_heads.movedim(1, -1).flatten(-2) @ W[3],
            strided_heads.transpose(1, 2).flatten(-2) @ W[3],
        ],
        "21.2.scale_model": [_heads(X, W, H, mask, scale=d**-0.5)],
        "21.2.no_scale": [_heads(X, W, H, mask, scale=1.0)],
        "21.2.one_head": [_heads(X, W, 1, mask)],
        "21.2.transposed": [
            _heads(X, [w.T for w in W], H, mask),
            _heads(X, [w.T for w in W[:3]] + W[3:], H, mask),
        ],
        "21.2.one_projection": [
            _heads(X, [W[i], W[j], W[k], W[3]], H, mask)
            for i, j, k in ((0, 0, 0), (0, 0, 2), (1, 1, 2), (0, 1, 1), (0, 1, 0))
        ],
        "21.2.inputs_summed": [
            (weights(Qh, Kh, mask) @ X.unflatten(-1, (H, -1)).transpose(1, 2)).transpose(1, 2).flatten(-2) @ W[3]
        ],
        "21.2.over_queries": [
            ((Qh @ Kh.mT * Qh.shape[-1] ** -0.5).softmax(-2) @ Vh).transpose(1, 2).flatten(-2) @ W[3]
        ],
    }
    across = [t.transpose(1, 2) for t in (Qh, Kh, Vh)]  # (B, T, H, h): the transpose forgotten
    named["21.2.heads_look_at_heads"] = [(weights(across[0], across[1]) @ across[2]).flatten(-2) @ W[3]]
    if mask is not None:
        named["21.2.mask_ignored"] = [_heads(X, W, H, None)]
        named["21.2.mask_inverted"] = [_heads(X, W, H, ~mask)]
    return named


def _passes_gradients(attempt: Callable, X: Tensor, W: list[Tensor], H: int) -> bool:
    """Does the gradient reach the input and all four matrices?"""
    import torch

    leaves = [tensor.clone().requires_grad_() for tensor in (X, *W)]
    found = attempt(leaves[0], *leaves[1:], H)
    if not found.requires_grad:
        return False
    wanted = torch.autograd.grad(_heads(leaves[0], leaves[1:], H, None).sum(), leaves)
    got = torch.autograd.grad(found.sum(), leaves, allow_unused=True)
    return all(g is not None and same(g, right, 1e-4) for g, right in zip(got, wanted, strict=True))


# --- 21.3 -------------------------------------------------------------------------------------------------


@check_of("21.3", "Rotary positions", minutes=15)
def rotary(attempt: Callable) -> None:
    """More query heads than key heads; positions that begin late or have gaps, as a cache and packed rows make them."""
    import torch

    cases = [(torch.arange(5), 10_000.0), (torch.tensor([40, 41, 45, 90]), 10_000.0), (torch.arange(7), 100.0)]
    for positions, base in cases:
        T, d = len(positions), 8
        Q, K, V = torch.randn(2, 6, T, d), torch.randn(2, 2, T, d), torch.randn(2, 2, T, d)
        kept = [tensor.clone() for tensor in (Q, K, V)]
        answer = attempt(Q, K, V, positions, base)
        if not isinstance(answer, tuple | list) or len(answer) != 3:
            raise Wrong("21.3.not_three", found=type(answer).__name__)
        if not all(torch.equal(now, before) for now, before in zip((Q, K, V), kept, strict=True)):
            raise Wrong("21.3.in_place")
        for found, given in zip(answer, (Q, K, V), strict=True):
            require_tensor(found, given, "21.3.not_a_tensor", "21.3.shape")
        _require_turned(answer, (Q, K, V), positions, base)


def _require_turned(answer: list[Tensor], given: tuple[Tensor, ...], positions: Tensor, base: float) -> None:
    """Raise Wrong unless Q and K are turned by their positions' angles and V is as it was."""
    (q, k, v), (Q, K, V) = answer, given
    right_q, right_k = _turned(Q, positions, base), _turned(K, positions, base)
    if same(q, Q) and same(k, K):
        raise Wrong("21.3.nothing")
    name_wrong(q, right_q, {"21.3.queries_left": [Q]} | _wrong_turns(Q, positions, base), "21.3.value")
    name_wrong(k, right_k, {"21.3.keys_left": [K]} | _wrong_turns(K, positions, base), "21.3.value")
    if not same(v, V):
        raise Wrong("21.3.values_turned")


def _turned(
    x: Tensor, positions: Tensor, base: float, *, sign: int = 1, power: float = -2, interleaved: bool = False
) -> Tensor:
    """Rotary positions by complex numbers: pair (i, i + d/2), or (2i, 2i + 1), turned by position * base^(-2i/d)."""
    import torch

    d = x.shape[-1]
    frequency = base ** (power * torch.arange(d // 2, dtype=torch.float64) / d)
    angle = sign * positions.double()[:, None] * frequency
    x = x.double()
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    new = torch.complex(a, b) * torch.polar(torch.ones_like(angle), angle)
    parts = (new.real, new.imag)
    return (torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)).float()


def _wrong_turns(x: Tensor, positions: Tensor, base: float) -> dict[str, list[Tensor]]:
    """What typical mistakes make of queries or keys x."""
    import torch

    T, d = x.shape[-2:]
    counted = torch.arange(T)
    frequency = base ** (-2 * torch.arange(d // 2) / d)
    angle = positions[:, None] * frequency
    cosine, sine = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    across = torch.cat([x[..., d // 2 :], x[..., : d // 2]], -1)  # halves exchanged, the minus sign forgotten
    absolute = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
    return {
        "21.3.backwards": [_turned(x, positions, base, sign=-1)],
        "21.3.interleaved": [_turned(x, positions, base, interleaved=True)],
        "21.3.positions_ignored": [_turned(x, counted, base)],
        "21.3.off_by_one": [_turned(x, positions + 1, base), _turned(x, counted + 1, base)],
        "21.3.base_ignored": [_turned(x, positions, 10_000.0)],
        "21.3.frequencies": [_turned(x, positions, base, power=power) for power in (-1, -4, 2, 1)],
        "21.3.one_frequency": [_turned(x, positions, base, power=0)],
        "21.3.no_minus": [x * cosine + across * sine],
        "21.3.cosine_only": [x * cosine, x * sine],
        "21.3.added": [x + absolute, x + torch.cat([angle.sin(), angle.cos()], -1)],
        "21.3.heads_turned": _over_heads(x, base),
    }


def _over_heads(x: Tensor, base: float) -> list[Tensor]:
    """Turned by the number of the head instead of the position."""
    import torch

    heads = torch.arange(x.shape[1])
    return [_turned(x.transpose(1, 2), heads, base).transpose(1, 2)]
