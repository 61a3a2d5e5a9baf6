"""A causal convolution: each position sees a window of the past, wider with each layer (van den Oord et al. 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import LayerNorm, num_parameters


class CausalConvolution(nn.Module):
    """y_t = sum_k W_k x_(t - k dilation): nothing from the future, because the padding is all in front."""

    def __init__(self, width: int, outputs: int, kernel: int, dilation: int):
        super().__init__()
        self.convolution = nn.Conv1d(width, outputs, kernel, dilation=dilation)
        self.past = (kernel - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x.transpose(1, 2), (self.past, 0))  # (B, d, past + T)
        return self.convolution(x).transpose(1, 2)  # (B, T, outputs)


class ConvolutionBlock(nn.Module):
    """x <- x + gated convolution of norm(x): a block adds here too."""

    def __init__(self, width: int, kernel: int, dilation: int, dropout: float):
        super().__init__()
        self.norm = LayerNorm(width)
        self.convolution = CausalConvolution(width, 2 * width, kernel, dilation)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.convolution(self.norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.output(value * gate.sigmoid()))


class Convolution(nn.Module):
    """ids (B, T) -> logits (B, T, V): `layers` convolutions over `kernel` positions, dilated 1, 2, 4, ...

    `reach` is how many tokens a guess can depend on: 1 + (kernel - 1)(2^layers - 1).
    """

    context = None

    def __init__(
        self, vocabulary: int = 256, width: int = 192, layers: int = 4, kernel: int = 3, dropout: float = 0.0
    ):
        super().__init__()
        self.vocabulary = vocabulary
        self.reach = 1 + (kernel - 1) * (2**layers - 1)
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.blocks = nn.ModuleList(ConvolutionBlock(width, kernel, 2**n, dropout) for n in range(layers))
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)  # (B, T, d)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def num_parameters(self) -> int:
        return num_parameters(self)
