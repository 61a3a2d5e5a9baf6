"""The checks of chapter 21: right answers in several forms pass, each typical wrong one gets its own name."""

import math

import pytest
import torch
from torch.nn import functional as F

from course_lib.exercises.registry import judge
from course_lib.language_models import blocks

# --- 21.1 -------------------------------------------------------------------------------------------------


def attention(Q, K, V, mask=None):
    scores = Q @ K.mT / Q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1).nan_to_num(0) @ V


def by_torch(Q, K, V, mask=None):
    return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


def by_hand(Q, K, V, mask=None):
    """No softmax function; the maximum subtracted, a very negative number instead of -inf."""
    scores = torch.einsum("...td,...sd->...ts", Q, K) * K.size(-1) ** -0.5
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    e = (scores - scores.amax(-1, keepdim=True).detach()).exp() * mask
    return e @ V / e.sum(-1, keepdim=True).clamp(min=1e-30)


def added_mask(Q, K, V, mask=None):
    """-1e9 added where the mask is False, zeros put back behind the softmax."""
    scores = torch.matmul(Q, K.transpose(-2, -1)) / math.sqrt(Q.size(-1))
    if mask is None:
        return torch.softmax(scores, dim=-1) @ V
    return (torch.softmax(scores + (~mask) * -1e9, dim=-1) * mask) @ V


@pytest.mark.parametrize("answer", [attention, by_torch, by_hand, added_mask])
def test_attention_accepts(answer):
    assert judge("21.1", answer).status == "right"


def scores_of(Q, K, mask=None, scale=None):
    scores = Q @ K.mT * (Q.shape[-1] ** -0.5 if scale is None else scale)
    return scores if mask is None else scores.masked_fill(~mask, -math.inf)


def unmasked(change):
    """An attempt that is `change(scaled scores, V, Q, K)` whatever the mask."""
    return lambda Q, K, V, mask=None: change(scores_of(Q, K), V, Q, K)


def masked(change):
    """An attempt that is right without a mask and `change(scaled scores, V, mask)` with one."""
    return lambda Q, K, V, mask=None: attention(Q, K, V) if mask is None else change(scores_of(Q, K), V, mask)


def article_003(Q, K, V, mask=None):
    e = scores_of(Q, K).exp()
    return e / e.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def renormalised(scores, V, mask):
    A = scores.softmax(-1) * mask
    return A / A.sum(-1, keepdim=True) @ V


def covered_at_the_end(scores, V, mask):
    """The empty rows' NaN is replaced behind the product with V: V's gradient is NaN."""
    answer = scores.masked_fill(~mask, -math.inf).softmax(-1) @ V
    return torch.where(answer.isnan(), 0.0, answer)


def spoils_others(scores, V, mask):
    if mask.any(-1).all():
        return attention_weights(scores, mask) @ V
    return (attention_weights(scores, mask) * mask.any(-1).all()) @ V


def attention_weights(scores, mask):
    return scores.masked_fill(~mask, -math.inf).softmax(-1).nan_to_num(0)


def keeps_one_in_empty_rows(scores, V, mask):
    return attention_weights(scores, mask) @ V + (~mask.any(-1, keepdim=True)).float()


def overflows(Q, K, V, mask=None):
    e = (scores_of(Q, K)).exp()
    e = e if mask is None else e.where(mask.expand(e.shape), 0.0)
    return e @ V / e.sum(-1, keepdim=True).clamp(min=1e-30)


def changes_mask(scores, V, mask):
    answer = attention_weights(scores, mask) @ V
    mask.logical_not_()
    return answer


def without_gradient(Q, K, V, mask=None):
    with torch.no_grad():
        return attention(Q, K, V, mask)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("21.1.not_a_tensor", unmasked(lambda s, V, Q, K: (s.softmax(-1) @ V, s))),
        ("21.1.shape", unmasked(lambda s, V, Q, K: s.softmax(-1) @ K)),
        ("21.1.no_values", unmasked(lambda s, V, Q, K: s.softmax(-1))),
        ("21.1.article", lambda Q, K, V, mask=None: scores_of(Q, K).exp()),
        ("21.1.no_scale", unmasked(lambda s, V, Q, K: (Q @ K.mT).softmax(-1) @ V)),
        ("21.1.scale", unmasked(lambda s, V, Q, K: (Q @ K.mT / Q.shape[-1]).softmax(-1) @ V)),
        ("21.1.scale", unmasked(lambda s, V, Q, K: (Q @ K.mT / V.shape[-1] ** 0.5).softmax(-1) @ V)),
        ("21.1.scale", unmasked(lambda s, V, Q, K: (Q @ K.mT / Q.shape[-2] ** 0.5).softmax(-1) @ V)),
        ("21.1.scale_after", unmasked(lambda s, V, Q, K: (Q @ K.mT).softmax(-1) / Q.shape[-1] ** 0.5 @ V)),
        ("21.1.over_queries", unmasked(lambda s, V, Q, K: s.softmax(-2) @ V)),
        ("21.1.over_queries", unmasked(lambda s, V, Q, K: F.softmax(s, dim=1 if s.dim() > 2 else 0) @ V)),
        ("21.1.over_all", unmasked(lambda s, V, Q, K: s.flatten(-2).softmax(-1).view(s.shape) @ V)),
        ("21.1.no_softmax", unmasked(lambda s, V, Q, K: s @ V)),
        ("21.1.not_normalised", unmasked(lambda s, V, Q, K: s.exp() @ V)),
        ("21.1.unit_length", unmasked(lambda s, V, Q, K: F.normalize(s.softmax(-1) @ V, dim=-1))),
        ("21.1.sum_of_scores", unmasked(lambda s, V, Q, K: s / s.sum(-1, keepdim=True) @ V)),
        ("21.1.value", unmasked(lambda s, V, Q, K: s.softmax(-1) @ V + 0.1)),
        ("21.1.overflow", overflows),
        ("21.1.mask_ignored", masked(lambda s, V, mask: s.softmax(-1) @ V)),
        ("21.1.mask_inverted", masked(lambda s, V, mask: attention_weights(s, ~mask) @ V)),
        ("21.1.mask_inverted", masked(lambda s, V, mask: s.masked_fill(mask, -math.inf).softmax(-1) @ V)),
        ("21.1.mask_after", masked(lambda s, V, mask: (s.softmax(-1) * mask) @ V)),
        ("21.1.mask_times_scores", masked(lambda s, V, mask: (s * mask).softmax(-1) @ V)),
        ("21.1.mask_added", masked(lambda s, V, mask: (s + mask).softmax(-1) @ V)),
        ("21.1.mask_no_scale", masked(lambda s, V, mask: attention_weights(s * 8**0.5, mask) @ V)),
        ("21.1.mask_nan", masked(lambda s, V, mask: (s + (~mask) * -math.inf).softmax(-1) @ V)),
        ("21.1.mask_value", masked(lambda s, V, mask: attention_weights(s, mask.mT) @ V)),
        ("21.1.mask_changed", masked(changes_mask)),
        ("21.1.late", masked(renormalised)),
        ("21.1.late", masked(lambda s, V, mask: s.masked_fill(~mask, -20).softmax(-1) @ V)),
        ("21.1.empty_nan", masked(lambda s, V, mask: s.masked_fill(~mask, -math.inf).softmax(-1) @ V)),
        ("21.1.empty_mean", masked(lambda s, V, mask: s.masked_fill(~mask, -1e9).softmax(-1) @ V)),
        ("21.1.empty_row", masked(keeps_one_in_empty_rows)),
        ("21.1.empty_others", masked(spoils_others)),
        ("21.1.no_gradient", without_gradient),
        ("21.1.no_gradient", lambda Q, K, V, mask=None: attention(Q, K.detach(), V, mask)),
        ("21.1.gradient_nan", masked(covered_at_the_end)),
        ("general.unusable", lambda Q, K, V: attention(Q, K, V)),
    ],
)
def test_attention_names(key, answer):
    assert judge("21.1", answer).key == key


def test_the_printed_formula_of_article_003_is_refused_even_where_shapes_agree():
    assert judge("21.1", article_003).key in ("21.1.article", "general.raised")


# --- 21.2 -------------------------------------------------------------------------------------------------


def split(x, heads):
    B, T, d = x.shape
    return x.view(B, T, heads, d // heads).transpose(1, 2)


def join(x):
    B, H, T, h = x.shape
    return x.transpose(1, 2).reshape(B, T, H * h)


def multi_head(X, W_Q, W_K, W_V, W_O, num_heads, mask=None):
    Q, K, V = (split(X @ W, num_heads) for W in (W_Q, W_K, W_V))
    return join(by_torch(Q, K, V, mask)) @ W_O


def by_loop(X, W_Q, W_K, W_V, W_O, num_heads, mask=None):
    h = X.shape[-1] // num_heads
    parts = [slice(i * h, (i + 1) * h) for i in range(num_heads)]
    heads = [attention(X @ W_Q[:, c], X @ W_K[:, c], X @ W_V[:, c], mask) for c in parts]
    return torch.cat(heads, dim=-1) @ W_O


def by_course_library(X, W_Q, W_K, W_V, W_O, num_heads, mask=None):
    """The same numbers through course_lib's own attention."""
    module = blocks.Attention(X.shape[-1], num_heads, bias=False)
    return torch.func.functional_call(
        module,
        {"query.weight": W_Q.T, "key_value.weight": torch.cat([W_K.T, W_V.T]), "output.weight": W_O.T},
        (X,),
        {"mask": mask},
    )


@pytest.mark.parametrize("answer", [multi_head, by_loop, by_course_library])
def test_multi_head_accepts(answer):
    assert judge("21.2", answer).status == "right"


def parts(into=split, out=join, scale=None, attend=None):
    """Multi-head attention with one of its parts replaced."""

    def answer(X, W_Q, W_K, W_V, W_O, num_heads, mask=None):
        Q, K, V = (into(X @ W, num_heads) for W in (W_Q, W_K, W_V))
        found = (
            attend(Q, K, V, mask) if attend else F.scaled_dot_product_attention(Q, K, V, attn_mask=mask, scale=scale)
        )
        return out(found) @ W_O if out(found).shape == X.shape else out(found)

    return answer


def viewed(x, heads):
    B, T, d = x.shape
    return x.view(B, heads, T, d // heads)


def flat(x):
    B, H, T, h = x.shape
    return x.reshape(B, T, H * h)


def strided(x, heads):
    B, T, d = x.shape
    return x.view(B, T, d // heads, heads).permute(0, 3, 1, 2)


def strided_back(x):
    return x.permute(0, 2, 3, 1).flatten(-2)


def with_weights(change):
    return lambda X, W_Q, W_K, W_V, W_O, H, mask=None: change(X, W_Q, W_K, W_V, W_O, H, mask)


def heads_at_a_position(X, W_Q, W_K, W_V, W_O, H, mask=None):
    Q, K, V = ((X @ W).unflatten(-1, (H, -1)) for W in (W_Q, W_K, W_V))
    return by_torch(Q, K, V).flatten(-2) @ W_O


def inputs_summed(X, W_Q, W_K, W_V, W_O, H, mask=None):
    return multi_head(X, W_Q, W_K, torch.eye(X.shape[-1]), W_O, H, mask)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_a_tensor", with_weights(lambda *args: (multi_head(*args), None))),
        ("shape", with_weights(lambda *args: multi_head(*args).transpose(0, 1))),
        ("heads_summed", parts(out=lambda heads: heads.mean(1))),
        ("mixed_in", parts(into=viewed, out=flat)),
        ("mixed_in", parts(into=viewed)),
        ("mixed_out", parts(out=flat)),
        ("strided", parts(into=strided, out=strided_back)),
        ("strided", parts(into=strided)),
        ("scale_model", with_weights(lambda X, *rest: parts(scale=X.shape[-1] ** -0.5)(X, *rest))),
        ("no_scale", parts(scale=1.0)),
        ("one_head", with_weights(lambda X, q, k, v, o, H, m: multi_head(X, q, k, v, o, 1, m))),
        ("no_output", with_weights(lambda X, q, k, v, o, H, m: multi_head(X, q, k, v, torch.eye(X.shape[-1]), H, m))),
        ("transposed", with_weights(lambda X, q, k, v, o, H, m: multi_head(X, q.T, k.T, v.T, o.T, H, m))),
        ("transposed", with_weights(lambda X, q, k, v, o, H, m: multi_head(X, q.T, k.T, v.T, o, H, m))),
        ("one_projection", with_weights(lambda X, q, k, v, o, H, m: multi_head(X, q, q, q, o, H, m))),
        ("one_projection", with_weights(lambda X, q, k, v, o, H, m: multi_head(X, q, k, k, o, H, m))),
        ("inputs_summed", inputs_summed),
        ("over_queries", parts(attend=lambda Q, K, V, mask: scores_of(Q, K).softmax(-2) @ V)),
        ("heads_look_at_heads", heads_at_a_position),
        ("mask_ignored", parts(attend=lambda Q, K, V, mask: attention(Q, K, V))),
        ("mask_inverted", parts(attend=lambda Q, K, V, mask: attention(Q, K, V, None if mask is None else ~mask))),
        ("value", with_weights(lambda *args: 1.1 * multi_head(*args))),
        ("no_gradient", with_weights(lambda X, *rest: multi_head(X.detach(), *rest))),
    ],
)
def test_multi_head_names(key, answer):
    assert judge("21.2", answer).key == f"21.2.{key}"


# --- 21.3 -------------------------------------------------------------------------------------------------


def rotary(Q, K, V, positions, base=10_000.0):
    return turned(Q, positions, base), turned(K, positions, base), V


def turned(x, positions, base, sign=1):
    d = x.shape[-1]
    angle = positions[:, None] * base ** (-torch.arange(0, d, 2) / d)
    a, b = x[..., : d // 2], x[..., d // 2 :]
    c, s = angle.cos(), sign * angle.sin()
    return torch.cat([a * c - b * s, a * s + b * c], dim=-1)


def by_blocks(Q, K, V, positions, base=10_000.0):
    angles = blocks.rotary_angles(positions, Q.shape[-1], base)
    return [blocks.rotate(Q, angles), blocks.rotate(K, angles), V]


def by_complex(Q, K, V, positions, base=10_000.0):
    i = torch.arange(Q.shape[-1] // 2)
    angle = torch.outer(positions.float(), base ** (-i / len(i)))
    turn = torch.polar(torch.ones_like(angle), angle)
    Q, K = (torch.complex(*x.chunk(2, -1)) * turn for x in (Q, K))
    return torch.cat([Q.real, Q.imag], -1), torch.cat([K.real, K.imag], -1), V


@pytest.mark.parametrize("answer", [rotary, by_blocks, by_complex])
def test_rotary_accepts(answer):
    assert judge("21.3", answer).status == "right"


def both(change):
    """Queries and keys turned by `change(x, positions, base)`."""
    return lambda Q, K, V, positions, base: (change(Q, positions, base), change(K, positions, base), V)


def interleaved(x, positions, base):
    d = x.shape[-1]
    order = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])
    return turned(x[..., order], positions, base)[..., order.argsort()]


def scaled_angles(power):
    def turn(x, positions, base):
        return turned(x, positions, base ** (power / -2))

    return turn


def angles(x, positions, base):
    d = x.shape[-1]
    return (positions[:, None] * base ** (-torch.arange(0, d, 2) / d)).repeat(1, 2)


def no_minus(x, positions, base):
    a, b = x.chunk(2, -1)
    angle = angles(x, positions, base)
    return x * angle.cos() + torch.cat([b, a], -1) * angle.sin()


def added(x, positions, base):
    angle = angles(x, positions, base)[:, : x.shape[-1] // 2]
    return x + torch.cat([angle.sin(), angle.cos()], -1)


def by_head(x, positions, base):
    return turned(x.transpose(1, 2), torch.arange(x.shape[1]), base).transpose(1, 2)


def in_place(Q, K, V, positions, base):
    found = rotary(Q, K, V, positions, base)
    Q.copy_(found[0])
    return found


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_three", lambda Q, K, V, positions, base: turned(Q, positions, base)),
        ("not_a_tensor", lambda Q, K, V, positions, base: (*rotary(Q, K, V, positions, base)[:2], None)),
        ("shape", lambda Q, K, V, positions, base: (turned(Q, positions, base), turned(K, positions, base)[:, :1], V)),
        ("in_place", in_place),
        ("nothing", both(lambda x, positions, base: x)),
        ("queries_left", lambda Q, K, V, positions, base: (Q, turned(K, positions, base), V)),
        ("keys_left", lambda Q, K, V, positions, base: (turned(Q, positions, base), K, V)),
        ("values_turned", lambda Q, K, V, positions, base: [turned(x, positions, base) for x in (Q, K, V)]),
        ("backwards", both(lambda x, positions, base: turned(x, positions, base, sign=-1))),
        ("backwards", lambda Q, K, V, p, base: (turned(Q, p, base), turned(K, p, base, sign=-1), V)),
        ("interleaved", both(interleaved)),
        ("positions_ignored", both(lambda x, positions, base: turned(x, torch.arange(len(positions)), base))),
        ("off_by_one", both(lambda x, positions, base: turned(x, positions + 1, base))),
        ("base_ignored", both(lambda x, positions, base: turned(x, positions, 10_000.0))),
        ("frequencies", both(scaled_angles(-1))),
        ("frequencies", both(scaled_angles(2))),
        ("one_frequency", both(lambda x, positions, base: turned(x, positions, 1.0))),
        ("no_minus", both(no_minus)),
        ("cosine_only", both(lambda x, positions, base: x * angles(x, positions, base).cos())),
        ("added", both(added)),
        ("heads_turned", both(by_head)),
        ("value", both(lambda x, positions, base: turned(x, 2 * positions, base))),
    ],
)
def test_rotary_names(key, answer):
    assert judge("21.3", answer).key == f"21.3.{key}"
