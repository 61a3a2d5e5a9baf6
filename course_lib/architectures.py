"""Where attention and feed-forward sublayers sit in each supported family: one table, and a reader for it.

Every block of a Transformer computes, twice,

    x <- x + h        with  h = attention(x)  and then  h = ffn(x)

with LayerNorm before the sublayer (pre-norm: GPT-2, Llama, Qwen2) or after the sum (post-norm: BERT, RoBERTa). The
library places additions by role ("attention", "ffn", "query", ...); this table says which module plays the role.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .runtime import CourseError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

ROLES = ("query", "key", "value", "output", "ffn_in", "ffn_out")


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
    post_norm=True, causal=False, position_table=True,
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
_GPT2 = Family(
    embedding="wte",
    blocks="h",
    attention=Sublayer("attn", "ln_1"),
    ffn=Sublayer("mlp", "ln_2"),
    roles={
        "query_key_value": "attn.c_attn", "output": "attn.c_proj", "ffn_in": "mlp.c_fc", "ffn_out": "mlp.c_proj",
    },
    post_norm=False, causal=True, final_norm="ln_f", position_table=True,
)
FAMILIES = {"bert": _BERT, "roberta": _BERT, "llama": _LLAMA, "qwen2": _LLAMA, "gpt2": _GPT2}


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
        self.ffn_width: int = self.linear(0, "ffn_out").weight.numel() // self.width
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
        return next((getattr(self.model, name) for name in ("classifier", "score") if hasattr(self.model, name)), None)

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

    def linear(self, block: int, role: str) -> nn.Module:
        """The projection that plays `role` ("query", ..., "ffn_out") in block `block`."""
        return self.body.get_submodule(self.linear_path(block, role))

    def linear_path(self, block: int, role: str) -> str:
        if role not in self.family.roles:
            fused = " This family fuses them in one matrix." if role in ROLES else ""
            raise CourseError(f"A {self.kind} block has no '{role}'.{fused} Its roles: {', '.join(self.family.roles)}.")
        return f"{self.family.blocks}.{block}.{self.family.roles[role]}"


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
