"""LoRA in some blocks only, and its files in peft's form."""

import copy

import peft
import pytest
import torch
from conftest import stir
from test_contract import call

from course_lib.additive import LoRA, attach, load
from course_lib.runtime import CourseError

FAMILIES = ["llama", "qwen2", "gpt2", "bert", "roberta"]
ROLES = ("query", "value", "output", "ffn_out")


@pytest.mark.parametrize("family", FAMILIES)
def test_it_stands_in_the_named_blocks_and_nowhere_else(models, ids, family):
    tuned = attach(models[family], LoRA(2, layers=(1, 2)))
    assert {site.block for site, _ in tuned.additions["default"].at("beside")} == {1, 2}
    assert tuned.lowest_block() == 1
    everywhere = stir(attach(models[family], LoRA(2)))
    for site, module in everywhere.additions["default"].at("beside"):
        if site.block == 0:
            torch.nn.init.zeros_(module.B)
    for key, tensor in tuned.additions["default"].state_dict().items():
        tensor.copy_(everywhere.additions["default"].state_dict()[key])
    assert torch.equal(call(tuned, ids), call(everywhere, ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_it_and_we_read_it_back(models, ids, family, tmp_path):
    tuned = stir(attach(models[family], LoRA(2, targets=ROLES, layers=(0, 2))))
    tuned.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(attach(models[family], LoRA(1)).detach(), tmp_path).eval()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        assert (theirs(**batch)[0] - call(tuned, ids)).abs().max() < 1e-6
    theirs.unload()
    (tmp_path / "course_lib.json").unlink(missing_ok=True)
    again = load(models[family], tmp_path)
    assert torch.equal(call(again, ids), call(tuned, ids))
    assert tuple(again.additions["default"].method.layers) == (0, 2)


def test_layers_to_transform_is_read(models, ids, tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], layers_to_transform=[1])


    theirs = peft.get_peft_model(copy.deepcopy(models["llama"]), config).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    theirs.save_pretrained(tmp_path)
    ours = load(models["llama"], tmp_path)
    assert ours.additions["default"].method.layers == (1,)
    with torch.no_grad():
        assert (call(ours, ids) - theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).abs().max() < 1e-6


def test_blocks_that_are_not_there_and_roles_in_different_blocks(models, tmp_path):
    for layers in ((3,), (-1,)):
        with pytest.raises(CourseError, match="no block"):
            attach(models["llama"], LoRA(2, layers=layers))
    for layers in ((), (1, 1)):
        with pytest.raises(CourseError, match="each once"):
            LoRA(2, layers=layers)


    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=r".*0\.self_attn\.q_proj|.*1\.self_attn\.v_proj")
    peft.get_peft_model(copy.deepcopy(models["llama"]), config).save_pretrained(tmp_path)
    with pytest.raises(CourseError, match="other blocks for one role"):
        load(models["llama"], tmp_path)
