"""All sizes that depend on the scale, in one table: chapter -> scale -> name -> value.

A notebook writes `size = cl.sizes("41")` once and then `size.reviews`, `size.epochs`; the same cells run everywhere.
"""

from __future__ import annotations

from types import SimpleNamespace

from course_lib.runtime import CourseError, scale

SIZES: dict[str, dict[str, dict[str, object]]] = {
    "00": {"laptop": {}, "gpu": {}},
    "41": {"laptop": {}, "gpu": {}},
}


def sizes(chapter: str) -> SimpleNamespace:
    """The sizes of a chapter ("41") at the present scale, as attributes."""
    if chapter not in SIZES:
        raise CourseError(f"There are no sizes for chapter {chapter!r}; the table has {', '.join(SIZES)}.")
    return SimpleNamespace(**SIZES[chapter][scale()])
