"""LoReFT: Wu et al., "ReFT: Representation Finetuning for Language Models", NeurIPS 2024.

    h <- h + R^T (W h + b - R h),    R (r, d) with orthonormal rows

An intervention on what some blocks hand on, at some positions of the prompt only: the first f and the last l. Within
the r dimensions that R spans, h is moved to where W h + b says; outside them nothing changes.
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
class LoReFT(Method):
    """`rank` r; the `first` f and `last` l positions of the prompt share their parameters; `layers` are the numbers of
    the blocks, by default all. The paper's other form, not tied, is Sum(LoReFT(r, first=f, last=0),
    LoReFT(r, first=0, last=l)), on prompts of f + l tokens and more."""

    rank: int = 4
    first: int = 4
    last: int = 4
    layers: tuple[int, ...] | None = None

    family = "additive"  # an intervention; placed by us, by definition
    paper = "Wu et al. 2024"
    formula = "h <- h + R^T (W h + b - R h), R R^T = I"
    count = "2 r d + r a layer"
    why_no_merge = "it acts at some positions only, and a weight acts at all"

    def __post_init__(self):
        checks.whole_number(self, "rank")
        checks.whole_number(self, "first", least=0)
        checks.whole_number(self, "last", least=0)
        if self.first + self.last == 0:
            raise CourseError("LoReFT was given first=0 and last=0: at no position would anything change.")
        checks.layers(self)

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        layers = checks.blocks(self, layout.first_stack)  # which the prompt passes through: of two stacks the encoder's
        if not 1 <= self.rank <= layout.width:
            raise CourseError(f"rank={self.rank} is not between 1 and the model's width, {layout.width}.")
        for block in layers:
            yield Site("edit", block=block), Edit(layout.width, self.rank, self.first, self.last)


class Edit(nn.Module):
    """R^T (W h + b - R h), for h of shape (B, T, d)."""

    def __init__(self, width: int, rank: int, first: int, last: int):
        super().__init__()
        self.first, self.last = first, last
        self.linear = nn.Linear(width, rank)  # W, b
        self.rows = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, width)))

    def R(self) -> Tensor:
        """The rows made orthonormal, by a QR decomposition: R R^T = I whatever training does to them."""
        Q, triangle = torch.linalg.qr(self.rows.T.float())
        return (Q * triangle.diagonal().sign()).T  # rows that are orthonormal already stay as they are

    def forward(self, h: Tensor) -> Tensor:
        R = self.R().to(h.dtype)
        return (self.linear(h) - h @ R.T) @ R  # (B, T, d) -> (B, T, r) -> (B, T, d)

    def positions(self, mask: Tensor) -> Tensor:
        """The first f and last l real positions of each row of the prompt's mask, as booleans (B, T)."""
        number = mask.cumsum(-1)  # 1 for the first real token
        return mask.bool() & ((number <= self.first) | (number > number[:, -1:] - self.last))

    def stored(self) -> dict[str, Tensor]:
        return {"W": self.linear.weight.detach(), "b": self.linear.bias.detach(), "R": self.R().detach()}

    def fill(self, state: dict[str, Tensor]) -> None:
        self.linear.weight.copy_(state["W"])
        self.linear.bias.copy_(state["b"])
        self.rows.copy_(state["R"])
