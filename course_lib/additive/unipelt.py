"""UniPELT: Mao, Mathias, Hou, Almahairi, Ma, Han, Yih, Khabsa, "UniPELT: A Unified Framework for Parameter-Efficient
Language Model Tuning", ACL 2022.

    [G_P P_k ; K],  [G_P P_v ; V]        a gated prefix at attention,
    W x + G_L B A x                      gated LoRA on queries and values (the gate stands for alpha / r),
    h <- h + G_A f(h)                    a gated Pfeiffer adapter after the FFN,

    G = sigmoid(w . x + b)

Three gates a block say how much each part counts: G_P and G_L look at what attention's projections read, G_A at what
the adapter reads. On encoders a gate is averaged over the text, padding left out. A decoder writes from left to right
and may not average over words to come: there each position has gates of its own.
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
from .bottleneck_adapter import PLACEMENTS, Bottleneck
from .lora import LowRank
from .prefix_tuning import Prefix, PrefixTuning, prefix_shape
from .sites import Site


@dataclass(frozen=True)
class UniPELT(Method):
    """The prefix's `length` p and `hidden`, the adapter's `bottleneck` r, and LoRA's `rank`.

    `compat="adapters"` (encoders only): the mean runs over padding too, queries and values have a gate each, and the
    text keeps its positions beside the prefix.
    """

    length: int = 10
    hidden: int | None = 512
    bottleneck: int = 48
    rank: int = 8
    compat: str | None = None

    family = "hybrid"
    paper = "Mao et al. 2022"
    formula = "a prefix, an adapter and LoRA, each times sigmoid(w . x + b)"
    count = "the sum of the parts, and 3 L (d + 1)"
    why_no_merge = "its gates depend on the input, and a weight does not"

    def __post_init__(self):
        PrefixTuning(self.length, self.hidden, self.compat)  # its parts know what they can be
        checks.whole_number(self, "bottleneck")
        checks.whole_number(self, "rank")

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        if layout.encoder_decoder:
            raise CourseError(
                "UniPELT is defined for one stack, with one prefix a block; the decoder of an encoder-decoder has two "
                "attentions, and the paper does not say how they share a gate. MixAndMatch, a prefix with an adapter, "
                "is defined there."
            )
        if self.compat and layout.causal:
            raise CourseError(
                "compat='adapters' averages a gate over the whole sequence, so on a decoder each word would read what "
                "comes later. Use UniPELT without compat there: its gates are of one position each."
            )
        over = "position" if layout.causal else "row" if self.compat else "text"
        prefix = GatedPrefix(self.length, prefix_shape(layout), layout.width, self.hidden, over)
        prefix.shift = 0 if self.compat else self.length
        yield Site("attend", "gated"), prefix
        for block in range(layout.num_layers):
            adapter = Bottleneck(layout.width, self.bottleneck, *PLACEMENTS["pfeiffer"])
            yield Site("stream", block=block), Gated(adapter, Gate(layout.width, over))
            shared = Gate(layout.width, over)
            for role in ("query", "value"):
                out, into = layout.projection(block, role).size
                gate = Gate(layout.width, over) if self.compat else shared
                yield Site("beside", role, block), Gated(LowRank(into, out, self.rank, alpha=self.rank), gate)


class Gate(nn.Module):
    """G = sigmoid(w . x + b) for x of shape (B, T, d): (B, T, 1), or (B, 1, 1) averaged over a text or a whole row."""

    def __init__(self, width: int, over: str):
        super().__init__()
        self.averages, self.over = over == "text", over
        self.linear = nn.Linear(width, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        G = torch.sigmoid(self.linear(x))
        if self.over == "position":
            return G
        if mask is None:
            return G.mean(1, keepdim=True)
        mask = mask[..., None].to(G.dtype)
        return (G * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)


class Gated(nn.Module):
    """G f(x), for x of shape (B, T, d)."""

    def __init__(self, inner: nn.Module, gate: Gate):
        super().__init__()
        self.inner, self.gate, self.averages = inner, gate, gate.averages

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.gate(x, mask) * self.inner(x)


class GatedPrefix(Prefix):
    """P_k and P_v of all layers with a gate a layer, which stands before both."""

    def __init__(self, length: int, shape: tuple[int, int, int, int], width: int, hidden: int | None, over: str):
        super().__init__(length, shape, width, hidden)
        self.gates = nn.ModuleList(Gate(width, over) for _ in range(shape[0]))

    def stored(self) -> dict[str, Tensor]:
        return super().stored() | {f"gates.{name}": tensor for name, tensor in self.gates.state_dict().items()}

    def fill(self, state: dict[str, Tensor]) -> None:
        super().fill(state)
        self.gates.load_state_dict({name: state[f"gates.{name}"] for name in self.gates.state_dict()})
