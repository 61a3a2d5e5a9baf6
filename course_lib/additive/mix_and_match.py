"""Mix-and-Match: He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022, section 4.6.

A short prefix at attention, where little is enough, and a wide scaled parallel adapter at the FFN, where capacity pays:
the sum of two additions, under one name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..architectures import Layout
from .base import Method, Sum
from .parallel_adapter import ParallelAdapter
from .prefix_tuning import PrefixTuning
from .sites import Site


@dataclass(frozen=True)
class MixAndMatch(Method):
    """The prefix's `length` p, `hidden` and `compat`, the adapter's `bottleneck` r and `scale` s."""

    length: int = 30
    hidden: int | None = 512
    bottleneck: int = 512
    scale: float = 4.0
    compat: str | None = None

    family = "hybrid"
    paper = "He et al. 2022"
    formula = "a prefix, and h <- h + s (W_u ReLU(W_d x + b_d) + b_u) at the FFN"
    count = "the sum of both"
    why_no_merge = PrefixTuning.why_no_merge

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        yield from Sum(
            PrefixTuning(self.length, self.hidden, self.compat), ParallelAdapter(self.bottleneck, self.scale)
        ).place(layout)
