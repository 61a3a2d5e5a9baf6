"""Tiny random models of every family, with random biases and norms so that nothing cancels by accident."""

import tempfile
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
)

VOCABULARY, WIDTH, LAYERS = 97, 32, 3


def tiny(family: str, **sizes):
    """A model of the family; `sizes` are those of `_empty`."""
    torch.manual_seed(1)
    return randomised(_empty(family, **sizes))


def _empty(family, vocabulary=VOCABULARY, width=WIDTH, layers=LAYERS, heads=4, key_heads=2, ffn=48, positions=64):
    if family in ("llama", "qwen2"):
        config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[family]
        return model(config(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=key_heads, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            tie_word_embeddings=family == "llama",
        ))
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, n_inner=ffn, n_positions=positions,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ))
    config, model = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}[family]
    return model(config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=positions, pad_token_id=0,
    ))


def randomised(model):
    """Every number away from its initial value, in eval mode."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases: away from one and zero
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in name and "wte" not in name:
                parameter.mul_(4.0)  # attention that attends
    return model.eval()


@pytest.fixture(scope="session")
def models():
    return {family: tiny(family) for family in ("llama", "gpt2", "bert")}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(11)


@pytest.fixture
def ids():
    return torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(7))


def stir(tuned, scale: float = 0.3):
    """Give every number of the additions a random value, as if trained: identity at init hides mistakes."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in getattr(tuned, "additions", tuned).parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return tuned


def first(output):
    """Logits of a language model or classifier, states of a bare encoder."""
    return output.logits if "logits" in output else output.last_hidden_state


def saved_adapters(model, folder, bottlenecks=(3, 4, 2)):
    """Folders of bottleneck adapters that differ, as if trained on tasks of their own."""
    from course_lib.additive import BottleneckAdapter, attach

    return [
        stir(attach(model, BottleneckAdapter(r, activation="relu" if r == 4 else "tanh"))).save(folder / f"task{r}")
        for r in bottlenecks
    ]


def fused(family):
    """An AdapterFusion for the family's tiny model; it holds its adapters' numbers, the folders are gone."""
    from course_lib.additive import AdapterFusion

    with tempfile.TemporaryDirectory() as folder:
        return AdapterFusion(saved_adapters(tiny(family), Path(folder)))
