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
    LayerNormTuning,
    LlamaAdapter,
    LoRA,
    ParallelAdapter,
    PrefixTuning,
    PromptTuning,
    PTuning,
    attach,
    load,
)


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




SHARED = {  # our method, the families on which peft computes the same, and peft's own configuration of it
    "lora": (LoRA(2, 6), ("llama", "bert"), lambda f: peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"] if f == "llama" else ["query", "value"])),
    "lora-fused": (LoRA(2, 6, targets=("query_key_value", "output")), ("gpt2",), lambda f: peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=["attn.c_attn", "attn.c_proj"], fan_in_fan_out=True)),
    "ia3": (IA3(), ("llama",), lambda f: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "ia3-bert": (IA3(), ("bert",), lambda f: peft.IA3Config(
        target_modules=["key", "value", "0.output.dense", "1.output.dense", "2.output.dense"],
        feedforward_modules=["0.output.dense", "1.output.dense", "2.output.dense"])),
    "prefix": (PrefixTuning(4, hidden=None), ("llama", "gpt2", "bert"), None),
    "p-tuning": (PTuning(4), ("llama", "gpt2"), lambda f: peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=32)),
    "norms": (LayerNormTuning(), ("llama", "gpt2", "bert"), lambda f: peft.LNTuningConfig(target_modules={
        "llama": ["input_layernorm", "post_attention_layernorm", "norm"], "gpt2": ["ln_1", "ln_2", "ln_f"],
        "bert": ["LayerNorm"]}[f])),
    "llama-adapter": (LlamaAdapter(4, 2, compat="peft"), ("llama",), lambda f: peft.AdaptionPromptConfig(
        adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM")),
}
PAIRS = [(name, family) for name, (_, families, _) in SHARED.items() for family in families]


def answer(model, ids):
    """Logits or states at the text's own positions."""
    out = model(**ones(ids))
    return (out.logits if "logits" in out else out.last_hidden_state)[:, -ids.shape[1]:]


def randomised(model):
    """Every trained number of a peft model moved away from its initial value."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(("case", "family"), PAIRS)
def test_peft_opens_what_we_save(models, ids, case, family, tmp_path):
    tuned = stir(attach(models[family], SHARED[case][0]))
    tuned.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(models[family]), tmp_path).eval()
    expected = answer(tuned, ids)
    assert (answer(theirs, ids) - expected).abs().max() <= 2e-6 * (1 + expected.abs().max()) * 5


@pytest.mark.parametrize(("case", "family"), [p for p in PAIRS if SHARED[p[0]][2] is not None])
def test_we_open_what_peft_saves_with_the_same_gradients(models, ids, case, family, tmp_path):
    theirs = randomised(peft.get_peft_model(copy.deepcopy(models[family]), SHARED[case][2](family)).eval())
    theirs.save_pretrained(tmp_path)
    ours = load(models[family], tmp_path, trainable=True)
    a, b = answer(theirs, ids), answer(ours, ids)
    assert (a - b).abs().max() <= 1e-5 * (1 + a.abs().max())
    if case == "p-tuning":
        return  # theirs trains the network, of which the file keeps the result only
    a.square().mean().backward()
    b.square().mean().backward()
    method, layout = ours.additions["default"].method, ours.layout
    gradients = {n: p.grad for n, p in _named(ours.additions["default"])}
    expected = {_plain(n): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    found = method.to_peft(layout, gradients)[1]
    for key, gradient in expected.items():
        own = found[key].reshape(gradient.shape)
        if "c_attn.ia3" not in key:
            assert (own - gradient).abs().max() <= 1e-5 * (1 + gradient.abs().max()), key
    assert expected.keys() == found.keys()


@pytest.mark.parametrize(
    ("case", "family"), [("lora", "llama"), ("lora", "bert"), ("ia3-bert", "bert"), ("norms", "bert")]
)
def test_we_open_what_peft_saves_of_a_classifier(models, ids, case, family, tmp_path):
    config = SHARED[case][2](family)
    config.task_type = "SEQ_CLS"
    theirs = randomised(peft.get_peft_model(classifier(models[family]), config).eval())
    theirs.config.pad_token_id = 0
    theirs.save_pretrained(tmp_path)
    ours = load(models[family], tmp_path)
    assert ours.task == cl.tasks.Classification(3)
    assert (ours(**ones(ids)).logits - theirs(**ones(ids)).logits).abs().max() < 5e-5


def _named(addition):
    """(name in files, parameter)"""
    for site, module in addition.at(*{site.kind for site in addition.sites}):
        for name, parameter in module.named_parameters():
            yield f"{site.key}.{name}", parameter


def _plain(name):
    """peft's parameter names without the adapter's name, as in its files."""
    return name.replace(".default", "")


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("method", [
    LoRA(2), LoRA(3, 9, targets=("query", "key", "value", "output", "ffn_in", "ffn_out")), IA3(), LayerNormTuning(),
], ids=["lora", "lora-all", "ia3", "norms"])  # fmt: skip
def test_merged_equals_unmerged(models, ids, family, method):
    tuned = stir(attach(models[family], method, task=cl.tasks.Classification(3)))
    merged = tuned.merge()
    assert not any("course" in type(module).__module__ for module in merged.modules())
    with torch.no_grad():
        a, b = tuned(**ones(ids)).logits, merged(**ones(ids)).logits
    assert (a - b).abs().max() <= 1e-5 * (1 + a.abs().max())


def test_gpt2_lora_on_query_and_value_is_pefts_fused_one(models, ids, tmp_path):
    tuned = stir(attach(models["gpt2"], LoRA(2, 6)))
    tuned.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 12, ["attn.c_attn"])
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(models["gpt2"]), tmp_path).eval()
    assert (answer(theirs, ids) - answer(tuned, ids)).abs().max() < 5e-5
    assert (answer(load(models["gpt2"], tmp_path), ids) - answer(tuned, ids)).abs().max() < 1e-6
