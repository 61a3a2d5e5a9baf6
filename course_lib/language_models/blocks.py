"""What Transformers are built of: norms, rotary positions, attention with masks and a cache, feed-forward, the block.

GPT, Encoder and EncoderDecoder are these parts in three arrangements. Shapes: B rows, T positions that ask, S positions
that are looked at, d width, H heads, G key-value heads, h = d / H the width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime import CourseError

ACTIVATIONS = {
    "gelu": F.gelu,  # x times the normal distribution's share below x
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),  # GPT-2's approximation of it
    "silu": F.silu,
    "relu": F.relu,
}


class RMSNorm(nn.Module):
    """x / rms(x) * weight, over the last dimension (Zhang and Sennrich 2019): LayerNorm without mean and bias."""

    def __init__(self, width: int, epsilon: float = 1e-6):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) * weight + bias, over the last dimension (Ba, Kiros and Hinton 2016)."""

    def __init__(self, width: int, epsilon: float = 1e-5, bias: bool = True):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


# --- positions ---------------------------------------------------------------------------------------------------


def sinusoidal(positions: Tensor, width: int) -> Tensor:
    """Vaswani et al.'s fixed positions (..., width): a sine and a cosine for each of width / 2 wavelengths."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=positions.device) / width)  # (width / 2,)
    angle = positions[..., None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def rotary_angles(positions: Tensor, head_width: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., T, h) that turn each pair of a head's dimensions (Su et al. 2021)."""
    frequency = base ** (-torch.arange(0, head_width, 2, device=positions.device) / head_width)  # (h / 2,)
    angle = (positions[..., None] * frequency).repeat_interleave(2, -1)
    angle = torch.cat([angle[..., ::2], angle[..., 1::2]], dim=-1)  # dimension i is paired with i + h / 2
    return angle.cos(), angle.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys x (B, H, T, h) by their positions' angles: q . k then depends on the distance alone."""
    cosine, sine = (a if a.ndim == 2 else a[:, None] for a in angles)  # (T, h), or (B, 1, T, h)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


# --- masks -------------------------------------------------------------------------------------------------------


def visible(T: int, S: int, attention_mask: Tensor | None, causal: bool, device=None) -> Tensor | None:
    """Which of S positions each of the last T may look at, as booleans that broadcast to (B, H, T, S).

    `attention_mask` (B, S) holds 1 for real tokens and 0 for padding. None is returned where there is nothing to hide.
    A padding position in front of a text would have nothing to look at, and a softmax over nothing is not a number, so
    every position of a causal model may look at itself.
    """
    mask = None
    if causal and T > 1:
        mask = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    if attention_mask is not None:
        real = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, S)
        mask = real if mask is None else mask & real
        if causal:
            mask = mask | torch.eye(T, S, dtype=torch.bool, device=device).roll(S - T, dims=1)
    return mask


# --- the two sublayers -------------------------------------------------------------------------------------------


class Cache:
    """Keys and values (B, G, S, h) of one attention layer, so that a new token is computed alone."""

    def __init__(self):
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new positions; returns those of all."""
        if self.keys is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """softmax(Q K^T / sqrt h) V with H heads; keys and values from x itself or, across, from another text.

    With G < H key-value heads, each serves H / G query heads (grouped-query attention, Ainslie et al. 2023).
    """

    def __init__(self, width: int, heads: int, key_value_heads: int | None = None, bias: bool = True, dropout=0.0):
        super().__init__()
        self.heads, self.groups, self.head_width = heads, key_value_heads or heads, width // heads
        if width % heads or self.heads % self.groups:
            raise CourseError(
                f"A width of {width} cannot be cut into {heads} heads over {self.groups} key-value heads: the heads "
                "must divide the width, and the key-value heads the heads."
            )
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(width, 2 * self.groups * self.head_width, bias=bias)  # one product for both
        self.output = nn.Linear(width, width, bias=bias)
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,  # (B, T, d)
        mask: Tensor | None = None,  # as `visible` gives it
        causal: bool = False,  # without a mask: hide the future
        angles: tuple[Tensor, Tensor] | None = None,  # rotary positions of x
        cache: Cache | None = None,
        memory: tuple[Tensor, Tensor] | None = None,  # keys and values to look at in place of x's own
    ) -> Tensor:
        B, T, d = x.shape
        query = self.query(x).view(B, T, self.heads, self.head_width).transpose(1, 2)  # (B, H, T, h)
        key, value = self.keys_values(x) if memory is None else memory  # (B, G, S, h)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        if cache is not None:
            key, value = cache.append(key, value)
        if self.groups < self.heads:  # (B, G, S, h) -> (B, H, S, h)
            key, value = (t.repeat_interleave(self.heads // self.groups, dim=1) for t in (key, value))
        p = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=p, is_causal=causal and mask is None)
        return self.output(mixed.transpose(1, 2).reshape(B, T, d))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, d) -> keys and values, each (B, G, S, h)."""
        both = self.key_value(x).view(*x.shape[:2], 2 * self.groups, self.head_width).transpose(1, 2)
        return both.chunk(2, dim=1)


class FeedForward(nn.Module):
    """W_out act(W_in x); gated: W_out (act(W_gate x) * W_in x) (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu", gated: bool = False, bias: bool = True):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate = nn.Linear(width, hidden, bias=bias) if gated else None
        self.ffn_in = nn.Linear(width, hidden, bias=bias)
        self.ffn_out = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.ffn_out(self.activation(self.ffn_in(x)))
        return self.ffn_out(self.activation(self.gate(x)) * self.ffn_in(x))


# --- the block ---------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block adds to the residual stream x, once what attention found and once what the feed-forward made of it.

    Pre-norm adds f(norm(x)) to x and leaves the stream alone; post-norm, the original, puts a norm over each sum.
    With `cross` the block also looks at another text, between the two.
    """

    def __init__(self, attention, ffn, norm, *, post_norm: bool = False, cross=None, dropout: float = 0.0):
        """`attention`, `ffn` and `cross` are modules; `norm` is called once for each norm needed."""
        super().__init__()
        self.attention_norm, self.attention = norm(), attention
        self.cross_norm, self.cross = (norm(), cross) if cross is not None else (None, None)
        self.ffn_norm, self.ffn = norm(), ffn
        self.post_norm, self.dropout = post_norm, nn.Dropout(dropout)

    def forward(self, x: Tensor, *, memory=None, memory_mask: Tensor | None = None, **attention) -> Tensor:
        """`memory` is cross.keys_values(...) of the other text; the rest goes to the attention over x itself."""
        x = self.add(x, self.attention_norm, lambda x: self.attention(x, **attention))
        if self.cross is not None:
            x = self.add(x, self.cross_norm, lambda x: self.cross(x, mask=memory_mask, memory=memory))
        return self.add(x, self.ffn_norm, self.ffn)

    def add(self, x: Tensor, norm: nn.Module, sublayer) -> Tensor:
        """One sublayer and its sum: (B, T, d) -> (B, T, d)."""
        if self.post_norm:
            return norm(x + self.dropout(sublayer(x)))
        return x + self.dropout(sublayer(norm(x)))


def initialise(model: nn.Module, std: float = 0.02) -> None:
    """GPT-2's and BERT's start: matrices and embeddings N(0, std), biases zero, norms as they are."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def num_parameters(model: nn.Module) -> int:
    """How many numbers the model learns; a tied matrix counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
