"""UniPELT: open gates are the plain sum of its parts, closed ones leave a prefix of zeros, and no gate looks ahead."""

import pytest
import torch
from conftest import first, stir, tiny
from torch import nn

import course_lib as cl
from course_lib.additive import BottleneckAdapter, LoRA, MixAndMatch, PrefixTuning, Sum, UniPELT, attach
from course_lib.additive.attention import SEEN, attend
from course_lib.additive.sites import Route, Slot
from course_lib.additive.unipelt import Gate, GatedPrefix

FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
UNIPELT = UniPELT(length=3, hidden=None, bottleneck=4, rank=2)


def call(tuned, ids, mask=None):
    return first(tuned(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask))


def gates(tuned):
    return [module for module in tuned.additions.modules() if isinstance(module, Gate)]


@torch.no_grad()
def set_gates(tuned, bias):
    for gate in gates(tuned):
        gate.linear.weight.zero_()
        gate.linear.bias.fill_(bias)


@FAMILIES
def test_open_gates_are_the_sum_of_prefix_adapter_and_lora(models, ids, family):
    tuned = stir(attach(models[family], UNIPELT))
    set_gates(tuned, 40.0)  # sigmoid(40) is 1 in float32
    plain = attach(models[family], Sum(PrefixTuning(3, hidden=None), BottleneckAdapter(4), LoRA(2, alpha=2.0)))
    parts, whole = tuned.additions["default"].parts, plain.additions["default"].parts
    with torch.no_grad():
        whole["part1/attend"].prefix.copy_(parts["gated/attend"].prefix)
        for key in parts.keys() - {"gated/attend"}:
            whole[f"part{2 if 'stream' in key else 3}/{key}"].load_state_dict(parts[key].inner.state_dict())
    answer = call(plain, ids)
    assert (call(tuned, ids) - answer).abs().max() <= 2e-6 * (1 + answer.abs().max()) * 5
    assert (call(tuned, ids) - first(models[family](input_ids=ids))).abs().max() > 1e-2


@FAMILIES
def test_closed_gates_leave_a_prefix_of_zeros_which_is_not_the_base(models, ids, family):
    """Mao et al.: a prefix cannot be switched off by its gate, for zero keys still take softmax mass."""
    tuned = stir(attach(models[family], UNIPELT))
    set_gates(tuned, -200.0)
    zeros = attach(models[family], PrefixTuning(3, hidden=None))
    with torch.no_grad():
        zeros.additions["default"].parts["attend"].prefix.zero_()
    assert (call(tuned, ids) - call(zeros, ids)).abs().max() < 1e-5
    with tuned.disabled():
        base = call(tuned, ids)
    assert (call(tuned, ids) - base).abs().max() > 1e-2


@pytest.mark.parametrize(("heads", "key_heads", "over"), [(4, 2, "position"), (2, 2, "text"), (3, 1, "row")])
def test_a_gated_prefix_is_the_formula_query_by_query(heads, key_heads, over):
    """softmax([g q P_k ; q K]) [g P_v ; V], g of each query; a causal decoder and two encoders."""
    B, T, width, d = 2, 5, 8, 6
    prefix = GatedPrefix(3, (1, 2, key_heads, width), d, None, over)
    nn.init.normal_(prefix.gates[0].linear.weight)
    x, q = torch.randn(B, T, d), torch.randn(B, heads, T, width)
    K, V = torch.randn(B, key_heads, T, width), torch.randn(B, key_heads, T, width)
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    slot = Slot(Route("one"))
    slot.plug("one", prefix, "prefix")
    module = nn.Module()
    module.__dict__.update(course_slots=[(slot, 0)], num_key_value_groups=heads // key_heads)
    module.config = type("Config", (), {"_attn_implementation": "course_sdpa"})
    module.is_causal = over == "position"
    allowed = seen[:, None, None].bool().expand(B, 1, T, T)
    if module.is_causal:
        allowed = allowed & torch.ones(T, T, dtype=torch.bool).tril()
    with slot.route.use("one", memo={"attention_mask": seen}):
        said, _ = attend(module, q, K, V, allowed, scaling=0.3, **{SEEN: x})
    P_k, P_v = prefix.prefix.reshape(3, 2, key_heads, width).permute(1, 2, 0, 3)
    single = torch.sigmoid(prefix.gates[0].linear(x))[..., 0]  # (B, T)
    for b in range(B):
        for t in range(T):
            rows = {"position": slice(t, t + 1), "text": slice(0, seen[b].sum()), "row": slice(0, T)}[over]
            g = single[b, rows].mean()
            for head in range(heads):
                group = head // (heads // key_heads)
                keys, values = torch.cat([g * P_k[group], K[b, group]]), torch.cat([g * P_v[group], V[b, group]])
                scores = 0.3 * keys @ q[b, head, t]
                scores[3:][~allowed[b, 0, t]] = -torch.inf
                assert torch.allclose(said[b, t, head], scores.softmax(-1) @ values, atol=1e-5)


def test_encoders_average_their_gates_over_the_text_only(models, ids):
    padded = torch.cat([ids, torch.zeros(3, 4, dtype=ids.dtype)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(3, 4, dtype=ids.dtype)], 1)
    for compat, least, most in ((None, 0, 2e-5), ("adapters", 1e-4, 10)):
        tuned = stir(attach(models["bert"], UniPELT(3, None, 4, 2, compat=compat)))
        apart = (call(tuned, padded, mask)[:, :9] - call(tuned, ids)).abs().max()
        assert least <= apart <= most


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_no_gate_of_a_decoder_looks_ahead(models, ids, family):
    tuned = stir(attach(models[family], UNIPELT))
    other = ids.clone()
    other[:, 6:] = 5
    assert (call(tuned, ids)[:, :6] - call(tuned, other)[:, :6]).abs().max() < 1e-5
    with pytest.raises(cl.CourseError, match="read what comes later"):
        attach(models[family], UniPELT(compat="adapters"))


@pytest.mark.parametrize(("family", "layers", "heads", "key_heads"), [
    ("llama", 1, 4, 1), ("llama", 4, 2, 2), ("gpt2", 2, 3, 3), ("bert", 3, 2, 2)
])  # fmt: skip
@pytest.mark.parametrize(("p", "h", "r", "rank"), [(1, None, 1, 1), (5, 7, 3, 2)])
def test_counts(family, layers, heads, key_heads, p, h, r, rank):
    d, k = 8 * heads, 8 * key_heads
    model = tiny(family, layers=layers, heads=heads, key_heads=key_heads, width=d)
    prefix = 2 * layers * p * k
    others = layers * (2 * d * r + d + r) + layers * rank * (3 * d + k)
    through = prefix if h is None else p * d + (d + 1) * h + (h + 1) * 2 * layers * k
    compats = ((None, 3), ("adapters", 4)) if family == "bert" else ((None, 3),)
    for compat, number in compats:
        budget = attach(model, UniPELT(p, h, r, rank, compat=compat)).budget()
        assert budget.stored == prefix + others + number * layers * (d + 1)
        assert budget.trained == through + others + number * layers * (d + 1)


def test_the_text_keeps_its_positions_with_compat_adapters(models, ids):
    """peft's prefixes move the text by p positions, those of `adapters` do not."""
    bert = models["bert"]
    ours, theirs = (attach(bert, PrefixTuning(4, hidden=None, compat=compat)) for compat in (None, "adapters"))
    theirs.additions.load_state_dict(ours.additions.state_dict())
    moved = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=torch.arange(4, 13)[None])
    assert torch.allclose(call(ours, ids), first(moved), atol=1e-6)
    assert not torch.allclose(call(ours, ids), call(theirs, ids), atol=1e-3)
    long = torch.full((1, 62), 5)
    assert call(theirs, long).shape == (1, 62, 32)  # and need no position of their own
    with pytest.raises(cl.CourseError, match="prefix 4"):
        call(ours, long)
    mixed = attach(bert, MixAndMatch(4, None, 2, compat="adapters"))
    assert mixed.additions["default"].parts["part1/attend"].shift == 0
