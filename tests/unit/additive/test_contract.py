"""What every method must pass, on every family that has a place for it. A new method is a line in CASES."""

import copy

import pytest
import torch
from conftest import VOCABULARY, first, fused, inputs, stir
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import course_lib as cl
from course_lib.additive import (
    IA3,
    BitFit,
    BottleneckAdapter,
    Compacter,
    FullFineTuning,
    LadderSideTuning,
    LayerNormTuning,
    LinearProbe,
    LlamaAdapter,
    LoRA,
    LoReFT,
    MixAndMatch,
    ParallelAdapter,
    PrefixTuning,
    PromptTuning,
    PTuning,
    SideTuning,
    Sum,
    UniPELT,
    VocabularyBias,
    attach,
    load,
)
from course_lib.architectures import FAMILIES, Layout

DECODERS = ("llama", "gpt2")
ALL = (*DECODERS, "bert", "t5")
MORE = (*ALL, "roberta", "qwen2")  # where RoBERTa's first position and Qwen2's biases could matter
CASES = {  # name: (method, families, identity at init: exact difference allowed, or None where it does not hold)
    "parallel-ffn": (ParallelAdapter(4), ALL, 0.0),
    "parallel-attention": (ParallelAdapter(4, where="attention"), ALL, 0.0),
    "pfeiffer": (BottleneckAdapter(4), ALL, None),
    "houlsby": (BottleneckAdapter(4, placement="houlsby"), MORE, 0.2),
    "adapterdrop": (BottleneckAdapter(4, skip_layers=1), ALL, None),
    "prompt": (PromptTuning(5), MORE, None),
    "vocabulary-bias": (VocabularyBias(), (*DECODERS, "t5"), 0.0),
    "sum": (Sum(PromptTuning(3), ParallelAdapter(4)), MORE, None),
    "ia3": (IA3(), MORE, 0.0),
    "lora": (LoRA(2), ALL, 0.0),
    "lora-all": (LoRA(2, targets=("query", "key", "value", "output", "ffn_in", "ffn_out")), MORE, 0.0),
    "bitfit": (BitFit(), ("gpt2", "bert", "roberta", "qwen2"), 0.0),
    "norms": (LayerNormTuning(), MORE, 0.0),
    "prefix": (PrefixTuning(4, hidden=6), MORE, None),
    "prefix-direct": (PrefixTuning(4, hidden=None), ALL, None),
    "llama-adapter": (LlamaAdapter(4), (*DECODERS, "bert", "qwen2"), 0.0),
    "p-tuning": (PTuning(4), MORE, None),
    "p-tuning-lstm": (PTuning(4, encoder="lstm", hidden=8), ALL, None),
    "compacter": (Compacter(8, n=4), ALL, None),
    "loreft": (LoReFT(2, first=2, last=3), ALL, None),
    "loreft-one": (LoReFT(3, first=0, last=1, layers=(1,)), ALL, None),
    "mix-and-match": (MixAndMatch(3, 6, 12), MORE, None),
    **{f"fusion-{family}": (fused(family), (family,), None) for family in ALL},
    "unipelt": (UniPELT(3, 6, 4, 2), (*DECODERS, "bert", "roberta"), None),
    "side": (SideTuning(4), ALL, None),
    "ladder": (LadderSideTuning(2), MORE, None),
    "full": (FullFineTuning(), ALL, 0.0),
}
GRID = [(name, family) for name, (_, families, _) in CASES.items() for family in families]
ROWS = [pair for pair in GRID if pair[0] != "full"]  # methods whose rows may differ in one batch
every = pytest.mark.parametrize(("case", "family"), GRID)
each_row = pytest.mark.parametrize(("case", "family"), ROWS)
WRITERS = (*DECODERS, "qwen2")
generating = pytest.mark.parametrize(("case", "family"), [pair for pair in ROWS if pair[1] in WRITERS])


def call(tuned, ids, **more):
    return first(tuned(**inputs(tuned, ids), **more))


@torch.no_grad()  # as of a frozen base: where T5's bias for distances takes a gradient, torch adds in another order
def base_answer(model, ids):
    return first(model(**inputs(model, ids)))


@every
@torch.no_grad()
def test_identity_at_init_where_it_is_exact(models, ids, case, family):
    method, _, allowed = CASES[case]
    change = (call(attach(models[family], method), ids) - base_answer(models[family], ids)).abs().max()
    if allowed is None:
        assert change > 0
    else:
        assert change <= allowed


@every
def test_an_addition_changes_the_answer_and_keeps_its_shape(models, ids, case, family):
    tuned = stir(attach(models[family], CASES[case][0]))
    answer, base = call(tuned, ids), base_answer(models[family], ids)
    assert answer.shape == base.shape
    assert (answer - base).abs().max() > 1e-3


@every
def test_an_addition_acts_under_a_head_too(models, ids, case, family):
    if case == "vocabulary-bias":
        pytest.skip("it adds to scores over the vocabulary, which a classifier has not")
    tuned = attach(models[family], CASES[case][0], task=cl.tasks.Classification(3))
    stir(tuned.additions["default"].parts)
    answer = call(tuned, ids)
    with tuned.disabled():
        assert (call(tuned, ids) - answer).abs().max() > 1e-4


@every
def test_disabled_and_detached_are_the_base_to_the_last_bit(models, ids, case, family):
    model = models[family]
    before, base = cl.fingerprint(model), base_answer(model, ids)
    tuned = stir(attach(model, CASES[case][0]))
    call(tuned, ids)
    with tuned.disabled():
        assert torch.equal(call(tuned, ids), base)
    assert not torch.equal(call(tuned, ids), base)
    assert tuned.detach() is model
    assert torch.equal(base_answer(tuned.model, ids), base)
    assert cl.fingerprint(model) == before


@every
def test_only_the_addition_learns_and_all_of_it(models, ids, case, family):
    model = models[family]
    before = cl.fingerprint(model)
    tuned = stir(attach(model, CASES[case][0])).train()
    start = copy.deepcopy(tuned.trained_state())
    optimizer = torch.optim.Adam(tuned.trainable_parameters(), lr=1e-3)  # a step that small gradients make too
    for _ in range(3):
        optimizer.zero_grad()
        states = tuned(**inputs(tuned, ids))
        loss = first(states).float().square().mean()
        if "pooler_output" in states:  # the pooler of a bare encoder
            loss = loss + states.pooler_output.sum()
        loss.backward()
        optimizer.step()
    still = [
        name for name, tensor in tuned.trained_state().items()
        # softmax does not see a constant added to all keys: their bias alone has no gradient
        if torch.equal(tensor, start[name]) and not name.endswith(("key.bias", "key/bias.bias"))
    ]
    assert not still
    assert cl.fingerprint(model) == before
    assert all(parameter.grad is None for parameter in tuned.model.parameters())


@pytest.mark.parametrize(("case", "family"), [pair for pair in GRID if pair[0] != "vocabulary-bias"])
def test_under_a_task_all_of_the_addition_learns(models, ids, case, family):
    tuned = stir(attach(models[family], CASES[case][0], task=cl.tasks.Classification(3))).train()
    call(tuned, ids).square().sum().backward()
    assert not [name for name, p in tuned.additions.named_parameters() if p.grad is None]


@every
def test_handed_in_models_keep_their_flags_and_config(models, ids, case, family):
    model = copy.deepcopy(models[family])
    config, flags = copy.deepcopy(model.config), [p.requires_grad for p in model.parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    tuned = attach(model, CASES[case][0], task=cl.tasks.Classification(3) if case != "vocabulary-bias" else None)
    call(tuned, ids)
    assert model.config.to_dict() == config.to_dict()
    assert [p.requires_grad for p in model.parameters()] == flags
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


@every
@torch.no_grad()
def test_save_and_load_round_trip(models, ids, case, family, tmp_path):
    method = CASES[case][0]
    task = None if case == "vocabulary-bias" else cl.tasks.Classification(3)
    tuned = stir(attach(models[family], method, task=task))
    answer = call(tuned, ids)
    tuned.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (tmp_path / "adapter_model.safetensors").stat().st_size == tuned.budget().bytes
    again = load(models[family], tmp_path)
    assert (call(again, ids) - answer).abs().max() <= 1e-6 * (1 + answer.abs().max())
    assert again.trainable_parameters() == []
    assert again.additions["default"].method == method or case == "prompt"  # peft's files do not say the init
    assert load(models[family], tmp_path, trainable=True).trainable_parameters()


@each_row
def test_rows_with_different_additions_equal_the_rows_one_by_one(models, ids, case, family):
    method = CASES[case][0]
    tuned = attach(models[family], method)
    tuned.add(method, name="second")
    tuned.add(PromptTuning(2), name="short").add(ParallelAdapter(3), name="other")
    stir(tuned)
    names = ["second", None, "default"]
    together = call(tuned, ids, additions=names)
    for row, name in enumerate(names):
        alone = call(tuned, ids[row : row + 1], additions=[name])
        assert (together[row] - alone[0]).abs().max() < 2e-5
    together = call(tuned, ids, additions=["short", "default", "other"])
    for row, name in enumerate(["short", "default", "other"]):
        alone = call(tuned, ids[row : row + 1], additions=[name])
        assert (together[row] - alone[0]).abs().max() < 2e-5


@each_row
def test_named_additions_are_switched(models, ids, case, family):
    tuned = attach(models[family], CASES[case][0])
    tuned.add(CASES[case][0], name="second")
    stir(tuned)
    one, two = call(tuned, ids), call(tuned.use("second"), ids)
    assert not torch.allclose(one, two)
    assert torch.equal(call(tuned.use("default"), ids), one)
    tuned.remove("second")
    assert torch.equal(call(tuned, ids), one)
    with pytest.raises(cl.CourseError, match="no addition called 'second'"):
        tuned.use("second")


@pytest.mark.parametrize(("case", "family"), [pair for pair in GRID if pair[1] in WRITERS])
def test_left_and_right_padding_agree(models, ids, case, family):
    tuned = stir(attach(models[family], CASES[case][0]))
    pads = torch.zeros(3, 4, dtype=ids.dtype)
    ones, zeros = torch.ones_like(ids), torch.zeros(3, 4, dtype=ids.dtype)
    plain = call(tuned, ids)
    left = first(tuned(input_ids=torch.cat([pads, ids], 1), attention_mask=torch.cat([zeros, ones], 1)))[:, 4:]
    right = first(tuned(input_ids=torch.cat([ids, pads], 1), attention_mask=torch.cat([ones, zeros], 1)))[:, :9]
    assert (left - plain).abs().max() < 2e-5
    assert (right - plain).abs().max() < 2e-5


@generating
def test_generate_agrees_with_and_without_cache_with_beams_and_by_row(models, ids, case, family):
    tuned = stir(attach(models[family], CASES[case][0]))
    tuned.add(PromptTuning(2), name="short")
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = tuned.generate(ids, **options)
    assert cached.shape == (3, 14)
    assert torch.equal(cached[:, :9], ids)
    assert int(cached.max()) < VOCABULARY
    assert torch.equal(cached, tuned.generate(ids, use_cache=False, **options))
    for beams in (1, 3):
        names = ["default", None, "short"]
        together = tuned.generate(ids, additions=names, num_beams=beams, **options)
        for row, name in enumerate(names):
            single = {**options, "attention_mask": mask[row : row + 1]}
            alone = tuned.generate(ids[row : row + 1], additions=[name], num_beams=beams, **single)
            assert torch.equal(together[row], alone[0])


@generating
def test_greedy_generation_follows_the_logits(models, ids, case, family):
    tuned = stir(attach(models[family], CASES[case][0]))
    said = tuned.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert torch.equal(said[:, -1], call(tuned, ids)[:, -1].argmax(-1))


@every
def test_activation_checkpointing_gives_the_same_gradients(models, ids, case, family):
    if case == "full":
        pytest.skip("full fine-tuning trains a plain transformers model, which has its own switch")
    tuned = attach(models[family], CASES[case][0])
    tuned.add(CASES[case][0], name="second")
    stir(tuned).train()
    rows = ["default", "second", None]

    def gradients():
        tuned.zero_grad()
        call(tuned, ids, additions=rows).float().square().mean().backward()
        return {name: p.grad.clone() for name, p in tuned.additions.named_parameters() if p.grad is not None}

    plain = gradients()
    tuned.activation_checkpointing_enable()
    again = gradients()
    assert plain.keys() == again.keys()
    for name in plain:
        assert (plain[name] - again[name]).abs().max() <= 1e-6 * (1 + plain[name].abs().max())


@every
def test_bf16_autocast_is_near_float32(models, ids, case, family):
    tuned = attach(models[family], CASES[case][0])
    full = call(tuned, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = call(tuned, ids)
    assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean() + 0.05


@pytest.mark.parametrize(("case", "family"), [p for p in GRID if p[1] == "llama"])
def test_compiles_without_graph_breaks(models, ids, case, family):
    if case == "full":
        pytest.skip("full fine-tuning trains a plain transformers model")
    tuned = stir(attach(models[family], CASES[case][0]))
    answer = call(tuned, ids, use_cache=False)
    torch.compiler.reset()
    tuned.model.compile(backend="aot_eager", fullgraph=True)  # prompts are put in before the compiled model is called
    assert (call(tuned, ids, use_cache=False) - answer).abs().max() < 1e-5
    changed = stir(tuned, 0.1)
    assert (call(changed, ids, use_cache=False) - answer).abs().max() > 1e-4  # nothing trained is frozen in the graph


def test_hidden_states_recorded_by_transformers_are_the_sums(models, ids):
    for family, model in models.items():
        if model.config.is_encoder_decoder:
            continue  # its states are two lists under other names
        model(input_ids=ids, output_hidden_states=True)  # installs transformers' recording hooks on the base
        tuned = stir(attach(model, BottleneckAdapter(4)))
        states = tuned(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
        assert len(states) == len(tuned.layout.blocks) + 1
        last = states[-1] if family == "bert" else None
        if last is not None:
            assert torch.equal(last, call(tuned, ids))
        with tuned.disabled():
            plain = tuned(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
        assert torch.equal(states[0], plain[0])
        assert (states[1] - plain[1]).abs().max() > 1e-3


# --- counts -------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(layers=st.integers(1, 4), heads=st.integers(1, 4), r=st.integers(1, 9), p=st.integers(1, 9), bert=st.booleans())
def test_counts_equal_the_formulas(layers, heads, r, p, bert):
    d = 8 * heads
    if bert:
        model = BertModel(BertConfig(
            vocab_size=50, hidden_size=d, intermediate_size=3 * d, num_hidden_layers=layers, num_attention_heads=heads,
        ))
        norms = (2 * layers + 1) * 2 * d
    else:
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=50, hidden_size=d, intermediate_size=3 * d, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=1,
        ))
        norms = (2 * layers + 1) * d
    bottleneck = 2 * d * r + d + r
    expected = {
        ParallelAdapter(r): layers * bottleneck,
        BottleneckAdapter(r): layers * bottleneck,
        BottleneckAdapter(r, placement="houlsby"): 2 * layers * bottleneck + norms,
        PromptTuning(p): p * d,
        Sum(PromptTuning(p), ParallelAdapter(r)): p * d + layers * bottleneck,
        FullFineTuning(): sum(q.numel() for q in model.parameters()),
    }
    for method, count in expected.items():
        budget = attach(model, method).budget()
        assert (budget.trained, budget.stored) == (count, count)
    assert attach(model, LinearProbe(), task=cl.tasks.Classification(3)).budget().trained == 3 * (d + bert)


# --- placement, in closed form ------------------------------------------------------------------------------


def test_parallel_adapter_on_a_pre_norm_block_is_the_formula(models, ids):
    """h <- h + s (W_u ReLU(W_d x + b_d) + b_u), x after the LayerNorm."""
    model = models["llama"]
    tuned = stir(attach(model, ParallelAdapter(4, scale=2.5)))
    block, x = model.model.layers[1], torch.randn(2, 5, 32)
    adapter = tuned.additions["default"].parts["blocks/1/ffn/beside"]
    seen = block.post_attention_layernorm(x)
    by_hand = x + block.mlp(seen) + 2.5 * adapter.up(torch.relu(adapter.down(seen)))
    copied = tuned.model.model.layers[1]
    assert torch.allclose(x + copied.mlp(copied.post_attention_layernorm(x)), by_hand, atol=1e-6)


def test_adapters_on_a_post_norm_block_are_the_formulas(models):
    """BERT: parallel LN(h + x + s f(x)); Houlsby LN(h + f(h) + x); Pfeiffer LN(z + f(LN(z)))."""
    model, x, inner = models["bert"], torch.randn(2, 5, 32), torch.randn(2, 5, 48)
    join = model.encoder.layer[1].output
    h = join.dense(inner)
    for method, key, formula in (
        (ParallelAdapter(4, scale=2.0), "blocks/1/ffn/beside", lambda f: join.LayerNorm(h + x + f(x))),
        (BottleneckAdapter(4), "blocks/1/stream", lambda f: join.LayerNorm(h + x + f(join.LayerNorm(h + x)))),
    ):
        tuned = stir(attach(model, method))
        f = tuned.additions["default"].parts[key]
        assert torch.allclose(tuned.model.encoder.layer[1].output(inner, x), formula(f), atol=1e-5)
    tuned = stir(attach(model, BottleneckAdapter(4, placement="houlsby")))
    parts = tuned.additions["default"].parts
    own_norm = parts["encoder/layer/1/output/LayerNorm/instead"]
    assert torch.allclose(
        tuned.model.encoder.layer[1].output(inner, x), own_norm(h + parts["blocks/1/ffn/after"](h) + x), atol=1e-5
    )


def test_bert_prompts_stand_behind_cls_and_in_front_with_compat(models, ids):
    """By hand through inputs_embeds: BERT adds positions to whatever stands in the row."""
    model = models["bert"]
    table = model.embeddings.word_embeddings(ids)
    for compat, join in ((None, lambda P: [table[:, :1], P, table[:, 1:]]), ("peft", lambda P: [P, table])):
        tuned = attach(model, PromptTuning(4, compat=compat))
        P = tuned.additions["default"].parts["prompt"]().expand(3, -1, -1)
        by_hand = model(inputs_embeds=torch.cat(join(P), 1), attention_mask=torch.ones(3, 13))
        own = tuned(input_ids=ids, attention_mask=torch.ones_like(ids))
        assert torch.allclose(own.pooler_output, by_hand.pooler_output, atol=1e-5)
        rows = [0, *range(5, 13)] if compat is None else range(4, 13)
        assert torch.allclose(own.last_hidden_state, by_hand.last_hidden_state[:, list(rows)], atol=1e-5)


def test_prompt_inits():
    base = cl.bases.Base("tiny", LlamaForCausalLM(LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)), None)
    table = base.model.model.embed_tokens.weight
    vectors = attach(base, PromptTuning(6)).additions["default"].parts["prompt"]()
    assert all((table == vector).all(-1).any() for vector in vectors)
    drawn = attach(base, PromptTuning(6, init="random")).additions["default"].parts["prompt"]()
    assert drawn.abs().max() <= 0.5
    with pytest.raises(cl.CourseError, match="needs a tokenizer"):
        attach(base, PromptTuning(6, init="text", init_text="a film review"))
    with pytest.raises(cl.CourseError, match="go together"):
        PromptTuning(6, init="text")


# --- caching ------------------------------------------------------------------------------------------------


class Tokens:
    """The few attributes of a tokenizer that a task reads."""

    pad_token_id, padding_side = 0, "right"


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("skip", [1, 2, "probe"])
def test_cached_states_give_the_same_answers(models, family, skip):
    method = LinearProbe() if skip == "probe" else BottleneckAdapter(4, skip_layers=skip)
    tuned = stir(attach(cl.bases.Base("tiny", models[family], Tokens()), method, task=cl.tasks.Classification(3)))
    generator = torch.Generator().manual_seed(3)
    features = [
        {"input_ids": torch.randint(3, VOCABULARY, (n,), generator=generator).tolist(), "labels": n % 3}
        for n in (5, 9, 2, 7, 7)
    ]
    plain = tuned.task.collate(features, tuned.tokenizer)
    cached = cl.cache_below(tuned, features, batch_size=2)
    assert [f["states"].shape for f in cached] == [(5, 32), (9, 32), (2, 32), (7, 32), (7, 32)]
    batch = tuned.task.collate(cached, tuned.tokenizer)
    calls = []
    handle = tuned.layout.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    answer = tuned(**{k: v for k, v in batch.items() if k != "labels"}).logits
    handle.remove()
    assert not calls  # the blocks below were not run
    expected = tuned(**{k: v for k, v in plain.items() if k != "labels"}).logits
    assert (answer - expected).abs().max() < 1e-5
    assert tuned.lowest_block() == (3 if skip == "probe" else skip)


def test_cached_states_are_put_into_new_features(models):
    """The features that were given stay as they are: whoever trains on them next finds no states of another method."""
    base = cl.bases.Base("tiny", models["bert"], Tokens())
    tuned = attach(base, BottleneckAdapter(4, skip_layers=1), task=cl.tasks.Classification(2))
    features = [{"input_ids": [3, 1, 4], "labels": 0}, {"input_ids": [5, 9], "labels": 1}]
    once = cl.cache_below(tuned, features)
    assert all(row.keys() == {"input_ids", "labels"} for row in features)
    probe = attach(base, LinearProbe(), task=cl.tasks.Classification(2))
    higher, anew = cl.cache_below(probe, once), cl.cache_below(probe, features)  # once's states are not the probe's
    assert all(torch.equal(a["states"], b["states"]) for a, b in zip(higher, anew, strict=True))


def test_nothing_to_cache_below_the_first_block(models):
    for method in (ParallelAdapter(4), PromptTuning(3), FullFineTuning(), BottleneckAdapter(4, placement="houlsby")):
        tuned = attach(models["bert"], method, task=cl.tasks.Classification(3))
        with pytest.raises(cl.CourseError, match="nothing below"):
            cl.cache_below(tuned, [{"input_ids": [1, 2], "labels": 0}])


# --- errors -------------------------------------------------------------------------------------------------


def test_errors_are_sentences_with_a_remedy(models, ids, tmp_path):
    llama, bert = models["llama"], models["bert"]
    with pytest.raises(cl.CourseError, match=r"has none\. Attach it to a language model"):
        attach(bert, VocabularyBias())
    with pytest.raises(cl.CourseError, match="with a task"):
        attach(bert, LinearProbe())
    with pytest.raises(cl.CourseError, match=r"tuned\.add"):
        attach(attach(bert, ParallelAdapter()), ParallelAdapter())
    with pytest.raises(cl.CourseError, match="choose 'ffn'"):
        attach(bert, ParallelAdapter(where="mlp"))
    with pytest.raises(cl.CourseError, match="leaves none"):
        attach(bert, BottleneckAdapter(skip_layers=3))
    with pytest.raises(cl.CourseError, match="cannot be merged"):
        attach(llama, PromptTuning(3)).merge()
    with pytest.raises(cl.CourseError, match="already"):
        attach(llama, PromptTuning(3)).add(PromptTuning(3))
    with pytest.raises(cl.CourseError, match="cannot name"):
        attach(llama, PromptTuning(3)).add(PromptTuning(3), name="keys")
    for twice in (Sum(PromptTuning(3), PTuning(2)), Sum(PrefixTuning(3), UniPELT(3))):
        with pytest.raises(cl.CourseError, match="one would hide the other"):
            attach(bert, twice)
    with pytest.raises(cl.CourseError, match="this model has 64"):
        call(attach(bert, PromptTuning(20)), torch.ones(1, 50, dtype=torch.long))
    with pytest.raises(cl.CourseError, match="names 2 rows"):
        call(attach(llama, PromptTuning(3)).add(PromptTuning(2), name="b"), ids, additions=["default", "b"])
    other = copy.deepcopy(llama)
    other.config.model_type = "mamba"
    with pytest.raises(cl.CourseError, match="Known: bert"):
        attach(other, PromptTuning(3))
    assert set(FAMILIES) >= {"llama", "gpt2", "bert"}
    with pytest.raises(cl.CourseError, match="has no 'gate'"):
        Layout(models["gpt2"]).projection(0, "gate")


# --- heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_each_addition_has_its_own_head(models, ids, family):
    task = cl.tasks.Classification(3)
    tuned = attach(models[family], ParallelAdapter(4), task=task)
    tuned.add(ParallelAdapter(4), name="second")
    stir(tuned)
    together = call(tuned, ids, additions=["default", "second", None])
    for row, name in enumerate(["default", "second", None]):
        assert torch.allclose(together[row], call(tuned, ids[row : row + 1], additions=[name])[0], atol=1e-5)
    loss = cross_entropy(call(tuned.train(), ids), torch.tensor([0, 1, 2]))
    loss.backward()
    assert tuned.additions["default"].head.weight.grad.abs().sum() > 0
    assert tuned.additions["second"].head.weight.grad is None
