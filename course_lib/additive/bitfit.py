"""BitFit: Ben Zaken, Goldberg, Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", ACL 2022. A comparator: it selects, and adds nothing new.

    b <- b',  for every bias that the model has
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from .base import Method
from .sites import Site


@dataclass(frozen=True)
class BitFit(Method):
    """Trains every bias of the model, those of its LayerNorms too."""

    family = "selective"
    paper = "Ben Zaken et al. 2022"
    formula = "b <- b'"
    count = "all biases (BERT-base 102,912)"
    why_no_merge = None

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        body = next(name for name, module in layout.model.named_modules() if module is layout.body)
        found = False
        for path, module in layout.body.named_modules():
            bias = module._parameters.get("bias")
            if bias is not None:
                found = True
                yield Site("bias", f"{body}.{path}" if body else path), NewBias(bias)
        if not found:
            raise CourseError(
                f"{type(layout.model).__name__} has no biases, so BitFit, which trains existing ones, is not defined "
                "on it. New biases would be an addition."
            )


class NewBias(nn.Module):
    """b' - b, which is added to what the module says."""

    def __init__(self, bias: Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone().float())
        self.register_buffer("base", bias.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.bias - self.base).expand(*x.shape[:-1], -1)

    def merge_into(self, layout: Layout, site: Site) -> None:
        layout.model.get_submodule(site.where).bias.copy_(self.bias)
