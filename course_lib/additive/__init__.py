"""Additions to a frozen language model: one small file a family, one protocol in base.py.

    tuned = attach(base, ParallelAdapter(bottleneck=16), task=tasks.Classification(2))
"""

from .base import METHODS, Addition, Budget, Method, Sum, Tuned, attach, cache_below, load
from .bottleneck_adapter import BottleneckAdapter
from .full_fine_tuning import FullFineTuning
from .linear_probe import LinearProbe
from .parallel_adapter import ParallelAdapter
from .prompt_tuning import PromptTuning
from .vocabulary_bias import VocabularyBias

__all__ = [
    "METHODS", "Addition", "BottleneckAdapter", "Budget", "FullFineTuning", "LinearProbe", "Method", "ParallelAdapter",
    "PromptTuning", "Sum", "Tuned", "VocabularyBias", "attach", "cache_below", "load", "methods",
]


def methods() -> list[dict[str, str | None]]:
    """Every method of the course: name, family, paper, formula, count of trained parameters, and peft's type."""
    return [
        {
            "name": name, "family": method.family, "paper": method.paper, "formula": method.formula,
            "count": method.count, "peft": method.peft_type,
        }
        for name, method in METHODS.items() if method is not Sum
    ]
