"""Methods against formulas that stand in no library: Kronecker sums, orthonormal edits, the lambda of a prefix."""

import pytest
import torch
from conftest import stir, tiny

from course_lib.additive import Compacter, LoReFT, PrefixTuning, PromptTuning, Sum, attach


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


@pytest.mark.parametrize("first", [None, PromptTuning(2)])
def test_loreft_edits_the_prompt_in_training_as_in_generation(models, first):
    """The first and the last position of the prompt, whether an answer follows it in the batch or is yet to be said."""
    edit = LoReFT(2, first=1, last=1)
    tuned = stir(attach(models["llama"], edit if first is None else Sum(first, edit)))
    ids = torch.randint(3, 97, (2, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 8, [0, 0] + [1] * 6])
    prompt = mask * torch.tensor([1, 1, 1, 1, 1, 0, 0, 0])
    together = tuned(input_ids=ids, attention_mask=mask, prompt_mask=prompt).logits[:, 4]
    alone = tuned(input_ids=ids[:, :5], attention_mask=mask[:, :5]).logits[:, 4]
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(tuned(input_ids=ids, attention_mask=mask).logits[:, 4], alone, atol=1e-3)


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

def watched(tuned, block, **batch):
    """What the base's attention of one block was given and said: (q, [P_k ; K], [P_v ; V], mask), said (B, T, h, w)."""
    from course_lib.additive import attention

    calls, chosen = [], tuned.layout.attentions()[block]

    def watching(module):
        base = function(module)

        def call(module, query, key, value, mask, **options):
            answer = base(module, query, key, value, mask, **options)
            if module is chosen:
                calls.append((query, key, value, mask, answer[0]))
            return answer

        return call

    function, attention._base_function = attention._base_function, watching
    try:
        with torch.no_grad():
            tuned(**batch)
    finally:
        attention._base_function = function
    (seen,) = calls
    return seen


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert", "roberta"])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("side", ["left", "right"])
def test_lambda_inside_a_model(family, length, side):
    """h <- (1 - lambda) h + lambda softmax(q P_k^T) P_v, by head and before W_o, with grouped heads and padding.

    lambda depends on the query, lies between 0 and 1, and is exactly 1 where there is no text to look at.
    """
    tuned = stir(attach(tiny(family).double(), PrefixTuning(length, hidden=None)).double())
    mask = torch.ones(3, 9, dtype=torch.long)
    for row, pads in enumerate((0, 2, 5)):
        mask[row, slice(0, pads) if side == "left" else slice(9 - pads, 9)] = 0
    ids = torch.randint(3, 90, (3, 9), generator=torch.Generator().manual_seed(1)) * mask
    q, K, V, seen, said = watched(tuned, 1, input_ids=ids, attention_mask=mask)
    repeats = q.shape[1] // K.shape[1]
    assert repeats == (2 if family in ("llama", "qwen2") else 1)
    K, V = (heads.repeat_interleave(repeats, dim=1) for heads in (K, V))
    scores = (q @ K.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    assert seen[..., :length].all()  # every query sees the whole prefix
    mass = scores.exp()
    lam = mass[..., :length].sum(-1, keepdim=True) / mass.sum(-1, keepdim=True)
    no_text = ~seen[..., length:].any(-1)  # (B, 1, T)
    without = (scores[..., length:].softmax(-1) @ V[..., length:, :]).masked_fill(no_text[..., None], 0)
    prefix = scores[..., :length].softmax(-1) @ V[..., :length, :]
    expected = (1 - lam) * without + lam * prefix
    assert (said.transpose(1, 2) - expected).abs().max() <= 1e-6
    text = ~no_text.expand(-1, q.shape[1], -1)
    assert (lam[text] > 0).all()
    assert (lam[text] < 1).all()
    assert lam[text].std() > 0.01
    if side == "left" and tuned.layout.causal:  # before the text, a query sees the prefix alone
        assert no_text.sum() == 2 + 5
        assert (lam[~text] == 1).all()
        assert (said.transpose(1, 2)[~text] - prefix[~text]).abs().max() <= 1e-9


def test_prefix_counts(models):
    d, k, h, layers, p = 32, 16, 6, 3, 4  # two of four heads for the keys: k = 16
    budget = attach(models["llama"], PrefixTuning(p, hidden=h)).budget()
    assert budget.stored == 2 * layers * p * k
    assert budget.trained == p * d + (d + 1) * h + (h + 1) * 2 * layers * k
