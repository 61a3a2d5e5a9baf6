"""A decoder: each position sees itself and the past, and guesses the next token (Radford et al. 2018, 2019).

The plain configuration is GPT-2's; four options make it Llama's (Touvron et al. 2023):
`GPT(norm="rms", positions="rotary", activation="silu", gated=True, bias=False, key_value_heads=...)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..runtime import CourseError
from .blocks import (
    ACTIVATIONS,
    Attention,
    Block,
    Cache,
    FeedForward,
    LayerNorm,
    RMSNorm,
    initialise,
    num_parameters,
    rotary_angles,
    visible,
)


@dataclass(frozen=True)
class GPTConfig:
    """Sizes and options of a GPT; the defaults are GPT-2's layout at a size that trains on a laptop."""

    vocabulary: int = 256
    context: int = 128  # the most positions it can look at
    width: int = 192
    layers: int = 4
    heads: int = 6
    key_value_heads: int | None = None  # fewer than heads: grouped-query attention
    ffn_width: int | None = None  # by default four times the width
    activation: str = "gelu-tanh"  # "gelu", "gelu-tanh", "silu" or "relu"
    gated: bool = False  # a gate in the feed-forward
    norm: str = "layer"  # or "rms"
    epsilon: float = 1e-5  # of the norms
    positions: str = "learned"  # or "rotary"
    rotary_base: float = 10000.0
    bias: bool = True
    tied: bool = True  # one matrix for reading tokens and for scoring them
    dropout: float = 0.0

    def __post_init__(self):
        choices = {"norm": ("layer", "rms"), "positions": ("learned", "rotary"), "activation": tuple(ACTIVATIONS)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise CourseError(f"{name}={getattr(self, name)!r} is not known; choose one of {', '.join(known)}.")


class GPT(nn.Module):
    """ids (B, T) -> logits (B, T, V): at each position, scores for the token after it."""

    def __init__(self, config: GPTConfig | None = None, **options):
        super().__init__()
        self.config = c = config or GPTConfig(**options)
        self.vocabulary, self.context, self.reach = c.vocabulary, c.context, c.context
        self.token_embedding = nn.Embedding(c.vocabulary, c.width)
        self.position_embedding = nn.Embedding(c.context, c.width) if c.positions == "learned" else None
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            Block(
                Attention(c.width, c.heads, c.key_value_heads, c.bias, c.dropout),
                FeedForward(c.width, c.ffn_width or 4 * c.width, c.activation, c.gated, c.bias),
                self.new_norm,
                dropout=c.dropout,
            )
            for _ in range(c.layers)
        )
        self.norm = self.new_norm()
        self.head = nn.Linear(c.width, c.vocabulary, bias=False)
        if c.tied:
            self.head.weight = self.token_embedding.weight
        initialise(self)
        for block in self.blocks:  # 2 L sums: each term smaller, so that the stream does not grow with depth
            for projection in (block.attention.output, block.ffn.ffn_out):
                nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * c.layers))

    def new_norm(self) -> nn.Module:
        c = self.config
        return RMSNorm(c.width, c.epsilon) if c.norm == "rms" else LayerNorm(c.width, c.epsilon, c.bias)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: list[Cache] | None = None
    ) -> Tensor:
        """`attention_mask` (B, S) marks padding by 0; with a `cache` the ids are those after what it holds."""
        return self.head(self.states(input_ids, attention_mask, cache))

    def states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: list[Cache] | None = None
    ) -> Tensor:
        """The stream after the last block and norm, (B, T, d): what the head reads."""
        T, past = input_ids.shape[1], cache[0].length if cache else 0
        S = past + T
        if self.context < S:
            raise CourseError(f"{S} tokens were given, but this model looks at {self.context} at most: cut the text.")
        positions = torch.arange(past, S, device=input_ids.device)  # (T,)
        if attention_mask is not None:  # padding in front of a text does not count
            positions = (attention_mask.cumsum(-1) - 1).clamp_min(0)[:, past:]  # (B, T)
        x = self.token_embedding(input_ids)
        angles = None
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        else:
            angles = rotary_angles(positions, self.config.width // self.config.heads, self.config.rotary_base)
        x = self.dropout(x)
        whole = attention_mask is None and past == 0  # the fused attention masks the future by itself
        mask = None if whole else visible(T, S, attention_mask, causal=True, device=x.device)
        for number, block in enumerate(self.blocks):
            x = block(x, mask=mask, causal=whole, angles=angles, cache=cache[number] if cache else None)
        return self.norm(x)

    def new_cache(self) -> list[Cache]:
        """An empty cache, one entry a block, to be handed to every call of one generation."""
        return [Cache() for _ in self.blocks]

    def num_parameters(self) -> int:
        return num_parameters(self)
