"""What we save peft opens, and what peft saves we open, wherever both compute the same function."""

import copy
import json

import peft
import pytest
import torch
from conftest import stir

import course_lib as cl
from course_lib.additive import (
    IA3,
    LlamaAdapter,
    LoRA,
    ParallelAdapter,
    PromptTuning,
    PTuning,
    Sum,
    attach,
    load,
)


def ones(ids):
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def answer(model, ids):
    out = model(**ones(ids))
    return out.logits if "logits" in out else out.last_hidden_state


def peft_type(folder):
    return json.loads((folder / "adapter_config.json").read_text())["peft_type"]


def test_a_type_of_pefts_is_written_only_where_peft_computes_the_same(models, tmp_path):
    """Before [CLS] or behind it; one gate or one a head; a head that peft would drop."""
    task = cl.tasks.Classification(3)
    for number, (method, family, head, expected) in enumerate([
        (PromptTuning(4), "bert", None, "COURSE_PROMPTTUNING"),
        (PromptTuning(4, compat="peft"), "bert", None, "PROMPT_TUNING"),
        (PTuning(4), "bert", None, "COURSE_PTUNING"),
        (LlamaAdapter(4), "llama", None, "COURSE_LLAMAADAPTER"),
        (LlamaAdapter(4, compat="peft"), "llama", None, "ADAPTION_PROMPT"),
        (LlamaAdapter(4, compat="peft"), "llama", task, "COURSE_LLAMAADAPTER"),
        (LlamaAdapter(4, compat="peft"), "gpt2", None, "COURSE_LLAMAADAPTER"),
        (Sum(LoRA(2), IA3()), "llama", None, "COURSE_SUM"),
    ]):
        attach(models[family], method, task=head).save(tmp_path / str(number))
        assert peft_type(tmp_path / str(number)) == expected


def test_peft_refuses_what_it_would_compute_differently(models, tmp_path):
    attach(models["llama"], ParallelAdapter(4)).save(tmp_path)
    with pytest.raises((KeyError, ValueError, TypeError), match="COURSE_PARALLELADAPTER"):
        peft.PeftModel.from_pretrained(copy.deepcopy(models["llama"]), tmp_path)


def test_gpt2_lora_on_query_and_value_is_pefts_fused_one(models, ids, tmp_path):
    tuned = stir(attach(models["gpt2"], LoRA(2, 6)))
    tuned.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 12, ["attn.c_attn"])
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(models["gpt2"]), tmp_path).eval()
    assert (answer(theirs, ids) - answer(tuned, ids)).abs().max() < 5e-5
    assert (answer(load(models["gpt2"], tmp_path), ids) - answer(tuned, ids)).abs().max() < 1e-6
