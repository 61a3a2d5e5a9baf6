"""Our weights in the classes of transformers and theirs in ours, where both compute the same function.

    lms.to_transformers(gpt)                 # GPT2LMHeadModel or LlamaForCausalLM; of an Encoder BertForMaskedLM
    lms.from_transformers(smollm2.model)     # a GPT with SmolLM2's weights
    lms.save(gpt, "my-gpt", tokenizer)       # a folder for lms.load, cl.load_base and transformers itself

Through such a twin the course's models take every addition: `cl.attach(gpt, method)` works on it.

The two sides cut the same matrices into different pieces (GPT-2 stores query, key and value as one, transposed). A pair
(our names, their names) says that the pieces, put below each other, are equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..runtime import CourseError, quiet_transformers
from .bytes_tokenizer import Bytes
from .encoder import Encoder
from .encoder_decoder import EncoderDecoder
from .gpt import GPT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pairs = Iterator[tuple[list[str], list[str]]]
ACTIVATIONS = {"gelu": "gelu", "gelu-tanh": "gelu_new", "relu": "relu", "silu": "silu"}
OURS = {theirs: ours for ours, theirs in ACTIVATIONS.items()}


def to_transformers(model: GPT | Encoder, tokenizer=None) -> PreTrainedModel:
    """A transformers model with a copy of these weights, in eval mode. Raises CourseError where no class fits.

    With a tokenizer its special tokens are entered in the configuration. An Encoder has no pooler, the layer in which
    BERT prepares the first state for a classifier; the twin's is the identity and a tanh.
    """
    import transformers

    kind, c = kind_of(model), model.config
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    common = {
        "vocab_size": c.vocabulary, "hidden_size": c.width, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "intermediate_size": c.ffn_width or 4 * c.width,
        "max_position_embeddings": c.context, **special,
    }  # fmt: skip
    if kind == "bert":
        twin = transformers.BertForMaskedLM(transformers.BertConfig(
            **common, hidden_act=ACTIVATIONS[c.activation], layer_norm_eps=c.epsilon, type_vocab_size=c.segments,
            hidden_dropout_prob=c.dropout, attention_probs_dropout_prob=c.dropout,
        ))  # fmt: skip
        twin.bert.pooler = identity_pooler(twin.config)
    elif kind == "llama":
        twin = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            **common, hidden_act=ACTIVATIONS[c.activation], rms_norm_eps=c.epsilon, tie_word_embeddings=c.tied,
            num_key_value_heads=c.key_value_heads or c.heads, rope_parameters=_rope(c.rotary_base),
        ))  # fmt: skip
    else:
        common["n_inner"] = common.pop("intermediate_size")
        twin = transformers.GPT2LMHeadModel(transformers.GPT2Config(
            **common, activation_function=ACTIVATIONS[c.activation], layer_norm_epsilon=c.epsilon,
            resid_pdrop=c.dropout, embd_pdrop=c.dropout, attn_pdrop=c.dropout, tie_word_embeddings=c.tied,
        ))  # fmt: skip
    copy(pairs(kind, c.layers, getattr(c, "tied", True)), model, twin, from_theirs=False)
    return twin.eval()


def from_transformers(model: PreTrainedModel) -> GPT | Encoder:
    """The course's model with a copy of these weights: of GPT2LMHeadModel, LlamaForCausalLM or BertForMaskedLM.

    A bare BertModel, such as MiniLM, gives an Encoder whose head over the vocabulary is freshly drawn.
    """
    c, kind, name = model.config, model.config.model_type, type(model).__name__
    require_same_function(model)
    common = {
        "vocabulary": c.vocab_size, "context": c.max_position_embeddings, "width": c.hidden_size,
        "layers": c.num_hidden_layers, "heads": c.num_attention_heads,
    }  # fmt: skip
    activation = OURS[c.activation_function if kind == "gpt2" else c.hidden_act]
    if kind == "gpt2":
        own = GPT(
            **common, ffn_width=c.n_inner, activation=activation, epsilon=c.layer_norm_epsilon,
            tied=c.tie_word_embeddings, dropout=c.resid_pdrop,
        )  # fmt: skip
    elif kind == "llama":
        own = GPT(
            **common, ffn_width=c.intermediate_size, activation=activation, epsilon=c.rms_norm_eps, gated=True,
            norm="rms", positions="rotary", rotary_base=c.rope_parameters["rope_theta"], bias=False,
            key_value_heads=c.num_key_value_heads, tied=c.tie_word_embeddings,
        )  # fmt: skip
    else:
        own = Encoder(
            **common, ffn_width=c.intermediate_size, activation=activation, epsilon=c.layer_norm_eps,
            segments=c.type_vocab_size, dropout=c.hidden_dropout_prob,
        )  # fmt: skip
    corresponding = pairs(kind, c.num_hidden_layers, c.tie_word_embeddings)
    if name == "BertModel":
        bare = ((ours, [name.removeprefix("bert.") for name in theirs]) for ours, theirs in corresponding)
        corresponding = ((ours, theirs) for ours, theirs in bare if not theirs[0].startswith("cls."))
    copy(corresponding, own, model, from_theirs=True)
    return own.eval()


def require_same_function(model: PreTrainedModel) -> None:
    """Raise CourseError unless the course has a model that computes what this one does, variants included."""
    c, name = model.config, type(model).__name__
    plain = {
        "GPT2LMHeadModel": lambda: (
            c.scale_attn_weights and not c.scale_attn_by_inverse_layer_idx and not c.add_cross_attention
            and c.activation_function in OURS
        ),
        "LlamaForCausalLM": lambda: (
            c.rope_parameters["rope_type"] == "default" and not c.attention_bias and not c.mlp_bias
            and c.head_dim * c.num_attention_heads == c.hidden_size and c.hidden_act in OURS
        ),
        "BertForMaskedLM": lambda: c.hidden_act in OURS and c.tie_word_embeddings,
        "BertModel": lambda: c.hidden_act in OURS and not c.is_decoder,
    }  # fmt: skip
    if name not in plain or not plain[name]():
        raise CourseError(
            f"The course has no model that computes what this {name} does; it has those of {', '.join(plain)} without "
            "their variants (other positions, biases in Llama, heads of another width, rare activations)."
        )


def kind_of(model: nn.Module) -> str:
    """Whose layout this is: "gpt2", "llama" or "bert"; a sentence for mixtures of them."""
    if isinstance(model, Encoder):
        return "bert"
    if isinstance(model, GPT):
        c = model.config
        if (c.norm, c.positions, c.gated, c.bias) == ("rms", "rotary", True, False):
            return "llama"
        plain = c.key_value_heads in (None, c.heads)
        if (c.norm, c.positions, c.gated, c.bias) == ("layer", "learned", False, True) and plain:
            return "gpt2"
    raise CourseError(
        f"No class of transformers computes what this {type(model).__name__} does: only a GPT in GPT-2's or in Llama's "
        "full layout and an Encoder have one."
    )


def identity_pooler(config) -> nn.Module:
    from transformers.models.bert.modeling_bert import BertPooler

    pooler = BertPooler(config)
    nn.init.eye_(pooler.dense.weight)
    nn.init.zeros_(pooler.dense.bias)
    return pooler


def _rope(base: float) -> dict:
    return {"rope_type": "default", "rope_theta": base}


def twin(model: nn.Module) -> nn.Module:
    """One of the course's own Transformers as a transformers model; any other model as it is."""
    return to_transformers(model) if isinstance(model, GPT | Encoder | EncoderDecoder) else model


def save(model: GPT | Encoder, folder: str | Path, tokenizer=None, dtype: torch.dtype = torch.float32) -> Path:
    """Write the twin's config.json and safetensors, and the tokenizer, to a folder; bfloat16 takes half the room."""
    with quiet_transformers():
        to_transformers(model, tokenizer).to(dtype).save_pretrained(folder)
    if tokenizer is not None:
        (tokenizer.to_transformers() if isinstance(tokenizer, Bytes) else tokenizer).save_pretrained(folder)
    return Path(folder)


def load(folder: str | Path) -> GPT | Encoder:
    """The model that `save` wrote, in float32 and eval mode. Raises CourseError if the folder holds none."""
    import transformers

    try:
        named = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        kind = {"GPT2LMHeadModel", "LlamaForCausalLM", "BertForMaskedLM"} & {named}
        with quiet_transformers():
            theirs = getattr(transformers, kind.pop()).from_pretrained(
                folder, dtype=torch.float32, local_files_only=True
            )
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CourseError(f"{folder} holds no model that language_models.save wrote ({error}).") from None
    return from_transformers(theirs)


# --- which tensors correspond ----------------------------------------------------------------------------------------


def pairs(kind: str, layers: int, tied: bool) -> Pairs:
    """(our tensors, their tensors), equal when each side is put below each other; theirs of GPT-2 transposed first."""
    yield from {"gpt2": _gpt2, "llama": _llama, "bert": _bert}[kind](layers)
    if not tied:
        yield ["head.weight"], ["lm_head.weight"]


def _gpt2(layers: int) -> Pairs:
    yield ["token_embedding.weight"], ["transformer.wte.weight"]
    yield ["position_embedding.weight"], ["transformer.wpe.weight"]
    for n in range(layers):
        a, b = f"blocks.{n}.", f"transformer.h.{n}."
        for kind in ("weight", "bias"):
            yield [f"{a}attention.query.{kind}", f"{a}attention.key_value.{kind}"], [f"{b}attn.c_attn.{kind}"]
            yield [f"{a}attention.output.{kind}"], [f"{b}attn.c_proj.{kind}"]
            yield [f"{a}ffn.ffn_in.{kind}"], [f"{b}mlp.c_fc.{kind}"]
            yield [f"{a}ffn.ffn_out.{kind}"], [f"{b}mlp.c_proj.{kind}"]
            yield [f"{a}attention_norm.{kind}"], [f"{b}ln_1.{kind}"]
            yield [f"{a}ffn_norm.{kind}"], [f"{b}ln_2.{kind}"]
    for kind in ("weight", "bias"):
        yield [f"norm.{kind}"], [f"transformer.ln_f.{kind}"]


def _llama(layers: int) -> Pairs:
    yield ["token_embedding.weight"], ["model.embed_tokens.weight"]
    yield ["norm.weight"], ["model.norm.weight"]
    for n in range(layers):
        a, b = f"blocks.{n}.", f"model.layers.{n}."
        yield [f"{a}attention.query.weight"], [f"{b}self_attn.q_proj.weight"]
        yield [f"{a}attention.key_value.weight"], [f"{b}self_attn.{name}_proj.weight" for name in "kv"]
        yield [f"{a}attention.output.weight"], [f"{b}self_attn.o_proj.weight"]
        yield [f"{a}ffn.gate.weight"], [f"{b}mlp.gate_proj.weight"]
        yield [f"{a}ffn.ffn_in.weight"], [f"{b}mlp.up_proj.weight"]
        yield [f"{a}ffn.ffn_out.weight"], [f"{b}mlp.down_proj.weight"]
        yield [f"{a}attention_norm.weight"], [f"{b}input_layernorm.weight"]
        yield [f"{a}ffn_norm.weight"], [f"{b}post_attention_layernorm.weight"]


def _bert(layers: int) -> Pairs:
    for ours, theirs in (("token", "word"), ("position", "position"), ("segment", "token_type")):
        yield [f"{ours}_embedding.weight"], [f"bert.embeddings.{theirs}_embeddings.weight"]
    for kind in ("weight", "bias"):
        yield [f"norm.{kind}"], [f"bert.embeddings.LayerNorm.{kind}"]
        for n in range(layers):
            a, b = f"blocks.{n}.", f"bert.encoder.layer.{n}."
            yield [f"{a}attention.query.{kind}"], [f"{b}attention.self.query.{kind}"]
            yield [f"{a}attention.key_value.{kind}"], [f"{b}attention.self.{name}.{kind}" for name in ("key", "value")]
            yield [f"{a}attention.output.{kind}"], [f"{b}attention.output.dense.{kind}"]
            yield [f"{a}attention_norm.{kind}"], [f"{b}attention.output.LayerNorm.{kind}"]
            yield [f"{a}ffn.ffn_in.{kind}"], [f"{b}intermediate.dense.{kind}"]
            yield [f"{a}ffn.ffn_out.{kind}"], [f"{b}output.dense.{kind}"]
            yield [f"{a}ffn_norm.{kind}"], [f"{b}output.LayerNorm.{kind}"]
        yield [f"transform.{kind}"], [f"cls.predictions.transform.dense.{kind}"]
        yield [f"transform_norm.{kind}"], [f"cls.predictions.transform.LayerNorm.{kind}"]
    yield ["head.bias"], ["cls.predictions.bias"]


@torch.no_grad()
def copy(corresponding: Pairs, ours: nn.Module, theirs: nn.Module, from_theirs: bool) -> None:
    """Fill one side's tensors from the other's."""
    own, other = ours.state_dict(), their_tensors(theirs)
    for our_names, their_names in corresponding:
        us, them = [own[name] for name in our_names], [other[name] for name in their_names]
        source, target = (them, us) if from_theirs else (us, them)
        for tensor, part in zip(target, torch.cat(source).split([len(t) for t in target])):
            tensor.copy_(part)


def their_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a transformers model with every matrix as (out, in): views, so that writing to them fills it."""
    turned = {f"{path}.weight" for path, module in model.named_modules() if type(module).__name__ == "Conv1D"}
    return {name: tensor.T if name in turned else tensor for name, tensor in model.state_dict().items()}
