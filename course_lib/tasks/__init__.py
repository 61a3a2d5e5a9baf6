"""Tasks: what goes in, what is asked, how the answer is scored. A task knows tokens and labels, no method of tuning."""

from .answering import Answer
from .base import TASKS, Task, describe, from_description, inputs_of
from .classification import Classification
from .next_token import NextToken

__all__ = ["TASKS", "Answer", "Classification", "NextToken", "Task", "describe", "from_description", "inputs_of"]
