"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. A comparator: by both surveys'
definition it reparametrises weights, though in the forward pass it adds.

    W x + (alpha / r) B A x,    A (r, in) random, B (out, r) zero: exact identity at the start
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from .base import Method
from .ia3 import peft_path
from .sites import Site


@dataclass(frozen=True)
class LoRA(Method):
    """`rank` r, `alpha`, and the `targets` by role; `dropout` acts on x."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "value")
    dropout: float = 0.0

    family = "reparametrised"
    paper = "Hu et al. 2022"
    formula = "W x + (alpha / r) B A x"
    count = "q, v: L r (3 d + k)"
    peft_type = "LORA"
    why_no_merge = None

    def __post_init__(self):
        if self.rank < 1 or not self.targets:
            raise CourseError(f"LoRA needs a rank of at least 1 and a target; got {self}.")

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        for block in range(layout.num_layers):
            for role in self.targets:
                out, into = layout.projection(block, role).size
                yield Site("beside", role, block), LowRank(into, out, self.rank, self.alpha, self.dropout)

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
        """Several roles of one fused matrix become one LoRA of their ranks' sum: A stacked, B block by block."""
        tensors, targets, fused = {}, set(), 1
        for block in range(layout.num_layers):
            for path, roles in self._by_module(layout, block).items():
                targets.add(path.split(f"{layout.family.blocks}.{block}.")[1])
                fused = max(fused, len(roles))
                first = layout.projection(block, roles[0])
                whole = first.module.weight.shape[1 if first.transposed else 0]
                A = torch.cat([state[f"blocks.{block}.{role}.beside.A"] for role in roles])
                B = A.new_zeros(whole, self.rank * len(roles))
                for i, role in enumerate(roles):
                    columns = layout.projection(block, role).columns
                    B[columns, self.rank * i : self.rank * (i + 1)] = state[f"blocks.{block}.{role}.beside.B"]
                tensors[f"{peft_path(layout, path)}.lora_A.weight"] = A
                tensors[f"{peft_path(layout, path)}.lora_B.weight"] = B
        fields = {
            "r": self.rank * fused, "lora_alpha": self.alpha * fused, "target_modules": sorted(targets),
            "lora_dropout": self.dropout, "fan_in_fan_out": layout.projection(0, self.targets[0]).transposed,
        }
        return fields, tensors

    def _by_module(self, layout: Layout, block: int) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = {}
        for role in self.targets:
            grouped.setdefault(layout.projection(block, role).path, []).append(role)
        return grouped

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> LoRA:
        variants = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(key)]
        if variants or config.get("bias", "none") != "none":
            raise CourseError(f"This peft LoRA uses {', '.join(variants) or 'bias'}, which the course's LoRA has not.")
        targets = tuple(
            role for role in layout.family.roles
            if f"{peft_path(layout, layout.projection(0, role).path)}.lora_A.weight" in state
            and (role == "query_key_value" or role not in layout.family.thirds)
        )
        if not targets:
            raise CourseError(f"This peft LoRA targets {config.get('target_modules')}, none of which is known here.")
        return cls(config["r"], config["lora_alpha"], targets, config.get("lora_dropout", 0.0))

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        ours = {}
        for block in range(layout.num_layers):
            for path, roles in self._by_module(layout, block).items():
                A, B = (state[f"{peft_path(layout, path)}.lora_{letter}.weight"] for letter in "AB")
                for i, role in enumerate(roles):
                    rank = slice(self.rank * i, self.rank * (i + 1))
                    ours[f"blocks.{block}.{role}.beside.A"] = A[rank]
                    ours[f"blocks.{block}.{role}.beside.B"] = B[layout.projection(block, role).columns, rank]
        return ours


class LowRank(nn.Module):
    """(alpha / r) B A x, for x of shape (B, T, in)."""

    def __init__(self, into: int, out: int, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, into))
        self.B = nn.Parameter(torch.zeros(out, rank))
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaling * (self.dropout(x) @ self.A.T @ self.B.T)  # (B, T, in) -> (B, T, r) -> (B, T, out)

    def merge_into(self, layout: Layout, site: Site) -> None:
        """W + (alpha / r) B A, computed in float32."""
        layout.projection(site.block, site.where).matrix.add_(self.scaling * self.B @ self.A)
