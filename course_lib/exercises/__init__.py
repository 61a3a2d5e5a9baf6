"""Exercises: stubs and their checks, solutions, predictions, progress, a notebook's student version."""

from .assignment import assignment
from .grade import grade
from .ledger import progress
from .predictions import calibration, predict, reveal
from .registry import Verdict, check, exercise, judge, solution

__all__ = [
    "Verdict",
    "assignment",
    "calibration",
    "check",
    "exercise",
    "grade",
    "judge",
    "predict",
    "progress",
    "reveal",
    "solution",
]
