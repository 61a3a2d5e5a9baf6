"""Methods against formulas that stand in no library: Kronecker sums, orthonormal edits, the lambda of a prefix."""

import pytest
import torch
from conftest import stir

from course_lib.additive import Compacter, LoReFT, PrefixTuning, attach


@pytest.mark.parametrize(("d", "r", "n"), [(32, 8, 4), (32, 4, 2), (32, 6, 1)])
def test_compacter_is_a_sum_of_kronecker_products(models, d, r, n):
    tuned = stir(attach(models["bert"], Compacter(r, n)))
    for part in tuned.additions["default"].parts.values():
        for linear, shape in ((part.down, (r, d)), (part.up, (d, r))):
            products = [torch.kron(linear.A[i], torch.outer(linear.s[i], linear.t[i])) for i in range(n)]
            assert linear.weight().shape == shape
            assert torch.allclose(linear.weight(), sum(products), atol=1e-6)
    assert len({id(part.down.A) for part in tuned.additions["default"].parts.values()}) == 1  # shared by all layers
    layers = 3
    assert tuned.budget().trained == 4 * layers * (d + r) + n**3 + 2 * layers * (d + r)


def test_loreft_moves_h_inside_the_space_of_R_only(models):
    """R (h + R^T(Wh + b - Rh)) = Wh + b, and what is orthogonal to R stays."""
    tuned = stir(attach(models["llama"], LoReFT(rank=3)))
    edit = tuned.additions["default"].parts["blocks/1/edit"]
    h, R = torch.randn(2, 5, 32), edit.R()
    assert torch.allclose(R @ R.T, torch.eye(3), atol=1e-6)
    new = h + edit(h)
    assert torch.allclose(new @ R.T, edit.linear(h), atol=1e-5)
    outside = torch.eye(32) - R.T @ R
    assert torch.allclose(new @ outside, h @ outside, atol=1e-5)


@pytest.mark.parametrize("length", [1, 7])
def test_a_prefix_mixes_two_attentions_by_lambda(length):
    """He et al. 2022: attention over [P; K] is (1 - lambda) attention(K) + lambda attention(P), lambda by query."""
    from course_lib.additive.attention import _prepend

    torch.manual_seed(0)
    q, K, V = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    P_k, P_v = torch.randn(2, length, 8), torch.randn(2, length, 8)
    module = torch.nn.Module()
    module.is_causal = False
    keys, values, mask = _prepend([(P_k[None], P_v[None], None)], q, K, V, None, module, {})
    attention = torch.nn.functional.scaled_dot_product_attention
    together = attention(q, keys, values, attn_mask=mask)
    mass = (q @ P_k.transpose(-1, -2) / 8**0.5).exp().sum(-1, keepdim=True)
    lam = mass / (mass + (q @ K.transpose(-1, -2) / 8**0.5).exp().sum(-1, keepdim=True))
    assert lam.std() > 0.01  # it depends on the query
    expected = (1 - lam) * attention(q, K, V) + lam * attention(q, P_k[None], P_v[None])
    assert torch.allclose(together, expected, atol=1e-5)


def test_prefix_counts(models):
    d, k, h, layers, p = 32, 16, 6, 3, 4  # two of four heads for the keys: k = 16
    budget = attach(models["llama"], PrefixTuning(p, hidden=h)).budget()
    assert budget.stored == 2 * layers * p * k
    assert budget.trained == p * d + (d + 1) * h + (h + 1) * 2 * layers * k
