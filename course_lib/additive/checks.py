"""Sentences for the fields of a method that cannot mean anything."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from ..runtime import CourseError


def whole_number(method: object, field: str, least: int = 1) -> None:
    """Raise CourseError unless the field is a whole number that is not too small."""
    value = getattr(method, field)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise CourseError(
            f"{type(method).__name__} was given {field}={value!r}: it must be a whole number of at least {least}."
        )


def one_of(method: object, field: str, choices: Sequence[str | None]) -> None:
    """Raise CourseError unless the field is one of the choices."""
    value = getattr(method, field)
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise CourseError(f"{type(method).__name__} was given {field}={value!r}, which is not known: choose {known}.")


def layers(method: object) -> None:
    """Raise CourseError if `layers`, the blocks a method acts in, names none, or one twice."""
    value = method.layers
    if value is not None and (not value or len(set(value)) < len(value)):
        raise CourseError(f"{type(method).__name__} was given layers={value}: name at least one block, and each once.")


def blocks(method: object, number: int) -> Sequence[int]:
    """The blocks of `layers`, all of `number` if None. Raises CourseError for one that is not among them."""
    chosen = range(number) if method.layers is None else method.layers
    wrong = [block for block in chosen if not 0 <= block < number]
    if wrong:
        raise CourseError(
            f"There is no block {wrong[0]} for {type(method).__name__} to act in: it may have blocks 0 to {number - 1}."
        )
    return chosen
