"""An encoder: each position sees the whole text, and a hidden token is guessed from both sides (Devlin et al. 2019).

The layout is BERT's: learned positions, a segment number for each token, a norm over every sum, and a head that
transforms the states once more before it scores the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..runtime import CourseError
from .blocks import ACTIVATIONS, Attention, Block, FeedForward, LayerNorm, initialise, num_parameters, visible


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and options of an Encoder; the defaults are BERT's layout at a size that trains on a laptop."""

    vocabulary: int = 260  # bytes, and the four special tokens of `Bytes`
    context: int = 128
    width: int = 192
    layers: int = 4
    heads: int = 6
    ffn_width: int | None = None  # by default four times the width
    activation: str = "gelu"
    epsilon: float = 1e-12  # of the norms
    segments: int = 2  # two texts in one row are told apart by their number
    dropout: float = 0.0


class Encoder(nn.Module):
    """ids (B, T) -> logits (B, T, V): at each position, scores for the token that stands THERE."""

    reads_both_ways = True

    def __init__(self, config: EncoderConfig | None = None, **options):
        super().__init__()
        self.config = c = config or EncoderConfig(**options)
        self.vocabulary, self.context, self.reach = c.vocabulary, c.context, c.context
        self.token_embedding = nn.Embedding(c.vocabulary, c.width)
        self.position_embedding = nn.Embedding(c.context, c.width)
        self.segment_embedding = nn.Embedding(c.segments, c.width)
        self.norm = self.new_norm()
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            Block(
                Attention(c.width, c.heads, dropout=c.dropout),
                FeedForward(c.width, c.ffn_width or 4 * c.width, c.activation),
                self.new_norm,
                post_norm=True,
                dropout=c.dropout,
            )
            for _ in range(c.layers)
        )
        self.transform, self.transform_norm = nn.Linear(c.width, c.width), self.new_norm()
        self.activation = ACTIVATIONS[c.activation]
        self.head = nn.Linear(c.width, c.vocabulary)
        self.head.weight = self.token_embedding.weight
        initialise(self)

    def new_norm(self) -> LayerNorm:
        return LayerNorm(self.config.width, self.config.epsilon)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """`attention_mask` (B, T) marks padding by 0, `token_type_ids` (B, T) number the segments."""
        return self.score(self.states(input_ids, attention_mask, token_type_ids))

    def states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The stream after the last block, (B, T, d): one vector a position, each knowing the whole text."""
        T = input_ids.shape[1]
        if self.context < T:
            raise CourseError(f"{T} tokens were given, but this model looks at {self.context} at most: cut the text.")
        positions = torch.arange(T, device=input_ids.device)
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.token_embedding(input_ids) + self.position_embedding(positions) + self.segment_embedding(segments)
        x = self.dropout(self.norm(x))
        mask = visible(T, T, attention_mask, causal=False)
        for block in self.blocks:
            x = block(x, mask=mask)
        return x

    def score(self, states: Tensor) -> Tensor:
        """The masked-language-model head: states (..., d) -> logits (..., V)."""
        return self.head(self.transform_norm(self.activation(self.transform(states))))

    def num_parameters(self) -> int:
        return num_parameters(self)
