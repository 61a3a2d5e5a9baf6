"""An encoder-decoder: one half reads a source, the other writes a target and looks back at it (Vaswani et al. 2017).

Pre-norm, as in torch.nn.Transformer(norm_first=True), which computes the same; sinusoidal positions; one matrix embeds
the tokens of both texts and scores those of the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import Attention, Block, Cache, FeedForward, LayerNorm, num_parameters, sinusoidal, visible
from .sampling import beam_search, generate


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Sizes and options of an EncoderDecoder."""

    vocabulary: int = 260  # bytes, and the four special tokens of `Bytes`
    width: int = 128
    layers: int = 2  # of each half
    heads: int = 4
    ffn_width: int | None = None  # by default four times the width
    activation: str = "relu"
    dropout: float = 0.0


class EncoderDecoder(nn.Module):
    """source ids (B, S), target ids (B, T) -> logits (B, T, V): at each target position, scores for the next token."""

    context = reach = None  # the positions are computed, so any length goes

    def __init__(self, config: EncoderDecoderConfig | None = None, **options):
        super().__init__()
        self.config = c = config or EncoderDecoderConfig(**options)
        self.vocabulary = c.vocabulary
        self.token_embedding = nn.Embedding(c.vocabulary, c.width)
        self.dropout = nn.Dropout(c.dropout)
        self.encoder_blocks = nn.ModuleList(self.new_block(cross=False) for _ in range(c.layers))
        self.decoder_blocks = nn.ModuleList(self.new_block(cross=True) for _ in range(c.layers))
        self.encoder_norm, self.decoder_norm = LayerNorm(c.width), LayerNorm(c.width)
        self.head = nn.Linear(c.width, c.vocabulary, bias=False)
        self.head.weight = self.token_embedding.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.token_embedding.weight, std=c.width**-0.5)

    def new_block(self, cross: bool) -> Block:
        c = self.config
        return Block(
            Attention(c.width, c.heads, dropout=c.dropout),
            FeedForward(c.width, c.ffn_width or 4 * c.width, c.activation),
            lambda: LayerNorm(c.width),
            cross=Attention(c.width, c.heads, dropout=c.dropout) if cross else None,
            dropout=c.dropout,
        )

    def forward(
        self, input_ids: Tensor, decoder_input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """`attention_mask` (B, S) marks padding of the source by 0; the target is padded behind its end."""
        return self.decode(decoder_input_ids, *self.memory(input_ids, attention_mask))

    def embed(self, ids: Tensor, past: int = 0) -> Tensor:
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        x = self.token_embedding(ids) * math.sqrt(self.config.width)
        return self.dropout(x + sinusoidal(positions, self.config.width))

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """States of the source, (B, S, d)."""
        S = input_ids.shape[1]
        x, mask = self.embed(input_ids), visible(S, S, attention_mask, causal=False)
        for block in self.encoder_blocks:
            x = block(x, mask=mask)
        return self.encoder_norm(x)

    def memory(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[list, Tensor | None]:
        """What the decoder looks back at: keys and values of the source for each of its blocks, and their mask."""
        states = self.encode(input_ids, attention_mask)
        pairs = [block.cross.keys_values(states) for block in self.decoder_blocks]
        return pairs, visible(1, states.shape[1], attention_mask, causal=False)

    def decode(self, ids: Tensor, memory: list, memory_mask: Tensor | None, cache: list[Cache] | None = None) -> Tensor:
        """Target ids (B, T) and the source's memory -> logits (B, T, V)."""
        T, past = ids.shape[1], cache[0].length if cache else 0
        x = self.embed(ids, past)
        mask = visible(T, past + T, None, causal=True, device=x.device) if past else None
        for number, block in enumerate(self.decoder_blocks):
            x = block(
                x, mask=mask, causal=not past, cache=cache[number] if cache else None,
                memory=memory[number], memory_mask=memory_mask,
            )  # fmt: skip
        return self.head(self.decoder_norm(x))

    def given(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Given:
        """The decoder behind these sources (B, S): a language model of their targets, to be sampled or scored."""
        return Given(self, *self.memory(input_ids, attention_mask))

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, pad_token_id: int, eos_token_id: int,
        max_new_tokens: int = 64, num_beams: int = 1, do_sample: bool = False, start: int | None = None, **options,
    ) -> Tensor:  # fmt: skip
        """Targets of sources (B, S), called as transformers' generate is: (B, 1 + n), from `start` (default: padding).

        Greedy, unless `do_sample`; `options` go to `sampling.generate`, or with beams to `sampling.beam_search`.
        """
        begin = input_ids.new_full((len(input_ids), 1), pad_token_id if start is None else start)
        if num_beams > 1:
            masks = [None] * len(input_ids) if attention_mask is None else attention_mask[:, None]
            options |= {"beams": num_beams, "stop": eos_token_id}
            rows = [
                beam_search(self.given(ids[None], mask), one[None], max_new_tokens, **options)[0][0]
                for ids, mask, one in zip(input_ids, masks, begin)
            ]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_token_id)
        if not do_sample:
            options["temperature"] = 0.0
        return generate(self.given(input_ids, attention_mask), begin, max_new_tokens, stop=eos_token_id, **options)

    def num_parameters(self) -> int:
        return num_parameters(self)


class Given(nn.Module):
    """target ids (B, T) -> logits (B, T, V), the B sources (or the one) being fixed: the interface of all models."""

    context = reach = None

    def __init__(self, model: EncoderDecoder, memory: list, memory_mask: Tensor | None):
        super().__init__()
        self.model, self.memory, self.memory_mask, self.vocabulary = model, memory, memory_mask, model.vocabulary

    def forward(self, input_ids: Tensor, cache: list[Cache] | None = None) -> Tensor:
        B = len(input_ids)
        memory = [(key.expand(B, -1, -1, -1), value.expand(B, -1, -1, -1)) for key, value in self.memory]
        return self.model.decode(input_ids, memory, self.memory_mask, cache)

    def new_cache(self) -> list[Cache]:
        return [Cache() for _ in self.model.decoder_blocks]
