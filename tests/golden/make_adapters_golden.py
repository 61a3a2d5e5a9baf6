"""Make adapters_bert.safetensors, adapters_llama.safetensors and adapters_gpt2.safetensors: what the `adapters` library
computes, so that tests can hold ours to it without installing it. Run once, in an environment of its own:

    python -m venv golden
    golden/bin/pip install torch==2.13.0 transformers==4.57.6 adapters==1.3.0 safetensors==0.8.0 numpy==2.4.6
    golden/bin/python tests/golden/make_adapters_golden.py

(with the CPU build of torch, on Python 3.11). For each family a tiny random model and, for each method, random weights
of the addition under the library's own names, what the model answers, and the gradients of sum(answer * probe) at those
weights:

    base/NAME                        the model's weights          input_ids, attention_mask, probe
    CASE/weight/NAME                 the addition's weights
    CASE/gradient/NAME               their gradients              CASE/answer
"""

import json
from pathlib import Path

import adapters
import torch
import transformers
from adapters import (
    AdapterFusionConfig,
    CompacterConfig,
    DoubleSeqBnConfig,
    Fuse,
    IA3Config,
    LoRAConfig,
    LoReftConfig,
    MAMConfig,
    ParBnConfig,
    PrefixTuningConfig,
    SeqBnConfig,
    UniPELTConfig,
)
from safetensors.torch import save_file
from torch.nn.utils import parametrize
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

WIDTH, LAYERS, VOCABULARY = 16, 2, 23
SIZES = {
    "bert": {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "max_position_embeddings": 16,
    },
    "llama": {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "vocab_size": VOCABULARY, "n_embd": WIDTH, "n_inner": 24, "n_layer": LAYERS, "n_head": 2, "n_positions": 16,
        "bos_token_id": 1, "eos_token_id": 2,
    },
}
MODELS = {
    "bert": (BertConfig, BertModel), "llama": (LlamaConfig, LlamaForCausalLM), "gpt2": (GPT2Config, GPT2LMHeadModel),
}
PREFIX = {"prefix_length": 3, "bottleneck_size": 5}
CASES = {
    "houlsby": DoubleSeqBnConfig(reduction_factor=4),
    "pfeiffer": SeqBnConfig(reduction_factor=4),
    "parallel": ParBnConfig(reduction_factor=4, scaling=2.5),
    "compacter": CompacterConfig(reduction_factor=4, phm_dim=2),
    "loreft": LoReftConfig(r=2, prefix_positions=2, suffix_positions=1, tied_weights=True),
    "loreft-untied": LoReftConfig(r=2, prefix_positions=2, suffix_positions=1, tied_weights=False),
    "prefix": PrefixTuningConfig(**PREFIX),
    "ia3": IA3Config(),
    "mam": MAMConfig(PrefixTuningConfig(**PREFIX), ParBnConfig(reduction_factor=4)),
    "unipelt": UniPELTConfig(PrefixTuningConfig(**PREFIX), SeqBnConfig(reduction_factor=4), LoRAConfig(r=2)),
}
FUSED = {name: SeqBnConfig(reduction_factor=factor) for name, factor in (("a", 4), ("b", 8), ("c", 4))}
# On pre-norm decoders the library's parallel adapter (so MAM's too) reads the stream before its LayerNorm, and gates of
# UniPELT read words to come: there ours differ on purpose.
ENCODER_ONLY = ("mam", "unipelt", "ia3", "parallel")


def base(family: str):
    """A tiny model with every number away from its initial value."""
    config, model = MODELS[family]
    torch.manual_seed(1)
    made = model(config(**SIZES[family], attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in name and "wte" not in name:
                parameter.mul_(8.0)
    return made


def with_addition(family: str, case: str):
    """The model with the case's addition, and the names of the addition's parameters."""
    model = base(family)
    own = {name for name, _ in model.named_parameters()}
    adapters.init(model)
    torch.manual_seed(2)
    if case == "fusion":
        for name, config in FUSED.items():
            model.add_adapter(name, config=config)
        model.add_adapter_fusion(list(FUSED), AdapterFusionConfig.load("dynamic"))
        model.set_active_adapters(Fuse(*FUSED))
    else:
        model.add_adapter(case, config=CASES[case])
        model.set_active_adapters(case)
    added = {name: p for name, p in model.named_parameters() if name not in own}
    with torch.no_grad():
        for name, parameter in added.items():
            if "parametrizations" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in added)
    return model.eval(), added


def measured(family: str, case: str, batch: dict) -> dict:
    """The tensors of one case."""
    model, added = with_addition(family, case)
    with parametrize.cached():  # an orthogonal matrix is computed from others: take the matrix and its own gradient
        orthogonal = {
            f"{name}.weight": module.weight for name, module in model.named_modules()
            if parametrize.is_parametrized(module)
        }
        for matrix in orthogonal.values():
            matrix.retain_grad()
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        answer = out.logits if "logits" in out else out.last_hidden_state
        (answer * batch["probe"]).sum().backward()
    weights = {name: p for name, p in added.items() if "parametrizations" not in name} | orthogonal
    tensors = {f"{case}/weight/{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"{case}/gradient/{name}": t.grad for name, t in weights.items() if t.grad is not None}
    return tensors | {f"{case}/answer": answer}


def main():
    generator = torch.Generator().manual_seed(3)
    versions = {"adapters": adapters.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    for family in MODELS:
        ids = torch.randint(3, VOCABULARY, (3, 7), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 5:] = mask[2, 6:] = 0
        columns = WIDTH if family == "bert" else VOCABULARY
        probe = torch.randn(3, 7, columns, generator=generator) * mask[..., None]  # no answer is asked of padding
        batch = {"input_ids": ids, "attention_mask": mask, "probe": probe}
        tensors = dict(batch) | {f"base/{name}": p for name, p in base(family).named_parameters()}
        for case in [*CASES, "fusion"]:
            if family == "bert" or case not in ENCODER_ONLY:
                tensors |= measured(family, case, batch)
        path = Path(__file__).parent / f"adapters_{family}.safetensors"
        save_file(
            {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path,
            metadata={"sizes": json.dumps(SIZES[family]), "versions": json.dumps(versions)},
        )
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
