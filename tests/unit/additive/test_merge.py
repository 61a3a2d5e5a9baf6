"""A merged model is a plain model that says what the tuned one says; how exactly depends on the number format."""

import copy

import pytest
import torch
from conftest import first, stir, tiny
from test_contract import CASES

import course_lib as cl
from course_lib.additive import IA3, METHODS, BitFit, LayerNormTuning, LoRA, attach

ALL = ("query", "key", "value", "output", "ffn_in", "ffn_out")
MERGING = {
    "lora": LoRA(2), "lora-all": LoRA(3, 9, targets=ALL), "ia3": IA3(), "ia3-peft": IA3(compat="peft"),
    "ia3-adapters": IA3(compat="adapters"), "norms": LayerNormTuning(), "bitfit": BitFit(),
}  # fmt: skip
GRID = [
    (case, family) for case in MERGING for family in ("llama", "qwen2", "gpt2", "bert", "roberta")
    if (case, family) != ("bitfit", "llama")
]


def answers(tuned, ids):
    """What the tuned and what the merged model say."""
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    merged = tuned.merge()
    assert not any("course" in type(module).__module__ for module in merged.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in merged.modules())
    with torch.no_grad():
        return first(tuned(**batch)), first(merged(**batch))


@pytest.mark.parametrize(("case", "family"), GRID)
@pytest.mark.parametrize("task", [None, cl.tasks.Classification(3)], ids=["", "head"])
def test_merged_equals_unmerged(ids, case, family, task):
    """In float64 however large the addition is; in float32, and of the size that training gives it, to 1e-6."""
    model = tiny(family)
    strong = stir(attach(copy.deepcopy(model).double(), MERGING[case], task=task).double())
    unmerged, merged = answers(strong, ids)
    assert merged.dtype == torch.float64
    assert (unmerged - merged).abs().max() <= 1e-10 * unmerged.abs().max()
    unmerged, merged = answers(stir(attach(model, MERGING[case], task=task), scale=0.02), ids)
    assert (unmerged - merged).abs().max() <= 1e-6 * max(1, unmerged.abs().max())


def test_what_cannot_merge_says_why(models, tmp_path):
    """Exactly the methods of MERGING merge; each of the others gives its reason."""
    assert {name for name, method in METHODS.items() if method.why_no_merge is None} == {
        type(method).__name__ for method in MERGING.values()
    }
    for method, families, _ in CASES.values():
        if method.why_no_merge:
            with pytest.raises(cl.CourseError, match=f"{type(method).__name__} cannot be merged: .+\\."):
                attach(models[families[0]], method).merge()


def test_merging_leaves_base_and_addition_as_they_were(models, ids):
    model = models["llama"]
    tuned = stir(attach(model, LoRA(2)))
    before, state = cl.fingerprint(model), copy.deepcopy(tuned.trained_state())
    merged = tuned.merge()
    for parameter in merged.parameters():
        parameter.data.zero_()
    assert cl.fingerprint(model) == before
    assert all(torch.equal(state[name], tensor) for name, tensor in tuned.trained_state().items())


def test_a_small_update_is_lost_in_bfloat16(models, ids):
    """Half a step of bfloat16 is 2^-9 of a number: of a smaller update, merged into such weights, rounding is left.

    So `merge` gives float32 whatever the base's format is (peft #2321).
    """
    model = copy.deepcopy(models["llama"]).bfloat16()
    tuned = stir(attach(model.float(), LoRA(2)), scale=1e-4)
    with torch.no_grad():
        change = first(tuned(input_ids=ids)) - first(model(input_ids=ids))
        merged = tuned.merge()
        exact = first(merged(input_ids=ids)) - first(model(input_ids=ids))
        rounded = first(merged.bfloat16().float()(input_ids=ids)) - first(model(input_ids=ids))
    assert (exact - change).norm() < 0.01 * change.norm()
    assert (rounded - change).norm() > 0.5 * change.norm()
    assert stir(attach(copy.deepcopy(model).bfloat16(), LoRA(2))).merge().dtype == torch.float32


def test_smollm2_merged_in_float32_and_in_bfloat16():
    """2e-6 apart in float32 (of the largest score, and in the norm), about 2e-3 once rounded to bfloat16."""
    base = cl.load_base("smollm2")
    model = copy.deepcopy(base.model).bfloat16().float()  # weights as they are shipped: bfloat16 numbers
    batch = base.tokenizer(["The cat sat on the mat and looked at the"], return_tensors="pt")
    tuned = stir(attach(model, LoRA(8)), scale=0.02)
    with torch.no_grad():
        unmerged = tuned(**batch).logits
        plain = model(**batch).logits
        merged = tuned.merge()
        exact = merged(**batch).logits
        rounded = merged.bfloat16().float()(**batch).logits
    assert (unmerged - plain).norm() > 0.03 * unmerged.norm()  # the addition matters
    assert (unmerged - exact).abs().max() <= 2e-6 * unmerged.abs().max()
    assert (unmerged - exact).norm() <= 2e-6 * unmerged.norm()
    cost = float((unmerged - rounded).norm() / unmerged.norm())
    assert 5e-4 < cost < 8e-3, cost
