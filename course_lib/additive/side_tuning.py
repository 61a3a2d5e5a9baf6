"""Side tuning: Zhang et al., "Side-Tuning: A Baseline for Network Adaptation via Additive Side Networks", ECCV 2020.

    a B(x) + (1 - a) S(x)

B(x) (B, T, d) is what the base's head would read, S(x) the same of a small network that reads the same embedded
tokens; a in (0, 1) is learned as the sigmoid of a free number. f = g + h in the literal sense: base and addition meet
once, at the very end. It is the identity only at a = 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Family, Layout
from ..runtime import CourseError
from .base import Method
from .side_network import SideNetwork, stand_beside
from .sites import Site


@dataclass(frozen=True)
class SideTuning(Method):
    """`reduction` q, how much narrower than the base the side network is; `alpha` is where a begins."""

    reduction: int = 8
    alpha: float = 0.5

    family = "additive"
    paper = "Zhang et al. 2020"
    formula = "a B(x) + (1 - a) S(x)"
    count = "L blocks of width d/q + 2 d^2/q + d/q + d + norm + 1, about 12 L (d/q)^2 + 2 d^2/q"
    why_no_merge = "its blocks stand beside the base's, not inside them"

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            raise CourseError(f"alpha={self.alpha} is no share of the base: it must lie between 0 and 1.")

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        for stack, network in stand_beside(layout, lambda stack: Side(layout, stack, self.reduction, self.alpha)):
            yield Site("side", stack), network


class Side(SideNetwork):
    """A side network and its share of what the head reads."""

    def __init__(self, layout: Layout, stack: Family, reduction: int, alpha: float):
        super().__init__(layout, stack, reduction)
        if self.up is not None:  # where it meets the base; finite at alpha = 1, and yet its sigmoid is 1 to the bit
            self.a = nn.Parameter(torch.logit(torch.tensor(alpha, dtype=torch.float64), eps=1e-8).float())

    def output(self, side: Tensor, base: Tensor) -> Tensor:
        share = torch.sigmoid(self.a)
        return share * base + (1 - share) * side
