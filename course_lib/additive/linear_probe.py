"""The linear probe: nothing is added inside; only the task's head on frozen features trains. A comparator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..architectures import Layout
from ..runtime import CourseError
from .base import Method
from .sites import Site


@dataclass(frozen=True)
class LinearProbe(Method):
    """Trains the task's head and nothing else."""

    family = "comparator"
    paper = "Alain and Bengio 2016"
    formula = "softmax(W g(x) + b)"
    count = "classes (d + 1)"
    why_no_merge = "it changes no weight of the base; its head is the whole of it"

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        if layout.head is None:
            raise CourseError("A linear probe is a head on frozen features: attach it with a task that has a head.")
        return iter(())
