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
    T5Config,
    T5ForConditionalGeneration,
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
    if family in ("t5", "t5-gated"):  # one block less in the decoder, and heads together wider than the stream
        return T5ForConditionalGeneration(T5Config(
            vocab_size=vocabulary, d_model=width, d_kv=12, d_ff=ffn, num_layers=layers,
            num_decoder_layers=max(1, layers - 1), num_heads=heads, relative_attention_num_buckets=8,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
            feed_forward_proj="relu" if family == "t5" else "gated-gelu",
        ))
    config, model = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}[family]
    return model(config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=positions, pad_token_id=0,
    ))


def randomised(model):
    """Every number away from its initial value, in eval mode."""
    sharper = 1.0 if model.config.model_type == "t5" else 4.0  # attention that attends; T5's is drawn so
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases: away from one and zero
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in name and "wte" not in name:
                parameter.mul_(sharper)
    return model.eval()


@pytest.fixture(scope="session")
def models():
    return {family: tiny(family) for family in ("llama", "gpt2", "bert", "t5", "roberta", "qwen2")}


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


def inputs(model, ids):
    """A batch of the ids: T5's texts end with the end token, and its decoder is given something to read."""
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = getattr(model, "model", model) if hasattr(model, "additions") else model
    if model.config.is_encoder_decoder:
        batch["input_ids"] = torch.cat([ids[:, :-1], torch.full_like(ids[:, -1:], model.config.eos_token_id)], dim=1)
        if not hasattr(model, "classification_head"):
            batch["decoder_input_ids"] = ids.flip(1)[:, :6]
    return batch


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
