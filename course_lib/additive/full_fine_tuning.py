"""Full fine-tuning: every number of the base is copied and trained. The comparator of all additions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..architectures import Layout, own_copy
from .base import Method
from .sites import Site


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Trains a copy of all weights; the base itself stays as it is, as everywhere in the course."""

    family = "comparator"
    paper = "Devlin et al. 2019"
    formula = "theta <- theta + delta, for every weight"
    count = "all"
    why_no_merge = "it is a whole model already, with nothing beside it"

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        yield Site("whole"), own_copy(layout.model)
