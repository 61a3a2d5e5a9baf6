"""LLaMA-Adapter: Zhang et al., "LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention", ICLR
2024.

    h <- h + W_o [ tanh(g) softmax(q (W_k P)^T / sqrt d) (W_v P) ]

P (p, d) are prompt vectors of one layer, W_k, W_v, W_o the frozen projections; P's keys are not rotated. One gate g a
head, begun at zero, stands OUTSIDE the softmax: exact identity at the start. The top L' layers have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from . import checks
from .base import Method
from .sites import Site


@dataclass(frozen=True)
class LlamaAdapter(Method):
    """`length` p; `layers` L', by default the top two thirds.

    `compat="peft"`: one gate a layer, without tanh, as peft has it.
    """

    length: int = 10
    layers: int | None = None
    compat: str | None = None

    family = "additive"  # placed by us, by definition
    paper = "Zhang et al. 2024"
    formula = "h <- h + W_o [tanh(g) softmax(q K_P) V_P]"
    count = "L' (p d + n_heads)"
    peft_type = "ADAPTION_PROMPT"
    peft_head = None  # peft neither trains nor saves one with this method
    peft_fields = ("adapter_len", "adapter_layers")
    why_no_merge = "its softmax over the prompt depends on the query"

    def __post_init__(self):
        checks.whole_number(self, "length")
        checks.one_of(self, "compat", (None, "peft"))

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        if layout.family.decoder is not None:
            raise CourseError(
                "LLaMA-Adapter is defined for one stack, whose top layers look at a prompt in their self-attention; an "
                f"encoder-decoder such as {layout.kind} has three attentions, and the paper does not say which of "
                "them looks. PrefixTuning and PromptTuning are defined there."
            )
        layers = -(-2 * layout.num_layers // 3) if self.layers is None else self.layers
        if not 1 <= layers <= layout.num_layers:
            raise CourseError(f"layers={layers} is not between 1 and the {layout.num_layers} layers of this model.")
        for block in range(layout.num_layers - layers, layout.num_layers):
            yield Site("attend", "attention", block), ZeroInitAttention(layout, block, self.length, self.compat)

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]] | None:
        if self.compat != "peft" or layout.kind != "llama":  # peft has no tanh and one gate for all heads
            return None
        tensors = {}
        for key, tensor in state.items():
            block, name = key.split(".")[1], key.split(".")[-1]
            where = "base_model.model.model.layers" if hasattr(layout.model, "model") else "base_model.model.layers"
            peft_name = {"P": "adaption_prompt", "gate": "adaption_gate"}[name]
            tensors[f"{where}.{block}.self_attn.{peft_name}"] = tensor[None] if name == "P" else tensor
        layers = len({key.split(".")[1] for key in state})
        return {"adapter_len": self.length, "adapter_layers": layers, "target_modules": "self_attn"}, tensors

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> LlamaAdapter:
        if layout.kind != "llama":
            raise CourseError(
                f"peft's ADAPTION_PROMPT on a {layout.kind} model is another function than LLaMA-Adapter. Open it "
                "with peft, or train the course's LlamaAdapter."
            )
        return cls(config["adapter_len"], config["adapter_layers"], compat="peft")

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        ours = {}
        for key, tensor in state.items():
            *_, block, _, name = key.split(".")
            P = name == "adaption_prompt"
            ours[f"blocks.{block}.attention.attend.{'P' if P else 'gate'}"] = tensor[0] if P else tensor
        return ours


class ZeroInitAttention(nn.Module):
    """tanh(g) softmax(q (W_k P)^T / sqrt d) (W_v P) of one layer, for q of shape (B, heads, T, head width)."""

    def __init__(self, layout: Layout, block: int, length: int, compat: str | None):
        super().__init__()
        self.P = nn.Parameter(torch.empty(length, layout.width).normal_())
        self.gate = nn.Parameter(torch.zeros(1 if compat == "peft" else layout.num_heads))
        self.squash = (lambda g: g) if compat == "peft" else torch.tanh
        self.__dict__["frozen"] = (layout.projection(block, "key"), layout.projection(block, "value"))

    def forward(self, q: Tensor) -> Tensor:
        heads, width = q.shape[1], q.shape[-1]
        P = self.P.to(q.dtype)
        K, V = (self._heads(F.linear(P, frozen.matrix, frozen.bias), heads, width) for frozen in self.frozen)
        said = F.softmax(q @ K.transpose(-1, -2) / width**0.5, dim=-1, dtype=torch.float32).to(q.dtype) @ V
        return self.squash(self.gate)[:, None, None].to(q.dtype) * said  # (B, heads, T, head width)

    @staticmethod
    def _heads(projected: Tensor, heads: int, width: int) -> Tensor:
        """(p, k) -> (heads, p, head width), each key head repeated for its group of query heads."""
        split = projected.unflatten(-1, (-1, width)).transpose(0, 1)
        return split.repeat_interleave(heads // len(split), dim=0)


