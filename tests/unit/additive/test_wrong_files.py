"""Files and targets that do not fit: each a sentence with the key that is wrong and what to do; never a silent base."""

import copy
import json
import pickle

import peft
import pytest
import torch
from conftest import stir, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_contract import CASES

import course_lib as cl
from course_lib.additive import (
    IA3,
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
    PTuning,
    attach,
    load,
)

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def refused(base, folder, *said):
    """`load` raises one sentence in which all of `said` stands."""
    with pytest.raises(cl.CourseError) as caught:
        load(base, folder)
    for part in said:
        assert part in str(caught.value), str(caught.value)


def rewrite(folder, change, description=True):
    """Change the tensors of a saved addition in place; without `description`, as if peft had written the file."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata() if description else {"format": "pt"}
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata=metadata)


def reconfigure(folder, **fields):
    """Change fields of the configuration in place; None removes one."""
    config = json.loads((folder / CONFIG).read_text()) | fields
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def by_peft(model, config, folder):
    """What peft saves of a model that has one addition."""
    peft.get_peft_model(copy.deepcopy(model), config).save_pretrained(folder)
    return folder


@pytest.fixture
def peft_lora(models, tmp_path):
    """A LoRA that peft saved, and that we open."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    folder = by_peft(models["llama"], config, tmp_path / "lora")
    load(models["llama"], folder)
    return folder


# --- the two files ------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(models, tmp_path):
    attach(models["bert"], ParallelAdapter(4)).save(tmp_path)
    (tmp_path / CONFIG).unlink()
    refused(models["bert"], tmp_path, CONFIG, "is not there", "Check the path")
    refused(models["bert"], tmp_path / "nowhere", f"{CONFIG} and {WEIGHTS}")


def test_a_pickle_is_never_opened(models, tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    attach(models["bert"], ParallelAdapter(4)).save(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    refused(models["bert"], tmp_path, "adapter_model.bin", "pickle", "run any code", "safetensors")


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:50], lambda data: data[:-3], lambda data: b"\xff" * 8 + data[8:],
    lambda data: b"<html>not found</html>" * 9, lambda data: data + b"more",
], ids=["empty", "header cut", "end cut", "header length", "a web page", "too long"])  # fmt: skip
def test_damaged_weights(models, tmp_path, damage):
    attach(models["bert"], LoRA(2)).save(tmp_path)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(damage(weights.read_bytes()))
    refused(models["bert"], tmp_path, "damaged", "Copy them again")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00"])
def test_a_damaged_configuration(models, tmp_path, text):
    attach(models["bert"], LoRA(2)).save(tmp_path)
    (tmp_path / CONFIG).write_text(text)
    refused(models["bert"], tmp_path, "damaged", "Copy them again")


def test_files_of_another_version_of_the_course(models, tmp_path):
    attach(models["bert"], LoRA(2)).save(tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        description, state = json.loads(file.metadata()["course"]), load_file(tmp_path / WEIGHTS)
    for change, said in (
        ({"format": 99}, "format 99"),
        ({"method": {"name": "Telepathy"}}, "'Telepathy', which this version of the course does not know"),
        ({"method": {"name": "LoRA", "wings": 2}}, "describes a LoRA by wings"),
        ({"task": {"name": "Divination"}}, "no task called 'Divination'"),
    ):
        save_file(state, tmp_path / WEIGHTS, metadata={"course": json.dumps({**description, **change})})
        refused(models["bert"], tmp_path, said)


# --- tensors ------------------------------------------------------------------------------------------------

STORED = [
    (case, family) for case, (method, families, _) in CASES.items() for family in families if case != "full"
]


@pytest.mark.parametrize(("case", "family"), STORED)
def test_every_key_of_every_method_is_asked_for(models, tmp_path, case, family):
    """Each tensor once missing, once of another shape; and one too many."""
    method = CASES[case][0]
    attach(models[family], method).save(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    keys = sorted(load_file(tmp_path / WEIGHTS))
    for key in {keys[0], keys[len(keys) // 2], keys[-1]}:
        rewrite(tmp_path, lambda state, key=key: state.pop(key))
        # a fusion reads its adapters from the file, under their own names
        said = key.split("sources")[-1][2:] if "sources" in key else key
        refused(models[family], tmp_path, "missing", said)
        (tmp_path / WEIGHTS).write_bytes(whole)
        rewrite(tmp_path, lambda state, key=key: state.update({key: torch.stack([state[key]] * 2)}))
        refused(models[family], tmp_path, said, "shape")
        (tmp_path / WEIGHTS).write_bytes(whole)
    rewrite(tmp_path, lambda state: state.update(stranger=torch.ones(1)))
    refused(models[family], tmp_path, "foreign", "stranger")


@pytest.mark.parametrize("missing", ["head.weight", "base_model.model.classifier.weight"])
def test_a_head_that_is_not_in_the_file_is_asked_for(models, tmp_path, missing):
    """peft warns, and classifies with random numbers (its issue 876)."""
    method = LoRA(2) if missing.startswith("base") else ParallelAdapter(4)
    attach(models["bert"], method, task=cl.tasks.Classification(3)).save(tmp_path)
    rewrite(tmp_path, lambda state: state.pop(missing))
    refused(models["bert"], tmp_path, "missing", missing)


def test_a_head_that_peft_says_it_saved_is_asked_for(models, tmp_path):
    model = cl.tasks.Classification(3).with_head(models["bert"])
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    by_peft(model, config, tmp_path)
    rewrite(tmp_path, lambda state: [state.pop(key) for key in list(state) if "classifier" in key])
    refused(models["bert"], tmp_path, "classifier or score", "no tensor of it is there")


def test_scales_of_the_wrong_side_are_refused_where_both_sides_are_as_long(tmp_path):
    """A vector for what the FFN says, (out, 1), is not one for what it reads, (1, in), even if d = f."""
    model = tiny("llama", ffn=32)
    config = peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=[]
    )
    refused(model, by_peft(model, config, tmp_path), "down_proj.ia3_l", "shape (32, 1)", "(1, 32)")


# --- bases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("other", "said"), [
    (("llama", {}), "model_type bert there and llama here"), (("roberta", {}), "model_type bert there and roberta"),
    (("bert", {"layers": 2}), "layers 3 there and 2 here"), (("bert", {"width": 16}), "width 32 there and 16 here"),
    (("bert", {"vocabulary": 50}), "vocabulary 97 there and 50 here"),
])  # fmt: skip
def test_another_base(models, tmp_path, other, said):
    attach(models["bert"], ParallelAdapter(4)).save(tmp_path)
    refused(tiny(other[0], **other[1]), tmp_path, said, "Load it on the base it was trained on")


def test_the_same_base_with_other_weights(models, tmp_path):
    """Told by its embeddings, or by its last block where only the blocks have been trained."""
    attach(models["bert"], ParallelAdapter(4)).save(tmp_path)
    for part, said in (("embeddings", "the embeddings"), ("encoder.layer.2", "the last block")):
        other = copy.deepcopy(models["bert"])
        torch.manual_seed(3)
        for parameter in other.get_submodule(part).parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        refused(other, tmp_path, "other weights", said)
    load(copy.deepcopy(models["bert"]).bfloat16().float(), tmp_path)  # rounded, it is still the same base


# --- peft's variants ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value"), [
    ("use_dora", True), ("bias", "all"), ("bias", "lora_only"), ("lora_bias", True),
    ("rank_pattern", {"q_proj": 4}), ("alpha_pattern", {"q_proj": 4}), ("layer_replication", [[0, 2]]),
    ("init_lora_weights", "pissa"), ("init_lora_weights", "olora"), ("init_lora_weights", "loftq"),
    ("trainable_token_indices", [5]), ("target_parameters", ["q_proj.weight"]), ("exclude_modules", ["v_proj"]),
    ("modules_to_save", ["lm_head"]), ("alora_invocation_tokens", [1]), ("use_qalora", True), ("use_bdlora", {"a": 1}),
    ("something_of_tomorrow", 1),
])  # fmt: skip
def test_a_lora_variant_is_refused_by_name(models, peft_lora, field, value):
    reconfigure(peft_lora, **{field: value})
    refused(models["llama"], peft_lora, field, "lm_head" if field == "modules_to_save" else repr(value), "peft")


@pytest.mark.parametrize("options", [
    {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["embed_tokens"]},
    {"rank_pattern": {"q_proj": 2}}, {"lora_bias": True}, {"trainable_token_indices": [4, 5]},
], ids=str)  # fmt: skip
def test_variants_as_peft_itself_saves_them(models, tmp_path, options):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], **options)
    model = models["llama"] if options != {"bias": "all"} else models["gpt2"]
    config.target_modules = {"q_proj", "v_proj"} if model is models["llama"] else {"attn.c_attn"}
    refused(model, by_peft(model, config, tmp_path), *options)


@pytest.mark.parametrize(("kind", "field", "value"), [
    (IA3(), "exclude_modules", ["k_proj"]), (IA3(), "modules_to_save", ["lm_head"]),
    (LayerNormTuning(), "modules_to_save", ["lm_head"]), (PromptTuning(3), "num_transformer_submodules", 2),
    (PrefixTuning(3, None), "num_transformer_submodules", 2), (PTuning(3), "something_of_tomorrow", True),
    (LlamaAdapter(3, compat="peft"), "something_of_tomorrow", "x"),
], ids=lambda v: getattr(v, "peft_type", v))  # fmt: skip
def test_variants_of_the_other_types(models, tmp_path, kind, field, value):
    attach(models["llama"], kind).save(tmp_path)
    rewrite(tmp_path, lambda state: None, description=False)
    load(models["llama"], tmp_path)
    reconfigure(tmp_path, **{field: value})
    refused(models["llama"], tmp_path, field)


@pytest.mark.parametrize(("kind", "field"), [
    (LoRA(2), "r"), (LoRA(2), "lora_alpha"), (LoRA(2), "target_modules"), (PromptTuning(3), "num_virtual_tokens"),
    (PrefixTuning(3, None), "num_virtual_tokens"), (PTuning(3), "num_virtual_tokens"),
    (LlamaAdapter(3, compat="peft"), "adapter_len"), (LoRA(2), "peft_type"),
], ids=lambda v: getattr(v, "peft_type", v))  # fmt: skip
def test_a_configuration_that_leaves_out_what_is_needed(models, tmp_path, kind, field):
    attach(models["llama"], kind).save(tmp_path)
    rewrite(tmp_path, lambda state: None, description=False)
    reconfigure(tmp_path, **{field: None})
    refused(models["llama"], tmp_path, field)


@pytest.mark.parametrize(("kind", "field", "value", "key"), [
    (LoRA(2), "r", 3, "lora_A.weight"), (PromptTuning(3), "num_virtual_tokens", 4, "prompt_embeddings"),
    (PrefixTuning(3, None), "num_virtual_tokens", 4, "prompt_embeddings"),
    (LlamaAdapter(3, compat="peft"), "adapter_len", 4, "adaption_prompt"),
    (LlamaAdapter(3, 2, compat="peft"), "adapter_layers", 3, "layers.0.self_attn.adaption_gate"),
], ids=lambda v: getattr(v, "peft_type", v))  # fmt: skip
def test_a_configuration_that_speaks_of_other_tensors(models, tmp_path, kind, field, value, key):
    attach(models["llama"], kind).save(tmp_path)
    rewrite(tmp_path, lambda state: None, description=False)
    reconfigure(tmp_path, **{field: value})
    refused(models["llama"], tmp_path, key)


@pytest.mark.parametrize("config", [
    peft.VeraConfig(target_modules=["q_proj"]), peft.LoHaConfig(target_modules=["q_proj"]),
    peft.OFTConfig(target_modules=["q_proj"], oft_block_size=4), peft.AdaLoraConfig(
        target_modules=["q_proj"], total_step=10),
], ids=lambda config: config.peft_type.value)  # fmt: skip
def test_a_type_that_the_course_has_not(models, tmp_path, config):
    config.task_type = "CAUSAL_LM"
    folder = by_peft(models["llama"], config, tmp_path)
    refused(models["llama"], folder, f"peft_type={config.peft_type.value}", "it reads ADAPTION_PROMPT, IA3")


def test_a_head_for_a_task_that_the_course_has_not(models, tmp_path):
    attach(models["bert"], LoRA(2), task=cl.tasks.Classification(2)).save(tmp_path)
    rewrite(tmp_path, lambda state: None, description=False)
    reconfigure(tmp_path, task_type="QUESTION_ANS")
    refused(models["bert"], tmp_path, "QUESTION_ANS", "SEQ_CLS and TOKEN_CLS")


def test_pefts_llama_adapter_on_gpt2_is_another_function(models, tmp_path):
    config = peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM")
    refused(models["gpt2"], by_peft(models["gpt2"], config, tmp_path), "gpt2", "another function")


# --- targets ------------------------------------------------------------------------------------------------


def test_targets_in_a_file_that_match_nothing(models, peft_lora):
    """peft #1959: a name that matches nothing was passed over where another one matched."""
    reconfigure(peft_lora, target_modules=["attention.query"])
    refused(models["llama"], peft_lora, "attention.query", "self_attn.q_proj")
    reconfigure(peft_lora, target_modules=["q_proj", "v_proj", "k_proj"])
    refused(models["llama"], peft_lora, "missing", "layers.0.self_attn.k_proj.lora_A.weight")
    reconfigure(peft_lora, target_modules=["q_proj"])
    refused(models["llama"], peft_lora, "foreign", "layers.0.self_attn.v_proj.lora_A.weight")


def test_targets_in_a_file_that_match_some_blocks_only(models, tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["layers.1.self_attn.q_proj"])
    by_peft(models["llama"], config, tmp_path)
    assert load(models["llama"], tmp_path).additions["default"].method.layers == (1,)
    reconfigure(tmp_path, target_modules=["layers.1.self_attn.q_proj", "layers.0.self_attn.v_proj"])
    refused(models["llama"], tmp_path, "query in (1,)", "value in (0,)", "same blocks")


@pytest.mark.parametrize("targets", [r".*\.(q|v)_proj", ["model.layers.0.self_attn.q_proj", "q_proj", "v_proj"]])
def test_targets_are_read_as_peft_reads_them(models, peft_lora, targets):
    reconfigure(peft_lora, target_modules=targets)
    assert load(models["llama"], peft_lora).additions["default"].method.targets == ("query", "value")


def test_modules_outside_the_blocks_are_foreign(models, tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens"])
    refused(models["llama"], by_peft(models["llama"], config, tmp_path), "foreign", "embed_tokens")


@pytest.mark.parametrize(("make", "said"), [
    (lambda: LoRA(targets=("gate",)), "no 'gate'. Its roles: query, key"),
    (lambda: LoRA(targets="query"), "it needs a tuple of roles"), (lambda: LoRA(targets=()), "it needs a tuple"),
    (lambda: LoRA(targets=("query", "query")), "each once"), (lambda: LoRA(rank=0), "rank=0"),
    (lambda: LoRA(rank=2.5), "whole number"), (lambda: LoRA(dropout=1.5), "between 0 and 1"),
    (lambda: LoReFT(layers=()), "at least one block"), (lambda: LoReFT(layers=(1, 1)), "each once"),
    (lambda: LoReFT(layers=(7,)), "blocks 0 to 2"), (lambda: LoReFT(first=0, last=0), "at no position"),
    (lambda: LoReFT(first=-1), "first=-1"), (lambda: LlamaAdapter(layers=4), "between 1 and the 3 layers"),
    (lambda: LlamaAdapter(length=0), "length=0"), (lambda: LlamaAdapter(compat="x"), "choose None, 'peft'"),
    (lambda: BottleneckAdapter(skip_layers=-1), "skip_layers=-1"),
    (lambda: BottleneckAdapter(skip_layers=3), "leaves none of the 3 blocks"),
    (lambda: BottleneckAdapter(placement="nowhere"), "'houlsby', 'pfeiffer'"),
    (lambda: ParallelAdapter(where="mlp"), "choose 'ffn', 'attention'"), (lambda: ParallelAdapter(0), "bottleneck=0"),
    (lambda: Compacter(n=0), "n=0"), (lambda: Compacter(n=3), "must divide"), (lambda: PrefixTuning(0), "length=0"),
    (lambda: PrefixTuning(hidden=0), "hidden=0"), (lambda: PTuning(hidden=0), "hidden=0"),
    (lambda: PTuning(encoder="gru"), "'mlp', 'lstm'"), (lambda: PromptTuning(compat="x"), "choose None, 'peft'"),
    (LinearProbe, "attach it with a task"),
])  # fmt: skip
def test_a_method_that_would_act_nowhere(models, make, said):
    with pytest.raises(cl.CourseError) as caught:
        attach(models["llama"], make())
    assert said in str(caught.value)


def test_a_failed_load_leaves_everything_as_it_was(models, ids, peft_lora):
    tuned = stir(attach(models["llama"], ParallelAdapter(4)))
    before = tuned(input_ids=ids).logits
    reconfigure(peft_lora, r=3)
    with pytest.raises(cl.CourseError, match="lora_A"):
        load(tuned, peft_lora, name="second")
    assert list(tuned.additions) == ["default"]
    assert torch.equal(tuned(input_ids=ids).logits, before)
