"""LayerNorm tuning: Zhao et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning", ICLR
2024; among the comparators since Houlsby et al. 2019. It selects: every LayerNorm (or RMSNorm) trains, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..architectures import Layout, own_copy
from ..runtime import CourseError
from .base import Method
from .sites import Site


@dataclass(frozen=True)
class LayerNormTuning(Method):
    """Trains a copy of every LayerNorm, those of the embeddings and of the end included."""

    family = "selective"
    paper = "Houlsby et al. 2019; Zhao et al. 2024"
    formula = "gain <- gain', bias <- bias'"
    count = "all norms (BERT-base 38,400)"
    peft_type = "LN_TUNING"
    why_no_merge = None

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        for path, norm in layout.norms():
            yield Site("instead", path), OwnNorm(norm)

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
        tensors = {_peft_key(key): tensor for key, tensor in state.items()}
        return {"target_modules": sorted({path.split(".")[-1] for path, _ in layout.norms()})}, tensors

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> LayerNormTuning:
        expected = {f"base_model.model.{path}.ln_tuning_layers.weight" for path, _ in layout.norms()}
        left_out = sorted(expected - state.keys())
        if left_out:
            raise CourseError(f"This peft file leaves norms out (first: {left_out[0]}); the course trains them all.")
        return cls()

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {_own_key(key): tensor for key, tensor in state.items()}


def _peft_key(key: str) -> str:
    """encoder.norm.instead.norm.weight -> base_model.model.encoder.norm.ln_tuning_layers.weight"""
    return "base_model.model." + key.replace(".instead.norm.", ".ln_tuning_layers.")


def _own_key(key: str) -> str:
    return key.removeprefix("base_model.model.").replace(".ln_tuning_layers.", ".instead.norm.")


class OwnNorm(nn.Module):
    """A LayerNorm of the addition's own, begun as the base's."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = own_copy(norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def merge_into(self, layout: Layout, site: Site) -> None:
        layout.model.get_submodule(site.where).load_state_dict(self.norm.state_dict())
