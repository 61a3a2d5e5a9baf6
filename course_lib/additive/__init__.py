"""Additions to a frozen language model: one small file a family, one protocol in base.py.

    tuned = attach(base, ParallelAdapter(bottleneck=16), task=tasks.Classification(2))
"""

from ..bases import Base
from ..runtime import CourseError
from .adapter_fusion import AdapterFusion
from .base import METHODS, Addition, Budget, Method, Sum, Tuned, attach, cache_below, load
from .bitfit import BitFit
from .bottleneck_adapter import BottleneckAdapter
from .compacter import Compacter
from .full_fine_tuning import FullFineTuning
from .ia3 import IA3
from .ladder_side_tuning import LadderSideTuning
from .layer_norm_tuning import LayerNormTuning
from .linear_probe import LinearProbe
from .llama_adapter import LlamaAdapter
from .lora import LoRA
from .loreft import LoReFT
from .memory import SavedActivations, saved_activation_bytes
from .mix_and_match import MixAndMatch
from .p_tuning import PTuning
from .parallel_adapter import ParallelAdapter
from .prefix_tuning import PrefixTuning
from .prompt_tuning import PromptTuning
from .side_tuning import SideTuning
from .unipelt import UniPELT
from .vocabulary_bias import VocabularyBias

__all__ = [
    "IA3", "METHODS", "AdapterFusion", "Addition", "BitFit", "BottleneckAdapter", "Budget", "Compacter",
    "FullFineTuning", "LadderSideTuning", "LayerNormTuning", "LinearProbe", "LlamaAdapter", "LoRA", "LoReFT",
    "Method", "MixAndMatch", "PTuning", "ParallelAdapter", "PrefixTuning", "PromptTuning", "SavedActivations",
    "SideTuning", "Sum", "Tuned", "UniPELT", "VocabularyBias", "attach", "cache_below", "load", "methods",
    "saved_activation_bytes",
]


def methods(base: Base | None = None) -> list[dict[str, str]]:
    """Every method of the course: name, family, paper, formula, count of trained parameters, and peft's type.

    With a base, also what the method with its defaults trains and stores there, heads aside ("-": not defined
    there, or, as AdapterFusion, not without saved parts).
    """
    rows = []
    for name, method in METHODS.items():
        if method is Sum:
            continue
        row = {"method": name, "family": method.family, "paper": method.paper, "formula": method.formula}
        row |= {"count": method.count, "peft": method.peft_type or "-"}
        if base is not None:
            row |= dict(zip(("trained", "stored"), _counts(base, method)))
        rows.append(row)
    return rows


def _counts(base: Base, method: type[Method]) -> tuple[str, str]:
    try:
        budget = attach(base, method()).budget()
    except CourseError:
        return "-", "-"
    return f"{budget.trained:,}", f"{budget.stored:,}"
