"""The checks of chapter 44: right answers in several forms pass, each typical wrong one gets its own name."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.exercises.registry import judge

# --- 44.1 -------------------------------------------------------------------------------------------------


def attend(block, x, Q=lambda y: y, K=lambda y: y, V=lambda y: y, after=lambda y: y, rotate=None, root=True, dim=-1):
    """One head; what is done to queries, keys and values, and to the rotated keys, is given."""
    rotate = rotate or block.rotate
    q, k, v = rotate(Q(block.query(x))), after(rotate(K(block.key(x)))), V(block.value(x))
    return (q @ k.T / (q.shape[-1] ** 0.5 if root else 1)).softmax(dim) @ v


def feed(block, x, l_ff):
    return block.ffn_out(l_ff * block.act(block.ffn_in(x)))


def scaled_block(block, x, l_k, l_v, l_ff):
    return attend(block, x, K=lambda y: l_k * y, V=lambda y: l_v * y), feed(block, x, l_ff)


def by_weights(block, x, l_k, l_v, l_ff):
    """Merged first, and the values scaled after attention, which is the same."""
    key = F.linear(x, l_k[:, None] * block.key.weight, l_k * block.key.bias)
    Q, K = block.rotate(block.query(x)), block.rotate(key)
    attended = F.scaled_dot_product_attention(Q[None], K[None], block.value(x)[None])[0] * l_v
    return [attended, F.linear(block.act(block.ffn_in(x)), block.ffn_out.weight * l_ff, block.ffn_out.bias)]


@pytest.mark.parametrize("answer", [scaled_block, by_weights])
def test_scaled_block_accepts(answer):
    assert judge("44.1", answer).status == "right"


def with_attention(**options):
    """The right FFN beside an attention whose parts are functions of (l_k, l_v)."""
    def answer(block, x, l_k, l_v, l_ff):
        made = {name: part(l_k, l_v) if callable(part) else part for name, part in options.items()}
        return attend(block, x, **made), feed(block, x, l_ff)

    return answer


def turned_values(block, x, l_k, l_v, l_ff):
    """The rotation on the values too."""
    return attend(block, x, K=lambda y: l_k * y, V=lambda y: block.rotate(l_v * y)), feed(block, x, l_ff)


def scales_without_the_bias(block, x, l_k, l_v, l_ff):
    def scaled(linear, scale):
        return lambda y: scale * (x @ linear.weight.T) + linear.bias

    return attend(block, x, K=scaled(block.key, l_k), V=scaled(block.value, l_v)), feed(block, x, l_ff)


def with_ffn(make):
    return lambda block, x, l_k, l_v, l_ff: (scaled_block(block, x, l_k, l_v, l_ff)[0], make(block, x, l_ff))


def times_k(l_k, l_v):
    return lambda y: l_k * y


def times_v(l_k, l_v):
    return lambda y: l_v * y


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("on_q", with_attention(Q=times_k, V=times_v)),
        ("on_q_too", with_attention(Q=times_k, K=times_k, V=times_v)),
        ("after_rope", with_attention(after=times_k, V=times_v)),
        ("no_rope", with_attention(K=times_k, V=times_v, rotate=lambda l_k, l_v: lambda y: y)),
        ("rope_on_v", turned_values),
        ("bias_left_out", scales_without_the_bias),
        ("v_missing", with_attention(K=times_k)),
        ("k_missing", with_attention(V=times_v)),
        ("swapped", with_attention(K=times_v, V=times_k)),
        ("one_plus", with_attention(K=lambda k, v: lambda y: (1 + k) * y, V=lambda k, v: lambda y: (1 + v) * y)),
        ("added", with_attention(K=lambda k, v: lambda y: k + y, V=lambda k, v: lambda y: v + y)),
        ("no_root", with_attention(K=times_k, V=times_v, root=False)),
        ("over_queries", with_attention(K=times_k, V=times_v, dim=0)),
        ("nothing", with_attention()),
        ("attention_value", with_attention(K=lambda k, v: lambda y: y * k.square(), V=times_v)),
        ("before_activation", with_ffn(lambda b, x, l: b.ffn_out(b.act(l * b.ffn_in(x))))),
        ("twice", with_ffn(lambda b, x, l: b.ffn_out(l * b.act(l * b.ffn_in(x))))),
        ("no_activation", with_ffn(lambda b, x, l: b.ffn_out(l * b.ffn_in(x)))),
        ("ffn_added", with_ffn(lambda b, x, l: b.ffn_out(l + b.act(b.ffn_in(x))))),
        ("ffn_one_plus", with_ffn(lambda b, x, l: feed(b, x, 1 + l))),
        ("ffn_residual", with_ffn(lambda b, x, l: x + feed(b, x, l))),
        ("ffn_nothing", with_ffn(lambda b, x, l: b.ffn_out(b.act(b.ffn_in(x))))),
        ("ffn_value", with_ffn(lambda b, x, l: -feed(b, x, l))),
        ("order", lambda *given: scaled_block(*given)[::-1]),
        ("not_two", lambda *given: scaled_block(*given)[0].sum()),
        ("no_gradient", lambda b, x, k, v, f: scaled_block(b, x, k.detach(), v, f)),
    ],
)
def test_scaled_block_names(key, answer):
    assert judge("44.1", answer).key == f"44.1.{key}"


# --- 44.2 -------------------------------------------------------------------------------------------------


def merged(linear, weight, bias=None):
    new = copy.deepcopy(linear)
    with torch.no_grad():
        new.weight.copy_(weight)
        if new.bias is not None and bias is not None:
            new.bias.copy_(bias)
    return new


def merge_scales(linear, l_in, l_out):
    bias = None if linear.bias is None else l_out * linear.bias
    return merged(linear, l_out[:, None] * linear.weight * l_in, bias)


def by_diagonals(linear, l_in, l_out):
    out, into = linear.weight.shape
    new = nn.Linear(into, out, bias=linear.bias is not None)
    new.weight = nn.Parameter(torch.diag(l_out) @ linear.weight.detach() @ torch.diag(l_in))
    if linear.bias is not None:
        new.bias = nn.Parameter(linear.bias.detach() * l_out)
    return new


@pytest.mark.parametrize("answer", [merge_scales, by_diagonals])
def test_merge_accepts(answer):
    assert judge("44.2", answer).status == "right"


def in_place(linear, l_in, l_out):
    with torch.no_grad():
        linear.weight.mul_(l_out[:, None] * l_in)
        if linear.bias is not None:
            linear.bias.mul_(l_out)
    return linear


def loses_bias(linear, l_in, l_out):
    new = nn.Linear(*linear.weight.shape[::-1], bias=False)
    new.weight = nn.Parameter(l_out[:, None] * linear.weight.detach() * l_in)
    return new


def swapped(linear, l_in, l_out):
    if linear.weight.shape[0] != linear.weight.shape[1]:
        return merge_scales(linear, l_in, l_out)
    return merged(linear, l_in[:, None] * linear.weight * l_out, l_out * linear.bias)


def bias_scaled(how):
    def answer(linear, l_in, l_out):
        bias = None if linear.bias is None else how(linear.bias, l_in, l_out)
        return merged(linear, l_out[:, None] * linear.weight * l_in, bias)

    return answer


def square_bias(how):
    """Where the shapes allow it, a wrong bias; else the right one."""
    return bias_scaled(lambda b, i, o: how(b, i, o) if len(i) == len(o) else b * o)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("in_place", in_place),
        ("bias_lost", loses_bias),
        ("swapped", swapped),
        ("bias_not_scaled", bias_scaled(lambda b, i, o: b)),
        ("bias_by_input", square_bias(lambda b, i, o: b * i)),
        ("bias_by_both", square_bias(lambda b, i, o: b * i * o)),
        ("bias_value", bias_scaled(lambda b, i, o: b / o)),
        ("out_only", lambda linear, i, o: merged(linear, o[:, None] * linear.weight)),
        ("in_only", lambda linear, i, o: merged(linear, linear.weight * i)),
        ("nothing", lambda linear, i, o: copy.deepcopy(linear)),
        ("divided", lambda linear, i, o: merged(linear, linear.weight / o[:, None] / i)),
        ("value", lambda linear, i, o: merged(linear, linear.weight * i * 2)),
        ("not_linear", lambda linear, i, o: lambda x: o * linear(i * x)),
    ],
)
def test_merge_names(key, answer):
    assert judge("44.2", answer).key == f"44.2.{key}"


# --- 44.3 -------------------------------------------------------------------------------------------------


def ladder_gate(s, h, rung, a, T):
    m = torch.sigmoid(a / T)
    return m * s + (1 - m) * rung(h.detach())


def by_lerp(s, h, rung, a, T):
    with torch.no_grad():
        below = h + 0
    up = F.linear(below, rung.weight, rung.bias)
    return torch.lerp(up, s, 1 / (1 + torch.exp(-a / T)))


@pytest.mark.parametrize("answer", [ladder_gate, by_lerp])
def test_ladder_accepts(answer):
    assert judge("44.3", answer).status == "right"


def gated(gate, mix=lambda m, s, up: m * s + (1 - m) * up):
    return lambda s, h, rung, a, T: mix(gate(a, T), s, rung(h.detach()))


def right_gate(a, T):
    return torch.sigmoid(a / T)


def under_no_grad(s, h, rung, a, T):
    with torch.no_grad():
        return ladder_gate(s, h, rung, a, T)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_detached", lambda s, h, rung, a, T: torch.lerp(rung(h), s, torch.sigmoid(a / T))),
        ("swapped", gated(right_gate, lambda m, s, up: (1 - m) * s + m * up)),
        ("times_T", gated(lambda a, T: torch.sigmoid(a * T))),
        ("no_T", gated(lambda a, T: torch.sigmoid(a))),
        ("no_sigmoid", gated(lambda a, T: a / T)),
        ("tanh", gated(lambda a, T: torch.tanh(a / T))),
        ("sum", gated(right_gate, lambda m, s, up: s + up)),
        ("gate_on_h_only", gated(right_gate, lambda m, s, up: s + (1 - m) * up)),
        ("gate_on_s_only", gated(right_gate, lambda m, s, up: m * s + up)),
        ("no_rung_bias", lambda s, h, rung, a, T: torch.lerp(h.detach() @ rung.weight.T, s, right_gate(a, T))),
        ("rung_dead", lambda s, h, rung, a, T: torch.lerp(rung(h).detach(), s, right_gate(a, T))),
        ("side_detached", gated(right_gate, lambda m, s, up: m * s.detach() + (1 - m) * up)),
        ("gate_dead", gated(lambda a, T: torch.sigmoid(a.detach() / T))),
        ("no_gradient", under_no_grad),
        ("no_gradient", lambda *given: ladder_gate(*given).detach()),
        ("shape", lambda s, h, rung, a, T: h),
        ("value", gated(right_gate, lambda m, s, up: m * s - up)),
    ],
)
def test_ladder_names(key, answer):
    assert judge("44.3", answer).key == f"44.3.{key}"


# --- 44.4 -------------------------------------------------------------------------------------------------


def rank_one_edit(h, u, w, b, where):
    r = F.normalize(u, dim=0)
    change = (h @ w + b - h @ r)[..., None] * r
    return torch.where(where[..., None], h + change, h)


def by_projection(h, u, w, b, where):
    """What is at right angles to u stays; the coordinate along u is replaced."""
    length = (u * u).sum().sqrt()
    kept = h - torch.einsum("btd,d,e->bte", h, u, u) / length**2
    new = kept + (torch.einsum("btd,d->bt", h, w) + b)[:, :, None] * u / length
    chosen = where[:, :, None].float()
    return chosen * new + (1 - chosen) * h


@pytest.mark.parametrize("answer", [rank_one_edit, by_projection])
def test_edit_accepts(answer):
    assert judge("44.4", answer).status == "right"


def edit(change, at=lambda where: where[..., None]):
    """h plus a change made of (h, unit u, u, w . h + b, w) at the chosen positions."""
    def answer(h, u, w, b, where):
        r = u / u.norm()
        return h + at(where) * change(h, r, u, (h @ w + b)[..., None], w)

    return answer


def dot(h, v):
    return (h @ v)[..., None]


def writes_over(h, u, w, b, where):
    with torch.no_grad():
        h[where] = rank_one_edit(h, u, w, b, where)[where]
    return h


def frozen_length(h, u, w, b, where):
    r = u / u.norm().detach()
    return h + where[..., None] * (h @ w + b - h @ r)[..., None] * r


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_unit", edit(lambda h, r, u, new, w: (new - dot(h, u)) * u)),
        ("half_unit", edit(lambda h, r, u, new, w: (new - dot(h, r)) * u)),
        ("half_unit", edit(lambda h, r, u, new, w: (new - dot(h, u)) * r)),
        ("square_root", edit(lambda h, r, u, new, w: (new - dot(h, u) / u.norm() ** 2) * u)),
        ("everywhere", edit(lambda h, r, u, new, w: (new - dot(h, r)) * r, at=lambda where: 1)),
        ("inverted", edit(lambda h, r, u, new, w: (new - dot(h, r)) * r, at=lambda where: ~where[..., None])),
        ("only_added", edit(lambda h, r, u, new, w: new * r)),
        ("only_removed", edit(lambda h, r, u, new, w: -dot(h, r) * r)),
        ("sign", edit(lambda h, r, u, new, w: (dot(h, r) - new) * r)),
        ("plus_old", edit(lambda h, r, u, new, w: (new + dot(h, r)) * r)),
        ("along_w", edit(lambda h, r, u, new, w: (new - dot(h, r)) * w)),
        ("nothing", lambda h, u, w, b, where: h.clone()),
        ("delta_only", lambda h, u, w, b, where: rank_one_edit(h, u, w, b, where) - h),
        ("others_lost", lambda h, u, w, b, where: where[..., None] * rank_one_edit(h, u, w, b, where)),
        ("no_b", lambda h, u, w, b, where: rank_one_edit(h, u, w, 0 * b, where)),
        ("w_normalised", lambda h, u, w, b, where: rank_one_edit(h, u, w / w.norm(), b, where)),
        ("in_place", writes_over),
        ("shape", lambda h, u, w, b, where: h[where]),
        ("no_gradient", lambda h, u, w, b, where: rank_one_edit(h, u, w.detach(), b, where)),
        ("length_detached", frozen_length),
        ("value", lambda h, u, w, b, where: 2 * rank_one_edit(h, u, w, b, where)),
    ],
)
def test_edit_names(key, answer):
    assert judge("44.4", answer).key == f"44.4.{key}"
