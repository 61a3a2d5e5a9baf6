"""Numbers in the text that come from stored results, and the test that they still do.

A number in a notebook's prose is followed by a comment that readers do not see:

    the adapter reaches 0.812<!--claim 41-three-ways accuracy method=adapter,rows=2000 .3f-->
    [0.803, 0.821]<!--claim 41-three-ways accuracy method=adapter,rows=2000 .3f interval-->
    0.024<!--claim 41-three-ways accuracy method=full,rows=2000 - method=adapter,rows=2000 .3f--> better

`quoted` recomputes what should stand there; tests/unit/test_claims.py compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from course_lib.experiments.store import results
from course_lib.runtime import CourseError

COMMENT = re.compile(
    r"(?P<said>\[[^\[\]]*\]|[-+−]?\d[\d,]*(?:\.\d+)?(?:\s?%)?|\.\d+)\s*<!--\s*claim\s+(?P<terms>[^>]*?)\s*-->"
)
ANY = re.compile(r"<!--\s*claim\b")
NUMBERS = ((int, r"-?\d+"), (float, r"-?\d*\.\d+(?:e-?\d+)?|-?\d+e-?\d+"))
SPEC = re.compile(r"[+,]?\.?\d*[fgd%]")


@dataclass(frozen=True)
class Claim:
    """A number in the text and the terms that say where it comes from."""

    said: str
    terms: str

    def expected(self) -> str:
        """What should stand in the text, recomputed from data/results."""
        return quoted(self.terms)

    def holds(self) -> bool:
        return _plain(self.said) == _plain(self.expected())


def claims_in(text: str) -> Iterator[Claim]:
    """The claims of a text. Raises CourseError for a comment that no number precedes."""
    found = [Claim(match["said"], match["terms"]) for match in COMMENT.finditer(text)]
    if len(found) != len(ANY.findall(text)):
        raise CourseError("A claim comment stands behind no number; write the number or interval directly before it.")
    yield from found


def quoted(terms: str) -> str:
    """The text of a claim: `NAME column [k=v,...] [- k=v,...] [format] [interval]`; `after-before`: two columns."""
    name, column, *rest = terms.split()
    interval = "interval" in rest
    rest = [word for word in rest if word != "interval"]
    spec = next((word for word in rest if SPEC.fullmatch(word)), ".3f")
    sides = " ".join(word for word in rest if word != spec).split(" - ")
    points = [_point(side) for side in sides]
    stored = results(name)
    if "-" in column:
        measured = stored.gain(*column.split("-"), **points[0])
    elif len(points) == 2:
        measured = stored.difference(column, *points)
    else:
        measured = stored.measured(column, **points[0])
    if interval:
        return f"[{measured.low:{spec}}, {measured.high:{spec}}]"
    return f"{measured.value:{spec}}"


def _point(text: str) -> dict:
    point = {}
    for pair in filter(None, text.strip().split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise CourseError(f"In a claim, {pair!r} should be KEY=VALUE.")
        point[key] = next((kind(value) for kind, form in NUMBERS if re.fullmatch(form, value)), value)
    return point


def _plain(text: str) -> str:
    return text.replace("−", "-").replace(" ", "").replace("\u202f", "")
