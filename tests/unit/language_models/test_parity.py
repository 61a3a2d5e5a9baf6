"""The course's models against the field's, with copied weights: values and gradients at 1e-5."""

import itertools

import pytest
import torch
import transformers
from torch import nn

import course_lib as cl
from course_lib.language_models.blocks import visible
from course_lib.language_models.recurrent import CELLS
from course_lib.language_models.transformers_weights import pairs, their_tensors
from course_lib.runtime import CourseError

lms = cl.language_models


def close(ours, theirs, what=""):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=lambda m: f"{what}: {m}")


def shaken(model, seed=0):
    """Weights far from their start, norms and biases too, so that none of them can be left out unnoticed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def gradients_agree(ours, theirs, corresponding):
    """Both have run backward; each pair of tensors has the same gradient."""
    own = {name: p.grad for name, p in ours.named_parameters()}
    for p in theirs.parameters():
        p.data = p.grad if p.grad is not None else torch.zeros_like(p)  # so that their_tensors gives the gradients
    other = their_tensors(theirs)
    compared = 0
    for our_names, their_names in corresponding:
        grads = [own[name] for name in our_names]
        close(torch.cat(grads), torch.cat([other[name] for name in their_names]), our_names[0])
        assert any(float(g.abs().max()) > 0 for g in grads), our_names
        compared += len(our_names)
    assert compared == len(own)


# --- recurrent cells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "inputs", "width"), [(k, *s) for k in CELLS for s in ((3, 5), (8, 8), (6, 1))])
def test_a_cell_is_torchs_cell(kind, inputs, width):
    own = CELLS[kind][0](inputs, width)
    theirs = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind](inputs, width)
    own.load_state_dict(theirs.state_dict())
    x = torch.randn(4, inputs)
    state = tuple(torch.randn_like(part) for part in own.start(x))
    ours, them = own(x, state), theirs(x, state if kind == "lstm" else state[0])
    them = them if kind == "lstm" else (them,)
    for a, b in zip(ours, them, strict=True):
        close(a, b)
    sum((part**2).sum() for part in ours).backward()
    sum((part**2).sum() for part in them).backward()
    for (name, a), b in zip(own.named_parameters(), theirs.parameters()):
        close(a.grad, b.grad, name)


@pytest.mark.parametrize(("kind", "layers"), [*itertools.product(CELLS, (1, 3))])
def test_the_written_out_model_is_the_fused_one(kind, layers):
    fused = lms.Recurrent(kind, vocabulary=11, width=7, layers=layers)
    own = lms.Recurrent(kind, vocabulary=11, width=7, layers=layers, fused=False)
    state = fused.state_dict()
    for name in list(state):
        if name.startswith("recurrence."):
            part, layer = name.removeprefix("recurrence.").rsplit("_l", 1)
            state[f"recurrence.{layer}.{part}"] = state.pop(name)
    own.load_state_dict(state)
    ids = torch.randint(11, (3, 9))
    close(own(ids), fused(ids))
    own(ids).square().sum().backward()
    fused(ids).square().sum().backward()
    close(own.embedding.weight.grad, fused.embedding.weight.grad)
    close(own.recurrence[0].weight_hh.grad, fused.recurrence.weight_hh_l0.grad)
    memories = own.new_cache(), fused.new_cache()
    for piece in ids.split([2, 1, 6], dim=1):
        close(own(piece, cache=memories[0]), fused(piece, cache=memories[1]))


# --- decoders --------------------------------------------------------------------------------------------------------

LLAMA = {"norm": "rms", "positions": "rotary", "activation": "silu", "gated": True, "bias": False}
DECODERS = {
    "gpt2": {"width": 24, "heads": 4},
    "gpt2-deep": {"width": 12, "heads": 1, "layers": 4, "ffn_width": 20, "activation": "gelu"},
    "gpt2-untied": {"width": 8, "heads": 2, "tied": False, "activation": "relu", "epsilon": 1e-3},
    "llama": {"width": 24, "heads": 4, **LLAMA},
    "llama-grouped": {"width": 24, "heads": 6, "key_value_heads": 2, "ffn_width": 40, "tied": False, **LLAMA},
    "llama-one": {"width": 16, "heads": 4, "key_value_heads": 1, "rotary_base": 500.0, "epsilon": 1e-3, **LLAMA},
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_gpt_is_gpt2_or_llama(name, padding):
    own = shaken(lms.GPT(**{"vocabulary": 31, "context": 20, "layers": 2, **DECODERS[name]}))
    theirs = lms.to_transformers(own)
    kind = {"g": "gpt2", "l": "llama"}[name[0]]
    assert theirs.config.model_type == kind
    assert sum(p.numel() for p in theirs.parameters()) == own.num_parameters()
    ids, mask = torch.randint(31, (3, 17)), None
    if padding != "none":
        mask = torch.ones_like(ids)
        mask[0, :5], mask[1, :1] = 0, 0
        mask = mask if padding == "left" else mask.flip(-1)
    positions = None if mask is None else (mask.cumsum(-1) - 1).clamp_min(0)
    ours = own(ids, mask)
    them = theirs(ids, attention_mask=mask, position_ids=positions).logits
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    close(ours[real], them[real])
    ours[real].log_softmax(-1)[:, 3].sum().backward()
    them[real].log_softmax(-1)[:, 3].sum().backward()
    gradients_agree(own, theirs, pairs(kind, own.config.layers, own.config.tied))


@pytest.mark.parametrize("name", DECODERS)
def test_weights_come_back_from_transformers(name):
    own = shaken(lms.GPT(**{"vocabulary": 31, "context": 20, "layers": 2, **DECODERS[name]}))
    back = lms.from_transformers(lms.to_transformers(own))
    ids = torch.randint(31, (2, 20))
    assert torch.equal(back(ids), own(ids))


def test_a_mixture_has_no_twin():
    with pytest.raises(CourseError, match="No class of transformers"):
        lms.to_transformers(lms.GPT(width=8, heads=2, norm="rms"))


@pytest.mark.parametrize(("kind", "options"), [
    ("GPTNeo", {"num_layers": 1, "num_heads": 1, "attention_types": [[["global"], 1]]}),
    ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    ("Llama", {"attention_bias": True}),
    ("Llama", {"head_dim": 16}),
    ("Llama", {"hidden_act": "gelu_fast"}),
    ("GPT2", {"scale_attn_by_inverse_layer_idx": True}),
])  # fmt: skip
def test_another_function_is_refused(kind, options):
    sizes = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"intermediate_size": 8} if kind == "Llama" else {}
    config = getattr(transformers, f"{kind}Config")(**(sizes | options), bos_token_id=None, eos_token_id=None)
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    with pytest.raises(CourseError, match=f"what this {name} does"):
        lms.from_transformers(getattr(transformers, name)(config))


@pytest.mark.parametrize("name", ["gpt2", "llama-grouped"])
def test_the_cache_changes_nothing_under_padding(name):
    own = shaken(lms.GPT(**{"vocabulary": 31, "context": 20, "layers": 2, **DECODERS[name]}))
    ids, mask = torch.randint(31, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    whole, cache = own(ids, mask), own.new_cache()
    parts = [own(ids[:, a:b], mask[:, :b], cache) for a, b in ((0, 6), (6, 7), (7, 12))]
    close(torch.cat(parts, dim=1)[mask.bool()], whole[mask.bool()])
    close(own(ids[:1, 4:]), whole[:1, 4:])  # padding in front changes nothing


@pytest.mark.parametrize(("T", "S"), [(1, 1), (4, 4), (2, 5), (1, 5)])
def test_every_position_sees_something_and_no_future(T, S):
    assert visible(T, S, None, causal=False) is None
    mask = torch.ones(3, S, dtype=torch.long)
    mask[0, : S - 1], mask[1, S // 2 :] = 0, 0
    for causal in (True, False):
        seen = visible(T, S, mask, causal).expand(3, 1, T, S)[:, 0]
        for row, t, s in itertools.product(range(3), range(T), range(S)):
            own = s == t + S - T
            past = s <= t + S - T or not causal
            assert seen[row, t, s] == ((past and bool(mask[row, s])) or (causal and own))
    assert visible(T, S, mask, causal=True).any(-1).all()


# --- encoder ---------------------------------------------------------------------------------------------------------

ENCODERS = {
    "small": {"width": 24, "heads": 4},
    "deep": {"width": 12, "heads": 1, "layers": 4, "ffn_width": 20, "segments": 3, "epsilon": 1e-4},
    "relu": {"width": 8, "heads": 2, "activation": "relu"},
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("padded", [False, True])
def test_encoder_is_bert_with_its_head(name, padded):
    own = shaken(lms.Encoder(**{"vocabulary": 31, "context": 20, "layers": 2, **ENCODERS[name]}))
    theirs = lms.to_transformers(own)
    pooler = own.config.width * (own.config.width + 1)
    assert sum(p.numel() for p in theirs.parameters()) == own.num_parameters() + pooler
    ids, mask = torch.randint(31, (3, 15)), torch.ones(3, 15, dtype=torch.long)
    segments = torch.randint(own.config.segments, (3, 15))
    if padded:
        mask[0, 9:], mask[1, :2] = 0, 0
    real = mask.bool()
    states = theirs.bert(ids, attention_mask=mask, token_type_ids=segments).last_hidden_state
    close(own.states(ids, mask, segments)[real], states[real])
    close(own(ids), theirs(ids).logits, "without mask and segments")
    ours, them = own(ids, mask, segments), theirs(ids, attention_mask=mask, token_type_ids=segments).logits
    close(ours[real], them[real])
    ours[real].log_softmax(-1)[:, 3].sum().backward()
    them[real].log_softmax(-1)[:, 3].sum().backward()
    gradients_agree(own, theirs, pairs("bert", own.config.layers, tied=True))


@pytest.mark.parametrize("bare", [False, True])
def test_bert_comes_back_with_or_without_its_head(bare):
    own = shaken(lms.Encoder(vocabulary=31, context=20, layers=2, width=24, heads=4))
    theirs = lms.to_transformers(own)
    back, ids = lms.from_transformers(theirs.bert if bare else theirs), torch.randint(31, (2, 9))
    assert torch.equal(back.states(ids), own.states(ids))
    assert torch.equal(back(ids), own(ids)) == (not bare)


# --- encoder-decoder -------------------------------------------------------------------------------------------------


def torchs_transformer(own):
    """torch.nn.Transformer with the weights of `own`, and the pairs of their parameters."""
    c = own.config
    theirs = nn.Transformer(
        c.width, c.heads, c.layers, c.layers, c.ffn_width or 4 * c.width, 0.0, c.activation, batch_first=True,
        norm_first=True,
    )  # fmt: skip
    corresponding = []
    for half in ("encoder", "decoder"):
        for n in range(c.layers):
            a, b = f"{half}_blocks.{n}.", f"{half}.layers.{n}."
            norms = ["attention_norm", *(["cross_norm"] if half == "decoder" else []), "ffn_norm"]
            for kind in ("weight", "bias"):
                for ours, them in (("attention", "self_attn"), ("cross", "multihead_attn"))[: len(norms) - 1]:
                    inputs = [f"{a}{ours}.query.{kind}", f"{a}{ours}.key_value.{kind}"]
                    corresponding.append((inputs, [f"{b}{them}.in_proj_{kind}"]))
                    corresponding.append(([f"{a}{ours}.output.{kind}"], [f"{b}{them}.out_proj.{kind}"]))
                corresponding.append(([f"{a}ffn.ffn_in.{kind}"], [f"{b}linear1.{kind}"]))
                corresponding.append(([f"{a}ffn.ffn_out.{kind}"], [f"{b}linear2.{kind}"]))
                for number, norm in enumerate(norms, start=1):
                    corresponding.append(([f"{a}{norm}.{kind}"], [f"{b}norm{number}.{kind}"]))
        corresponding += [([f"{half}_norm.{kind}"], [f"{half}.norm.{kind}"]) for kind in ("weight", "bias")]
    state, own_state = theirs.state_dict(), own.state_dict()
    for ours, (them,) in corresponding:
        state[them].copy_(torch.cat([own_state[name] for name in ours]))
    return theirs.eval(), corresponding


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize(("width", "heads", "layers", "activation"), [(16, 4, 2, "relu"), (12, 1, 3, "gelu")])
@pytest.mark.parametrize("padded", [False, True])
def test_encoder_decoder_is_torchs_transformer(width, heads, layers, activation, padded):
    own = shaken(lms.EncoderDecoder(vocabulary=19, width=width, heads=heads, layers=layers, activation=activation))
    theirs, corresponding = torchs_transformer(own)
    source, target = torch.randint(19, (3, 8)), torch.randint(19, (3, 6))
    mask = torch.ones_like(source)
    if padded:
        mask[0, 5:], mask[2, 2:] = 0, 0
    hidden = ~mask.bool()
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    them = theirs(
        own.embed(source).detach(), own.embed(target).detach(), tgt_mask=causal, src_key_padding_mask=hidden,
        memory_key_padding_mask=hidden, tgt_is_causal=True,
    ) @ own.token_embedding.weight.detach().T  # fmt: skip
    ours = own(source, target, mask if padded else None)
    close(ours, them)
    ours.log_softmax(-1)[..., 3].sum().backward()
    them.log_softmax(-1)[..., 3].sum().backward()
    own_grads, their_grads = ({n: p.grad for n, p in m.named_parameters()} for m in (own, theirs))
    for names, (name,) in corresponding:
        close(torch.cat([own_grads[n] for n in names]), their_grads[name], name)
    assert len(corresponding) == len(their_grads)


def test_a_decoder_behind_its_source_is_a_language_model():
    own = shaken(lms.EncoderDecoder(vocabulary=19, width=16, heads=4))
    source, mask = torch.randint(19, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    given, target = own.given(source, mask), torch.randint(19, (2, 6))
    close(given(target), own(source, target, mask))
    out = lms.generate(given, target[:, :1], 9, seed=1)
    assert torch.equal(out, lms.generate(given, target[:, :1], 9, seed=1, cache=False))
    close(own(source[:1, :5], target[:1]), own(source, target, mask)[:1])
