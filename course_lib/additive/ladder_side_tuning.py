"""Ladder side tuning: Sung, Cho and Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer
Learning", NeurIPS 2022.

    s <- block_l(m_l s + (1 - m_l) W_l h_l),    m_l = sigmoid(a_l / T)

Beside every block of the base stands one that is q times narrower; a rung W_l (d/q, d) brings what the base's block
hands on, h_l, and a gate m_l, begun at 1/2, weighs it against the side's own state. The head reads W_up norm(s) and
nothing of the base: not the identity at the start. No gradient enters the base, so nothing inside it is kept for the
backward pass but the rungs' inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Family, Layout
from .base import Method
from .side_network import SideNetwork, stand_beside
from .sites import Site


@dataclass(frozen=True)
class LadderSideTuning(Method):
    """`reduction` q, how much narrower the side network is; `temperature` T, how fast the gates move.

    The paper prunes the base's blocks by Fisher information, which needs data; here every q-th row and column is kept.
    """

    reduction: int = 8
    temperature: float = 0.1

    family = "additive"
    paper = "Sung et al. 2022"
    formula = "s <- block(m s + (1 - m) W_down h_l), m = sigmoid(a / T); the head reads W_up norm(s)"
    count = "L blocks of width d/q + (L + 2) d^2/q + (L + 1) d/q + d + norm + L, about L (12 (d/q)^2 + d^2/q) + 2 d^2/q"
    why_no_merge = "its blocks stand beside the base's, not inside them"
    why_no_sum = "the head reads the side network alone, so the others would never learn"

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        networks = stand_beside(layout, lambda stack: Ladder(layout, stack, self.reduction, self.temperature))
        for stack, network in networks:
            yield Site("side", stack), network


class Ladder(SideNetwork):
    """A side network with a rung and a gate at every block."""

    def __init__(self, layout: Layout, stack: Family, reduction: int, temperature: float):
        super().__init__(layout, stack, reduction)
        self.rungs = nn.ModuleList(nn.Linear(layout.width, self.down.out_features) for _ in self.blocks)
        self.a = nn.Parameter(torch.zeros(len(self.blocks)))
        self.temperature = temperature

    def states(self, h: Tensor) -> Tensor:
        return super().states(h.detach())  # no gradient goes back into the base

    def block_input(self, block: int, s: Tensor, h: Tensor) -> Tensor:
        m = torch.sigmoid(self.a[block] / self.temperature)
        return m * s + (1 - m) * self.rungs[block](h)  # (B, T, d) -> (B, T, d/q)

    def output(self, side: Tensor, base: Tensor) -> Tensor:
        return side
