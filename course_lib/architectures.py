"""Where attention and feed-forward sublayers sit in each supported family: one table, and a reader for it.

Every block of a Transformer computes, twice,

    x <- x + h        with  h = attention(x)  and then  h = ffn(x)

with LayerNorm before the sublayer (pre-norm: GPT-2, Llama, Qwen2) or after the sum (post-norm: BERT, RoBERTa). The
library places additions by role ("attention", "ffn", "query", ...); this table says which module plays the role.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .runtime import CourseError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

HEADS = ("classifier", "score", "classification_head")  # what transformers' families call a task's head
ROLES = ("query", "key", "value", "output", "ffn_in", "ffn_out", "query_key_value")


@dataclass(frozen=True)
class Sublayer:
    """Paths, from the block, of the modules around one sum x + h."""

    result: str  # the module whose output is h, just before the sum
    norm: str  # the LayerNorm of this sublayer: its input in pre-norm families, its sum in post-norm families
    join: str = ""  # post-norm families: the module called as join(..., x), which computes norm(h + x)


@dataclass(frozen=True)
class Family:
    """One row of the table. Paths start at the body (the model without its head) or at a block."""

    embedding: str
    blocks: str
    attention: Sublayer
    ffn: Sublayer
    roles: dict[str, str]
    post_norm: bool
    causal: bool
    final_norm: str = ""
    attention_module: str = "self_attn"  # the module that calls transformers' attention function
    thirds: dict[str, int] = field(default_factory=dict)  # roles that share one matrix, and their place in its output
    position_table: bool = False  # learned positions: a longer input has no vector


_BERT = Family(
    embedding="embeddings.word_embeddings",
    blocks="encoder.layer",
    attention=Sublayer("attention.output.dropout", "attention.output.LayerNorm", join="attention.output"),
    ffn=Sublayer("output.dropout", "output.LayerNorm", join="output"),
    roles={
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "output": "attention.output.dense", "ffn_in": "intermediate.dense", "ffn_out": "output.dense",
    },
    post_norm=True, causal=False, position_table=True, attention_module="attention.self",
)
_LLAMA = Family(
    embedding="embed_tokens",
    blocks="layers",
    attention=Sublayer("self_attn", "input_layernorm"),
    ffn=Sublayer("mlp", "post_attention_layernorm"),
    roles={
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "output": "self_attn.o_proj", "ffn_in": "mlp.up_proj", "ffn_out": "mlp.down_proj",
    },
    post_norm=False, causal=True, final_norm="norm",
)
_GPT2 = Family(  # one matrix computes query, key and value: their roles are thirds of its output
    embedding="wte",
    blocks="h",
    attention=Sublayer("attn", "ln_1"),
    ffn=Sublayer("mlp", "ln_2"),
    roles={
        "query": "attn.c_attn", "key": "attn.c_attn", "value": "attn.c_attn", "query_key_value": "attn.c_attn",
        "output": "attn.c_proj", "ffn_in": "mlp.c_fc", "ffn_out": "mlp.c_proj",
    },
    thirds={"query": 0, "key": 1, "value": 2},
    post_norm=False, causal=True, final_norm="ln_f", position_table=True, attention_module="attn",
)
FAMILIES = {"bert": _BERT, "roberta": _BERT, "llama": _LLAMA, "qwen2": _LLAMA, "gpt2": _GPT2}


@dataclass(frozen=True)
class Projection:
    """A linear map of a block by its role: a module, or a third of the output of a fused one."""

    path: str  # from the body
    module: nn.Module
    columns: slice  # of the module's output that this role owns

    @property
    def matrix(self) -> Tensor:
        """W (out, in), a view that may be written: transformers' Conv1D stores its transpose."""
        weight = self.module.weight
        return (weight.T if self.transposed else weight)[self.columns]

    @property
    def bias(self) -> Tensor | None:
        return None if self.module.bias is None else self.module.bias[self.columns]

    @property
    def transposed(self) -> bool:
        return type(self.module).__name__ == "Conv1D"

    @property
    def size(self) -> tuple[int, int]:
        """(out, in)"""
        out, into = self.matrix.shape
        return out, into


class Layout:
    """The table's row, applied to one model: modules by role."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None):
        config = model.config
        if config.model_type not in FAMILIES:
            raise CourseError(
                f"The course does not know where attention and FFN sit in a '{config.model_type}' model "
                f"({type(model).__name__}). Known: {', '.join(FAMILIES)}; a new one is a row in architectures.py."
            )
        self.model, self.config, self.tokenizer = model, config, tokenizer
        self.kind, self.family = config.model_type, FAMILIES[config.model_type]
        self.body = model.base_model
        self.blocks = self.body.get_submodule(self.family.blocks)
        self.width: int = config.hidden_size
        self.num_layers: int = len(self.blocks)
        self.num_heads: int = config.num_attention_heads
        self.ffn_width: int = self.projection(0, "ffn_out").size[1]
        self.key_width: int = self.projection(0, "key").size[0]  # k = n_kv_heads x head_dim
        self.vocabulary: int = config.vocab_size

    @property
    def post_norm(self) -> bool:
        return self.family.post_norm

    @property
    def causal(self) -> bool:
        return self.family.causal

    @property
    def embedding(self) -> nn.Module:
        return self.body.get_submodule(self.family.embedding)

    @property
    def longest(self) -> int | None:
        """The longest input, in tokens, where positions are a learned table; None where they extrapolate."""
        if not self.family.position_table:
            return None
        return self.config.max_position_embeddings - self.first_position

    @property
    def first_position(self) -> int:
        """The position of the first token: 0, but in RoBERTa's table the rows up to the padding id are not used."""
        return self.config.pad_token_id + 1 if self.kind == "roberta" else 0

    @property
    def head(self) -> nn.Module | None:
        """The module that turns states into class scores, if the model is a classifier."""
        return next((getattr(self.model, name) for name in HEADS if hasattr(self.model, name)), None)

    @property
    def lm_head(self) -> nn.Module | None:
        """The module that turns states into scores over the vocabulary, if there is one."""
        return getattr(self.model, "lm_head", None)

    def norms(self) -> list[tuple[str, nn.Module]]:
        """(path from the model, module) of every LayerNorm or RMSNorm, those of the embeddings and the end included."""
        return [
            (path, module) for path, module in self.model.named_modules()
            if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
        ]

    def sublayer(self, block: int, which: str) -> Sublayer:
        """Paths of "attention" or "ffn" in block `block`, from the body."""
        if which not in ("attention", "ffn"):
            raise CourseError(f"A block has two sublayers, 'attention' and 'ffn'; {which!r} is neither.")
        paths: Sublayer = getattr(self.family, which)
        prefix = f"{self.family.blocks}.{block}."
        return Sublayer(prefix + paths.result, prefix + paths.norm, paths.join and prefix + paths.join)

    def block_path(self, block: int) -> str:
        return f"{self.family.blocks}.{block}"

    def projection(self, block: int, role: str) -> Projection:
        """The linear map that plays `role` ("query", ..., "ffn_out") in block `block`."""
        if role not in self.family.roles:
            raise CourseError(f"A {self.kind} block has no '{role}'. Its roles: {', '.join(self.family.roles)}.")
        path = f"{self.family.blocks}.{block}.{self.family.roles[role]}"
        module = self.body.get_submodule(path)
        columns = slice(None)
        if role in self.family.thirds:
            third = self.width
            columns = slice(third * self.family.thirds[role], third * (self.family.thirds[role] + 1))
        return Projection(path, module, columns)

    def attention_module(self, block: int) -> nn.Module:
        """The module that hands queries, keys and values to transformers' attention function."""
        return self.body.get_submodule(f"{self.family.blocks}.{block}.{self.family.attention_module}")


def frozen_copy(model: nn.Module) -> nn.Module:
    """A new module tree over the SAME memory, under parameters that take no gradient: 0.02 s on SmolLM2, no memory.

    The tree is free to be hooked and wrapped; the model handed in keeps its flags, hooks and config.
    """
    from torch import nn

    tensors = {id(b): b for b in model.buffers()}
    tensors |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, tensors)


def own_copy(module: nn.Module) -> nn.Module:
    """A copy with float32 parameters of its own, to be trained, and without the hooks of the original."""
    from torch import nn

    tensors = {id(b): b for b in module.buffers()}
    tensors |= {id(p): nn.Parameter(p.detach().clone().float()) for p in module.parameters()}
    new = copy.deepcopy(module, tensors)
    for part in new.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return new
