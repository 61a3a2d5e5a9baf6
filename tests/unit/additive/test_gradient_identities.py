"""Gradients of additions against full fine-tuning's, in closed form.

Where an addition is a function of a weight, the chain rule gives its gradient from that weight's. Each identity is held
in float64 at 1e-6 of the largest entry, at trained (not only initial) values: full tuning stands on the merged weights.
"""

import copy

import pytest
import torch
from conftest import VOCABULARY, first, stir, tiny

import course_lib as cl
from course_lib.additive import (
    IA3,
    BitFit,
    FullFineTuning,
    LayerNormTuning,
    LinearProbe,
    LoRA,
    ParallelAdapter,
    PromptTuning,
    attach,
)
from course_lib.architectures import Layout, own_copy

FAMILIES = ("llama", "qwen2", "gpt2", "bert", "roberta")
every = pytest.mark.parametrize("family", FAMILIES)
ROLES = ("query", "key", "value", "output", "ffn_in", "ffn_out")


@pytest.fixture(scope="module")
def doubles():
    return {family: tiny(family).double() for family in FAMILIES}


@pytest.fixture
def batch(ids):
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def loss_of(scores, batch):
    """Every real score counts, and each differently."""
    if scores.dim() == 3:
        scores = scores[batch["attention_mask"].bool()]
    weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).view_as(scores)
    return (weights * scores + 0.1 * scores.square()).sum()


def addition_of(tuned):
    return tuned.additions["default"]


def trained(model, method, batch, task=None):
    """The method with numbers as if trained, and their gradients."""
    tuned = stir(attach(model, method, task=task).double())
    loss_of(first(tuned(**batch)), batch).backward()
    return tuned


@torch.no_grad()
def absorbed(tuned):
    """A plain copy of the model with the addition inside its weights, all of which may learn."""
    model = own_copy(tuned.model)
    layout = Layout(model)
    for site, module in addition_of(tuned).at(*{site.kind for site in addition_of(tuned).sites}):
        module.merge_into(layout, site)
    if addition_of(tuned).head is not None:
        layout.head.load_state_dict(addition_of(tuned).head.state_dict())
    return model.requires_grad_(True)


def fully_tuned(model, batch):
    """The layout of a model after a backward pass through all of its weights."""
    inputs = dict(batch)
    if Layout(model).causal:
        inputs["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    loss_of(first(model(**inputs)), batch).backward()
    return Layout(model)


def gradient(layout, block, role):
    """dL/dW (out, in) and dL/db (out) of a projection."""
    projection = layout.projection(block, role)
    weight, bias = projection.module.weight.grad, projection.module.bias
    weight = weight.T if projection.transposed else weight
    return weight[projection.columns], None if bias is None else bias.grad[projection.columns]


def assert_equal(found, expected):
    assert found.shape == expected.shape
    assert expected.abs().max() > 1e-6
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@every
def test_lora_gradients_are_full_tunings_seen_through_the_other_factor(doubles, batch, family):
    """dL/dB = (alpha / r) dL/dW A^T  and  dL/dA = (alpha / r) B^T dL/dW."""
    tuned = trained(doubles[family], LoRA(3, 7, ROLES), batch)
    full = fully_tuned(absorbed(tuned), batch)
    for site, module in addition_of(tuned).at("beside"):
        G, _ = gradient(full, site.block, site.where)
        assert_equal(module.B.grad, 7 / 3 * G @ module.A.T)
        assert_equal(module.A.grad, 7 / 3 * module.B.T @ G)


@every
def test_ia3_gradients_contract_full_tunings_by_rows(doubles, batch, family):
    """dL/dl_i = W_i . dL/dW_i + b_i dL/db_i for what is said, W_:j . dL/dW_:j for what is read; W' = diag(l) W."""
    tuned = trained(doubles[family], IA3(), batch)
    full, base = fully_tuned(absorbed(tuned), batch), Layout(doubles[family])
    for site, module in addition_of(tuned).at("scale", "scale_input"):
        projection = base.projection(site.block, site.where)
        G, g = gradient(full, site.block, site.where)
        if site.kind == "scale_input":
            expected = (projection.matrix * G).sum(0)
        else:
            expected = (projection.matrix * G).sum(1)
            expected = expected if g is None else expected + projection.bias * g
        assert_equal(module.l.grad, expected)


@every
def test_at_ones_ia3_gradients_are_the_rows_of_W_times_dW(doubles, batch, family):
    """dL/dl_i = W_i . dL/dW_i, the base itself being the merged model."""
    tuned = attach(doubles[family], IA3()).double()
    loss_of(first(tuned(**batch)), batch).backward()
    full = fully_tuned(copy.deepcopy(doubles[family]).requires_grad_(True), batch)
    for site, module in addition_of(tuned).at("scale_input"):
        G, _ = gradient(full, site.block, site.where)
        assert_equal(module.l.grad, (full.projection(site.block, site.where).matrix * G).sum(0))


@every
def test_ia3_gradients_sum_what_is_scaled_times_its_gradient(doubles, batch, family):
    """dL/dl = sum over rows and positions of y * dL/d(l * y)."""
    tuned = stir(attach(doubles[family], IA3()).double())
    seen = {}

    def remember(key):
        def hook(module, args, result):
            result.retain_grad()
            seen[key] = args[0].detach(), result

        return hook

    for site, module in addition_of(tuned).at("scale", "scale_input"):
        module.register_forward_hook(remember(site.key))
    loss_of(first(tuned(**batch)), batch).backward()
    for site, module in addition_of(tuned).at("scale", "scale_input"):
        y, scaled = seen[site.key]
        assert_equal(module.l.grad, (y * scaled.grad).sum((0, 1)))


@pytest.mark.parametrize("family", ["gpt2", "bert", "roberta"])
def test_bitfit_gradients_are_full_tunings_bias_gradients(doubles, batch, family):
    tuned = trained(doubles[family], BitFit(), batch)
    full = fully_tuned(absorbed(tuned), batch).model
    compared = 0
    for site, module in addition_of(tuned).at("bias"):
        expected = full.get_submodule(site.where).bias.grad
        if expected is None:  # the pooler, which these scores do not read
            assert module.bias.grad is None
        elif not site.where.endswith("self.key"):  # softmax does not see it: rounding alone
            assert_equal(module.bias.grad, expected)
            compared += 1
    assert compared == (19 if family == "gpt2" else 22)


@every
def test_norm_gradients_are_full_tunings(doubles, batch, family):
    tuned = trained(doubles[family], LayerNormTuning(), batch)
    full = fully_tuned(absorbed(tuned), batch).model
    for site, module in addition_of(tuned).at("instead"):
        for own, other in zip(module.norm.parameters(), full.get_submodule(site.where).parameters(), strict=True):
            assert_equal(own.grad, other.grad)


@every
def test_linear_probe_gradients_are_full_tunings_of_the_head(doubles, batch, family):
    tuned = trained(doubles[family], LinearProbe(), batch, task=cl.tasks.Classification(3))
    full = fully_tuned(absorbed(tuned), batch)
    for own, other in zip(addition_of(tuned).head.parameters(), full.head.parameters(), strict=True):
        assert_equal(own.grad, other.grad)


@every
def test_full_tuning_is_full_tuning(doubles, batch, family):
    tuned = trained(doubles[family], FullFineTuning(), batch)
    whole = addition_of(tuned).parts["whole"]
    full = fully_tuned(copy.deepcopy(whole).requires_grad_(True), batch).model
    for (name, own), other in zip(whole.named_parameters(), full.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None), name
        if own.grad is not None:
            assert (own.grad - other.grad).abs().max() <= 1e-6 * other.grad.abs().max(), name


@every
@pytest.mark.parametrize("where", ["ffn", "attention"])
def test_parallel_adapters_W_up_learns_from_what_the_sublayer_hands_on(doubles, batch, family, where):
    """At W_up = 0: dL/dW_up = s sum g relu(W_d x + b_d)^T and dL/db_up = s sum g, g = dL/dh of the base alone."""
    tuned = attach(doubles[family], ParallelAdapter(5, scale=2.5, where=where)).double()
    for _, module in addition_of(tuned).at("beside"):  # move what x meets; W_up stays 0
        with torch.no_grad():
            module.down.weight.add_(0.2)
            module.down.bias.add_(0.1)
    seen, read = {}, {}
    for site, module in addition_of(tuned).at("beside"):
        module.register_forward_pre_hook(lambda m, args, key=site.key: read.update({key: args[0].detach()}))
    loss_of(first(tuned(**batch)), batch).backward()
    base = Layout(copy.deepcopy(doubles[family]).requires_grad_(True))

    def remember(key):
        def hook(module, args, result):
            seen[key] = result[0] if isinstance(result, tuple) else result
            seen[key].retain_grad()

        return hook

    for site in addition_of(tuned).sites:
        path = base.sublayer(site.block, where).result
        base.body.get_submodule(path).register_forward_hook(remember(site.key))
    full = fully_tuned(base.model, batch)
    for site, module in addition_of(tuned).at("beside"):
        g, x = seen[site.key].grad, read[site.key]
        a = torch.relu(module.down(x))
        assert_equal(module.up.weight.grad, 2.5 * torch.einsum("bto,bti->oi", g, a))
        assert_equal(module.up.bias.grad, 2.5 * g.sum((0, 1)))
        _, bias = gradient(full, site.block, "ffn_out" if where == "ffn" else "output")
        if bias is not None:  # the sublayer's own last bias stands at the same place
            assert_equal(module.up.bias.grad, 2.5 * bias)


@every
def test_prompt_gradients_are_those_of_embeddings_at_their_positions(doubles, batch, family):
    """dL/dP = dL/dE at the p positions where the prompt stands, summed over the rows."""
    tuned = attach(doubles[family], PromptTuning(4)).double()
    prompt = addition_of(tuned).parts["prompt"]
    start = prompt.start(tuned.layout)
    loss_of(first(tuned(**batch)), batch).backward()
    model, layout = copy.deepcopy(doubles[family]), Layout(doubles[family])
    E = layout.embedding(batch["input_ids"]).detach()
    P = prompt().detach().expand(len(E), -1, -1).clone().requires_grad_(True)
    joined = torch.cat([E[:, :start], P, E[:, start:]], 1)
    ones = torch.ones(len(E), 4, dtype=torch.long)
    mask = torch.cat([batch["attention_mask"][:, :start], ones, batch["attention_mask"][:, start:]], 1)
    positions = (mask.cumsum(-1) - 1).clamp_min(0) + layout.first_position
    scores = first(model(inputs_embeds=joined, attention_mask=mask, position_ids=positions))
    loss_of(torch.cat([scores[:, :start], scores[:, start + 4 :]], 1), batch).backward()
    assert_equal(prompt.prompt_embeddings.grad, P.grad.sum(0))


def test_a_prompt_of_words_learns_as_their_rows_of_the_table_would(doubles):
    """A prompt that begins as the words w_1 ... w_p has the gradient of the table's rows w_i before the same text."""
    model = doubles["qwen2"]  # whose table is not also its head
    words, text = torch.tensor([90, 91, 92]), torch.randint(3, 80, (1, 8), generator=torch.Generator().manual_seed(1))
    tuned = attach(model, PromptTuning(3)).double()
    prompt = addition_of(tuned).parts["prompt"].prompt_embeddings
    with torch.no_grad():
        prompt.copy_(model.model.embed_tokens(words))
    batch = {"input_ids": text, "attention_mask": torch.ones_like(text)}
    loss_of(first(tuned(**batch)), batch).backward()
    full = copy.deepcopy(model).requires_grad_(True)
    loss_of(full(input_ids=torch.cat([words[None], text], 1)).logits[:, 3:], batch).backward()
    assert int(text.max()) < 90 <= VOCABULARY
    assert_equal(prompt.grad, full.model.embed_tokens.weight.grad[words])
