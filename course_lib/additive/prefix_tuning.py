"""Prefix tuning: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021; without the
reparametrisation it is P-tuning v2: Liu et al., ACL 2022.

    K <- [P_k ; K],   V <- [P_v ; V]      in every layer, P_k and P_v of shape (p, k)

In training (P_k, P_v) of all layers = MLP(P') with one tanh layer; afterwards the MLP is dropped and its output kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Layout
from . import checks
from .base import Method
from .prompt_tuning import VIRTUAL_TOKENS, prompt_config
from .sites import Site


@dataclass(frozen=True)
class PrefixTuning(Method):
    """`length` p; `hidden` is the width of the MLP's middle layer, None for no reparametrisation (P-tuning v2).

    The text stands behind the prefix, p positions later. `compat="adapters"`: it keeps its positions, as there.
    """

    length: int = 10
    hidden: int | None = 512
    compat: str | None = None

    family = "additive"
    paper = "Li and Liang 2021; Liu et al. 2022"
    formula = "K <- [P_k ; K], V <- [P_v ; V]"
    count = "stores 2 L p k; trains p d + (d + 1) h + (h + 1) 2 L k with the MLP"
    peft_type = "PREFIX_TUNING"
    peft_fields = ("encoder_hidden_size", "prefix_projection", "init_weights")
    peft_values = VIRTUAL_TOKENS
    peft_head = "base_model."
    why_no_merge = "its keys and values belong to positions that no weight has"

    def __post_init__(self):
        checks.whole_number(self, "length")
        checks.one_of(self, "compat", (None, "adapters"))
        if self.hidden is not None:
            checks.whole_number(self, "hidden")

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        prefix = Prefix(self.length, prefix_shape(layout), layout.width, self.hidden)
        prefix.shift = 0 if self.compat else self.length
        yield Site("attend"), prefix

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]] | None:
        if self.compat or layout.encoder_decoder:  # peft puts a prefix before the decoder's attentions only
            return None
        head_width = layout.projection(0, "query").size[0] // layout.num_heads
        fields = prompt_config(layout, self.length)
        # peft's words for grouped heads: as many heads, and as wide a token, as the keys have
        fields |= {"token_dim": layout.key_width, "num_attention_heads": layout.key_width // head_width}
        return fields, {"prompt_embeddings": state["attend.prefix"]}

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> PrefixTuning:
        return cls(config["num_virtual_tokens"], hidden=None)

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"attend.prefix": state["prompt_embeddings"]}


def prefix_shape(layout: Layout) -> tuple[int, int, int, int]:
    """(L, 2, kv heads, head width): what one position of a prefix holds. A decoder's layer beside an encoder counts
    twice, for it has two attentions."""
    head_width = layout.projection(0, "query").size[0] // layout.num_heads
    return len(layout.attentions()), 2, layout.key_width // head_width, head_width


class Prefix(nn.Module):
    """P_k and P_v of all layers; `shape` is (L, 2, kv heads, head width)."""

    def __init__(self, length: int, shape: tuple[int, int, int, int], width: int, hidden: int | None):
        super().__init__()
        self.length, self.shape, self.mlp = length, shape, None
        self.shift = length  # by how many positions the text moves
        size = shape[0] * 2 * shape[2] * shape[3]
        if hidden is None:
            self.prefix = nn.Parameter(torch.randn(length, size))
        else:
            self.start = nn.Parameter(torch.randn(length, width))
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, size))

    def forward(self) -> Tensor:
        """(p, 2 L k): a row is ordered by layer, key or value, head, head width, as in peft's files."""
        return self.prefix if self.mlp is None else self.mlp(self.start)

    def stored(self) -> dict[str, Tensor]:
        return {"prefix": self().detach()}

    def fill(self, state: dict[str, Tensor]) -> None:
        """A loaded prefix has no MLP any more: it is what the MLP said."""
        own = next(self.parameters())
        self.mlp, self.start = None, None
        self.prefix = nn.Parameter(state["prefix"].to(own.device, own.dtype, copy=True))
