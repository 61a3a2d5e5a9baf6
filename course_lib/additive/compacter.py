"""Compacter: Karimi Mahabadi, Henderson, Ruder, "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", NeurIPS
2021.

    W = sum_i A_i (kron) (s_i t_i^T),    i = 1..n,   A_i (n, n) shared by all layers

An adapter after attention and after the FFN whose two matrices are sums of n Kronecker products of a small shared
matrix and a rank-one one: W_down (r, d) from s_i (r/n) and t_i (d/n), W_up (d, r) from s_i (d/n) and t_i (r/n).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from . import checks
from .base import Method
from .sites import Site


@dataclass(frozen=True)
class Compacter(Method):
    """`bottleneck` r and `n`, the number of Kronecker products; n divides r and the model's width."""

    bottleneck: int = 16
    n: int = 4

    family = "hybrid"
    paper = "Karimi Mahabadi et al. 2021"
    formula = "h <- h + W_u s(W_d h + b_d) + b_u, W = sum_i A_i kron (s_i t_i^T)"
    count = "4 L (d + r) + n^3, and 2 L (d + r) biases"

    def __post_init__(self):
        checks.whole_number(self, "bottleneck")
        checks.whole_number(self, "n")

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        if self.bottleneck % self.n or layout.width % self.n:
            raise CourseError(
                f"n={self.n} must divide the bottleneck ({self.bottleneck}) and the model's width ({layout.width})."
            )
        A = nn.Parameter(torch.empty(self.n, self.n, self.n).normal_(std=0.1))
        for block in range(layout.num_layers):
            for sublayer in ("attention", "ffn"):
                yield Site("after", sublayer, block), Hypercomplex(layout.width, self.bottleneck, A)


class Kronecker(nn.Module):
    """y = W x + b with W = sum_i A_i kron (s_i t_i^T), W of shape (out, into)."""

    def __init__(self, into: int, out: int, A: nn.Parameter):
        super().__init__()
        n = len(A)
        self.A = A
        self.s = nn.Parameter(nn.init.xavier_normal_(torch.empty(n, out // n)))
        self.t = nn.Parameter(nn.init.xavier_normal_(torch.empty(n, into // n)))
        self.bias = nn.Parameter(torch.zeros(out))

    def weight(self) -> Tensor:
        """sum_i kron(A_i, s_i t_i^T): entry ((a, j), (b, k)) is sum_i A_i[a, b] s_i[j] t_i[k]."""
        W = torch.einsum("iab,ij,ik->ajbk", self.A, self.s, self.t)
        return W.reshape(len(self.bias), -1)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight().T + self.bias


class Hypercomplex(nn.Module):
    """W_u GELU(W_d h + b_d) + b_u, for h of shape (B, T, d)."""

    def __init__(self, width: int, bottleneck: int, A: nn.Parameter):
        super().__init__()
        self.down = Kronecker(width, bottleneck, A)
        self.up = Kronecker(bottleneck, width, A)

    def forward(self, h: Tensor) -> Tensor:
        return self.up(nn.functional.gelu(self.down(h)))  # (B, T, d) -> (B, T, r) -> (B, T, d)
