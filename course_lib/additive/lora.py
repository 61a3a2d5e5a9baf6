"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. A comparator: by both surveys'
definition it reparametrises weights, though in the forward pass it adds.

    W x + (alpha / r) B A x,    A (r, in) random, B (out, r) zero: exact identity at the start
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from . import checks
from .base import Method
from .peft_files import peft_path, target_names, targeted
from .sites import Site

PEFT_VALUES = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "eva", "orthogonal")}  # others move the base


@dataclass(frozen=True)
class LoRA(Method):
    """`rank` r, `alpha`, and the `targets` by role; `dropout` acts on x; `layers` are the numbers of the blocks (None:
    all).

    "query", "key", "value" and "output" are those of self-attention; in a decoder beside an encoder the other
    attention's are "cross_query", "cross_key", "cross_value" and "cross_output".
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "value")
    dropout: float = 0.0
    layers: tuple[int, ...] | None = None

    family = "reparametrised"
    paper = "Hu et al. 2022"
    formula = "W x + (alpha / r) B A x"
    count = "q, v: L r (3 d + k)"
    peft_type = "LORA"
    peft_fields = ("r", "lora_alpha", "lora_dropout", "use_rslora", "megatron_core", "qalora_group_size",
                   "layers_to_transform")  # fmt: skip
    peft_values = PEFT_VALUES
    why_no_merge = None

    def __post_init__(self):
        checks.whole_number(self, "rank")
        if isinstance(self.targets, str) or not self.targets or len(set(self.targets)) < len(self.targets):
            raise CourseError(
                f"LoRA was given targets={self.targets!r}: it needs a tuple of roles, each once, such as "
                '("query", "value").'
            )
        if not 0 <= self.dropout < 1:
            raise CourseError(f"LoRA was given dropout={self.dropout}: it must lie between 0 and 1.")
        checks.layers(self)

    def blocks(self, layout: Layout) -> Sequence[int]:
        """The numbers of the blocks that it acts in."""
        return checks.blocks(self, layout.num_layers)

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        for role in self.targets:
            layout.require_role(role)
        for block in self.blocks(layout):
            for role in self.targets:
                if layout.plays(block, role):
                    out, into = layout.projection(block, role).size
                    yield Site("beside", role, block), LowRank(into, out, self.rank, self.alpha, self.dropout)

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
        """Several roles of one fused matrix become one LoRA of their ranks' sum: A stacked, B block by block.

        peft has one rank for all, so beside a fused matrix the others' A and B are filled up with zeros.
        """
        tensors, targets = {}, set()
        modules = {block: self._by_module(layout, block) for block in self.blocks(layout)}
        fused = max(len(roles) for by_path in modules.values() for roles in by_path.values())
        for block, by_path in modules.items():
            for path, roles in by_path.items():
                targets.add(path)
                first = layout.projection(block, roles[0])
                whole, into = first.module.weight.shape[::-1] if first.transposed else first.module.weight.shape
                A = state[f"blocks.{block}.{roles[0]}.beside.A"].new_zeros(self.rank * fused, into)
                B = A.new_zeros(whole, self.rank * fused)
                for i, role in enumerate(roles):
                    ranks, columns = slice(self.rank * i, self.rank * (i + 1)), layout.projection(block, role).columns
                    A[ranks] = state[f"blocks.{block}.{role}.beside.A"]
                    B[columns, ranks] = state[f"blocks.{block}.{role}.beside.B"]
                tensors[f"{peft_path(layout, path)}.lora_A.weight"] = A
                tensors[f"{peft_path(layout, path)}.lora_B.weight"] = B
        fields = {
            "r": self.rank * fused, "lora_alpha": self.alpha * fused, "target_modules": target_names(layout, targets),
            "lora_dropout": self.dropout, "fan_in_fan_out": layout.projection(0, "ffn_out").transposed,
        }
        return fields, tensors

    def _by_module(self, layout: Layout, block: int) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = {}
        for role in self.targets:
            if layout.plays(block, role):
                grouped.setdefault(layout.projection(block, role).path, []).append(role)
        return grouped

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> LoRA:
        targets, layers = targeted(layout, config["target_modules"], config.get("layers_to_transform"))
        if not targets:
            known = sorted({path for stack in layout.stacks for path in stack.roles.values()})
            raise CourseError(
                f"This peft LoRA targets {config['target_modules']}, and no projection in the blocks of this "
                f"{layout.kind} model is called so; they are: {', '.join(known)}."
            )
        rank, alpha = config["r"], config["lora_alpha"]
        if config.get("use_rslora"):  # which scales by alpha / sqrt(r)
            alpha *= rank**0.5
        return cls(rank, alpha, targets, config.get("lora_dropout", 0.0), layers)

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        ours = {}
        for block in self.blocks(layout):
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
        return self.scaling * (self.dropout(x) @ self.A.T) @ self.B.T  # (B, T, in) -> (B, T, r) -> (B, T, out)

    def merge_into(self, layout: Layout, site: Site) -> None:
        """W + (alpha / r) B A, computed in float32."""
        layout.projection(site.block, site.where).matrix.add_(self.scaling * self.B @ self.A)
