"""Tiny random models of every family, with random biases and norms so that nothing cancels by accident."""

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VOCABULARY, WIDTH, LAYERS = 97, 32, 3


def tiny(family: str):
    torch.manual_seed(1)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS,
            num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, eos_token_id=2, tie_word_embeddings=True,
        ))
    elif family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=64, bos_token_id=1,
            eos_token_id=2,
        ))
    else:
        model = BertModel(BertConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS,
            num_attention_heads=4, max_position_embeddings=64,
        ))
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
