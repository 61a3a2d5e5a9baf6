"""Experiments by name: a grid of points, and a function that measures one point."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from course_lib.runtime import CourseError

Point = dict[str, str | int | float]
REGISTERED: dict[str, Experiment] = {}


@dataclass(frozen=True)
class Experiment:
    """A named grid and the function that turns one of its points into numbers."""

    name: str
    about: str
    grid: tuple[Point, ...]
    run_one: Callable[..., dict[str, float]]
    minutes: float  # of the whole grid, on two CPU cores, roughly


def experiment(name: str, *, grid: Sequence[Point], minutes: float, about: str) -> Callable[[Callable], Callable]:
    """Register `run_one(**point) -> {column: number}` under a name, for `python -m course_lib experiment NAME`."""

    def register(run_one: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float]]:
        REGISTERED[name] = Experiment(name, about, tuple(dict(point) for point in grid), run_one, minutes)
        return run_one

    return register


def all_experiments() -> dict[str, Experiment]:
    """Every experiment of the course, from the modules chapter_NN beside this file."""
    package = importlib.import_module("course_lib.experiments")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("chapter_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(REGISTERED.items()))


def named(name: str) -> Experiment:
    """One experiment, or a sentence with the nearest name."""
    known = all_experiments()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
        raise CourseError(f"There is no experiment called {name!r}. {hint}")
    return known[name]
