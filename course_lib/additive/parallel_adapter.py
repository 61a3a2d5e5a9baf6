"""The scaled parallel adapter: He, Zhou, Ma, Berg-Kirkpatrick, Neubig, "Towards a Unified View of Parameter-Efficient
Transfer Learning", ICLR 2022.

    h <- h + s W_u ReLU(W_d x + b_d) + b_u

x is what the sublayer sees (on pre-norm models after the LayerNorm), h what it says. W_u and b_u begin at zero, so the
addition begins at exactly nothing; s = 4 is the paper's best scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..architectures import Layout
from . import checks
from .base import Method
from .sites import Site


@dataclass(frozen=True)
class ParallelAdapter(Method):
    """A bottleneck beside a sublayer. `bottleneck` r, `scale` s, `where` "ffn" (the paper's choice) or "attention".

    The `adapters` library agrees on post-norm models; on pre-norm ones it reads the stream before the LayerNorm.
    """

    bottleneck: int = 16
    scale: float = 4.0
    where: str = "ffn"

    family = "additive"
    paper = "He et al. 2022"
    formula = "h <- h + s (W_u ReLU(W_d x + b_d) + b_u)"
    count = "L (2 d r + d + r)"

    def __post_init__(self):
        checks.whole_number(self, "bottleneck")
        checks.one_of(self, "where", ("ffn", "attention"))

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        for block in range(layout.num_layers):
            yield Site("beside", self.where, block), Parallel(layout.width, self.bottleneck, self.scale)


class Parallel(nn.Module):
    """s (W_u ReLU(W_d x + b_d) + b_u), for x of shape (B, T, d)."""

    def __init__(self, width: int, bottleneck: int, scale: float):
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(self.down(x).relu())  # (B, T, d) -> (B, T, r) -> (B, T, d)
