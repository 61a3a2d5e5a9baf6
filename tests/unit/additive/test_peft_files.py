"""What we save peft opens, and what peft saves we open, wherever both compute the same function."""

import copy
import json

import peft
import pytest
import torch
from conftest import stir

import course_lib as cl
from course_lib.additive import ParallelAdapter, PromptTuning, attach, load


def with_prompt(model, task_type, p=4):
    config = peft.PromptTuningConfig(task_type=task_type, num_virtual_tokens=p)
    return peft.get_peft_model(copy.deepcopy(model), config).eval()


def ones(ids):
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_opens_our_prompt(models, ids, family, tmp_path):
    tuned = stir(attach(models[family], PromptTuning(4)))
    tuned.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(models[family]), tmp_path).eval()
    assert (theirs(**ones(ids)).logits[:, 4:] - tuned(**ones(ids)).logits).abs().max() < 5e-5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_we_open_pefts_prompt_with_the_same_gradients(models, ids, family, tmp_path):
    theirs = with_prompt(models[family], "CAUSAL_LM")
    theirs.save_pretrained(tmp_path)
    ours = load(models[family], tmp_path, trainable=True)
    a, b = theirs(**ones(ids)).logits[:, 4:], ours(**ones(ids)).logits
    assert (a - b).abs().max() < 5e-5
    a.square().mean().backward()
    b.square().mean().backward()
    gradient = ours.additions["default"].parts["prompt"].prompt_embeddings.grad
    expected = theirs.prompt_encoder["default"].embedding.weight.grad
    assert (gradient - expected).abs().max() <= 1e-6 * (1 + expected.abs().max())


def classifier(model, labels=3):
    """The same base under a transformers head, whose numbers both sides use."""
    torch.manual_seed(2)
    return cl.tasks.Classification(labels).with_head(copy.deepcopy(model)).eval()


def test_bert_prompts_are_pefts_only_with_compat(models, ids, tmp_path):
    theirs = with_prompt(classifier(models["bert"]), "SEQ_CLS")
    with torch.no_grad():
        theirs.base_model.classifier.weight.normal_()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(models["bert"], tmp_path / "theirs")
    assert ours.task == cl.tasks.Classification(3)
    assert (theirs(**ones(ids)).logits - ours(**ones(ids)).logits).abs().max() < 5e-5
    ours.save(tmp_path / "back")
    again = peft.PeftModel.from_pretrained(classifier(models["bert"]), tmp_path / "back").eval()
    assert (again(**ones(ids)).logits - ours(**ones(ids)).logits).abs().max() < 5e-5
    attach(models["bert"], PromptTuning(4)).save(tmp_path / "own")
    assert json.loads((tmp_path / "own" / "adapter_config.json").read_text())["peft_type"] == "COURSE_PROMPTTUNING"


def test_peft_refuses_what_it_would_compute_differently(models, tmp_path):
    attach(models["llama"], ParallelAdapter(4)).save(tmp_path)
    with pytest.raises((KeyError, ValueError, TypeError), match="COURSE_PARALLELADAPTER"):
        peft.PeftModel.from_pretrained(copy.deepcopy(models["llama"]), tmp_path)


def test_a_peft_type_that_we_do_not_read_is_named(models, tmp_path):
    config = peft.VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    peft.get_peft_model(copy.deepcopy(models["llama"]), config).save_pretrained(tmp_path)
    with pytest.raises(cl.CourseError, match="saved by peft as VERA"):
        load(models["llama"], tmp_path)


