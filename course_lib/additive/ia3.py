"""(IA)^3, "infused adapter by inhibiting and amplifying inner activations": Liu et al., "Few-Shot Parameter-Efficient
Fine-Tuning is Better and Cheaper than In-Context Learning", NeurIPS 2022.

    softmax(Q (l_k * K)^T / sqrt d) (l_v * V),      (l_ff * act(W_1 x)) W_2

Three vectors a block multiply the keys (before the rotation of positions), the values and the activations of the FFN,
after the nonlinearity; with a gated FFN the product act(W_g x) * W_1 x. They begin at one: exact identity.
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
from .peft_files import peft_path, target_names
from .sites import Site


@dataclass(frozen=True)
class IA3(Method):
    """l_k and l_v at every attention, those of a decoder to its encoder too, and l_ff in every block.

    `compat="peft"` scales what peft does by default: on GPT-2 the queries too (they share a matrix with keys and
    values), on Qwen2 the queries instead of the keys, on BERT and RoBERTa also what enters attention's output
    projection (its name ends like the FFN's).
    `compat="adapters"` scales the FFN before the nonlinearity, W_2 act(l_ff * W_1 x), as that library does.
    """

    compat: str | None = None

    family = "additive"  # Lialin et al.'s family, though it multiplies
    paper = "Liu et al. 2022"
    formula = "l_k * K, l_v * V, (l_ff * act(W_1 x)) W_2"
    count = "L (2 k + f); in a decoder beside an encoder L (4 k + f)"
    peft_type = "IA3"
    peft_fields = ("feedforward_modules", "init_ia3_weights")
    why_no_merge = None

    def __post_init__(self):
        checks.one_of(self, "compat", (None, "peft", "adapters"))

    def places(self, layout: Layout, block: int) -> list[tuple[str, str]]:
        """(role, kind of site) of each vector in a block."""
        if self.compat == "adapters" and layout.encoder_decoder:
            raise CourseError("(IA)^3 with compat='adapters' is known for models of one stack only: leave compat out.")
        if self.compat == "adapters":
            return [("key", "scale"), ("value", "scale"), ("ffn_in", "scale")]
        roles = ["key", "value"]
        if self.compat == "peft":
            roles = {"gpt2": ["query", "key", "value"], "qwen2": ["query", "value"]}.get(layout.kind, roles)
        roles += [role for role in ("cross_key", "cross_value") if layout.plays(block, role)]
        inputs = ["ffn_out", "output"] if self.compat == "peft" and layout.kind in ("bert", "roberta") else ["ffn_out"]
        return [(role, "scale") for role in roles] + [(role, "scale_input") for role in inputs]

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        for block in range(layout.num_layers):
            for role, kind in self.places(layout, block):
                out, into = layout.projection(block, role).size
                yield Site(kind, role, block), Scale(into if kind == "scale_input" else out)

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]] | None:
        """peft scales whole modules, so a fused projection gets ones where the queries are."""
        if self.compat == "adapters":
            return None
        tensors, paths = {}, {"scale": set(), "scale_input": set()}
        for block in range(layout.num_layers):
            for role, kind in self.places(layout, block):
                projection = layout.projection(block, role)
                path, l = peft_path(layout, projection.path), state[f"blocks.{block}.{role}.{kind}.l"]
                paths[kind].add(projection.path)
                if kind == "scale_input":
                    tensors[f"{path}.ia3_l"] = l[None, :]  # (1, in)
                else:
                    whole = projection.module.weight.shape[1 if projection.transposed else 0]
                    full = tensors.setdefault(f"{path}.ia3_l", l.new_ones(whole, 1))  # (out, 1)
                    full[projection.columns, 0] = l
        fields = {
            "target_modules": target_names(layout, paths["scale"] | paths["scale_input"]),
            "feedforward_modules": target_names(layout, paths["scale_input"]),
            "fan_in_fan_out": layout.projection(0, "ffn_out").transposed,
        }
        return fields, tensors

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> IA3:
        """peft's default where the file has a vector that the paper has not, or queries that are scaled."""
        def vector(role: str, block: int = 0) -> Tensor | None:
            return state.get(f"{peft_path(layout, layout.projection(block, role).path)}.ia3_l")

        if layout.family.thirds:  # what the paper leaves alone is there, at ones
            vectors = [vector("query", block) for block in range(layout.num_layers)]
            scaled = any((v[: layout.width] != 1).any() for v in vectors if v is not None)
            return cls(compat="peft" if scaled else None)
        return cls(compat="peft" if vector("query") is not None or vector("output") is not None else None)

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        ours = {}
        for block in range(layout.num_layers):
            for role, kind in self.places(layout, block):
                projection = layout.projection(block, role)
                l = state[f"{peft_path(layout, projection.path)}.ia3_l"].flatten()
                ours[f"blocks.{block}.{role}.{kind}.l"] = l if kind == "scale_input" else l[projection.columns]
        return ours


class Scale(nn.Module):
    """l * y, for y of shape (B, T, n)."""

    def __init__(self, size: int):
        super().__init__()
        self.l = nn.Parameter(torch.ones(size))

    def forward(self, y: Tensor) -> Tensor:
        return self.l * y

    def merge_into(self, layout: Layout, site: Site) -> None:
        """diag(l) W for an output, W diag(l) for an input."""
        projection = layout.projection(site.block, site.where)
        if site.kind == "scale_input":
            projection.matrix.mul_(self.l)
        else:
            projection.matrix.mul_(self.l[:, None])
            if projection.bias is not None:
                projection.bias.mul_(self.l)
