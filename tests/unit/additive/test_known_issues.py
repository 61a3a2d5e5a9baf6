"""What users of today's libraries trip over, by the number of peft's issue: here each works, or says why not."""

import copy
import warnings

import pytest
import torch
from conftest import first, inputs, stir, tiny
from test_contract import CASES, GRID
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

import course_lib as cl
from course_lib.additive import (
    IA3,
    BottleneckAdapter,
    LlamaAdapter,
    LoRA,
    ParallelAdapter,
    PrefixTuning,
    PromptTuning,
    PTuning,
    attach,
    load,
)

PROMPTS = {
    "prompt": PromptTuning(4), "p-tuning": PTuning(4, hidden=6), "lstm": PTuning(4, "lstm", hidden=6),
    "prefix": PrefixTuning(4, hidden=6), "prefix-direct": PrefixTuning(4, hidden=None),
}  # fmt: skip
prompts = pytest.mark.parametrize("method", PROMPTS.values(), ids=PROMPTS)


def ask(tuned, ids, **more):
    return first(tuned(**inputs(tuned, ids), **more))


def step(tuned, ids, rate=0.1):
    """One step of plain gradient descent; the loss before it."""
    tuned.zero_grad()
    loss = cross_entropy(ask(tuned, ids).flatten(0, -2), torch.arange(ids.numel()) % 3)
    loss.backward()
    with torch.no_grad():
        for parameter in tuned.trainable_parameters():
            parameter -= rate * parameter.grad
    return float(loss)


@pytest.mark.parametrize(("case", "family"), [pair for pair in GRID if pair[0] != "vocabulary-bias"])
def test_876_the_head_is_trained_and_restored(models, ids, tmp_path, case, family):
    tuned = attach(models[family], CASES[case][0], task=cl.tasks.Classification(3)).train()
    before = copy.deepcopy(tuned.trained_state())
    cross_entropy(ask(tuned, ids), torch.tensor([0, 1, 2])).backward()
    with torch.no_grad():
        for parameter in tuned.trainable_parameters():
            parameter -= 0.1 * parameter.grad
    addition = tuned.additions["default"]
    head = addition.parts["whole"] if case == "full" else addition.head
    heads = [name for name, _ in tuned.additions.named_parameters() if any(
        word in name for word in (".head.", "classifier", "score", "classification_head"))]
    assert heads
    assert head is not None
    moved = tuned.trained_state()
    assert all(not torch.equal(moved[name], before[name]) for name in heads)
    tuned.save(tmp_path)
    again = load(models[family], tmp_path, trainable=True).trained_state()
    assert all(torch.equal(again[name], moved[name]) for name in heads)


def test_1959_one_wrong_target_among_right_ones_is_an_error(models):
    with pytest.raises(cl.CourseError, match=r"A llama block has no 'k_proj'\. Its roles: query, key"):
        attach(models["llama"], LoRA(targets=("query", "k_proj", "value")))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
@torch.no_grad()
def test_1962_and_2821_a_prefix_leaves_the_cache_to_the_text(ids, family):
    """transformers may change its caches: a prefix is no entry of them. (test_own_cache.py decodes by hand.)"""
    model = tiny(family)
    tuned = stir(attach(model, PrefixTuning(4)))
    cache = DynamicCache(config=model.config)
    tuned(input_ids=ids, past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == ids.shape[1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
@prompts
@torch.no_grad()
def test_1093_a_prompt_does_not_see_how_much_padding_follows_it(ids, family, method):
    tuned = stir(attach(tiny(family).double(), method).double())
    plain = ask(tuned, ids)
    for pads in (1, 2, 7, 30):
        longer = torch.cat([torch.zeros(3, pads, dtype=ids.dtype), ids], 1)
        padded = tuned(input_ids=longer, attention_mask=(longer != 0).long()).logits[:, pads:]
        assert (padded - plain).abs().max() < 1e-6


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_2881_prefixes_are_as_wide_as_grouped_keys(ids, tmp_path, heads):
    model = tiny("llama", heads=4, key_heads=heads)
    tuned = stir(attach(model, PrefixTuning(5, hidden=None)))
    assert tuned.additions["default"].parts["attend"].prefix.shape == (5, 2 * 3 * heads * 8)  # p, 2 L k
    tuned.save(tmp_path)
    assert torch.equal(ask(load(model, tmp_path), ids), ask(tuned, ids))


@prompts
def test_2256_prompts_are_trained_on_from_their_files(models, ids, tmp_path, method):
    """From the vectors alone: what made them, a network, is not in the file and no longer needed."""
    tuned = stir(attach(models["llama"], method))
    step(tuned, ids)
    tuned.save(tmp_path)
    again = load(models["llama"], tmp_path, trainable=True)
    assert torch.allclose(ask(again, ids), ask(tuned, ids), atol=1e-6)
    losses = [step(again, ids, rate=0.02) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)


@prompts
def test_2256_training_resumes_in_the_same_place(models, ids, method):
    """From a checkpoint (not the file of the result) with the network, number by number."""
    straight = stir(attach(models["llama"], method))
    step(straight, ids)
    resumed = attach(models["llama"], method)
    resumed.load_trained_state(copy.deepcopy(straight.trained_state()))
    for tuned in (straight, resumed):
        step(tuned, ids)
    assert all(torch.equal(straight.trained_state()[name], t) for name, t in resumed.trained_state().items())


def test_3580_loading_one_addition_thaws_and_freezes_no_other(models, tmp_path):
    attach(models["bert"], LoRA(2)).save(tmp_path)
    tuned = attach(models["bert"], LoRA(2))

    def flags(name):
        return {parameter.requires_grad for parameter in tuned.additions[name].parameters()}

    load(tuned, tmp_path, name="frozen")
    assert (flags("default"), flags("frozen")) == ({True}, {False})
    load(tuned, tmp_path, name="thawed", trainable=True)
    assert (flags("default"), flags("frozen"), flags("thawed")) == ({True}, {False}, {True})
    tuned.use("frozen")
    assert (flags("default"), flags("frozen"), flags("thawed")) == ({True}, {False}, {True})
    assert all(not parameter.requires_grad for parameter in tuned.model.parameters())


def test_2321_merging_is_computed_in_float32(models):
    """Whatever format the base has. (test_merge.py measures what bfloat16 would cost.)"""
    model = copy.deepcopy(models["llama"]).bfloat16()
    tuned = stir(attach(model, LoRA(2)), scale=0.01)
    merged = tuned.merge()
    assert merged.dtype == torch.float32
    lora = tuned.additions["default"].parts["blocks/0/query/beside"]
    W = model.model.layers[0].self_attn.q_proj.weight.float()
    assert torch.equal(merged.model.layers[0].self_attn.q_proj.weight, W + lora.scaling * lora.B @ lora.A)


def test_2295_nothing_that_is_handed_in_changes(models, ids):
    """Neither the model, nor a second addition's view of it, nor the batch."""
    model = models["gpt2"]
    before, kind = cl.fingerprint(model), [type(module) for module in model.modules()]
    batch = {"input_ids": ids.clone(), "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    given = {key: tensor.clone() for key, tensor in batch.items()}
    one = stir(attach(model, PromptTuning(3)))
    alone = one(**batch).logits
    two = stir(attach(model, PrefixTuning(3))).add(IA3(), "more")
    two(**batch).loss.backward()
    assert torch.equal(one(**batch).logits, alone)
    assert batch.keys() == given.keys()
    assert all(torch.equal(batch[key], given[key]) for key in given)
    assert cl.fingerprint(model) == before
    assert [type(module) for module in model.modules()] == kind
    assert "course" not in model.config._attn_implementation


@pytest.mark.parametrize("method", [
    PromptTuning(3), PrefixTuning(3), IA3(), LoRA(2), BottleneckAdapter(4), LlamaAdapter(3)
], ids=lambda method: type(method).__name__)  # fmt: skip
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_137_checkpointing_needs_no_input_that_requires_grad(models, ids, family, method):
    tuned = stir(attach(models[family], method)).train()
    tuned.activation_checkpointing_enable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(tuned, ids).square().sum().backward()
    silent = [
        name for name, parameter in tuned.additions.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() == 0
    ]
    assert not silent


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_mixed_batches_reach_ia3(models, ids, family):
    """peft's adapter_names pass (IA)^3 over without a word. Forward, backward and (for decoders) generate."""
    tuned = attach(models[family], IA3()).add(IA3(), "second").add(ParallelAdapter(3), "other")
    stir(tuned)
    names = ["second", "default", "other"]
    together = ask(tuned, ids, additions=names)
    for row, name in enumerate(names):
        alone = ask(tuned, ids[row : row + 1], additions=[name])
        assert (together[row] - alone[0]).abs().max() < 1e-5
        assert (together[row] - ask(tuned, ids[row : row + 1], additions=[None])[0]).abs().max() > 1e-3
    together[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tuned.additions["second"].parameters())
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in tuned.additions["default"].parameters())
