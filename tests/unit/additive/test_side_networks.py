"""Side networks against a slow, plain reimplementation, their cache, their rows in a batch, and what they save."""

import pytest
import torch
import torch.nn.functional as F
from conftest import VOCABULARY, first, stir, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

import course_lib as cl
from course_lib.additive import (
    BottleneckAdapter,
    FullFineTuning,
    LadderSideTuning,
    LinearProbe,
    ParallelAdapter,
    PrefixTuning,
    PromptTuning,
    SideTuning,
    Sum,
    attach,
    saved_activation_bytes,
)

FAMILIES = ("llama", "qwen2", "gpt2", "bert", "roberta")
METHODS = (LadderSideTuning(4, temperature=0.7), LadderSideTuning(2), SideTuning(4, alpha=0.3))


@pytest.fixture(scope="module")
def bases():
    return {family: tiny(family) for family in FAMILIES}


def network(tuned, name="default"):
    return tuned.additions[name].parts["side"]


# --- the same by hand ---------------------------------------------------------------------------------------


def linear(P, name, x):
    """W x + b of the module called `name`, whichever way round the weight is stored and with or without b."""
    weight = P[f"{name}.weight"]
    weight = weight.T if ".c_" in f".{name}" else weight
    return F.linear(x, weight, P.get(f"{name}.bias"))


def attention(q, k, v, mask, heads, key_heads, scale=None, bias=None):
    """softmax(q k^T / sqrt(width) + mask) v, head by head; mask (B, T, S) is 0 or very low, bias (1, heads, T, S)."""
    width, said = q.shape[-1] // heads, []
    for head in range(heads):
        group = head // (heads // key_heads)
        q_h = q[..., head * width : (head + 1) * width]
        k_h, v_h = (t[..., group * width : (group + 1) * width] for t in (k, v))
        scores = q_h @ k_h.transpose(1, 2) * (scale or width**-0.5) + mask
        scores = scores if bias is None else scores + bias[:, head]
        said.append(scores.softmax(-1) @ v_h)
    return torch.cat(said, -1)


def rotated(x, positions, heads, theta=10000.0):
    """Pairs (i, i + width/2) of each head turned by position x theta^(-2 i / width)."""
    width = x.shape[-1] // heads
    x = x.unflatten(-1, (heads, width))
    angle = positions[..., None, None] * theta ** (-torch.arange(0, width, 2) / width)  # (B, T, 1, width/2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).flatten(-2)


def rms(P, name, x):
    return P[f"{name}.weight"] * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def layer_norm(P, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], P[f"{name}.weight"], P[f"{name}.bias"], eps)


def llama_block(P, x, mask, positions):
    seen = rms(P, "input_layernorm", x)
    q, k, v = (linear(P, f"self_attn.{name}_proj", seen) for name in "qkv")
    said = attention(rotated(q, positions, 4), rotated(k, positions, 2), v, mask, heads=4, key_heads=2)
    x = x + linear(P, "self_attn.o_proj", said)
    seen = rms(P, "post_attention_layernorm", x)
    return x + linear(P, "mlp.down_proj", F.silu(linear(P, "mlp.gate_proj", seen)) * linear(P, "mlp.up_proj", seen))


def gpt2_block(P, x, mask, positions):
    q, k, v = linear(P, "attn.c_attn", layer_norm(P, "ln_1", x, 1e-5)).chunk(3, -1)
    x = x + linear(P, "attn.c_proj", attention(q, k, v, mask, heads=4, key_heads=4))
    seen = layer_norm(P, "ln_2", x, 1e-5)
    return x + linear(P, "mlp.c_proj", F.gelu(linear(P, "mlp.c_fc", seen), approximate="tanh"))


def bert_block(P, x, mask, positions):
    q, k, v = (linear(P, f"attention.self.{name}", x) for name in ("query", "key", "value"))
    said = linear(P, "attention.output.dense", attention(q, k, v, mask, heads=4, key_heads=4))
    x = layer_norm(P, "attention.output.LayerNorm", x + said, 1e-12)
    inner = linear(P, "output.dense", F.gelu(linear(P, "intermediate.dense", x)))
    return layer_norm(P, "output.LayerNorm", x + inner, 1e-12)


BLOCKS = {"llama": llama_block, "qwen2": llama_block, "gpt2": gpt2_block, "bert": bert_block, "roberta": bert_block}


def base_states(model, layout, inputs):
    """h_0, ..., h_L of the base, before a final norm, and what its head reads."""
    states, hooks = [], []
    for block in layout.base_blocks:
        hooks.append(block.register_forward_pre_hook(lambda m, args: states.append(args[0])))
    hooks.append(layout.base_blocks[-1].register_forward_hook(lambda m, args, out: states.append(out)))
    with torch.no_grad():
        read = model.base_model(**inputs).last_hidden_state
    for hook in hooks:
        hook.remove()
    return states, read


def by_hand(family, model, tuned, method, ids, attention_mask):
    """The head's input and the answer of a side network, in formulas, from the base's states."""
    positions = (attention_mask.cumsum(-1) - 1).clamp_min(0)
    inputs = {"input_ids": ids, "attention_mask": attention_mask}
    causal = family in ("llama", "qwen2", "gpt2")
    if causal:
        inputs["position_ids"] = positions
    layout = type("", (), {"base_blocks": model.base_model.get_submodule(tuned.layout.family.blocks)})
    states, read = base_states(model, layout, inputs)

    T = ids.shape[1]
    allowed = attention_mask.bool()[:, None, :].expand(-1, T, -1)
    if causal:
        allowed = allowed & torch.ones(T, T, dtype=torch.bool).tril()
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, -1e9)
    P = dict(network(tuned).named_parameters())
    s = linear(P, "down", states[0])
    for layer in range(3):
        if isinstance(method, LadderSideTuning):
            m = 1 / (1 + torch.exp(-P["a"][layer] / method.temperature))
            s = m * s + (1 - m) * linear(P, f"rungs.{layer}", states[layer + 1])
        inside = {name.removeprefix(f"blocks.{layer}."): p for name, p in P.items() if f"blocks.{layer}." in name}
        s = BLOCKS[family](inside, s, mask, positions)
    if causal:
        s = layer_norm(P, "norm", s, 1e-5) if family == "gpt2" else rms(P, "norm", s)
    side = linear(P, "up", s)
    if isinstance(method, SideTuning):
        share = 1 / (1 + torch.exp(-P["a"]))
        side = share * read + (1 - share) * side
    return model.lm_head(side) if causal else side


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_side_network_is_the_formula_in_values_and_gradients(bases, ids, family, method):
    model = bases[family]
    tuned = stir(attach(model, method)).train()
    mask = torch.ones_like(ids)
    mask[1, :3] = 0  # on the left
    mask[2, 7:] = 0
    real = mask.bool()
    answers = [first(tuned(input_ids=ids, attention_mask=mask)), by_hand(family, model, tuned, method, ids, mask)]
    assert torch.allclose(answers[0][real], answers[1][real], atol=2e-5)
    weights = torch.randn(answers[0][real].shape)
    parameters = dict(network(tuned).named_parameters())
    gradients = [torch.autograd.grad((weights * a[real]).sum(), list(parameters.values())) for a in answers]
    for name, own, plain in zip(parameters, *gradients, strict=True):
        assert (own - plain).abs().max() <= 1e-4 * (1 + plain.abs().max()), name


def t5_attention(P, name, x, others, mask, bias):
    q, k, v = (linear(P, f"{name}.{letter}", states) for letter, states in zip("qkv", (x, others, others)))
    return linear(P, f"{name}.o", attention(q, k, v, mask, heads=4, key_heads=4, scale=1.0, bias=bias))


def t5_block(P, x, mask, bias, said=None, said_mask=None):
    seen = rms(P, "layer.0.layer_norm", x)
    x = x + t5_attention(P, "layer.0.SelfAttention", seen, seen, mask, bias)
    if said is not None:
        seen = rms(P, "layer.1.layer_norm", x)
        x = x + t5_attention(P, "layer.1.EncDecAttention", seen, said, said_mask, None)
    ffn = f"layer.{1 if said is None else 2}"
    seen, dense = rms(P, f"{ffn}.layer_norm", x), f"{ffn}.DenseReluDense"
    if f"{dense}.wi.weight" in P:
        inner = linear(P, f"{dense}.wi", seen).relu()
    else:
        inner = F.gelu(linear(P, f"{dense}.wi_0", seen), approximate="tanh") * linear(P, f"{dense}.wi_1", seen)
    return x + linear(P, f"{dense}.wo", inner)


def t5_by_hand(model, tuned, method, ids, attention_mask, written):
    """The answer of two side networks, in formulas, from the states and the distance biases of the base's stacks."""
    states, hooks = {"encoder": [], "decoder": []}, []
    for name, kept in states.items():
        for block in getattr(model, name).block:
            hooks.append(block.register_forward_pre_hook(lambda m, args, kept=kept: kept.append(args[0])))
        norm = getattr(model, name).final_layer_norm
        hooks.append(norm.register_forward_hook(lambda m, args, out, kept=kept: kept.extend([args[0], out])))
    with torch.no_grad():
        model(input_ids=ids, attention_mask=attention_mask, decoder_input_ids=written)
    for hook in hooks:
        hook.remove()
    B, T = written.shape
    padded = torch.zeros(attention_mask.shape).masked_fill(attention_mask == 0, -1e9)[:, None]  # (B, 1, S)
    later = torch.full((T, T), -1e9).triu(1).expand(B, -1, -1)
    said = None
    for name, mask in (("encoder", padded), ("decoder", later)):
        P = dict(tuned.additions["default"].parts[f"{name}/side"].named_parameters())
        *hs, read = states[name]
        table = getattr(model, name).block[0].layer[0].SelfAttention
        bias = table.compute_bias(hs[0].shape[1], hs[0].shape[1]).detach()
        s = linear(P, "down", hs[0])
        for layer, h in enumerate(hs[1:]):
            if isinstance(method, LadderSideTuning):
                m = 1 / (1 + torch.exp(-P["a"][layer] / method.temperature))
                s = m * s + (1 - m) * linear(P, f"rungs.{layer}", h)
            inside = {key.removeprefix(f"blocks.{layer}."): p for key, p in P.items() if f"blocks.{layer}." in key}
            s = t5_block(inside, s, mask, bias, said, padded)
        said = rms(P, "norm", s)
    side = linear(P, "up", said)
    if isinstance(method, SideTuning):
        share = 1 / (1 + torch.exp(-P["a"]))
        side = share * read + (1 - share) * side
    return model.lm_head(side * model.config.d_model**-0.5 if model.config.scale_decoder_outputs else side)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["t5", "t5-gated"])
def test_side_networks_of_two_stacks_are_the_formula_in_values_and_gradients(ids, family, method):
    model = tiny(family)
    tuned = stir(attach(model, method)).train()
    mask = torch.ones_like(ids)
    mask[2, 7:] = 0
    written = ids.flip(1)[:, :6]
    answers = [
        first(tuned(input_ids=ids, attention_mask=mask, decoder_input_ids=written)),
        t5_by_hand(model, tuned, method, ids, mask, written),
    ]
    assert torch.allclose(*answers, atol=2e-5)
    weights = torch.randn(answers[0].shape)
    parameters = dict(tuned.additions["default"].named_parameters())
    gradients = [torch.autograd.grad((weights * a).sum(), list(parameters.values())) for a in answers]
    for name, own, plain in zip(parameters, *gradients, strict=True):
        assert (own - plain).abs().max() <= 1e-4 * (1 + plain.abs().max()), name


def test_an_encoder_of_two_stacks_must_be_read_with_its_side_network(ids):
    model = tiny("t5")
    tuned, said = attach(model, LadderSideTuning(4)), model.get_encoder()(input_ids=ids)
    with pytest.raises(cl.CourseError, match="give input_ids, not encoder_outputs"):
        tuned(encoder_outputs=said, decoder_input_ids=ids)


# --- what the methods say of themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_side_tuning_is_the_base_at_alpha_one_and_learns_alpha(bases, ids, family):
    model, inputs = bases[family], {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tuned = attach(model, SideTuning(4, alpha=1.0))
    assert torch.equal(first(tuned(**inputs)), first(model(**inputs)))
    tuned = stir(attach(model, SideTuning(4, alpha=0.25)))
    a, answers = network(tuned).a, {}
    for share in (0.0, 0.25, 1.0):
        with torch.no_grad():
            a.copy_(torch.logit(torch.tensor(share), eps=1e-7))
        answers[share] = first(tuned(**inputs))
    mixed = 0.25 * answers[1.0] + 0.75 * answers[0.0]  # what the head does is linear
    assert torch.allclose(answers[0.25], mixed, atol=1e-5)
    with torch.no_grad():
        a.copy_(torch.logit(torch.tensor(0.25)))
    (slope,) = torch.autograd.grad(first(tuned(**inputs)).sum(), [a])
    assert torch.allclose(slope, 0.25 * 0.75 * (answers[1.0] - answers[0.0]).sum(), rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_side_blocks_begin_as_the_base_s_blocks_pruned(bases, family):
    model, reduction = bases[family], 2
    tuned = attach(model, LadderSideTuning(reduction))
    blocks = model.base_model.get_submodule(tuned.layout.family.blocks)
    for own, base in zip(network(tuned).blocks, blocks, strict=True):
        for (name, narrow), (_, wide) in zip(own.named_parameters(), base.named_parameters(), strict=True):
            kept = wide[::reduction, ::reduction] if wide.dim() == 2 else wide[::reduction]
            assert torch.equal(narrow, kept), name


@settings(max_examples=12, deadline=None)
@given(
    layers=st.integers(1, 3), heads=st.integers(1, 3), q=st.sampled_from([1, 2, 4]), wide=st.integers(1, 3),
    family=st.sampled_from(FAMILIES),
)
def test_counts_equal_the_formulas(layers, heads, q, wide, family):
    d, f = 8 * heads, 4 * wide
    k = d // heads if family in ("llama", "qwen2") else d
    model = tiny(family, width=d, heads=heads, key_heads=1, ffn=f, layers=layers)
    d, f, k, full = d // q, f // q, k // q, d
    block = {
        "llama": 2 * d * d + 2 * d * k + 3 * d * f + 2 * d,
        "qwen2": 2 * d * d + 2 * d * k + 3 * d * f + 2 * d + d + 2 * k,
    }.get(family, 4 * d * d + 4 * d + 2 * d * f + d + f + 4 * d)
    norm = {"llama": d, "qwen2": d, "gpt2": 2 * d}.get(family, 0)
    way = full * d + d + d * full + full  # down and up
    counted = attach(model, SideTuning(q)).budget()
    assert (counted.trained, counted.stored) == (layers * block + norm + way + 1,) * 2
    counted = attach(model, LadderSideTuning(q)).budget()
    assert (counted.trained, counted.stored) == (layers * (block + full * d + d + 1) + norm + way,) * 2


@pytest.mark.parametrize("q", [1, 2, 4])
def test_counts_of_two_stacks_equal_the_formulas(q):
    L, d, f, k, full = 3, 32 // q, 48 // q, 4 * 12 // q, 32  # the decoder has L - 1 blocks; the heads are k wide
    encoder, decoder = 4 * d * k + 2 * d * f + 2 * d, 8 * d * k + 2 * d * f + 3 * d
    side = L * encoder + (L - 1) * decoder + 2 * (full * d + d) + 2 * d + d * full + full
    assert attach(tiny("t5"), SideTuning(q)).budget().trained == side + 1
    assert attach(tiny("t5"), LadderSideTuning(q)).budget().trained == side + (2 * L - 1) * (full * d + d + 1)


# --- nothing of the base is needed backwards ------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("method", METHODS[:1] + METHODS[-1:])
def test_the_base_builds_no_graph(bases, ids, family, method):
    tuned = attach(bases[family], method).train()
    needed = []

    def look(module, args, out):
        needed.append((out[0] if isinstance(out, tuple) else out).requires_grad)

    for block in tuned.layout.blocks:
        for module in block.modules():
            module.register_forward_hook(look)
    answer = first(tuned(input_ids=ids, attention_mask=torch.ones_like(ids)))
    assert len(needed) > 3 * 8
    assert sum(needed) == (family == "bert")  # there the last block hands over what the side network says
    assert answer.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ladder_sends_no_gradient_into_the_base_and_side_tuning_may(bases, ids, family):
    for method, reaches in ((LadderSideTuning(4), False), (SideTuning(4), True)):
        tuned, seen = stir(attach(bases[family], method)), []
        tuned.layout.embedding.register_forward_hook(lambda m, args, out, s=seen: s.append(out.requires_grad_()))
        answer = first(tuned(input_ids=ids, attention_mask=torch.ones_like(ids)))
        (gradient,) = torch.autograd.grad(answer.square().sum(), seen, allow_unused=True)
        assert (gradient is not None) == reaches


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_side_tuning_sums_with_what_acts_before_it(bases, ids, family):
    """A prompt learns through the base and through S; a second side network takes its share of the first sum."""
    tuned = stir(attach(bases[family], Sum(PromptTuning(3), SideTuning(4), SideTuning(2)))).train()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    first(tuned(**inputs)).square().sum().backward()
    used = {name: p.grad.abs().sum() for name, p in tuned.additions["default"].named_parameters()}
    assert all(size > 0 for name, size in used.items() if not name.endswith("key.bias"))
    parts = tuned.additions["default"].parts
    with torch.no_grad():
        for part in (parts["part2/side"], parts["part3/side"]):
            part.a.fill_(100.0)  # both leave everything to what came before
    alone = attach(bases[family], PromptTuning(3))
    alone.additions["default"].parts["prompt"].load_state_dict(parts["part1/prompt"].state_dict())
    assert torch.allclose(first(tuned(**inputs)), first(alone(**inputs)), atol=1e-6)


def test_recorded_states_are_the_base_s_but_for_what_the_head_reads(bases, ids):
    model = bases["bert"]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "output_hidden_states": True}
    plain = model(**inputs).hidden_states  # installs the recording hooks on the base
    answer = stir(attach(model, LadderSideTuning(4)))(**inputs)
    assert all(torch.equal(own, base) for own, base in zip(answer.hidden_states[:-1], plain[:-1], strict=True))
    assert torch.equal(answer.hidden_states[-1], answer.last_hidden_state)


# --- rows and caches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "t5"])
@pytest.mark.parametrize("beams", [1, 3])
def test_two_side_networks_and_others_generate_in_one_batch(family, beams):
    tuned = attach(tiny(family), LadderSideTuning(4)).add(SideTuning(2), name="side")
    tuned.add(LadderSideTuning(1), name="wide").add(PrefixTuning(3), name="prefix").add(PromptTuning(2), name="prompt")
    stir(tuned)
    ids = torch.randint(3, VOCABULARY, (7, 6), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    if family == "t5":
        mask[1, 4:], mask[4, 3:] = 0, 0
    else:
        mask[1, :2], mask[4, :3] = 0, 0
    names = ["default", "side", None, "default", "wide", "prefix", "prompt"]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "num_beams": beams}
    together = tuned.generate(ids, attention_mask=mask, additions=names, **options)
    slow = tuned.generate(ids, attention_mask=mask, additions=names, use_cache=False, **options)
    assert torch.equal(together, slow)
    for row, name in enumerate(names):
        one = slice(row, row + 1)
        alone = tuned.generate(ids[one], attention_mask=mask[one], additions=[name], **options)
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("begin", [lambda config: DynamicCache(), lambda config: DynamicCache(config=config)])
@pytest.mark.parametrize("names", [None, ["default", "wide", None]])
def test_a_cache_handed_in_is_read_on_and_cut_with_the_rest(bases, ids, begin, names):
    tuned = stir(attach(bases["llama"], LadderSideTuning(4)).add(LadderSideTuning(1), "wide"))
    more = {"additions": names} if names else {}
    whole = first(tuned(input_ids=ids, attention_mask=torch.ones_like(ids), **more))
    cache = begin(tuned.model.config)
    tuned(input_ids=ids[:, :7], past_key_values=cache, use_cache=True, **more)
    cache.crop(-3)
    step = first(tuned(input_ids=ids[:, 4:], past_key_values=cache, use_cache=True, **more))
    assert torch.allclose(step, whole[:, 4:], atol=2e-5)


def test_caches_that_a_side_network_cannot_continue_are_errors(bases, ids):
    tuned = attach(bases["llama"], LadderSideTuning(4))
    with tuned.disabled():
        cache = tuned(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(cl.CourseError, match="9 tokens that the side network has not read"):
        tuned(input_ids=ids, past_key_values=cache)
    with pytest.raises(cl.CourseError, match="cache_implementation"):
        tuned.generate(ids, max_new_tokens=2, cache_implementation="static", eos_token_id=None)


def test_a_base_in_half_precision_keeps_the_side_network_in_float32(bases, ids):
    model = tiny("llama").bfloat16()
    torch.manual_seed(0)
    tuned = stir(attach(model, LadderSideTuning(4)))
    seen = []
    network(tuned).up.register_forward_hook(lambda m, args, out: seen.append((args[0].dtype, out.dtype)))
    answer = first(tuned(input_ids=ids, attention_mask=torch.ones_like(ids), additions=["default", None, "default"]))
    assert seen == [(torch.float32, torch.float32)]
    assert answer.dtype == torch.bfloat16
    torch.manual_seed(0)
    plain = first(stir(attach(bases["llama"], LadderSideTuning(4)))(input_ids=ids))
    assert (answer[0].float() - plain[0]).abs().mean() < 0.05 * plain[0].abs().mean() + 0.05


def test_errors_say_what_is_possible(bases):
    with pytest.raises(cl.CourseError, match=r"reduction=8 .* heads of width 8 and .* Possible here: 1, 2, 4\."):
        attach(bases["llama"], LadderSideTuning(8))
    with pytest.raises(cl.CourseError, match=r"Possible here: 1, 2, 4, 8\."):
        attach(bases["bert"], SideTuning(3))
    with pytest.raises(cl.CourseError, match=r"alpha=1\.5"):
        SideTuning(alpha=1.5)
    with pytest.raises(cl.CourseError, match="LadderSideTuning cannot be summed"):
        Sum(LadderSideTuning(), PromptTuning(3))
    with pytest.raises(cl.CourseError, match="cannot be merged"):
        attach(bases["llama"], LadderSideTuning(4)).merge()
    tuned = attach(cl.bases.Base("tiny", bases["llama"], None), LadderSideTuning(4))
    with pytest.raises(cl.CourseError, match="nothing below"):
        cl.cache_below(tuned, [])


# --- memory ---------------------------------------------------------------------------------------------------


class Tokens:
    """The few attributes of a tokenizer that a task reads."""

    pad_token_id, padding_side = 0, "right"


def saved(family, layers, *methods):
    model = tiny(family, width=64, ffn=256, layers=layers)
    ids = torch.randint(3, VOCABULARY, (4, 16))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 0, 1])}
    batch["attention_mask"][0, 12:] = 0
    base = cl.bases.Base("tiny", model, Tokens())
    return [saved_activation_bytes(attach(base, m, task=cl.tasks.Classification(2)), batch) for m in methods]


@pytest.mark.parametrize(("family", "layers"), [("llama", 6), ("gpt2", 6), ("bert", 6), ("llama", 30), ("bert", 30)])
def test_a_ladder_saves_a_quarter_of_what_full_tuning_saves_at_most(family, layers):
    full, ladder, side = saved(family, layers, FullFineTuning(), LadderSideTuning(), SideTuning())
    states = 4 * 16 * 64 * 4  # bytes of one block's states
    assert (layers + 1) * states < ladder.blocks <= 0.25 * full.blocks  # the rungs keep what they read
    assert side.blocks < ladder.blocks
    assert ladder.rest == side.rest


def test_saved_bytes_are_counted_to_the_byte():
    B, T, d, r, labels = 4, 16, 64, 3, 2
    probe, adapter = saved("bert", 2, LinearProbe(), BottleneckAdapter(r, skip_layers=1))
    # the head keeps the pooled states; the loss its log-probabilities and one number
    assert (probe.blocks, probe.rest) == (0, 4 * (B * d + B * labels + 1))
    # LN(z + f(LN(z))) keeps what W_d reads, what the ReLU says (W_u reads the same tensor), and the sum that the norm
    # reads with its mean and deviation; the pooler, behind the blocks, its tanh
    assert adapter.blocks == 4 * B * T * (d + r + d + 2)
    assert adapter.rest == probe.rest


def test_saved_bytes_grow_with_the_batch_and_hold_no_weights(models):
    tuned = attach(cl.bases.Base("tiny", models["bert"], Tokens()), FullFineTuning(), task=cl.tasks.Classification(2))
    tuned.eval()
    ids = torch.randint(3, VOCABULARY, (4, 5))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 1, 0])}
    half = {name: tensor[:2].clone() for name, tensor in batch.items()}
    assert saved_activation_bytes(tuned, batch).blocks == 2 * saved_activation_bytes(tuned, half).blocks
    assert not tuned.training
    with pytest.raises(cl.CourseError, match="give task="):
        saved_activation_bytes(attach(models["bert"], ParallelAdapter(4)), batch)
