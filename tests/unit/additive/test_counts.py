"""Trained and stored numbers of every method equal the formulas, over random sizes of every family.

d model width, k key and value width, f FFN width, L layers, r bottleneck or rank, p length. (Side networks and UniPELT
count in test_side_networks.py and test_unipelt.py.)
"""

import pytest
import torch
from conftest import saved_adapters, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import course_lib as cl
from course_lib.additive import (
    IA3,
    METHODS,
    AdapterFusion,
    BitFit,
    BottleneckAdapter,
    Compacter,
    FullFineTuning,
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
    Sum,
    VocabularyBias,
    attach,
)

ELSEWHERE = {"SideTuning", "LadderSideTuning", "UniPELT"}


def norms(family, L, d):
    """LayerNorms have a gain and a bias, RMSNorms a gain; BERT's embeddings have one, decoders' ends have one."""
    return (2 * L + 1) * d * (1 if family in ("llama", "qwen2") else 2)


def biases(family, L, d, k, f):
    """GPT-2: of the fused 3d, of d, f and d, of two norms a block, and of the last norm; BERT's pooler has d more."""
    if family == "qwen2":
        return L * (d + 2 * k)
    return L * (7 * d + f) + d + (d if family == "bert" else 0)


def lstm(d, h):
    """Two layers in both directions, each with four gates and two biases, and the two-layer MLP behind them."""
    first, second = 2 * 4 * h * (d + h + 2), 2 * 4 * h * (2 * h + h + 2)
    return first + second + (2 * h + 1) * 2 * h + (2 * h + 1) * d


def formulas(family, model, L, d, k, f, heads, r, p, h, top, n):
    """(method, trained, stored) as METHODS' formulas have them."""
    bottleneck, V, prefix = 2 * d * r + d + r, model.config.vocab_size, 2 * L * p * k
    mlp = p * d + (d + 1) * h + (h + 1) * 2 * L * k
    rows = [
        (ParallelAdapter(r), L * bottleneck),
        (ParallelAdapter(r, where="attention"), L * bottleneck),
        (BottleneckAdapter(r), L * bottleneck),
        (BottleneckAdapter(r, skip_layers=L - top), top * bottleneck),
        (BottleneckAdapter(r, placement="houlsby"), 2 * L * bottleneck + norms(family, L, d)),
        (Compacter(n * r, n), 4 * L * (d + n * r) + n**3 + 2 * L * (d + n * r)),
        (PromptTuning(p), p * d),
        (PTuning(p, hidden=h), p * d + (d + 1) * h + (h + 1) * h + (h + 1) * d, p * d),
        (PTuning(p, "lstm", hidden=h), p * d + lstm(d, h), p * d),
        (PrefixTuning(p, hidden=h), mlp, prefix),
        (PrefixTuning(p, hidden=None), prefix),
        (LlamaAdapter(p, top), top * (p * d + heads)),
        (LlamaAdapter(p, top, compat="peft"), top * (p * d + 1)),
        (IA3(), L * (2 * k + f)),
        (LoReFT(r, layers=tuple(range(top))), top * (2 * r * d + r)),
        (LoRA(r), L * r * (3 * d + k)),
        (LoRA(r, targets=("key", "output", "ffn_in", "ffn_out")), L * r * (d + k + 2 * d + 2 * (d + f))),
        (MixAndMatch(p, h, r), mlp + L * bottleneck, prefix + L * bottleneck),
        (Sum(PromptTuning(p), IA3()), p * d + L * (2 * k + f)),
        (LayerNormTuning(), norms(family, L, d)),
        (FullFineTuning(), sum(parameter.numel() for parameter in model.parameters())),
    ]
    if family != "llama":
        rows.append((BitFit(), biases(family, L, d, k, f)))
    if family != "bert":
        rows.append((VocabularyBias(), V))
    return [(method, trained, stored[0] if stored else trained) for method, trained, *stored in rows]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert"])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    L=st.integers(1, 3), heads=st.sampled_from([2, 4]), head_width=st.sampled_from([4, 6]), f=st.integers(3, 30),
    key_heads=st.sampled_from([1, 2]), r=st.integers(1, 8), p=st.integers(1, 9), h=st.integers(1, 9),
    n=st.sampled_from([1, 2, 4]), labels=st.integers(2, 5), data=st.data(),
)  # fmt: skip
def test_counts_equal_the_formulas(family, L, heads, head_width, f, key_heads, r, p, h, n, labels, data):
    d = heads * head_width
    k = key_heads * head_width if family in ("llama", "qwen2") else d
    model = tiny(family, width=d, layers=L, heads=heads, key_heads=key_heads, ffn=f)
    top = data.draw(st.integers(1, L), label="top")
    base = sum(parameter.numel() for parameter in model.parameters())
    task, head = cl.tasks.Classification(labels), labels * (d + (family == "bert"))
    for method, trained, stored in formulas(family, model, L, d, k, f, heads, r, p, h, top, n):
        budget = attach(model, method).budget()
        assert (budget.trained, budget.stored, budget.base, budget.head) == (trained, stored, base, 0), method
        if not isinstance(method, (FullFineTuning, VocabularyBias)):
            budget = attach(model, method, task=task).budget()
            assert (budget.trained, budget.stored) == (trained + head, stored + head), method
            assert budget.head == head
    assert attach(model, LinearProbe(), task=task).budget().trained == head


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert"])
def test_fusion_counts_and_stores_its_adapters_too(family, tmp_path):
    d, L, rs = 32, 3, (2, 5)
    model = tiny(family)
    budget = attach(model, AdapterFusion(saved_adapters(model, tmp_path, rs))).budget()
    assert budget.trained == L * (3 * d**2 + 2 * d)
    assert budget.stored == budget.trained + sum(L * (2 * d * r + d + r) for r in rs)


def test_t5_counts_by_stacks():
    """L encoder blocks and L' of the decoder; keys are wider than the stream, and each decoder block attends twice."""
    d, k, f, L, L2, r, p = 32, 48, 48, 3, 2, 3, 4
    model = tiny("t5")
    for method, trained in (
        (ParallelAdapter(r), (L + L2) * (2 * d * r + d + r)), (PromptTuning(p), p * d),
        (PrefixTuning(p, hidden=None), 2 * (L + 2 * L2) * p * k), (IA3(), L * (2 * k + f) + L2 * (4 * k + f)),
        (LoRA(r), (L + L2) * 2 * r * (d + k)), (LayerNormTuning(), (2 * L + 1 + 3 * L2 + 1) * d),
    ):  # fmt: skip
        budget = attach(model, method).budget()
        assert (budget.trained, budget.stored) == (trained, trained), method


def test_every_method_is_counted():
    tested = {type(method).__name__ for method, *_ in formulas("gpt2", tiny("gpt2"), 3, 32, 32, 48, 4, 2, 2, 2, 1, 1)}
    assert METHODS.keys() - tested - ELSEWHERE == {"LinearProbe", "AdapterFusion"}  # which stand above


def test_published_counts_of_bert_base():
    """BitFit 102,912 and LayerNorm tuning 38,400, from the sizes of BERT-base: 12 layers, d = 768, f = 3,072."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig())
    counted = {
        "norms": sum(p.numel() for name, p in model.named_parameters() if "LayerNorm" in name),
        "biases": sum(p.numel() for name, p in model.named_parameters() if name.endswith(".bias")),
    }
    assert counted == {"norms": norms("bert", 12, 768), "biases": biases("bert", 12, 768, 768, 3072)}
    assert counted == {"norms": 38_400, "biases": 102_912}
