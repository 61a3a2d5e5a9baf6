"""The checks of chapter 42: right answers in several forms pass, each typical wrong one gets its own name."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_lib.exercises.registry import judge


def by_matrices(h, W_down, b_down, W_up, b_up):
    return h + (h @ W_down.T + b_down).relu() @ W_up.T + b_up


def by_linear(h, W_down, b_down, W_up, b_up):
    return F.linear(F.relu(F.linear(h, W_down, b_down)), W_up, b_up) + h


def by_einsum(h, W_down, b_down, W_up, b_up):
    inside = (torch.einsum("rd,...d->...r", W_down, h) + b_down).clamp_min(0)
    return h + torch.einsum("dr,...r->...d", W_up, inside) + b_up


@pytest.mark.parametrize("answer", [by_matrices, by_linear, by_einsum])
def test_adapter_accepts(answer):
    assert judge("42.1", answer).status == "right"


def line(h, W, b):
    return F.linear(h, W, b)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("delta_only", lambda h, D, a, U, b: line(line(h, D, a).relu(), U, b)),
        ("linear", lambda h, D, a, U, b: h + line(line(h, D, a), U, b)),
        ("relu_last", lambda h, D, a, U, b: h + line(line(h, D, a), U, b).relu()),
        ("relu_both", lambda h, D, a, U, b: h + line(line(h, D, a).relu(), U, b).relu()),
        ("relu_of_sum", lambda h, D, a, U, b: by_linear(h, D, a, U, b).relu()),
        ("relu_first", lambda h, D, a, U, b: h + line(line(h.relu(), D, a), U, b)),
        ("no_biases", lambda h, D, a, U, b: h + line(line(h, D, None).relu(), U, None)),
        ("no_down_bias", lambda h, D, a, U, b: h + line(line(h, D, None).relu(), U, b)),
        ("no_up_bias", lambda h, D, a, U, b: h + line(line(h, D, a).relu(), U, None)),
        ("bias_after_relu", lambda h, D, a, U, b: h + line(line(h, D, None).relu() + a, U, b)),
        ("multiplied", lambda h, D, a, U, b: h * line(line(h, D, a).relu(), U, b)),
        ("multiplied_gate", lambda h, D, a, U, b: h * (1 + line(line(h, D, a).relu(), U, b))),
        ("no_gradient", lambda h, D, a, U, b: by_linear(h, D, a, U, b).detach()),
        ("no_gradient", lambda h, D, a, U, b: by_linear(h.detach(), D, a, U, b)),
        ("shape", lambda h, D, a, U, b: line(h, D, a).relu()),
        ("value", lambda h, D, a, U, b: by_linear(h, D, a, U, b) + 1),
        ("none", lambda h, D, a, U, b: print()),
    ],
)
def test_adapter_names(key, answer):
    assert judge("42.1", answer).key == f"42.1.{key}"


def test_writing_over_the_answer_is_named():
    def in_place(h, D, a, U, b):
        with torch.no_grad():
            h += line(line(h, D, a).relu(), U, b)
        return h

    assert judge("42.1", in_place).key == "42.1.in_place"


def two_branches(x, sublayer, norm, f, s, where):
    h = sublayer(x)
    return norm(x + h + f(h)) if where == "sequential" else norm(x + h + s * f(x))


def one_line(x, sublayer, norm, f, s, where):
    h, parallel = sublayer(x), where == "parallel"
    return norm(h + x + (s if parallel else 1) * f(x if parallel else h))


@pytest.mark.parametrize("answer", [two_branches, one_line])
def test_add_beside_or_after_accepts(answer):
    assert judge("42.2", answer).status == "right"


def two(sequential, parallel):
    """An answer from two functions of (x, h, norm, f, s, g), g being the sublayer."""
    return lambda x, g, norm, f, s, where: (sequential if where == "sequential" else parallel)(x, g(x), norm, f, s, g)


SEQUENTIAL = lambda x, h, norm, f, s, g: norm(x + h + f(h))  # noqa: E731
PARALLEL = lambda x, h, norm, f, s, g: norm(x + h + s * f(x))  # noqa: E731


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("scaled_sum", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(x + s * (h + f(x))))),
        ("scaled_sum", two(lambda x, h, norm, f, s, g: norm(x + s * (h + f(h))), PARALLEL)),
        ("swapped", two(PARALLEL, SEQUENTIAL)),
        ("sequential_reads_x", two(lambda x, h, norm, f, s, g: norm(x + h + f(x)), PARALLEL)),
        ("sequential_reads_x", two(PARALLEL, PARALLEL)),
        ("sequential_scaled", two(lambda x, h, norm, f, s, g: norm(x + h + s * f(h)), PARALLEL)),
        ("parallel_reads_h", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(x + h + s * f(h)))),
        ("parallel_reads_h", two(SEQUENTIAL, SEQUENTIAL)),
        ("parallel_unscaled", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(x + h + f(x)))),
        ("no_answer", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(x + s * f(x)))),
        ("no_answer", two(lambda x, h, norm, f, s, g: norm(x + f(h)), PARALLEL)),
        ("no_stream", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(h + s * f(x)))),
        ("no_addition", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(x + h))),
        ("after_the_norm", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(x + h) + s * f(x))),
        ("after_the_norm", two(lambda x, h, norm, f, s, g: norm(x + h) + f(h), PARALLEL)),
        ("no_norm", two(SEQUENTIAL, lambda x, h, norm, f, s, g: x + h + s * f(x))),
        ("into_the_sublayer", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(x + g(x + s * f(x))))),
        ("reads_the_sum", two(lambda x, h, norm, f, s, g: norm(x + h + f(x + h)), PARALLEL)),
        ("value", two(SEQUENTIAL, lambda x, h, norm, f, s, g: norm(x + h + s * f(x)) + 1)),
        ("shape", two(SEQUENTIAL, lambda x, h, norm, f, s, g: h.sum(1))),
        ("none", two(SEQUENTIAL, lambda x, h, norm, f, s, g: None)),
    ],
)
def test_add_beside_or_after_names(key, answer):
    assert judge("42.2", answer).key == f"42.2.{key}"


def test_writing_over_the_stream_is_named():
    def in_place(x, sublayer, norm, f, s, where):
        right = two_branches(x.clone(), sublayer, norm, f, s, where)
        x += 1
        return right

    assert judge("42.2", in_place).key == "42.2.in_place"


def blocks(A, B):
    return torch.cat([torch.cat([a * B for a in row], dim=1) for row in A])


def einsum(A, B):
    return torch.einsum("ij,kl->ikjl", A, B).reshape(A.shape[0] * B.shape[0], A.shape[1] * B.shape[1])


def broadcast(A, B):
    (a, b), (c, d) = A.shape, B.shape
    return (A[:, None, :, None] * B[None, :, None, :]).reshape(a * c, b * d)


@pytest.mark.parametrize("answer", [blocks, einsum, broadcast, torch.kron])
def test_kronecker_accepts(answer):
    assert judge("42.4", lambda A, B: answer(A, B)).status == "right"


def reshaped(axes):
    def answer(A, B):
        return torch.einsum(f"ij,kl->{axes}", A, B).reshape(A.shape[0] * B.shape[0], A.shape[1] * B.shape[1])

    return answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("swapped", lambda A, B: torch.kron(B, A)),
        ("swapped", reshaped("kilj")),
        ("order", reshaped("ijkl")),
        ("order", reshaped("iklj")),
        ("order", reshaped("kijl")),
        ("sum", lambda A, B: broadcast(A.exp(), B.exp()).log()),
        ("four_dimensions", lambda A, B: torch.einsum("ij,kl->ikjl", A, B)),
        ("other_product", lambda A, B: A * B),
        ("other_product", lambda A, B: A @ B),
        ("shape", lambda A, B: torch.outer(A.flatten(), B.flatten()).flatten()),
        ("shape", lambda A, B: np.kron(A.numpy(), B.numpy())),
        ("value", lambda A, B: torch.kron(A, B) + 1),
        ("none", lambda A, B: print()),
    ],
)
def test_kronecker_names(key, answer):
    assert judge("42.4", answer).key == f"42.4.{key}"


def one(d, r):
    return 2 * d * r + d + r


def counted(method, d, r, L, n):
    return {
        "pfeiffer": L * one(d, r), "houlsby": 2 * L * one(d, r) + (2 * L + 1) * 2 * d,
        "compacter": 6 * L * (d + r) + n**3,
    }[method]


def by_shapes(method, d, r, L, n):
    adapters = L if method == "pfeiffer" else 2 * L
    if method == "compacter":
        vectors = n * (r // n) + n * (d // n)
        return adapters * (2 * vectors + r + d) + n * n * n
    norms = 0 if method == "pfeiffer" else 2 * L + 1
    return adapters * (r * d + r + d * r + d) + norms * (d + d)


@pytest.mark.parametrize("answer", [counted, by_shapes])
def test_adapter_numbers_accepts(answer):
    assert judge("42.3", answer).status == "right"


def but(method, count):
    return lambda m, d, r, L, n: count(d, r, L, n) if m == method else counted(m, d, r, L, n)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("no_biases", but("pfeiffer", lambda d, r, L, n: L * 2 * d * r)),
        ("one_bias", but("pfeiffer", lambda d, r, L, n: L * (2 * d * r + d))),
        ("one_matrix", but("pfeiffer", lambda d, r, L, n: L * (d * r + r))),
        ("one_block", but("pfeiffer", lambda d, r, L, n: one(d, r))),
        ("two_in_pfeiffer", but("pfeiffer", lambda d, r, L, n: 2 * L * one(d, r))),
        ("no_norms", but("houlsby", lambda d, r, L, n: 2 * L * one(d, r))),
        ("no_first_norm", but("houlsby", lambda d, r, L, n: 2 * L * one(d, r) + 4 * L * d)),
        ("half_norms", but("houlsby", lambda d, r, L, n: 2 * L * one(d, r) + (2 * L + 1) * d)),
        ("one_in_houlsby", but("houlsby", lambda d, r, L, n: L * one(d, r) + (2 * L + 1) * 2 * d)),
        ("one_in_houlsby", but("houlsby", lambda d, r, L, n: L * one(d, r))),
        ("no_biases", but("houlsby", lambda d, r, L, n: 4 * L * d * r + (2 * L + 1) * 2 * d)),
        ("own_a", but("compacter", lambda d, r, L, n: 6 * L * (d + r) + 4 * L * n**3)),
        ("no_a", but("compacter", lambda d, r, L, n: 6 * L * (d + r))),
        ("one_a", but("compacter", lambda d, r, L, n: 6 * L * (d + r) + n**2)),
        ("no_kronecker_biases", but("compacter", lambda d, r, L, n: 4 * L * (d + r) + n**3)),
        ("dense", but("compacter", lambda d, r, L, n: 2 * L * one(d, r))),
        ("one_in_compacter", but("compacter", lambda d, r, L, n: 3 * L * (d + r) + n**3)),
        ("float", lambda *size: float(counted(*size))),
        ("value", but("compacter", lambda d, r, L, n: d)),
        ("none", but("houlsby", lambda d, r, L, n: None)),
    ],
)
def test_adapter_numbers_names(key, answer):
    assert judge("42.3", answer).key == f"42.3.{key}"
