"""The checks of chapter 43: right answers in several forms pass, each typical wrong one gets its own name."""

import pytest
import torch
from torch.nn import functional as F

from course_lib.exercises.registry import judge

# --- 43.1 -------------------------------------------------------------------------------------------------


def prepend(P, E, mask, labels):
    B, p = len(E), len(P)
    vectors = torch.cat([P.expand(B, -1, -1), E], dim=1)
    whole = torch.cat([mask.new_ones(B, p), mask], dim=1)
    positions = (whole.cumsum(1) - 1).clamp_min(0)
    return vectors, whole, positions, torch.cat([labels.new_full((B, p), -100), labels], dim=1)


def by_padding(P, E, mask, labels):
    vectors = torch.stack([torch.cat([P, row]) for row in E])
    whole = F.pad(mask, (len(P), 0), value=1)
    positions = F.pad((mask.cumsum(1) - 1).clamp_min(0) + len(P), (len(P), 0))
    positions[:, : len(P)] = torch.arange(len(P))
    return vectors, whole.bool(), positions, F.pad(labels, (len(P), 0), value=-100)


@pytest.mark.parametrize("answer", [prepend, by_padding])
def test_prepend_accepts(answer):
    assert judge("43.1", answer).status == "right"


def changed(which, change):
    """The right answer with one of the four replaced: change(its right value, P, E, mask, labels)."""

    def answer(P, E, mask, labels):
        four = list(prepend(P, E, mask, labels))
        four[which] = change(four[which], P, E, mask, labels)
        return tuple(four)

    return answer


def overwrites(P, E, mask, labels):
    labels[mask == 0] = 0
    return prepend(P, E, mask, labels)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_four", lambda P, E, mask, labels: prepend(P, E, mask, labels)[:3]),
        ("in_place", overwrites),
        ("vectors_shape", changed(0, lambda v, P, E, m, y: E)),
        ("behind", changed(0, lambda v, P, E, m, y: torch.cat([E, P.expand(len(E), -1, -1)], 1))),
        ("zeros", changed(0, lambda v, P, E, m, y: F.pad(E, (0, 0, len(P), 0)) + 0 * P.sum())),
        ("vectors_value", changed(0, lambda v, P, E, m, y: 2 * v)),
        ("no_gradient", changed(0, lambda v, P, E, m, y: v.detach())),
        ("mask_not_extended", changed(1, lambda v, P, E, m, y: m)),
        ("mask_shape", changed(1, lambda v, P, E, m, y: F.pad(m, (1, 0), value=1))),
        ("prompt_masked", changed(1, lambda v, P, E, m, y: F.pad(m, (len(P), 0)))),
        ("mask_behind", changed(1, lambda v, P, E, m, y: F.pad(m, (0, len(P)), value=1))),
        ("padding_unmasked", changed(1, lambda v, P, E, m, y: torch.ones_like(v))),
        ("mask_value", changed(1, lambda v, P, E, m, y: 1 - v)),
        ("positions_shape", changed(2, lambda v, P, E, m, y: v[:, len(P) :])),
        ("positions_from_one", changed(2, lambda v, P, E, m, y: v + 1)),
        ("positions_not_shifted",
         changed(2, lambda v, P, E, m, y: torch.cat([torch.arange(len(P)).expand(len(E), -1), m.cumsum(1) - 1], 1))),
        ("positions_count_padding", changed(2, lambda v, P, E, m, y: torch.arange(v.shape[1]))),
        ("positions_count_padding", changed(2, lambda v, P, E, m, y: torch.arange(v.shape[1]).expand_as(v))),
        ("positions_of_prompt_zero", changed(2, lambda v, P, E, m, y: F.pad(m.cumsum(1) - 1, (len(P), 0)))),
        ("positions_value", changed(2, lambda v, P, E, m, y: torch.zeros_like(v))),
        ("negative_position", changed(2, lambda v, P, E, m, y: v.masked_fill(F.pad(m, (len(P), 0), value=1) == 0, -1))),
        ("labels_not_padded", changed(3, lambda v, P, E, m, y: y)),
        ("labels_shape", changed(3, lambda v, P, E, m, y: v[:, 1:])),
        ("labels_learnt", changed(3, lambda v, P, E, m, y: F.pad(y, (len(P), 0), value=0))),
        ("labels_behind", changed(3, lambda v, P, E, m, y: F.pad(y, (0, len(P)), value=-100))),
        ("labels_value", changed(3, lambda v, P, E, m, y: torch.full_like(v, -100))),
    ],
)
def test_prepend_names(key, answer):
    assert judge("43.1", answer).key == f"43.1.{key}"


# --- 43.2 -------------------------------------------------------------------------------------------------


def parts(Q, K, V, P_K, P_V):
    """Keys, values and mask, prefix first."""
    B, (T, S, p) = len(Q), (Q.shape[2], K.shape[2], P_K.shape[1])
    mask = torch.ones(T, p + S, dtype=torch.bool).tril(p + S - T)
    return torch.cat([P_K.expand(B, -1, -1, -1), K], 2), torch.cat([P_V.expand(B, -1, -1, -1), V], 2), mask


def one_softmax(Q, K, V, P_K, P_V):
    return F.scaled_dot_product_attention(Q, *parts(Q, K, V, P_K, P_V))


def shares(Q, K, V, P_K, P_V):
    """text, prefix and the share of the prefix, which together are the same attention."""
    T, S, h = Q.shape[2], K.shape[2], Q.shape[3]
    seen = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    own = (Q @ K.mT / h**0.5).masked_fill(~seen, -torch.inf)
    other = Q @ P_K.mT / h**0.5
    share = other.exp().sum(-1, keepdim=True) / (other.exp().sum(-1, keepdim=True) + own.exp().sum(-1, keepdim=True))
    return own.softmax(-1) @ V, other.softmax(-1) @ P_V, share


def by_share(*given):
    text, prefix, share = shares(*given)
    return (1 - share) * text + share * prefix


@pytest.mark.parametrize("answer", [one_softmax, by_share])
def test_prefix_accepts(answer):
    assert judge("43.2", answer).status == "right"


def attention(change):
    """F.scaled_dot_product_attention over what `change(Q, K2, V2, mask, p)` returns."""

    def answer(Q, K, V, P_K, P_V):
        return F.scaled_dot_product_attention(*change(Q, *parts(Q, K, V, P_K, P_V), P_K.shape[1]))

    return answer


def spoils(Q, K, V, P_K, P_V):
    K *= 2
    return one_softmax(Q, K, V, P_K, P_V)


def blind(Q, K, V, P_K, P_V):
    """The first query sees nothing at all."""
    K2, V2, mask = parts(Q, K, V, P_K, P_V)
    mask[0] = False
    return (Q @ K2.mT / Q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ V2


def hides_the_cache(Q, K, V, P_K, P_V):
    K2, V2, mask = parts(Q, K, V, P_K, P_V)
    T, S = Q.shape[2], K.shape[2]
    mask[:, P_K.shape[1] :] = torch.ones(T, S, dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(Q, K2, V2, mask)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("in_place", spoils),
        ("queries_too", lambda Q, K, V, a, b: one_softmax(torch.cat([a.expand(2, -1, -1, -1), Q], 2), K, V, a, b)),
        ("shape", lambda *given: one_softmax(*given)[0]),
        ("no_prefix", attention(lambda Q, K, V, m, p: (Q, K[:, :, p:], V[:, :, p:], m[:, p:]))),
        ("prefix_only", attention(lambda Q, K, V, m, p: (Q, K[:, :, :p], V[:, :, :p]))),
        ("two_softmaxes", lambda *given: shares(*given)[0] + shares(*given)[1]),
        ("one_share", lambda *given: (shares(*given)[0] + shares(*given)[1]) / 2),
        ("swapped_shares", lambda *g: shares(*g)[2] * shares(*g)[0] + (1 - shares(*g)[2]) * shares(*g)[1]),
        ("no_mask", attention(lambda Q, K, V, m, p: (Q, K, V))),
        ("prefix_masked", attention(lambda Q, K, V, m, p: (Q, K, V, torch.ones_like(m).tril()))),
        ("cache_hidden", hides_the_cache),
        ("no_scale", attention(lambda Q, K, V, m, p: (Q * Q.shape[-1] ** 0.5, K, V, m))),
        ("keys_as_values", lambda Q, K, V, a, b: one_softmax(Q, K, V, a, a)),
        ("swapped", lambda Q, K, V, a, b: one_softmax(Q, K, V, b, a)),
        ("values_misaligned", attention(lambda Q, K, V, m, p: (Q, K, V.roll(-p, 2), m))),
        ("mask_misaligned", attention(lambda Q, K, V, m, p: (Q, K, V, m.roll(-p, 1)))),
        ("zero_values", lambda Q, K, V, a, b: one_softmax(Q, K, V, a, 0 * b)),
        ("nan", blind),
        ("value", lambda *given: 2 * one_softmax(*given)),
    ],
)
def test_prefix_names(key, answer):
    assert judge("43.2", answer).key == f"43.2.{key}"


def test_a_share_for_all_queries_is_named():
    def averaged(*given):
        text, prefix, share = shares(*given)
        return (1 - share.mean()) * text + share.mean() * prefix

    assert judge("43.2", averaged).key == "43.2.one_share"


# --- 43.3 -------------------------------------------------------------------------------------------------


def gated(Q, K, V, P_K, P_V, g):
    term = F.scaled_dot_product_attention(Q, P_K.expand(len(Q), -1, -1, -1), P_V.expand(len(Q), -1, -1, -1))
    return F.scaled_dot_product_attention(Q, K, V) + g.tanh()[:, None, None] * term


def two_parts(Q, K, V, P_K, P_V, g):
    """attention to the text, and to the prefix alone"""
    h = Q.shape[-1] ** 0.5
    return (Q @ K.mT / h).softmax(-1) @ V, (Q @ P_K.mT / h).softmax(-1) @ P_V


def summed(*given):
    text, prefix = two_parts(*given)
    return text + torch.einsum("i,bitd->bitd", given[-1].tanh(), prefix)


@pytest.mark.parametrize("answer", [gated, summed])
def test_gate_accepts(answer):
    assert judge("43.3", answer).status == "right"


def joint(on_scores, on_values):
    """One softmax over prefix and text, the gate on the prefix's scores or on its values."""

    def answer(Q, K, V, P_K, P_V, g):
        h, t = Q.shape[-1] ** 0.5, g.tanh()[:, None, None]
        weights = torch.cat([on_scores(Q @ P_K.mT / h, t), Q @ K.mT / h], -1).softmax(-1)
        p = P_K.shape[1]
        return weights[..., :p] @ on_values(P_V, t) + weights[..., p:] @ V

    return answer


def of_parts(form):
    return lambda *given: form(*two_parts(*given), given[-1])


def own_softmax_inside(Q, K, V, P_K, P_V, g):
    t = g.tanh()[:, None, None]
    return F.scaled_dot_product_attention(Q, K, V) + (t * (Q @ P_K.mT) / Q.shape[-1] ** 0.5).softmax(-1) @ P_V


def plain(x, t):
    return x + 0 * t


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("inside_softmax", joint(lambda s, t: s * t, plain)),
        ("inside_softmax", joint(lambda s, t: s + t, plain)),
        ("inside_softmax", own_softmax_inside),
        ("joint_softmax", joint(plain, lambda v, t: v * t)),
        ("no_gate", joint(plain, plain)),
        ("no_gate", of_parts(lambda text, prefix, g: text + prefix + 0 * g.sum())),
        ("sigmoid", of_parts(lambda text, prefix, g: text + g.sigmoid()[:, None, None] * prefix)),
        ("no_tanh", of_parts(lambda text, prefix, g: text + g[:, None, None] * prefix)),
        ("text_gated", of_parts(lambda text, prefix, g: text + g.tanh()[:, None, None] * (prefix - text))),
        ("prefix_only", of_parts(lambda text, prefix, g: g.tanh()[:, None, None] * prefix)),
        ("all_gated", of_parts(lambda text, prefix, g: g.tanh()[:, None, None] * (text + prefix))),
        ("wrong_axis", of_parts(lambda text, prefix, g: text + g.tanh()[:, None] * prefix)),
        ("one_gate", of_parts(lambda text, prefix, g: text + g.mean().tanh() * prefix)),
        ("no_scale", lambda Q, K, V, a, b, g: summed(2 * Q, K / 2, V, a, b, g)),
        ("no_text_scale", lambda Q, K, V, a, b, g: summed(2 * Q, K, V, a / 2, b, g)),
        ("keys_as_values", lambda Q, K, V, a, b, g: gated(Q, K, V, a, a, g)),
        ("subtracted", lambda Q, K, V, a, b, g: gated(Q, K, V, a, -b, g)),
        ("no_prefix", lambda Q, K, V, a, b, g: gated(Q, K, V, a, 0 * b, g)),
        ("causal", lambda Q, K, V, a, b, g: gated(Q, K, V, a, b, g) - gated(Q, K, V, a, 0 * b, g)
         + F.scaled_dot_product_attention(Q, K, V, is_causal=True)),
        ("no_gradient", lambda Q, K, V, a, b, g: gated(Q, K, V, a, b, g.detach())),
        ("shape", lambda *given: gated(*given)[0]),
        ("not_nothing", lambda *given: gated(*given) + (given[-1] == 0).all()),
        ("value", lambda Q, K, V, a, b, g: gated(Q, K, V, a, b, 3 * g)),
    ],
)
def test_gate_names(key, answer):
    assert judge("43.3", answer).key == f"43.3.{key}"


# --- 43.4 -------------------------------------------------------------------------------------------------


def counts(p, d, k, L, m):
    return p * d + (d + 1) * m + (m + 1) * 2 * L * k, 2 * L * p * k


def by_modules(p, d, k, L, m):
    from torch import nn

    network = nn.Sequential(nn.Linear(d, m), nn.Tanh(), nn.Linear(m, 2 * L * k))
    return p * d + sum(t.numel() for t in network.parameters()), p * network[-1].out_features


@pytest.mark.parametrize("answer", [counts, by_modules])
def test_counts_accept(answer):
    assert judge("43.4", answer).status == "right"


def test_the_count_is_the_librarys():
    import course_lib as cl

    for p, m in ((10, 512), (5, 64)):
        tuned = cl.attach(cl.load_base("smollm2"), cl.additive.PrefixTuning(p, hidden=m))
        budget = tuned.budget()
        assert (budget.trained, budget.stored) == counts(p, 576, 192, 30, m)


def with_stored(count):
    return lambda p, d, k, L, m: (counts(p, d, k, L, m)[0], count(p, d, k, L, m))


def with_trained(count):
    return lambda p, d, k, L, m: (count(p, d, k, L, m), counts(p, d, k, L, m)[1])


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("not_two", lambda *sizes: counts(*sizes)[0]),
        ("exchanged", lambda *sizes: counts(*sizes)[::-1]),
        ("network_stored", with_stored(lambda *sizes: counts(*sizes)[0])),
        ("full_width", with_stored(lambda p, d, k, L, m: 2 * L * p * d)),
        ("one_of_key_value", with_stored(lambda p, d, k, L, m: L * p * k)),
        ("one_layer", with_stored(lambda p, d, k, L, m: 2 * p * k)),
        ("start_stored", with_stored(lambda p, d, k, L, m: p * d)),
        ("stored_value", with_stored(lambda p, d, k, L, m: p)),
        ("no_biases", with_trained(lambda p, d, k, L, m: p * d + d * m + m * 2 * L * k)),
        ("no_start", with_trained(lambda p, d, k, L, m: (d + 1) * m + (m + 1) * 2 * L * k)),
        ("only_kept", with_trained(lambda p, d, k, L, m: 2 * L * p * k)),
        ("network_for_each", with_trained(lambda p, d, k, L, m: p * (counts(p, d, k, L, m)[0] - p * d + d))),
        ("both", with_trained(lambda *sizes: sum(counts(*sizes)))),
        ("full_width_network", with_trained(lambda p, d, k, L, m: counts(p, d, d, L, m)[0])),
        ("trained_value", with_trained(lambda *sizes: 1)),
        ("float", lambda *sizes: tuple(float(count) for count in counts(*sizes))),
    ],
)
def test_counts_name(key, answer):
    assert judge("43.4", answer).key == f"43.4.{key}"
