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


def two_lines(x, norm1, attention, norm2, ffn):
    x = x + attention(norm1(x))
    return x + ffn(norm2(x))


def three_terms(x, norm1, attention, norm2, ffn):
    a = attention(norm1(x))
    m = ffn(norm2(x + a))
    return sum([x, a, m])


@pytest.mark.parametrize("answer", [two_lines, three_terms])
def test_pre_norm_block_accepts(answer):
    assert judge("22.2", answer).status == "right"


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("post_norm", lambda x, n1, a, n2, f: n2(n1(x + a(x)) + f(n1(x + a(x))))),
        ("to_normalised", lambda x, n1, a, n2, f: two_lines(n1(x), lambda x: x, a, n2, f)),
        ("parallel", lambda x, n1, a, n2, f: x + a(n1(x)) + f(n2(x))),
        ("no_residual", lambda x, n1, a, n2, f: f(n2(a(n1(x))))),
        ("no_second", lambda x, n1, a, n2, f: f(n2(x + a(n1(x))))),
        ("from_start", lambda x, n1, a, n2, f: x + f(n2(x + a(n1(x))))),
        ("one_norm", lambda x, n1, a, n2, f: two_lines(x, n1, a, n1, f)),
        ("no_norms", lambda x, n1, a, n2, f: two_lines(x, lambda x: x, a, lambda x: x, f)),
        ("no_second_norm", lambda x, n1, a, n2, f: two_lines(x, n1, a, lambda x: x, f)),
        ("ffn_first", lambda x, n1, a, n2, f: two_lines(x, n2, f, n1, a)),
        ("shape", lambda x, n1, a, n2, f: two_lines(x, n1, a, n2, f)[0]),
        ("value", lambda x, n1, a, n2, f: two_lines(x, n1, a, n2, f) * 2),
    ],
)
def test_pre_norm_block_names(key, answer):
    assert judge("22.2", answer).key == f"22.2.{key}"


def by_formula(d, k, f):
    return 2 * d * d + 2 * d * k + 3 * d * f + 2 * d


def by_list(d, k, f):
    return sum(rows * columns for rows, columns in ((d, d), (d, k), (d, k), (d, d), (f, d), (f, d), (d, f), (2, d)))


@pytest.mark.parametrize("answer", [by_formula, by_list])
def test_llama_block_accepts(answer):
    assert judge("22.3", answer).status == "right"


def test_the_count_is_smollm2s():
    assert by_formula(576, 192, 1536) == 3_540_096


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("full_keys", lambda d, k, f: 4 * d * d + 3 * d * f + 2 * d),
        ("no_gate", lambda d, k, f: by_formula(d, k, f) - d * f),
        ("no_norms", lambda d, k, f: by_formula(d, k, f) - 2 * d),
        ("layer_norms", lambda d, k, f: by_formula(d, k, f) + 2 * d),
        ("gpt2", lambda d, k, f: 12 * d * d + 13 * d),
        ("no_output", lambda d, k, f: by_formula(d, k, f) - d * d),
        ("float", lambda d, k, f: by_formula(d, k, f) / 1),
        ("value", lambda d, k, f: d * k * f),
    ],
)
def test_llama_block_names(key, answer):
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
