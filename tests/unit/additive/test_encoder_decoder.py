"""Additions to T5: what an encoder and a decoder, cross-attention and distances ask of them."""

import copy

import pytest
import torch
from conftest import VOCABULARY, inputs, stir, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import CASES, ROWS, call
from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration

import course_lib as cl
from course_lib.additive import (
    IA3,
    BitFit,
    BottleneckAdapter,
    Compacter,
    LayerNormTuning,
    LinearProbe,
    LlamaAdapter,
    LoRA,
    LoReFT,
    ParallelAdapter,
    PrefixTuning,
    PromptTuning,
    UniPELT,
    attach,
    load,
)
from course_lib.architectures import Layout

ON_T5 = [case for case, family in ROWS if family == "t5"]
OPTIONS = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture(scope="session")
def t5():
    return tiny("t5")


def padded(ids):
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


# --- the layout ---------------------------------------------------------------------------------------------


def test_blocks_are_numbered_through_the_encoders_first(t5):
    layout = Layout(t5)
    assert layout.encoder_decoder
    assert (layout.num_layers, layout.first_stack) == (5, 3)
    assert [layout.block_path(block) for block in (0, 2, 3, 4)] == [
        "encoder.block.0", "encoder.block.2", "decoder.block.0", "decoder.block.1"]
    assert [layout.stack(block).causal for block in range(5)] == [False, False, False, True, True]
    assert layout.projection(2, "ffn_out").module is t5.encoder.block[2].layer[1].DenseReluDense.wo
    assert layout.projection(3, "ffn_out").module is t5.decoder.block[0].layer[2].DenseReluDense.wo
    assert layout.projection(4, "cross_key").module is t5.decoder.block[1].layer[1].EncDecAttention.k
    assert [layout.block_of(path) for path in ("encoder.block.1.layer.0.layer_norm", "decoder.final_layer_norm")] == [
        1, None]
    assert layout.attentions()[4] is t5.decoder.block[1].layer[0].SelfAttention
    assert layout.attentions()[6] is t5.decoder.block[1].layer[1].EncDecAttention
    gated = Layout(tiny("t5-gated"))
    assert gated.projection(0, "ffn_in").module is gated.model.encoder.block[0].layer[1].DenseReluDense.wi_1


@settings(max_examples=12, deadline=None)
@given(layers=st.integers(1, 3), heads=st.integers(1, 3), r=st.integers(1, 6), p=st.integers(1, 6), f=st.integers(3, 9))
def test_counts_equal_the_formulas(layers, heads, r, p, f):
    d, k, L_enc, L_dec = 8 * heads, 12 * heads, layers, max(1, layers - 1)
    model = tiny("t5", width=d, heads=heads, layers=layers, ffn=f)
    bottleneck = 2 * d * r + d + r
    expected = {
        IA3(): L_enc * (2 * k + f) + L_dec * (4 * k + f),
        LoRA(r): (L_enc + L_dec) * 2 * r * (d + k),
        LoRA(r, targets=("cross_query", "cross_value", "cross_output")): L_dec * 3 * r * (d + k),
        ParallelAdapter(r): (L_enc + L_dec) * bottleneck,
        BottleneckAdapter(r): (L_enc + L_dec) * bottleneck,
        Compacter(4 * r, n=4): (L_enc + L_dec) * (4 * (d + 4 * r) + 2 * (d + 4 * r)) + 4**3,
        LayerNormTuning(): (2 * L_enc + 3 * L_dec + 2) * d,
        PromptTuning(p): p * d,
        PrefixTuning(p, hidden=None): 2 * p * k * (L_enc + 2 * L_dec),
        LoReFT(rank=2): L_enc * (2 * 2 * d + 2),
    }
    for method, count in expected.items():
        budget = attach(model, method).budget()
        assert (method, budget.stored) == (method, count)


# --- where methods act --------------------------------------------------------------------------------------


def test_a_prompt_stands_before_what_the_encoder_reads(t5, ids):
    """By hand: [P ; E] through inputs_embeds, under the mask of both."""
    tuned = attach(t5, PromptTuning(4))
    batch = {**padded(ids), "decoder_input_ids": ids[:, :4]}
    P = tuned.additions["default"].parts["prompt"]().expand(3, -1, -1)
    E = t5.shared(batch["input_ids"])
    mask = torch.cat([torch.ones(3, 4, dtype=torch.long), batch["attention_mask"]], dim=1)
    by_hand = t5(inputs_embeds=torch.cat([P, E], 1), attention_mask=mask, decoder_input_ids=ids[:, :4])
    said = tuned(**batch)
    assert torch.allclose(said.logits, by_hand.logits, atol=1e-5)
    assert said.encoder_last_hidden_state.shape == (3, 9, 32)  # the text's own positions
    assert torch.allclose(said.encoder_last_hidden_state, by_hand.encoder_last_hidden_state[:, 4:], atol=1e-5)
    assert said.logits.shape == (3, 4, VOCABULARY)


def test_labels_and_states_of_the_decoder_are_left_alone(t5, ids):
    """A decoder's input as long as the prompted text, and labels as long as the text, are no part of the prompt."""
    tuned = attach(t5, PromptTuning(4))
    batch, labels = padded(ids), ids.flip(1)
    plain = tuned(**batch, decoder_input_ids=torch.cat([torch.zeros(3, 1, dtype=torch.long), labels[:, :-1]], 1)).logits
    with_labels = tuned(**batch, labels=labels)
    assert torch.allclose(with_labels.logits, plain, atol=1e-6)
    expected = torch.nn.functional.cross_entropy(plain.flatten(0, 1), labels.flatten())
    assert torch.allclose(with_labels.loss, expected, atol=1e-5)
    thirteen = torch.randint(3, VOCABULARY, (3, 13))
    assert tuned(**batch, decoder_input_ids=thirteen).logits.shape == (3, 13, VOCABULARY)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_prefix_stands_before_all_three_attentions_at_no_distance(t5, ids, attention):
    """Each attention by hand: softmax([q P_k ; q K + bias]) [P_v ; V], with T5's own bias for the text only."""
    model = copy.deepcopy(t5)
    model.set_attn_implementation(attention)
    tuned = attach(model, PrefixTuning(3, hidden=None))
    prefix = tuned.additions["default"].parts["attend"]
    seen = {}

    def record(name):
        def hook(module, args, kwargs, result):
            seen[name] = (args[0], kwargs, result[0], result[1])
        return hook

    modules = tuned.layout.attentions()
    for number, module in enumerate(modules):
        module.register_forward_hook(record(number), with_kwargs=True)
    batch = padded(ids)
    tuned(**batch, decoder_input_ids=ids[:, :6])
    split = (4, 12)
    for number, module in enumerate(modules):
        x, kwargs, said, bias = seen[number]
        source = kwargs.get("key_value_states")
        source = x if source is None else source
        q, K, V = (t.unflatten(-1, split).transpose(1, 2) for t in (module.q(x), module.k(source), module.v(source)))
        P_k, P_v = prefix().reshape(3, 7, 2, 4, 12)[:, number].permute(1, 2, 0, 3)
        scores = q @ K.transpose(-1, -2) + bias
        if 3 <= number < 5:  # the decoder's own attention
            scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
        else:
            scores = scores.masked_fill(batch["attention_mask"][:, None, None] == 0, -torch.inf)
        weights = torch.cat([q @ P_k.transpose(-1, -2), scores], -1).softmax(-1)
        by_hand = module.o((weights @ torch.cat([P_v.expand(3, -1, -1, -1), V], 2)).transpose(1, 2).flatten(2))
        assert torch.allclose(said, by_hand, atol=1e-5), number
    assert len(modules) == 7


def test_cross_attention_has_roles_of_its_own(t5, ids):
    tuned = stir(attach(t5, LoRA(2, targets=("cross_key",))))
    assert {site.block for site in tuned.additions["default"].sites} == {3, 4}
    A, B = (getattr(tuned.additions["default"].parts["blocks/4/cross_key/beside"], letter) for letter in "AB")
    states = torch.randn(2, 5, 32)
    copied, plain = (m.decoder.block[1].layer[1].EncDecAttention.k for m in (tuned.model, t5))
    assert torch.allclose(copied(states), plain(states) + 8 * states @ A.T @ B.T, atol=1e-5)


def test_loreft_edits_what_the_encoder_reads(t5, ids):
    tuned = stir(attach(t5, LoReFT(2, first=1, last=1)))
    with tuned.disabled():
        plain = tuned(**inputs(t5, ids), output_hidden_states=True)
    edited = tuned(**inputs(t5, ids), output_hidden_states=True)
    moved = (edited.encoder_hidden_states[1] - plain.encoder_hidden_states[1]).abs().amax(dim=(0, 2)) > 1e-4
    assert moved.tolist() == [True, *[False] * 7, True]


@pytest.mark.parametrize("case", ["prompt", "prefix", "ia3", "houlsby", "loreft", "sum"])
def test_padding_on_either_side_changes_nothing(t5, ids, case):
    tuned = stir(attach(t5, CASES[case][0]))
    decoder = {"decoder_input_ids": ids[:, :4]}
    plain = tuned(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder).logits
    ones, zeros = torch.ones_like(ids), torch.zeros(3, 4, dtype=ids.dtype)
    for order in ((zeros, ids), (ids, zeros)):
        if order[0] is zeros and case in ("prompt", "sum"):
            continue  # an error, below
        mask = torch.cat([part if part is zeros else ones for part in order], 1)
        padded = tuned(input_ids=torch.cat(order, 1), attention_mask=mask, **decoder).logits
        assert (padded - plain).abs().max() < 2e-5


# --- writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ON_T5)
def test_generate_agrees_with_and_without_cache_and_by_row(t5, ids, case):
    tuned = stir(attach(t5, CASES[case][0]))
    tuned.add(PromptTuning(2), name="short")
    batch = {**padded(ids), **OPTIONS}
    cached = tuned.generate(**batch)
    assert cached.shape == (3, 6)  # the start token and five more, and nothing of the text
    assert torch.equal(cached, tuned.generate(**batch, use_cache=False))
    following = tuned(**padded(ids), decoder_input_ids=cached[:, :-1]).logits.argmax(-1)
    assert torch.equal(cached[:, 1:], following)
    names = ["default", None, "short"]
    for beams in (1, 3):
        together = tuned.generate(**batch, additions=names, num_beams=beams)
        for row, name in enumerate(names):
            single = {key: value[row : row + 1] if torch.is_tensor(value) else value for key, value in batch.items()}
            assert torch.equal(together[row], tuned.generate(**single, additions=[name], num_beams=beams)[0])


# --- tasks --------------------------------------------------------------------------------------------------


def test_prompts_keep_the_head_at_the_end_token(t5, ids):
    """The classifier reads the decoder where the text ends; by hand with the decoder's input unchanged."""
    tuned = attach(t5, PromptTuning(4), task=cl.tasks.Classification(3))
    batch = inputs(tuned, ids)
    batch["input_ids"][1, 6:] = torch.tensor([1, 0, 0])  # a shorter text, padded on the right
    batch["attention_mask"][1, 7:] = 0
    P, body = tuned.additions["default"].parts["prompt"]().expand(3, -1, -1), t5
    states = body.encoder(
        inputs_embeds=torch.cat([P, t5.shared(batch["input_ids"])], 1),
        attention_mask=torch.cat([torch.ones(3, 4, dtype=torch.long), batch["attention_mask"]], 1),
    ).last_hidden_state
    shifted = torch.cat([torch.zeros(3, 1, dtype=torch.long), batch["input_ids"][:, :-1]], 1)
    decoded = body.decoder(
        input_ids=shifted, encoder_hidden_states=states,
        encoder_attention_mask=torch.cat([torch.ones(3, 4, dtype=torch.long), batch["attention_mask"]], 1),
    ).last_hidden_state
    by_hand = tuned.additions["default"].head(decoded[range(3), [8, 6, 8]])
    assert torch.allclose(tuned(**batch).logits, by_hand, atol=1e-5)


@pytest.mark.parametrize("case", ["prompt", "prefix", "ia3", "lora", "houlsby"])
def test_tagging_uses_the_encoder_alone_and_is_saved(t5, ids, case, tmp_path):
    tuned = stir(attach(t5, CASES[case][0], task=cl.tasks.Tagging(("O", "B", "I"))))
    assert tuned.layout.num_layers == 3
    answer = call(tuned, ids)
    assert answer.shape == (3, 9, 3)
    tuned.save(tmp_path)
    assert (call(load(t5, tmp_path), ids) - answer).abs().max() < 1e-6 * (1 + answer.abs().max())


def test_a_merged_t5_is_a_t5(t5, ids):
    for method in (IA3(), LoRA(2, targets=("query", "cross_value", "ffn_in")), LayerNormTuning()):
        tuned = stir(attach(t5, method))
        merged = tuned.merge()
        assert type(merged) is T5ForConditionalGeneration
        assert merged.encoder.embed_tokens.weight is merged.decoder.embed_tokens.weight
        answer = call(tuned, ids)
        assert (merged(**inputs(t5, ids)).logits - answer).abs().max() < 1e-5 * (1 + answer.abs().max())


# --- what is not defined ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "sentence"), [
    (BitFit(), "has no biases"),
    (LlamaAdapter(3), r"encoder-decoder.*three attentions"),
    (UniPELT(), r"one stack.*two attentions"),
    (IA3(compat="adapters"), "one stack only"),
    (LoReFT(layers=(3,)), "may have blocks 0 to 2"),
    (LoRA(targets=("gate",)), "has no 'gate'.*cross_query"),
    (LinearProbe(), "with a task"),
], ids=lambda value: getattr(type(value), "__name__", ""))  # fmt: skip
def test_what_is_not_defined_says_so(t5, method, sentence):
    with pytest.raises(cl.CourseError, match=sentence):
        attach(t5, method)


def test_padding_between_a_prompt_and_its_text_is_refused(t5, ids):
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    with pytest.raises(cl.CourseError, match="pad on the right"):
        attach(t5, PromptTuning(3))(input_ids=ids, attention_mask=mask, decoder_input_ids=ids)


def test_states_below_are_not_cached_and_one_stack_has_no_cross_attention(t5, models):
    tuned = attach(t5, BottleneckAdapter(2, skip_layers=3), task=cl.tasks.Classification(3))
    with pytest.raises(cl.CourseError, match="bias for distances"):
        cl.cache_below(tuned, [{"input_ids": [3, 1], "labels": 0}])
    with pytest.raises(cl.CourseError, match="llama block has no 'cross_query'"):
        attach(models["llama"], LoRA(targets=("cross_query",)))
