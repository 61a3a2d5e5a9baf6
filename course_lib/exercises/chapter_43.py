"""The checks of chapter 43."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch

UNLEARNT = -100


# --- 43.1 -------------------------------------------------------------------------------------------------


@check_of("43.1", "Put a prompt before a batch", minutes=12)
def prepend(attempt: Callable) -> None:
    """Vectors, mask, positions and labels of a batch padded on the left, then on the right."""
    import torch

    rng = random.Random(0)
    for side in ("left", "right"):
        p, d, T = rng.randint(2, 4), rng.randint(5, 7), rng.randint(6, 8)
        lengths = [T, rng.randint(2, T - 2), T - 1]
        mask = torch.tensor([[1] * n + [0] * (T - n) for n in lengths])
        mask = mask.flip(1) if side == "left" else mask
        labels = torch.randint(1, 50, (3, T)).masked_fill(mask == 0, UNLEARNT)
        P, E = torch.randn(p, d, requires_grad=True), torch.randn(3, T, d)
        given = [tensor.detach().clone() for tensor in (P, E, mask, labels)]
        answer = attempt(P, E, mask, labels)
        if any(not torch.equal(a, b) for a, b in zip((P, E, mask, labels), given, strict=True)):
            raise Wrong("43.1.in_place")
        try:
            vectors, whole_mask, positions, whole_labels = answer
        except (TypeError, ValueError):
            raise Wrong("43.1.not_four", found=type(answer).__name__) from None
        _name_vectors(vectors, P, E)
        _name_mask(whole_mask, mask, p)
        _name_positions(positions, mask, p, side)
        _name_labels(whole_labels, labels, p)
        vectors.sum().backward()
        if P.grad is None or not P.grad.any():
            raise Wrong("43.1.no_gradient")


def _name_vectors(found: object, P: torch.Tensor, E: torch.Tensor) -> None:
    import torch

    block = P.detach().expand(len(E), -1, -1)
    right = torch.cat([block, E], dim=1)
    if not isinstance(found, torch.Tensor) or found.shape != right.shape:
        shape = tuple(getattr(found, "shape", ())) or type(found).__name__
        raise Wrong("43.1.vectors_shape", found=shape, right=tuple(right.shape))
    if same(found.detach(), right):
        if not found.requires_grad:
            raise Wrong("43.1.no_gradient")
        return
    if same(found.detach(), torch.cat([E, block], dim=1)):
        raise Wrong("43.1.behind")
    if same(found.detach()[:, len(P) :], E) and not found[:, : len(P)].any():
        raise Wrong("43.1.zeros")
    raise Wrong("43.1.vectors_value")


def _name_mask(found: torch.Tensor, mask: torch.Tensor, p: int) -> None:
    import torch

    ones = mask.new_ones(len(mask), p)
    right = torch.cat([ones, mask], dim=1)
    if found.shape != right.shape:
        raise Wrong("43.1.mask_not_extended" if found.shape == mask.shape else "43.1.mask_shape",
                    found=tuple(found.shape), right=tuple(right.shape))
    found = found.to(mask.dtype)
    if torch.equal(found, right):
        return
    if torch.equal(found, torch.cat([0 * ones, mask], dim=1)):
        raise Wrong("43.1.prompt_masked")
    if torch.equal(found, torch.cat([mask, ones], dim=1)):
        raise Wrong("43.1.mask_behind")
    if found.all():
        raise Wrong("43.1.padding_unmasked")
    raise Wrong("43.1.mask_value", found=found[1].tolist(), right=right[1].tolist())


def _name_positions(found: torch.Tensor, mask: torch.Tensor, p: int, side: str) -> None:
    """Positions of padding are nobody's business, as long as a table of positions has a row for them."""
    import torch

    whole = torch.cat([mask.new_ones(len(mask), p), mask], dim=1)
    right = whole.cumsum(1) - 1
    real = whole.bool()
    if found.ndim == 1 and len(found) == whole.shape[1]:
        found = found.expand_as(whole)
    if found.shape != whole.shape:
        raise Wrong("43.1.positions_shape", found=tuple(found.shape), right=tuple(whole.shape))
    text = torch.cat([torch.arange(p).expand(len(mask), p), mask.cumsum(1) - 1], dim=1)
    named = {
        "43.1.positions_from_one": right + 1,
        "43.1.positions_not_shifted": text,
        "43.1.positions_count_padding": torch.arange(whole.shape[1]).expand_as(whole),
        "43.1.positions_of_prompt_zero": torch.cat([0 * whole[:, :p], mask.cumsum(1) - 1], dim=1),
    }
    gap = {"found": found[1].tolist(), "right": right[1].tolist(), "mask": whole[1].tolist(), "side": side}
    if not torch.equal(found[real], right[real]):
        for key, wrong in named.items():
            if torch.equal(found[real], wrong[real]):
                raise Wrong(key, **gap)
        raise Wrong("43.1.positions_value", **gap)
    if (found < 0).any():
        raise Wrong("43.1.negative_position", **gap)


def _name_labels(found: torch.Tensor, labels: torch.Tensor, p: int) -> None:
    import torch

    block = labels.new_full((len(labels), p), UNLEARNT)
    right = torch.cat([block, labels], dim=1)
    if found.shape != right.shape:
        raise Wrong("43.1.labels_not_padded" if found.shape == labels.shape else "43.1.labels_shape",
                    found=tuple(found.shape), right=tuple(right.shape))
    if torch.equal(found, right):
        return
    if torch.equal(found[:, p:], labels) and (found[:, :p] >= 0).all():
        raise Wrong("43.1.labels_learnt", found=int(found[0, 0]))
    if torch.equal(found, torch.cat([labels, block], dim=1)):
        raise Wrong("43.1.labels_behind")
    raise Wrong("43.1.labels_value", found=found[1].tolist(), right=right[1].tolist())


# --- 43.2 -------------------------------------------------------------------------------------------------


@check_of("43.2", "A prefix as a cache that nobody said", minutes=12)
def attend_with_prefix(attempt: Callable) -> None:
    """Causal attention behind a prefix: a whole text first, then one more token against a cache."""
    import torch

    rng = random.Random(0)
    for T, S in ((5, 5), (1, 6), (3, 7)):
        H, h, p = 2, rng.choice((4, 6)), rng.randint(2, 4)
        Q, K, V = torch.randn(2, H, T, h), torch.randn(2, H, S, h), torch.randn(2, H, S, h)
        P_K, P_V = torch.randn(H, p, h), torch.randn(H, p, h)
        given = [t.clone() for t in (Q, K, V, P_K, P_V)]
        found = attempt(Q, K, V, P_K, P_V)
        if any(not torch.equal(a, b) for a, b in zip((Q, K, V, P_K, P_V), given, strict=True)):
            raise Wrong("43.2.in_place")
        if not isinstance(found, torch.Tensor) or found.shape != Q.shape:
            shape = tuple(getattr(found, "shape", ())) or type(found).__name__
            key = "43.2.queries_too" if shape == (2, H, T + p, h) else "43.2.shape"
            raise Wrong(key, found=shape, right=tuple(Q.shape))
        _name_prefixed(found, Q, K, V, P_K, P_V)


def _name_prefixed(found: torch.Tensor, Q, K, V, P_K, P_V) -> None:
    """Raise Wrong if `found` is not causal attention to [P ; text], by the name of what it is."""
    import torch
    from torch.nn import functional as F

    (T, h), S, p = Q.shape[-2:], K.shape[2], P_K.shape[1]
    P_K, P_V = P_K.expand(len(Q), -1, -1, -1), P_V.expand(len(Q), -1, -1, -1)
    causal = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    front = torch.ones(T, p, dtype=torch.bool)

    def attention(keys, values, mask=None, scale=h**-0.5):
        return F.scaled_dot_product_attention(Q, keys, values, mask, scale=scale)

    K2, V2, mask = torch.cat([P_K, K], 2), torch.cat([P_V, V], 2), torch.cat([front, causal], 1)
    if same(found, attention(K2, V2, mask)):
        return
    text, prefix = attention(K, V, causal), attention(P_K, P_V)
    scores = (Q @ K2.mT / h**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    share = scores[..., :p].sum(-1, keepdim=True)  # each query's own
    one = share.mean()
    named = {
        "43.2.no_prefix": [text],
        "43.2.prefix_only": [prefix],
        "43.2.two_softmaxes": [text + prefix],
        "43.2.one_share": [(1 - one) * text + one * prefix, (text + prefix) / 2,
                           *((1 - s) * text + s * prefix for s in (share.mean((-2, -1), keepdim=True),
                                                                   share.mean((0, 1, 2), keepdim=True)))],
        "43.2.swapped_shares": [share * text + (1 - share) * prefix],
        "43.2.no_mask": [attention(K2, V2)],
        "43.2.prefix_masked": [attention(K2, V2, torch.ones(T, S + p, dtype=torch.bool).tril())],
        "43.2.cache_hidden": [attention(K2, V2, torch.cat([front, torch.ones(T, S, dtype=torch.bool).tril()], 1))],
        "43.2.no_scale": [attention(K2, V2, mask, scale=1.0)],
        "43.2.keys_as_values": [attention(K2, torch.cat([P_K, V], 2), mask)],
        "43.2.swapped": [attention(torch.cat([P_V, K], 2), torch.cat([P_K, V], 2), mask)],
        "43.2.values_misaligned": [attention(K2, torch.cat([V, P_V], 2), mask)],
        "43.2.mask_misaligned": [attention(K2, V2, torch.cat([causal, front], 1)),
                                 attention(torch.cat([K, P_K], 2), torch.cat([V, P_V], 2), mask)],
        "43.2.zero_values": [attention(K2, torch.cat([0 * P_V, V], 2), mask)],
    }
    for key, wrongs in named.items():
        if any(same(found, wrong) for wrong in wrongs):
            raise Wrong(key, T=T, S=S)
    if found.isnan().any():
        raise Wrong("43.2.nan")
    raise Wrong("43.2.value", gap=f"{(found - attention(K2, V2, mask)).abs().max():.2g}", T=T, S=S)


# --- 43.3 -------------------------------------------------------------------------------------------------


@check_of("43.3", "A gate that starts at nothing", minutes=12)
def gated_prefix(attempt: Callable) -> None:
    """LLaMA-Adapter's attention: exactly nothing at g = 0, its own softmax, the gate outside it, one a head."""
    import torch
    from torch.nn import functional as F

    H, T, h, p = 3, 3, 4, 2  # as many heads as queries: a gate along the wrong axis fits, and is named
    Q, K, V = torch.randn(2, H, T, h), torch.randn(2, H, 5, h), torch.randn(2, H, 5, h)
    P_K, P_V = torch.randn(H, p, h), torch.randn(H, p, h)
    text = F.scaled_dot_product_attention(Q, K, V)
    g, closed = torch.tensor([0.5, -0.3, 2.0], requires_grad=True), torch.zeros(H, requires_grad=True)
    found, nothing = attempt(Q, K, V, P_K, P_V, g), attempt(Q, K, V, P_K, P_V, closed)
    for answer in (found, nothing):
        if not isinstance(answer, torch.Tensor) or answer.shape != Q.shape:
            raise Wrong("43.3.shape", found=tuple(getattr(answer, "shape", ())) or type(answer).__name__,
                        right=tuple(Q.shape))
    gap = f"{(nothing - text).detach().abs().max():.2g}"  # what the closed gate has changed
    with torch.no_grad():
        _name_gated(found, text, Q, K, V, P_K, P_V, g, gap)
    if not same(nothing, text):
        raise Wrong("43.3.not_nothing", gap=gap)
    if not nothing.requires_grad:
        raise Wrong("43.3.no_gradient")
    nothing.sum().backward()
    if closed.grad is None or not closed.grad.any():
        raise Wrong("43.3.no_gradient")


def _name_gated(found: torch.Tensor, text: torch.Tensor, Q, K, V, P_K, P_V, g, gap: str) -> None:
    """Raise Wrong if `found` is not text + tanh(g) * (attention to the prefix alone), by the name of what it is."""
    import torch
    from torch.nn import functional as F

    p, h = P_K.shape[1:]
    scores, own = Q @ P_K.mT / h**0.5, Q @ K.mT / h**0.5
    prefix = scores.softmax(-1) @ P_V

    def joint(prompt_scores, prompt_values):
        weights = torch.cat([prompt_scores, own], -1).softmax(-1)
        return weights[..., :p] @ prompt_values + weights[..., p:] @ V

    def over(axis, values):
        return values.view([-1 if i == axis else 1 for i in range(4)])

    t = over(1, g.tanh())
    if same(found, text + t * prefix):
        return
    gates = {"": t, "g": over(1, g), "sigmoid": over(1, g.sigmoid())}
    named = {
        "43.3.inside_softmax": [
            *(joint(gate * scores, P_V) for gate in gates.values()),
            *(text + (gate * scores).softmax(-1) @ P_V for gate in gates.values()),
            *(joint(scores + gate, P_V) for gate in gates.values()),
        ],
        "43.3.joint_softmax": [joint(scores, gate * P_V) for gate in gates.values()],
        "43.3.sigmoid": [text + gates["sigmoid"] * prefix],
        "43.3.no_tanh": [text + gates["g"] * prefix],
        "43.3.no_gate": [text + prefix, joint(scores, P_V)],
        "43.3.text_gated": [(1 - gate) * text + gate * prefix for gate in gates.values()],
        "43.3.prefix_only": [gate * prefix for gate in gates.values()],
        "43.3.all_gated": [gate * (text + prefix) for gate in gates.values()],
        "43.3.wrong_axis": [text + over(axis, f) * prefix for axis in (2,) for f in (g.tanh(), g)],
        "43.3.one_gate": [text + f(g).tanh() * prefix for f in (torch.mean, torch.sum, torch.max, lambda g: g[0])],
        "43.3.no_scale": [text + t * ((Q @ P_K.mT).softmax(-1) @ P_V)],
        "43.3.no_text_scale": [(Q @ K.mT).softmax(-1) @ V + t * prefix],
        "43.3.keys_as_values": [text + t * (scores.softmax(-1) @ P_K)],
        "43.3.subtracted": [text - t * prefix],
        "43.3.no_prefix": [text],
        "43.3.causal": [F.scaled_dot_product_attention(Q, K, V, is_causal=True) + t * prefix],
    }
    for key, wrongs in named.items():
        if any(same(found, wrong) for wrong in wrongs):
            raise Wrong(key, gap=gap)
    raise Wrong("43.3.value", gap=f"{(found - text - t * prefix).abs().max():.2g}")


# --- 43.4 -------------------------------------------------------------------------------------------------


@check_of("43.4", "What a prefix trains and what it keeps", minutes=8)
def prefix_numbers(attempt: Callable) -> None:
    """Both counts over random sizes, grouped heads among them (k < d)."""
    rng = random.Random(0)
    for sizes in ((10, 576, 192, 30, 512), *(_sizes(rng) for _ in range(3))):
        p, d, k, L, m = sizes
        answer = attempt(p, d, k, L, m)
        try:
            trained, stored = answer
        except (TypeError, ValueError):
            raise Wrong("43.4.not_two", found=repr(answer)) from None
        keep, mlp = 2 * L * p * k, (d + 1) * m + (m + 1) * 2 * L * k
        start = p * d
        gap = {"trained": trained, "stored": stored, "right_trained": start + mlp, "right_stored": keep,
               "p": p, "d": d, "k": k, "L": L, "m": m}
        if (trained, stored) == (keep, start + mlp):
            raise Wrong("43.4.exchanged", **gap)
        named = {
            "43.4.network_stored": {keep + mlp, start + mlp, keep + start + mlp},
            "43.4.full_width": {2 * L * p * d},
            "43.4.one_of_key_value": {L * p * k},
            "43.4.one_layer": {2 * p * k},
            "43.4.start_stored": {p * d, keep + p * d},
        }
        for key, wrong in named.items():
            if stored != keep and stored in wrong:
                raise Wrong(key, **gap)
        if stored != keep:
            raise Wrong("43.4.stored_value", **gap)
        named = {
            "43.4.no_biases": {start + d * m + m * 2 * L * k, d * m + m * 2 * L * k},
            "43.4.no_start": {mlp},
            "43.4.only_kept": {keep, keep + start},
            "43.4.network_for_each": {start + p * mlp, p * (d + mlp)},
            "43.4.both": {keep + start + mlp, keep + mlp},
            "43.4.full_width_network": {start + (d + 1) * m + (m + 1) * 2 * L * d},
        }
        for key, wrong in named.items():
            if trained != start + mlp and trained in wrong:
                raise Wrong(key, **gap)
        if trained != start + mlp:
            raise Wrong("43.4.trained_value", **gap)
        if isinstance(trained, float) or isinstance(stored, float):
            raise Wrong("43.4.float", **gap)


def _sizes(rng: random.Random) -> tuple[int, int, int, int, int]:
    """p, d, k, L, m with k a part of d."""
    k = rng.randint(5, 9)
    return rng.randint(2, 9), k * rng.randint(2, 4), k, rng.randint(3, 7), rng.randint(10, 20)
