"""Sequential adapters: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, and Pfeiffer et al.,
"MAD-X", EMNLP 2020.

    houlsby    h <- h + W_u s(W_d h + b_d) + b_u     after attention and after the FFN, before the sum and LayerNorm;
                                                     all LayerNorms train too
    pfeiffer   the same, once a block, on the stream after the FFN:
               pre-norm   x <- x + f(x);     post-norm   LN(z + f(LN(z))),  z = h + x

s is a nonlinearity. Small random weights keep the addition near zero at the start: near identity, not identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..architectures import Layout, own_copy
from ..runtime import CourseError
from . import checks
from .base import Method
from .sites import Site

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
PLACEMENTS = {"houlsby": ("gelu", 1e-2), "pfeiffer": ("relu", 2e-2)}  # the papers' nonlinearity and init


@dataclass(frozen=True)
class BottleneckAdapter(Method):
    """`bottleneck` r; `placement` "pfeiffer" or "houlsby"; `activation` and `init_std` default to the paper's;
    `skip_layers` n leaves the first n blocks without adapter (AdapterDrop, Rücklé et al. 2021).

    `compat="adapters"` gives that library's Houlsby adapter: SiLU, N(0, .02), and LayerNorms that stay frozen. Its
    Pfeiffer adapter is the paper's.
    """

    bottleneck: int = 16
    placement: str = "pfeiffer"
    activation: str | None = None
    init_std: float | None = None
    skip_layers: int = 0
    compat: str | None = None

    family = "additive"
    paper = "Houlsby et al. 2019; Pfeiffer et al. 2020"
    formula = "h <- h + W_u s(W_d h + b_d) + b_u"
    count = "houlsby 2 L (2 d r + d + r) + LN; pfeiffer L (2 d r + d + r)"

    def __post_init__(self):
        checks.one_of(self, "placement", tuple(PLACEMENTS))
        checks.one_of(self, "activation", (None, *ACTIVATIONS))
        checks.one_of(self, "compat", (None, "adapters"))
        checks.whole_number(self, "bottleneck")
        checks.whole_number(self, "skip_layers", least=0)

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        if self.skip_layers >= layout.num_layers:
            raise CourseError(f"skip_layers={self.skip_layers} leaves none of the {layout.num_layers} blocks.")
        theirs = self.compat and self.placement == "houlsby"
        activation, init_std = ("silu", 2e-2) if theirs else PLACEMENTS[self.placement]
        for block in range(self.skip_layers, layout.num_layers):
            sites = (
                [Site("stream", block=block)] if self.placement == "pfeiffer"
                else [Site("after", "attention", block), Site("after", "ffn", block)]
            )
            for site in sites:
                yield site, Bottleneck(
                    layout.width, self.bottleneck, self.activation or activation, self.init_std or init_std
                )
        if self.placement == "houlsby" and not self.compat:
            for path, norm in layout.norms():
                yield Site("instead", path), own_copy(norm)


class Bottleneck(nn.Module):
    """W_u s(W_d h + b_d) + b_u, for h of shape (B, T, d)."""

    def __init__(self, width: int, bottleneck: int, activation: str, init_std: float):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.activation = ACTIVATIONS[activation]()
        for linear in (self.down, self.up):
            # truncated at two standard deviations, as in the paper
            nn.init.trunc_normal_(linear.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor) -> Tensor:
        return self.up(self.activation(self.down(h)))  # (B, T, d) -> (B, T, r) -> (B, T, d)

