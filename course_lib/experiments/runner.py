"""Run an experiment point by point. Every point is written as soon as it is measured, so stopping costs one point."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import random
import subprocess
import time
from typing import Any

from filelock import FileLock

from course_lib import runtime
from course_lib.evaluation.intervals import next_run_interval
from course_lib.experiments.registry import Experiment, Point, all_experiments, named
from course_lib.experiments.store import Results, path_of
from course_lib.runtime import CourseError

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy")


def command(name: str | None, *, show: bool = False, only: list[str] | None = None, again: bool = False) -> int:
    """`python -m course_lib experiment`: list the experiments, or run what is missing of one.

    `only` keeps the points with these values ("method=adapter,seed=0"); `again` measures one stored point once more,
    drawn at random, and says whether each number falls where one more run should.
    """
    if name is None:
        for one in all_experiments().values():
            print(f"{one.name:20} {_present(one):3} of {len(one.grid):3} points, {one.minutes:g} min. {one.about}")
        return 0
    chosen = named(name)
    grid = [point for point in chosen.grid if _matches(point, only or [])]
    if not grid:
        raise CourseError(f"No point of {name} has {', '.join(only or [])}. The first is {chosen.grid[0]}.")
    if show:
        stored = _stored_points(_content(chosen))
        for point in grid:
            print("stored " if _key(point) in stored else "missing", _text(point))
        return 0
    return _repeat(chosen, grid) if again else _run(chosen, grid, only)


def _run(chosen: Experiment, grid: list[Point], only: list[str] | None) -> int:
    content = _content(chosen)
    missing = [point for point in grid if _key(point) not in _stored_points(content)]
    print(f"{chosen.name}: {len(missing)} of {len(grid)} points to measure, about {chosen.minutes:g} min for all.")
    failed, begun = 0, time.perf_counter()
    for number, point in enumerate(missing, start=1):
        row = _measure(chosen, point)
        failed += "error" in row
        _store(chosen, row)
        left = (time.perf_counter() - begun) / number * (len(missing) - number)
        said = row.get("error") or ", ".join(f"{k} {v:.4g}" for k, v in row["measured"].items())
        took = f"{row['seconds']} s; {left / 60:.0f} min left"
        print(f"[{number}/{len(missing)}] {_text(point)}: {said} ({took})", flush=True)
    return 1 if failed else 0


def _store(chosen: Experiment, row: dict[str, Any]) -> None:
    """Put one row into the file, in the grid's order; several processes may measure at once."""
    order = [_key(point) for point in chosen.grid]
    with FileLock(runtime.cache_dir() / f"{chosen.name}.lock"):
        content = _content(chosen)
        rows = {_key(stored["point"]): stored for stored in content["rows"]} | {_key(row["point"]): row}
        content["rows"] = [rows[key] for key in order if key in rows]
        runtime.write_text_atomically(path_of(chosen.name), json.dumps(content, indent=1) + "\n")


def _measure(chosen: Experiment, point: Point) -> dict[str, Any]:
    """One row. An error is written down and hides no other point; an interrupt stops everything."""
    begun = time.perf_counter()
    try:
        outcome: dict[str, Any] = {"measured": {k: float(v) for k, v in chosen.run_one(**point).items()}}
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}"}
    seconds = round(time.perf_counter() - begun, 1)
    return {"point": dict(point), **outcome, "seconds": seconds, "commit": code_commit(), "machine": machine()}


def _repeat(chosen: Experiment, grid: list[Point]) -> int:
    """Measure one stored point again, under a new seed, and compare it with where one more run should fall."""
    content = _content(chosen)
    stored = [point for point in grid if _key(point) in _stored_points(content)]
    if not stored:
        raise CourseError(f"Nothing of {chosen.name} is stored yet: run it without --again first.")
    point = {**random.choice(stored)}
    fresh = {**point, "seed": max(p.get("seed", 0) for p in chosen.grid) + 1}
    print(f"{_text(point)}, again with seed {fresh['seed']}:", flush=True)
    row = _measure(chosen, fresh)
    if "error" in row:
        raise CourseError(f"The point could not be measured: {row['error']}")
    outside, where = 0, {key: value for key, value in point.items() if key != "seed"}
    for column, value in row["measured"].items():
        seeds = list(Results(content).values(column, **where).values())
        if len(seeds) > 1 and "seconds" not in column:  # another machine takes another time
            interval = next_run_interval(seeds)
            inside = value in interval or max(seeds) == min(seeds) == value
            outside += not inside
            print(f"  {column} {value:.4g}: {'inside' if inside else 'OUTSIDE'} {interval:.4g}")
    return 1 if outside else 0


def _content(chosen: Experiment) -> dict[str, Any]:
    path = path_of(chosen.name)
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
    else:
        content = {"rows": []}
    made = {"command": f"python -m course_lib experiment {chosen.name}", **provenance()}
    return {"name": chosen.name, "about": chosen.about, "provenance": made, "rows": content["rows"]}


def provenance() -> dict[str, Any]:
    """The versions of Python and of the packages that decide the numbers."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _stored_points(content: dict[str, Any]) -> set[str]:
    return {_key(row["point"]) for row in content["rows"] if "error" not in row}


def _present(chosen: Experiment) -> int:
    stored = _stored_points(_content(chosen))
    return sum(_key(point) in stored for point in chosen.grid)


def _matches(point: Point, only: list[str]) -> bool:
    wanted = [pair for text in only for pair in text.split(",")]
    for pair in wanted:
        key, equals, value = pair.partition("=")
        if not equals:
            raise CourseError(f"--only takes KEY=VALUE, as in --only method=adapter; {pair!r} is not of that form.")
        if str(point.get(key)) != value:
            return False
    return True


def _key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


def _text(point: Point) -> str:
    return " ".join(f"{key}={value}" for key, value in point.items())


def code_commit() -> str:
    """The commit the code stands at; "+" if tracked code differs from it."""

    def git(*arguments: str) -> str:
        words = ["git", "-C", str(runtime.root()), *arguments]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "course_lib", "benchmarks")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if changed else "")


def machine() -> str:
    """The processor, device and number format; no name of the machine."""
    where = runtime.where()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{runtime.cpu_name()}, {os.cpu_count()} cores, {memory:.0f} GiB; {where}"
