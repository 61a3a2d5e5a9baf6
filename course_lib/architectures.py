"""Where attention and feed-forward sublayers sit in each supported family: one table, and a reader for it.

Every block of a Transformer computes, twice,

    x <- x + h        with  h = attention(x)  and then  h = ffn(x)

with LayerNorm before the sublayer (pre-norm: GPT-2, Llama, Qwen2, T5) or after the sum (post-norm: BERT, RoBERTa). The
library places additions by role ("attention", "ffn", "query", ...); this table says which module plays the role.
An encoder-decoder (T5) is two stacks of blocks, and two rows: its blocks are numbered through, the encoder's first.
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
OVERRIDDEN = ("forward", "_get_logits_processor", "_get_stopping_criteria")  # of a module, where an addition acts
ROLES = (
    "query", "key", "value", "output", "ffn_in", "ffn_out", "query_key_value",
    "cross_query", "cross_key", "cross_value", "cross_output",  # a decoder's attention to what the encoder says
)


@dataclass(frozen=True)
class Sublayer:
    """Paths, from the block, of the modules around one sum x + h."""

    result: str  # the module whose output is h, just before the sum
    norm: str  # the LayerNorm of this sublayer: its input in pre-norm families, its sum in post-norm families
    join: str = ""  # post-norm families: the module called as join(..., x), which computes norm(h + x)


@dataclass(frozen=True)
class Family:
    """One row of the table, one stack of blocks. Paths start at the body (the model without its head) or at a block."""

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
    relative_positions: bool = False  # no position ids, but a bias for distances that the first block computes for all
    reads_first: bool = False  # the state of the first token, [CLS], stands for the text
    cross_attention: str = ""  # the module that attends to what an encoder says
    decoder: Family | None = None  # the second stack of an encoder-decoder


_BERT = Family(
    embedding="embeddings.word_embeddings",
    blocks="encoder.layer",
    attention=Sublayer("attention.output.dropout", "attention.output.LayerNorm", join="attention.output"),
    ffn=Sublayer("output.dropout", "output.LayerNorm", join="output"),
    roles={
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "output": "attention.output.dense", "ffn_in": "intermediate.dense", "ffn_out": "output.dense",
    },
    post_norm=True, causal=False, position_table=True, reads_first=True, attention_module="attention.self",
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


def _t5(stack: str, ffn: int, ffn_in: str, cross: bool = False, decoder: Family | None = None) -> Family:
    """One stack of T5, whose FFN is the block's layer number `ffn`; `ffn_in` is called otherwise where it is gated."""
    dense = f"layer.{ffn}.DenseReluDense"
    letters = {"query": "q", "key": "k", "value": "v", "output": "o"}
    roles = {role: f"layer.0.SelfAttention.{letter}" for role, letter in letters.items()}
    if cross:
        roles |= {f"cross_{role}": f"layer.1.EncDecAttention.{letter}" for role, letter in letters.items()}
    return Family(
        embedding=f"{stack}.embed_tokens",
        blocks=f"{stack}.block",
        attention=Sublayer("layer.0.SelfAttention", "layer.0.layer_norm"),
        ffn=Sublayer(dense, f"layer.{ffn}.layer_norm"),
        roles={**roles, "ffn_in": f"{dense}.{ffn_in}", "ffn_out": f"{dense}.wo"},
        post_norm=False, causal=cross, final_norm=f"{stack}.final_layer_norm", relative_positions=True,
        attention_module="layer.0.SelfAttention", cross_attention="layer.1.EncDecAttention" if cross else "",
        decoder=decoder,
    )


_T5 = _t5("encoder", 1, "wi", decoder=_t5("decoder", 2, "wi", cross=True))
_T5_GATED = _t5("encoder", 1, "wi_1", decoder=_t5("decoder", 2, "wi_1", cross=True))

FAMILIES = {"bert": _BERT, "roberta": _BERT, "llama": _LLAMA, "qwen2": _LLAMA, "gpt2": _GPT2, "t5": _T5}


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
        if getattr(config, "is_gated_act", False):
            self.family = _T5_GATED
        self.body = model.base_model
        self.stacks = [self.family]
        if self.family.decoder is not None and hasattr(self.body, "decoder"):
            self.stacks.append(self.family.decoder)
        self._places = [  # of each block: its stack, and its number there
            (stack, number) for stack in self.stacks for number in range(len(self.body.get_submodule(stack.blocks)))
        ]
        self.blocks: list[nn.Module] = [self.body.get_submodule(self.block_path(b)) for b in range(len(self._places))]
        self.width: int = config.hidden_size
        self.num_layers: int = len(self.blocks)
        self.num_heads: int = config.num_attention_heads
        self.ffn_width: int = self.projection(0, "ffn_out").size[1]
        self.key_width: int = self.projection(0, "key").size[0]  # k = n_kv_heads x head_dim
        self.vocabulary: int = config.vocab_size

    @property
    def encoder_decoder(self) -> bool:
        """Two stacks: the input is read by an encoder, the answer written by a decoder."""
        return len(self.stacks) == 2

    @property
    def first_stack(self) -> int:
        """How many blocks read the input: all of them, or those of the encoder."""
        return sum(stack is self.family for stack, _ in self._places)

    def stack(self, block: int) -> Family:
        """The row of the stack that a block stands in: whether it is causal, whether it has cross-attention."""
        return self._places[block][0]

    @property
    def post_norm(self) -> bool:
        return self.family.post_norm

    @property
    def causal(self) -> bool:
        return self.family.causal

    @property
    def embedding(self) -> nn.Module:
        return self.body.get_submodule(self.family.embedding)

    def final_norm(self, stack: Family) -> nn.Module | None:
        """The norm behind the last block of a stack, if there is one: post-norm families end with the block's."""
        return self.body.get_submodule(stack.final_norm) if stack.final_norm else None

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
        paths: Sublayer = getattr(self.stack(block), which)
        prefix = f"{self.block_path(block)}."
        return Sublayer(prefix + paths.result, prefix + paths.norm, paths.join and prefix + paths.join)

    def block_path(self, block: int) -> str:
        stack, number = self._places[block]
        return f"{stack.blocks}.{number}"

    def block_of(self, path: str) -> int | None:
        """The number of the block that the module at `path` is part of, None outside the blocks."""
        inside = (block for block in range(self.num_layers) if f"{self.block_path(block)}." in path)
        return next(inside, None)

    def plays(self, block: int, role: str) -> bool:
        """Has block `block` this role? Only blocks of a decoder beside an encoder have those of cross-attention."""
        return role in self.stack(block).roles

    @property
    def roles(self) -> list[str]:
        """Every role that some block has."""
        return list(dict.fromkeys(role for stack in self.stacks for role in stack.roles))

    def require_role(self, role: str) -> None:
        """Raise CourseError if no block has the role."""
        if role not in self.roles:
            raise CourseError(f"A {self.kind} block has no '{role}'. Its roles: {', '.join(self.roles)}.")

    def projection(self, block: int, role: str) -> Projection:
        """The linear map that plays `role` ("query", ..., "ffn_out") in block `block`."""
        self.require_role(role)
        path = f"{self.block_path(block)}.{self.stack(block).roles[role]}"
        module = self.body.get_submodule(path)
        columns = slice(None)
        if role in self.family.thirds:
            third = self.width
            columns = slice(third * self.family.thirds[role], third * (self.family.thirds[role] + 1))
        return Projection(path, module, columns)

    def attentions(self) -> list[nn.Module]:
        """What hands queries, keys and values to transformers' attention function: one module a block and, behind
        these, the cross-attention of each block that has one."""
        stacks = [stack for stack, _ in self._places]
        own = [block.get_submodule(stack.attention_module) for block, stack in zip(self.blocks, stacks, strict=True)]
        cross = [
            block.get_submodule(stack.cross_attention)
            for block, stack in zip(self.blocks, stacks, strict=True) if stack.cross_attention
        ]
        return own + cross


def frozen_copy(model: nn.Module) -> nn.Module:
    """A new module tree over the SAME memory, under parameters that take no gradient: 0.02 s on SmolLM2, no memory.

    The tree is free to be hooked and wrapped; the model handed in keeps its flags, hooks and config.
    """
    from torch import nn

    tensors = {id(b): b for b in model.buffers()}
    tensors |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, tensors)


def own_copy(module: nn.Module) -> nn.Module:
    """A copy with parameters of its own, in float32 or better, to be trained, without the hooks of the original."""
    import torch
    from torch import nn

    tensors = {id(b): b for b in module.buffers()}
    for p in module.parameters():
        tensors[id(p)] = nn.Parameter(p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True))
    new = copy.deepcopy(module, tensors)
    for part in new.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        for method in OVERRIDDEN:
            part.__dict__.pop(method, None)
    return new
