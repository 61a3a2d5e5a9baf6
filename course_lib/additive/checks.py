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
