"""Tasks: what goes in, what is asked, how the answer is scored. A task knows tokens and labels, no method of tuning."""

from .answering import Answer
from .base import TASKS, Task, describe, from_description, inputs_of
from .classification import Classification
from .generation import Generation
from .masked_tokens import MaskedTokens
from .next_token import NextToken
from .recommendation import NextItem
from .sequence_to_sequence import SequenceToSequence
from .span_denoising import SpanDenoising
from .tagging import Tagging

__all__ = [
    "TASKS", "Answer", "Classification", "Generation", "MaskedTokens", "NextItem", "NextToken", "SequenceToSequence",
    "SpanDenoising", "Tagging", "Task", "describe", "from_description", "inputs_of",
]
