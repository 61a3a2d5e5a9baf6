"""Equal to peft 0.21 on the models both know: values, gradients and files, over random shapes, at 1e-6 of the largest
number.

Both sides compute in float64, where 1e-6 tells a wrong formula from rounding; the numbers themselves are float32 ones,
as they are in files.
"""

import copy
import random
import warnings

import peft
import pytest
import torch
from conftest import VOCABULARY, tiny
from safetensors.torch import load_file

import course_lib as cl
from course_lib.additive import (
    IA3,
    LayerNormTuning,
    LlamaAdapter,
    LoRA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    attach,
    load,
)
from course_lib.architectures import HEADS, Layout

DECODERS, ENCODERS = ("llama", "gpt2", "qwen2"), ("bert", "roberta")
ALL = (*DECODERS, *ENCODERS)
WITH_T5 = (*ALL, "t5")  # methods whose place in an encoder-decoder is the same on both sides
BERT_ROLES = {
    "query": "query", "key": "key", "value": "value", "output": "attention.output.dense",
    "ffn_in": "intermediate.dense", "ffn_out": "{block}.output.dense",
}
LLAMA_ROLES = {
    "query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ffn_in": "up_proj",
    "ffn_out": "down_proj",
}
ROLES = {  # how peft's users name the modules that play the roles
    "llama": LLAMA_ROLES, "qwen2": LLAMA_ROLES, "bert": BERT_ROLES, "roberta": BERT_ROLES,
    "gpt2": {
        "query_key_value": "attn.c_attn", "output": "attn.c_proj", "ffn_in": "mlp.c_fc", "ffn_out": "mlp.c_proj",
    },
    "t5": {
        "query": "SelfAttention.q", "key": "SelfAttention.k", "value": "SelfAttention.v", "output": "SelfAttention.o",
        "cross_query": "EncDecAttention.q", "cross_key": "EncDecAttention.k", "cross_value": "EncDecAttention.v",
        "cross_output": "EncDecAttention.o", "ffn_out": "DenseReluDense.wo",
    },
}
NORMS = {
    "llama": ["input_layernorm", "post_attention_layernorm", "norm"], "gpt2": ["ln_1", "ln_2", "ln_f"],
    "qwen2": ["input_layernorm", "post_attention_layernorm", "norm"], "bert": ["LayerNorm"], "roberta": ["LayerNorm"],
    "t5": ["layer_norm", "final_layer_norm"],
}


def module_names(family, roles, layers):
    names = [ROLES[family][role] for role in roles]
    return [name.format(block=block) for name in names for block in (range(layers) if "{" in name else [0])]


class Draw:
    """A random model, batch and method, the same for the same seed."""

    def __init__(self, case: str, family: str, seed: int):
        self.rng = rng = random.Random(f"{case} {family} {seed}")
        heads, head_width = rng.choice([1, 2, 4, 6]), rng.choice([4, 6, 10])
        self.family, self.layers = family, rng.randint(1, 3)
        self.width = heads * head_width
        self.sizes = {
            "width": self.width, "heads": heads, "layers": self.layers, "ffn": rng.randint(5, 40),
            "key_heads": rng.choice([k for k in (1, 2, 3) if heads % k == 0]), "vocabulary": VOCABULARY,
        }
        self.key_width = head_width * (self.sizes["key_heads"] if family in ("llama", "qwen2") else heads)
        self.task = [cl.tasks.Classification(3), None, cl.tasks.Tagging(("0", "1")), None][seed % 4]
        if case == "llama-adapter":  # with which peft neither trains nor saves a head
            self.task = None
        self.length, self.rank = rng.randint(1, 6), rng.randint(1, 5)
        self.roles = tuple(rng.sample(list(ROLES[family]), rng.randint(1, 3)))
        self.base = self.model = tiny("t5-gated" if family == "t5" and seed % 2 else family, **self.sizes).double()
        self.our_roles = tuple(rng.sample(Layout(self.base).roles, rng.randint(1, 4)))
        self.task_type = "CAUSAL_LM" if family in DECODERS else "FEATURE_EXTRACTION"
        if family == "t5":
            self.task_type = "SEQ_2_SEQ_LM"
        if self.task is not None:
            torch.manual_seed(2)
            self.model = self.task.with_head(self.base).double().eval()
            self.task_type = "SEQ_CLS" if seed % 4 == 0 else "TOKEN_CLS"
            if family == "t5" and self.task_type == "TOKEN_CLS":  # its encoder alone
                self.roles = tuple(role for role in self.roles if "cross" not in role) or ("query",)
                self.our_roles = tuple(role for role in self.our_roles if "cross" not in role) or ("query",)

    def batch(self, case) -> dict:
        """Texts of different length, padded on the right (peft puts a prompt before left padding).

        Under prompts, peft's decoders read the class off the last column, padding or not: there all are equally long.
        """
        padded = not (self.task_type == "SEQ_CLS" and case in PROMPTS and self.family in DECODERS)
        B, T = self.rng.randint(1, 4), self.rng.randint(2, 12)
        generator = torch.Generator().manual_seed(self.rng.randint(0, 999))
        ids, mask = torch.randint(3, VOCABULARY, (B, T), generator=generator), torch.ones(B, T, dtype=torch.long)
        for row in range(B if padded else 0):
            mask[row, self.rng.randint(1, T):] = 0
        batch = {"input_ids": ids * mask, "attention_mask": mask}
        if self.family == "t5":  # a text ends with the end token; the decoder reads what is as long
            batch["input_ids"][range(B), mask.sum(1) - 1] = self.base.config.eos_token_id
            if self.task_type == "SEQ_2_SEQ_LM":
                batch["decoder_input_ids"] = ids.flip(1)
        return batch


PROMPTS = ("prompt", "p-tuning", "p-tuning-lstm")
WITH_NETWORK = ("p-tuning", "p-tuning-lstm", "prefix-mlp")
CASES = {  # our method, the families, and peft's configuration of the same
    "lora": (
        lambda d: LoRA(d.rank, 3 * d.rank + 1, d.roles), WITH_T5,
        lambda d: peft.LoraConfig(
            r=d.rank, lora_alpha=3 * d.rank + 1, fan_in_fan_out=d.family == "gpt2",
            target_modules=module_names(d.family, d.roles, d.layers)),
    ),
    "lora-roles": (lambda d: LoRA(d.rank, 5, d.our_roles), WITH_T5, None),  # queries and values of a fused matrix, too
    "lora-rs": (
        lambda d: LoRA(d.rank, d.rank**0.5 * 7, d.roles), ("llama",),
        lambda d: peft.LoraConfig(
            r=d.rank, lora_alpha=7, use_rslora=True, target_modules=module_names(d.family, d.roles, d.layers)),
    ),
    "ia3": (
        lambda d: IA3(), ("llama", "qwen2", "bert", "roberta", "t5"),
        lambda d: peft.IA3Config(
            target_modules=module_names(d.family, ("key", "value", "ffn_out"), d.layers)
            + ["EncDecAttention.k", "EncDecAttention.v"] * (d.family == "t5"),
            feedforward_modules=module_names(d.family, ("ffn_out",), d.layers)),
    ),
    "ia3-defaults": (lambda d: IA3(compat="peft"), WITH_T5, lambda d: peft.IA3Config()),
    "ia3-fused": (
        lambda d: IA3(), ("gpt2",),
        lambda d: peft.IA3Config(
            target_modules=["attn.c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True),
    ),
    "prompt": (
        lambda d: PromptTuning(d.length, init="random", compat=None if d.family in DECODERS else "peft"), ALL,
        lambda d: peft.PromptTuningConfig(num_virtual_tokens=d.length),
    ),
    "p-tuning": (
        lambda d: PTuning(d.length, hidden=9, compat=None if d.family in DECODERS else "peft"), ALL,
        lambda d: peft.PromptEncoderConfig(num_virtual_tokens=d.length, encoder_hidden_size=9),
    ),
    "p-tuning-lstm": (
        lambda d: PTuning(d.length, "lstm", hidden=9, compat=None if d.family in DECODERS else "peft"), ALL,
        lambda d: peft.PromptEncoderConfig(
            num_virtual_tokens=d.length, encoder_hidden_size=9, encoder_reparameterization_type="LSTM"),
    ),
    "prefix": (
        lambda d: PrefixTuning(d.length, hidden=None), ALL,
        lambda d: peft.PrefixTuningConfig(num_virtual_tokens=d.length),
    ),
    "prefix-mlp": (
        lambda d: PrefixTuning(d.length, hidden=7), ALL,
        lambda d: peft.PrefixTuningConfig(num_virtual_tokens=d.length, prefix_projection=True, encoder_hidden_size=7),
    ),
    "norms": (
        lambda d: LayerNormTuning(), WITH_T5, lambda d: peft.LNTuningConfig(target_modules=NORMS[d.family]),
    ),
    "llama-adapter": (
        lambda d: LlamaAdapter(d.length, d.layers, compat="peft"), ("llama",),
        lambda d: peft.AdaptionPromptConfig(adapter_len=d.length, adapter_layers=d.layers),
    ),
}  # fmt: skip
NETWORKS = {  # peft's names of what is dropped after training, and ours
    "embedding.weight": "prompt_embeddings", "mlp_head": "mlp", "lstm_head": "lstm", "transform": "mlp",
}
LIMIT = 1e-6


def shapes(*directions):
    return [
        pytest.param(case, family, seed, id=f"{case}-{family}-{seed}")
        for case, (_, families, config) in CASES.items() for family in families for seed in range(4)
        if config is not None or "to" in directions
    ]


def peft_model(draw, case):
    """peft's model of the case, every trained number away from its initial value."""
    config = CASES[case][2](draw)
    config.task_type = draw.task_type
    if draw.family == "t5" and draw.task_type == "SEQ_CLS":
        config.modules_to_save = ["classification_head"]  # peft trains and saves the others' heads by itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(copy.deepcopy(draw.model), config).double().eval()
    shake(theirs)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if case != "ia3-defaults" and name.endswith("c_attn.ia3_l.default"):
                parameter[: draw.width] = 1  # (IA)^3 never scales the queries
    return theirs


def shake(model):
    """Add noise to every trained number, and leave it one that float32 has."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
                parameter.copy_(parameter.float())


def answer(model, batch):
    """Scores of the rows, or of the text's real positions."""
    out, real = model(**batch), batch["attention_mask"].bool()
    found = out.logits if "logits" in out else out.last_hidden_state
    return found if found.dim() == 2 else found[:, -real.shape[1]:][real]  # peft leaves a prompt's positions in front


def backward(scores):
    """From a loss in which every score counts differently."""
    weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).view_as(scores)
    (weights * scores + 0.1 * scores.square()).sum().backward()


def assert_equal(found, expected, what=""):
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    largest = expected.abs().max().clamp_min(1e-3)
    assert (found - expected).abs().max() / largest <= LIMIT, what


def peft_gradients(theirs):
    """Key in peft's files -> gradient."""
    return {
        name.replace(".modules_to_save", "").replace(".default", "")
        .replace("prompt_encoder.embedding.weight", "prompt_embeddings"): parameter.grad
        for name, parameter in theirs.named_parameters() if parameter.grad is not None
    }


def head_name(tuned):
    return next(name for name in HEADS if hasattr(tuned.model, name))


def our_gradients(ours):
    """Our gradients under the keys of peft's files."""
    addition, layout = ours.additions["default"], ours.layout
    found = addition.method.to_peft(layout, {
        f"{site.key}.{name}": parameter.grad
        for site, module in addition.at(*{site.kind for site in addition.sites})
        for name, parameter in module.named_parameters()
    })[1]
    if addition.head is not None:
        prefix = f"{addition.method.peft_head}{head_name(ours)}."
        found |= {prefix + key: parameter.grad for key, parameter in addition.head.named_parameters()}
    return found


def assert_same_gradients(ours, theirs, draw, case):
    found, expected = our_gradients(ours), peft_gradients(theirs)
    assert found.keys() <= expected.keys()
    for key, own in found.items():
        other = expected[key]
        if case != "ia3-defaults" and key.endswith("c_attn.ia3_l"):  # peft trains a scale of the queries too
            own, other = own[draw.width :], other[draw.width :]
        if "lora_B" in key:  # on a fused matrix ours is block-diagonal
            other = torch.where(own != 0, other, 0)
        assert_equal(own, other, key)


def dropped_network(theirs, ours):
    """Give our network peft's numbers; (our parameter, peft's) of each."""
    (module,) = ours.additions["default"].parts.values()
    own, pairs = dict(module.named_parameters()), []
    for name, parameter in theirs.named_parameters():
        if name.startswith("prompt_encoder.default."):
            name = name.removeprefix("prompt_encoder.default.")
            for there, here in NETWORKS.items():
                name = name.replace(there, here)
            name = "start" if name not in own else name
            with torch.no_grad():
                own[name].copy_(parameter)
            pairs.append((own.pop(name), parameter))
    assert not own
    return pairs


@pytest.mark.parametrize(("case", "family", "seed"), shapes("from"))
def test_what_peft_trains_we_load_and_train_on(case, family, seed, tmp_path):
    draw = Draw(case, family, seed)
    method = CASES[case][0]
    batch = draw.batch(case)
    theirs = peft_model(draw, case)
    theirs.save_pretrained(tmp_path)
    ours = load(draw.base, tmp_path, trainable=True).double()
    expected = answer(theirs, batch)
    assert_equal(answer(ours, batch), expected)
    backward(expected)
    if case in WITH_NETWORK:  # the file holds what the network says; the network itself is compared here
        if draw.key_width != draw.width and case == "prefix-mlp":
            return  # peft begins its prefix as narrow as the keys are
        ours = attach(draw.base, method(draw), task=draw.task).double()
        pairs = dropped_network(theirs, ours)
        if draw.task is not None:
            head = ours.additions["default"].head
            with torch.no_grad():
                for name, parameter in head.named_parameters():
                    there = f"base_model.{head_name(ours)}.modules_to_save.default.{name}"
                    pairs.append((parameter, theirs.get_parameter(there)))
                    parameter.copy_(pairs[-1][1])
        scores = answer(ours, batch)
        assert_equal(scores, expected)
        backward(scores)
        for own, other in pairs:
            assert_equal(own.grad, other.grad)
        return
    backward(answer(ours, batch))
    assert_same_gradients(ours, theirs, draw, case)


@pytest.mark.parametrize(("case", "family", "seed"), shapes("to"))
def test_what_we_train_peft_loads_and_trains_on(case, family, seed, tmp_path):
    draw = Draw(case, family, seed)
    batch = draw.batch(case)
    ours = attach(draw.base, CASES[case][0](draw), task=draw.task).double()
    shake(ours.additions)
    ours.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(draw.model), tmp_path).double().eval()
    written, read = load_file(tmp_path / "adapter_model.safetensors"), peft.get_peft_model_state_dict(theirs)
    assert written.keys() == read.keys()  # nothing missing, nothing that peft passed over
    assert all(torch.equal(written[key].float(), read[key].float()) for key in written)
    expected = answer(theirs.requires_grad_(True), batch)
    scores = answer(ours, batch)
    assert_equal(scores, expected)
    again = load(draw.base, tmp_path).double()
    assert_equal(answer(again, batch), scores)
    if case not in WITH_NETWORK:
        backward(scores)
        backward(expected)
        assert_same_gradients(ours, theirs, draw, case)
