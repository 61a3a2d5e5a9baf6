"""data/results/NAME.json: rows of a stored experiment, each with what made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_lib.evaluation.intervals import Difference, Measured, paired_seeds, seeds_interval
from course_lib.evaluation.tables import Table
from course_lib.runtime import CourseError, root


def path_of(name: str) -> Path:
    return root() / "data" / "results" / f"{name}.json"


def results(name: str) -> Results:
    """The stored rows of an experiment. Raises CourseError, with the command that makes them, if there are none."""
    path = path_of(name)
    if not path.is_file():
        raise CourseError(
            f"There are no stored results called {name!r}. Make them: python -m course_lib experiment {name}"
        )
    return Results(json.loads(path.read_text(encoding="utf-8")))


class Results:
    """Rows of an experiment: each one point of the grid and what was measured there."""

    def __init__(self, content: dict[str, Any]):
        self.name, self.about, self.provenance = content["name"], content["about"], content["provenance"]
        self._rows: list[dict] = [row for row in content["rows"] if "error" not in row]

    def rows(self, **where: Any) -> list[dict]:
        """The rows whose point has these values, e.g. rows(method="adapter", rows=2000)."""
        return [row for row in self._rows if all(row["point"].get(key) == value for key, value in where.items())]

    def values(self, column: str, **where: Any) -> dict[int, float]:
        """A column by seed. Raises CourseError if the rows differ in more than their seed."""
        found = self.rows(**where)
        if not found:
            raise CourseError(f"{self.name} has no row with {where}; its points look like {self._rows[0]['point']}.")
        if column not in found[0]["measured"]:
            raise CourseError(f"{self.name} measures {', '.join(found[0]['measured'])}; {column!r} is none of these.")
        points = {tuple(sorted((k, str(v)) for k, v in row["point"].items() if k != "seed")) for row in found}
        if len(points) > 1:
            raise CourseError(f"{where} does not tell {len(points)} points of {self.name} apart: name more values.")
        return {row["point"].get("seed", 0): row["measured"][column] for row in found}

    def measured(self, column: str, **where: Any) -> Measured:
        """The mean over seeds, with the t-interval of that mean; a number without seeds has no interval."""
        values = list(self.values(column, **where).values())
        if len(values) == 1:
            return Measured(values[0], float("nan"), float("nan"), 1)
        return seeds_interval(values)

    def difference(self, column: str, a: dict[str, Any], b: dict[str, Any]) -> Difference:
        """a - b over the seeds that both have, paired."""
        one, two = self.values(column, **a), self.values(column, **b)
        seeds = sorted(one.keys() & two.keys())
        return paired_seeds([one[seed] for seed in seeds], [two[seed] for seed in seeds])

    def gain(self, after: str, before: str, **where: Any) -> Difference:
        """Column `after` - column `before` of the same runs, paired by seed."""
        one, two = self.values(after, **where), self.values(before, **where)
        return paired_seeds(list(one.values()), list(two.values()))

    def table(self, by: Sequence[str], columns: Sequence[str], caption: str = "", spec: str = ".3f", **where) -> Table:
        """A table with one line a point, and the mean and interval of some columns."""
        points = list(dict.fromkeys(tuple(row["point"][key] for key in by) for row in self.rows(**where)))
        lines = [
            [*map(str, point), *(format(self.measured(c, **where, **dict(zip(by, point))), spec) for c in columns)]
            for point in points
        ]
        return Table([*by, *columns], lines, caption)

    def __repr__(self) -> str:
        made = self.provenance
        return f"{self.name}: {self.about} {len(self._rows)} rows, made by `{made['command']}`."
