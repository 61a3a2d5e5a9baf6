"""The checks of chapter 44."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch

# --- 44.1 -------------------------------------------------------------------------------------------------


@check_of("44.1", "(IA)^3 on keys, values and the FFN", minutes=12)
def scaled_block(attempt: Callable) -> None:
    """One rotary head and one FFN; every usual place where a scale may go wrong is recognised by its values."""
    import torch

    rng = random.Random(0)
    for _round in range(2):
        block, x, l = _block_to_scale(rng.randint(10, 14), rng.randint(5, 8))
        answer = attempt(block, x, l.k, l.v, l.ff)
        try:
            attended, fed = answer
        except (TypeError, ValueError):
            raise Wrong("44.1.not_two", found=type(answer).__name__) from None
        right = _attended(block, x, l), block.ffn_out(l.ff * block.act(block.ffn_in(x)))
        if not all(isinstance(found, torch.Tensor) for found in (attended, fed)):
            raise Wrong("44.1.not_two", found=type(attended).__name__)
        if same(attended, right[1]) and same(fed, right[0]):
            raise Wrong("44.1.order")
        with torch.no_grad():
            _name(attended, right[0], _wrong_attention(block, x, l), "44.1.attention_value")
            _name(fed, right[1], _wrong_ffn(block, x, l), "44.1.ffn_value")
        scales = [l.k, l.v, l.ff]
        if not (attended.requires_grad and fed.requires_grad):
            raise Wrong("44.1.no_gradient")
        got = torch.autograd.grad(attended.sum() + fed.sum(), scales, allow_unused=True)
        if any(gradient is None for gradient in got):
            raise Wrong("44.1.no_gradient")


def _block_to_scale(d: int, T: int) -> tuple[SimpleNamespace, torch.Tensor, SimpleNamespace]:
    """A rotary head of width 8 and an FFN of 20 neurons, states (T, d), and the three vectors."""
    import torch
    from torch import nn

    def rotate(y: torch.Tensor) -> torch.Tensor:
        """Position t turns the pair (i, i + 4) by the angle t / 3^i."""
        angles = torch.arange(len(y))[:, None] / 3 ** torch.arange(4)
        first, second = y.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)

    block = SimpleNamespace(
        query=nn.Linear(d, 8), key=nn.Linear(d, 8), value=nn.Linear(d, 8), rotate=rotate,
        ffn_in=nn.Linear(d, 20), act=torch.nn.functional.gelu, ffn_out=nn.Linear(20, d),
    )  # fmt: skip
    for module in vars(block).values():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias)
    sizes = {"k": 8, "v": 8, "ff": 20}
    l = SimpleNamespace(**{name: (0.5 + torch.rand(n)).requires_grad_() for name, n in sizes.items()})
    return block, 2 * torch.randn(T, d), l


def _attention(Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor, scale: float = math.sqrt(8)) -> torch.Tensor:
    return (Q @ K.T / scale).softmax(-1) @ V


def _attended(block: SimpleNamespace, x: torch.Tensor, l: SimpleNamespace) -> torch.Tensor:
    rotate = block.rotate
    return _attention(rotate(block.query(x)), rotate(l.k * block.key(x)), l.v * block.value(x))


def _wrong_attention(block: SimpleNamespace, x: torch.Tensor, l: SimpleNamespace) -> list[tuple[str, torch.Tensor]]:
    r, Q, K, V = block.rotate, block.query(x), block.key(x), block.value(x)
    scores = r(Q) @ r(l.k * K).T / math.sqrt(8)

    def without_bias(linear: torch.nn.Linear, scale: torch.Tensor) -> torch.Tensor:
        return scale * (x @ linear.weight.T) + linear.bias

    return [
        ("44.1.nothing", _attention(r(Q), r(K), V)),
        ("44.1.on_q", _attention(r(l.k * Q), r(K), l.v * V)),
        ("44.1.on_q_too", _attention(r(l.k * Q), r(l.k * K), l.v * V)),
        ("44.1.after_rope", _attention(r(Q), l.k * r(K), l.v * V)),
        ("44.1.no_rope", _attention(Q, l.k * K, l.v * V)),
        ("44.1.no_rope", _attention(r(Q), l.k * K, l.v * V)),
        ("44.1.rope_on_v", _attention(r(Q), r(l.k * K), r(l.v * V))),
        ("44.1.rope_on_v", _attention(r(Q), r(l.k * K), l.v * r(V))),
        ("44.1.v_missing", _attention(r(Q), r(l.k * K), V)),
        ("44.1.k_missing", _attention(r(Q), r(K), l.v * V)),
        ("44.1.swapped", _attention(r(Q), r(l.v * K), l.k * V)),
        ("44.1.one_plus", _attention(r(Q), r((1 + l.k) * K), (1 + l.v) * V)),
        ("44.1.added", _attention(r(Q), r(K + l.k), V + l.v)),
        ("44.1.bias_left_out", _attention(r(Q), r(without_bias(block.key, l.k)), without_bias(block.value, l.v))),
        ("44.1.no_root", _attention(r(Q), r(l.k * K), l.v * V, 1.0)),
        ("44.1.over_queries", scores.softmax(0) @ (l.v * V)),
        ("44.1.no_softmax", scores @ (l.v * V)),
    ]


def _wrong_ffn(block: SimpleNamespace, x: torch.Tensor, l: SimpleNamespace) -> list[tuple[str, torch.Tensor]]:
    z, act, out = block.ffn_in(x), block.act, block.ffn_out
    return [
        ("44.1.ffn_nothing", out(act(z))),
        ("44.1.before_activation", out(act(l.ff * z))),
        ("44.1.before_activation", out(act(l.ff * (x @ block.ffn_in.weight.T) + block.ffn_in.bias))),
        ("44.1.twice", out(l.ff * act(l.ff * z))),
        ("44.1.no_activation", out(l.ff * z)),
        ("44.1.ffn_added", out(act(z) + l.ff)),
        ("44.1.ffn_one_plus", out((1 + l.ff) * act(z))),
        ("44.1.ffn_residual", x + out(l.ff * act(z))),
    ]


def _name(found: torch.Tensor, right: torch.Tensor, named: list[tuple[str, torch.Tensor]], otherwise: str) -> None:
    """Raise Wrong with the key of the wrong value that `found` equals, unless it is right."""
    if same(found, right):
        return
    for key, wrong in named:
        if same(found, wrong):
            raise Wrong(key)
    raise Wrong(otherwise, found=tuple(found.shape), right=tuple(right.shape))


# --- 44.2 -------------------------------------------------------------------------------------------------


@check_of("44.2", "Merge two scales into a linear layer", minutes=8)
def merge_scales(attempt: Callable) -> None:
    """diag(l_out) W diag(l_in), and the bias by l_out; the given layer stays as it is."""
    import torch
    from torch import nn

    rng = random.Random(0)
    for bias, square in ((True, False), (True, True), (False, False)):
        n = rng.randint(4, 7)
        m = n if square else n + rng.randint(1, 4)
        linear, x = nn.Linear(n, m, bias=bias), torch.randn(6, n)
        if bias:
            nn.init.normal_(linear.bias)
        l_in, l_out = 0.5 + torch.rand(n), 0.5 + torch.rand(m)
        kept = {name: tensor.detach().clone() for name, tensor in linear.named_parameters()}
        merged = attempt(linear, l_in.clone(), l_out.clone())
        if not isinstance(merged, nn.Linear):
            raise Wrong("44.2.not_linear", found=type(merged).__name__)
        if any(not torch.equal(linear.get_parameter(name), tensor) for name, tensor in kept.items()):
            raise Wrong("44.2.in_place")
        W, b = kept["weight"], kept.get("bias", torch.zeros(m))
        if bias and merged.bias is None:
            raise Wrong("44.2.bias_lost")
        if merged.weight.shape != W.shape:
            raise Wrong("44.2.shape", found=tuple(merged.weight.shape), right=tuple(W.shape))
        with torch.no_grad():
            weights = {
                "44.2.nothing": W,
                "44.2.out_only": l_out[:, None] * W,
                "44.2.in_only": W * l_in,
                "44.2.divided": W / l_out[:, None] / l_in,
            }
            if square:
                weights["44.2.swapped"] = l_in[:, None] * W * l_out
            found = merged.weight
            _name(found, l_out[:, None] * W * l_in, list(weights.items()), "44.2.value")
            biases = [("44.2.bias_not_scaled", b)]
            if square:
                biases += [("44.2.bias_by_input", b * l_in), ("44.2.bias_by_both", b * l_in * l_out)]
            if merged.bias is not None:
                _name(merged.bias, l_out * b, biases, "44.2.bias_value")
            if not same(merged(x), l_out * nn.functional.linear(l_in * x, W, b)):
                raise Wrong("44.2.value", found=tuple(found.shape), right=tuple(W.shape))


# --- 44.3 -------------------------------------------------------------------------------------------------


@check_of("44.3", "The gate of a ladder", minutes=10)
def ladder_gate(attempt: Callable) -> None:
    """m s + (1 - m) W h: the value, then who gets a gradient: gate, rung and side state do, the base does not."""
    import torch
    from torch import nn

    rng = random.Random(0)
    for start in (0.07, -0.05):
        d, narrow, T = rng.randint(6, 9), rng.randint(2, 4), rng.choice([0.1, 0.2])
        rung, a = nn.Linear(d, narrow), torch.tensor(start, requires_grad=True)
        s = torch.randn(2, 5, narrow, requires_grad=True)
        below = torch.randn(2, 5, d, requires_grad=True)
        h = 1.5 * below  # as if a block of the base had made it, from states that could learn
        found = attempt(s, h, rung, a, T)
        if not isinstance(found, torch.Tensor) or found.shape != s.shape:
            raise Wrong("44.3.shape", found=getattr(found, "shape", type(found).__name__), right=tuple(s.shape))
        with torch.no_grad():
            m, up = torch.sigmoid(a / T), rung(h)
            named = [
                ("44.3.swapped", (1 - m) * s + m * up),
                ("44.3.times_T", _mix(torch.sigmoid(a * T), s, up)),
                ("44.3.no_T", _mix(torch.sigmoid(a), s, up)),
                ("44.3.no_sigmoid", _mix(a / T, s, up)),
                ("44.3.no_sigmoid", _mix(a, s, up)),
                ("44.3.tanh", _mix(torch.tanh(a / T), s, up)),
                ("44.3.sum", s + up),
                ("44.3.gate_on_h_only", s + (1 - m) * up),
                ("44.3.gate_on_h_only", s + m * up),
                ("44.3.gate_on_s_only", m * s + up),
                ("44.3.no_rung_bias", _mix(m, s, h @ rung.weight.T)),
            ]
            _name(found, _mix(m, s, up), named, "44.3.value")
        if not found.requires_grad:
            raise Wrong("44.3.no_gradient")
        wanted = torch.autograd.grad(found.square().sum(), [s, a, *rung.parameters(), below], allow_unused=True)
        side, gate, weight, bias, base = wanted
        if base is not None:
            raise Wrong("44.3.not_detached")
        if weight is None or bias is None:
            raise Wrong("44.3.rung_dead")
        if side is None:
            raise Wrong("44.3.side_detached")
        if gate is None:
            raise Wrong("44.3.gate_dead")


def _mix(m: torch.Tensor, s: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return m * s + (1 - m) * up


# --- 44.4 -------------------------------------------------------------------------------------------------


@check_of("44.4", "LoReFT of rank 1", minutes=12)
def rank_one_edit(attempt: Callable) -> None:
    """h + u (w . h + b - u . h) at chosen positions, u made a unit vector; gradients reach u, w and b."""
    import torch

    rng = random.Random(0)
    for long in (3.0, 0.4):
        d, B, T = rng.randint(6, 9), 3, rng.randint(4, 6)
        h, u, w = torch.randn(B, T, d), torch.randn(d), torch.randn(d)
        u, b = (long * u / u.norm()).requires_grad_(), torch.tensor(0.7, requires_grad=True)
        w.requires_grad_()
        where = torch.rand(B, T) < 0.5
        where[0, 0], where[0, 1] = True, False
        kept = h.clone()
        found = attempt(h, u, w, b, where)
        if not torch.equal(h, kept):
            raise Wrong("44.4.in_place")
        if not isinstance(found, torch.Tensor) or found.shape != h.shape:
            raise Wrong("44.4.shape", found=getattr(found, "shape", type(found).__name__), right=tuple(h.shape))
        with torch.no_grad():
            _name(found, _edited(h, u, w, b, where), _wrong_edits(h, u, w, b, where), "44.4.value")
        got = torch.autograd.grad(found.square().sum(), [u, w, b], allow_unused=True) if found.requires_grad else [None]
        if any(gradient is None for gradient in got):
            raise Wrong("44.4.no_gradient")
        right = torch.autograd.grad(_edited(h, u, w, b, where).square().sum(), [u, w, b])
        if not all(same(gradient, wanted, 1e-4) for gradient, wanted in zip(got, right, strict=True)):
            raise Wrong("44.4.length_detached")


def _edited(h: torch.Tensor, u: torch.Tensor, w: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    r = u / u.norm()
    return h + where[..., None] * (h @ w + b - h @ r)[..., None] * r


def _wrong_edits(
    h: torch.Tensor, u: torch.Tensor, w: torch.Tensor, b: torch.Tensor, where: torch.Tensor
) -> list[tuple[str, torch.Tensor]]:
    import torch

    r, at = u / u.norm(), where[..., None]
    new, old = (h @ w + b)[..., None], (h @ r)[..., None]
    everywhere, raw = torch.ones_like(where), (h @ u)[..., None]
    unit_w = w / w.norm()
    return [
        ("44.4.nothing", h),
        ("44.4.not_unit", h + at * (new - raw) * u),
        ("44.4.half_unit", h + at * (new - old) * u),
        ("44.4.half_unit", h + at * (new - raw) * r),
        ("44.4.square_root", h + at * (new - raw / u.norm().square()) * u),
        ("44.4.everywhere", _edited(h, u, w, b, everywhere)),
        ("44.4.inverted", _edited(h, u, w, b, ~where)),
        ("44.4.only_added", h + at * new * r),
        ("44.4.only_removed", h - at * old * r),
        ("44.4.sign", h - at * (new - old) * r),
        ("44.4.plus_old", h + at * (new + old) * r),
        ("44.4.delta_only", at * (new - old) * r),
        ("44.4.delta_only", (new - old) * r),
        ("44.4.others_lost", at * _edited(h, u, w, b, everywhere)),
        ("44.4.no_b", h + at * (new - b - old) * r),
        ("44.4.w_normalised", _edited(h, u, unit_w, b, where)),
        ("44.4.along_w", h + at * (new - old) * w),
    ]
