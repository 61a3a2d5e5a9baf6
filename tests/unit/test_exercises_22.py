"""The checks of chapter 22: right answers in several forms pass, each typical wrong one gets its own name."""

import pytest
import torch
from torch.nn import functional as F

from course_lib.exercises.registry import judge


def by_mean(x, gain, bias, epsilon):
    mean = x.mean(-1, keepdim=True)
    return gain * (x - mean) / ((x - mean).pow(2).mean(-1, keepdim=True) + epsilon).sqrt() + bias


def by_var(x, gain, bias, epsilon):
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + epsilon) * gain + bias


@pytest.mark.parametrize("answer", [by_mean, by_var])
def test_normalise_accepts(answer):
    assert judge("22.1", answer).status == "right"


def with_var(x, gain, bias, epsilon):
    return gain * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + epsilon).sqrt() + bias


def with_std(x, gain, bias, epsilon):
    return gain * (x - x.mean(-1, keepdim=True)) / (x.std(-1, unbiased=False, keepdim=True) + epsilon) + bias


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("unbiased", with_var),
        ("epsilon_outside", with_std),
        ("unbiased", lambda x, g, b, e: g * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + e) + b),
        ("no_gain", lambda x, g, b, e: by_mean(x, 1, b, e)),
        ("no_bias", lambda x, g, b, e: by_mean(x, g, 0, e)),
        ("no_epsilon", lambda x, g, b, e: by_mean(x, g, b, 0)),
        ("rms", lambda x, g, b, e: g * x / (x.pow(2).mean(-1, keepdim=True) + e).sqrt() + b),
        ("no_root", lambda x, g, b, e: g * by_mean(x, 1, 0, e) / (x.var(-1, correction=0)[..., None] + e).sqrt() + b),
        ("no_mean", lambda x, g, b, e: g * x / (x.var(-1, correction=0, keepdim=True) + e).sqrt() + b),
        ("neither", lambda x, g, b, e: by_mean(x, 1, 0, e)),
        ("over_batch", lambda x, g, b, e: g * by_mean(x.flatten(0, 1).mT, 1, 0, e).mT.view(x.shape) + b),
        ("over_row", lambda x, g, b, e: g * by_mean(x.flatten(1), 1, 0, e).view(x.shape) + b),
        ("over_time", lambda x, g, b, e: g * by_mean(x.mT, 1, 0, e).mT + b),
        ("over_all", lambda x, g, b, e: g * (x - x.mean()) / (x.var(unbiased=False) + e).sqrt() + b),
        ("length_one", lambda x, g, b, e: x / x.norm(dim=-1, keepdim=True)),
        ("shape", lambda x, g, b, e: by_mean(x, g, b, e).mean(-1)),
        ("value", lambda x, g, b, e: by_mean(x, g, b, e) + 1),
    ],
)
def test_normalise_names(key, answer):
    assert judge("22.1", answer).key == f"22.1.{key}"


def test_writing_over_the_stream_is_named():
    def in_place(x, gain, bias, epsilon):
        x -= x.mean(-1, keepdim=True)
        return gain * x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() + bias

    assert judge("22.1", in_place).key == "22.1.in_place"


def two_lines(x, attention, norm1, ffn, norm2):
    x = norm1(x + attention(x))
    return norm2(x + ffn(x))


def with_names(x, attention, norm1, ffn, norm2):
    after_attention = norm1(attention(x) + x)
    return norm2(torch.stack([after_attention, ffn(after_attention)]).sum(0))


@pytest.mark.parametrize("answer", [two_lines, with_names])
def test_post_norm_block_accepts(answer):
    assert judge("22.2", answer).status == "right"


def same(x):
    return x


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("pre_norm", lambda x, a, n1, f, n2: x + a(n1(x)) + f(n2(x + a(n1(x))))),
        ("parallel", lambda x, a, n1, f, n2: n2(n1(x + a(x)) + f(x))),
        ("no_residual", lambda x, a, n1, f, n2: n2(f(n1(a(x))))),
        ("no_first", lambda x, a, n1, f, n2: n2(n1(a(x)) + f(n1(a(x))))),
        ("no_second", lambda x, a, n1, f, n2: n2(f(n1(x + a(x))))),
        ("norm_of_the_term", lambda x, a, n1, f, n2: x + n1(a(x)) + n2(f(x + n1(a(x))))),
        ("from_start", lambda x, a, n1, f, n2: n2(x + f(n1(x + a(x))))),
        ("from_unnormalised", lambda x, a, n1, f, n2: two_lines(x, a, same, f, n2)),
        ("one_norm", lambda x, a, n1, f, n2: two_lines(x, a, n1, f, n1)),
        ("swapped_norms", lambda x, a, n1, f, n2: two_lines(x, a, n2, f, n1)),
        ("no_norms", lambda x, a, n1, f, n2: two_lines(x, a, same, f, same)),
        ("no_second_norm", lambda x, a, n1, f, n2: two_lines(x, a, n1, f, same)),
        ("ffn_first", lambda x, a, n1, f, n2: two_lines(x, f, n2, a, n1)),
        ("first_only", lambda x, a, n1, f, n2: n1(x + a(x))),
        ("shape", lambda *parts: two_lines(*parts)[0]),
        ("value", lambda *parts: two_lines(*parts) * 2),
        ("none", lambda *parts: print(len(parts))),
    ],
)
def test_post_norm_block_names(key, answer):
    assert judge("22.2", answer).key == f"22.2.{key}"


def block(d, k, n):
    return 2 * d * d + 2 * d * k + 3 * d * n + 2 * d


def by_formula(V, d, k, n, L):
    return V * d + L * block(d, k, n) + d


def by_list(V, d, k, n, L):
    shapes = ((d, d), (d, k), (d, k), (d, d), (n, d), (n, d), (d, n), (2, d))
    return sum(sum(rows * columns for rows, columns in shapes) for _ in range(L)) + (V + 1) * d


@pytest.mark.parametrize("answer", [by_formula, by_list])
def test_llama_accepts(answer):
    assert judge("22.3", answer).status == "right"


def test_the_count_is_smollm2s():
    assert by_formula(49152, 576, 192, 1536, 30) == 134_515_008


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("full_keys", lambda V, d, k, n, L: by_formula(V, d, d, n, L)),
        ("no_gate", lambda V, d, k, n, L: by_formula(V, d, k, n, L) - L * d * n),
        ("no_norms", lambda V, d, k, n, L: by_formula(V, d, k, n, L) - L * 2 * d - d),
        ("no_block_norms", lambda V, d, k, n, L: by_formula(V, d, k, n, L) - L * 2 * d),
        ("no_last_norm", lambda V, d, k, n, L: by_formula(V, d, k, n, L) - d),
        ("layer_norms", lambda V, d, k, n, L: by_formula(V, d, k, n, L) + L * 2 * d + d),
        ("biases", lambda V, d, k, n, L: by_formula(V, d, k, n, L) + L * (2 * d + 2 * k + 2 * n + d)),
        ("one_of_key_value", lambda V, d, k, n, L: by_formula(V, d, k, n, L) - L * d * k),
        ("square_keys", lambda V, d, k, n, L: by_formula(V, d, k, n, L) + L * 2 * k * (k - d)),
        ("output_from_keys", lambda V, d, k, n, L: by_formula(V, d, k, n, L) + L * d * (k - d)),
        ("one_norm", lambda V, d, k, n, L: by_formula(V, d, k, n, L) - L * d),
        ("like_gpt", lambda V, d, k, n, L: V * d + L * (12 * d * d + 13 * d) + d),
        ("no_output", lambda V, d, k, n, L: by_formula(V, d, k, n, L) - L * d * d),
        ("output", lambda V, d, k, n, L: by_formula(2 * V, d, k, n, L)),
        ("no_tokens", lambda V, d, k, n, L: by_formula(0, d, k, n, L)),
        ("one_block", lambda V, d, k, n, L: by_formula(V, d, k, n, 1)),
        ("only_a_block", lambda V, d, k, n, L: block(d, k, n)),
        ("float", lambda V, d, k, n, L: by_formula(V, d, k, n, L) / 1),
        ("value", lambda V, d, k, n, L: d * k * n),
    ],
)
def test_llama_names(key, answer):
    assert judge("22.3", answer).key == f"22.3.{key}"


def by_perturbation(blocks, x):
    for number, block in enumerate(blocks):
        y = block(x)
        for last in range(1, x.shape[1]):
            changed = x.clone()
            changed[:, last:] += torch.randn_like(changed[:, last:])
            if not torch.allclose(block(changed)[:, :last], y[:, :last], atol=1e-5):
                return number
        x = y
    return None


def by_cutting(blocks, x):
    """A causal block gives the same answers for a text that is cut short; here cut by moving the rest far away."""
    for number, block in enumerate(blocks):
        y = block(x)
        for T in range(1, x.shape[1]):
            other = torch.cat([x[:, :T], x[:, T:] * 3 + 5], dim=1)
            if (block(other)[:, :T] - y[:, :T]).abs().max() > 1e-5:
                return number
        x = y
    return None


@pytest.mark.parametrize("answer", [by_perturbation, by_cutting])
def test_find_leak_accepts(answer):
    assert judge("22.4", answer).status == "right"


def only_the_last(blocks, x):
    for number, block in enumerate(blocks):
        changed = x.clone()
        changed[:, -1] += 1
        if not torch.allclose(block(changed)[:, :-1], block(x)[:, :-1], atol=1e-5):
            return number
        x = block(x)
    return None


def itself_included(blocks, x):
    for number, block in enumerate(blocks):
        changed = x.clone()
        changed[:, -1] += 1
        if not torch.allclose(block(changed), block(x), atol=1e-5):
            return number
        x = block(x)
    return None


def overwriting(blocks, x):
    x[:, -1] += 1
    return by_perturbation(blocks, x)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("one_position", only_the_last),
        ("always_first", itself_included),
        ("in_place", overwriting),
        ("none", lambda blocks, x: None if blocks else 0),
        ("from_one", lambda blocks, x: None if by_perturbation(blocks, x) is None else by_perturbation(blocks, x) + 1),
        ("truth", lambda blocks, x: by_perturbation(blocks, x) is not None),
        ("no_leak", lambda blocks, x: by_perturbation(blocks, x) or 0),
    ],
)
def test_find_leak_names(key, answer):
    assert judge("22.4", answer).key == f"22.4.{key}"


def test_torchs_own_layer_norm_is_the_reference():
    x = torch.randn(3, 4)
    assert torch.allclose(by_mean(x, torch.ones(4), torch.zeros(4), 1e-5), F.layer_norm(x, (4,)), atol=1e-5)
