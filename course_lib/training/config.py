"""`python -m course_lib train CONFIG`: one run described by a TOML file, on one device or under `accelerate launch`."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import tomllib
from pathlib import Path
from typing import Any

from course_lib.runtime import CourseError, seed
from course_lib.training.history import History
from course_lib.training.loop import fit

EXAMPLE = """
save = "runs/reviews"            # the trained addition goes here
[base]
name = "minilm"
[data]
name = "movie-reviews"
[method]
name = "ParallelAdapter"
bottleneck = 16
[task]
name = "Classification"
labels = 2
[fit]
epochs = 2
learning_rate = 1e-3
folder = "runs/reviews-checkpoints"
resume = true
"""


def read_config(path: str | Path) -> dict[str, Any]:
    """Read and check a configuration; what is unknown or missing is named, with the nearest known name."""
    try:
        config = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CourseError(f"There is no file {path}. A configuration looks like this:\n{EXAMPLE}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} is not valid TOML: {error}.") from None
    tables = ("base", "data", "method", "task")
    require_known(config, (*tables, "fit", "limit", "save"), f"{path}")
    for table in tables:
        if not isinstance(config.get(table), dict) or "name" not in config[table]:
            raise CourseError(
                f"{path} needs a table [{table}] with a name. A configuration looks like this:\n{EXAMPLE}"
            )
    options = [name for name, p in inspect.signature(fit).parameters.items() if p.kind is p.KEYWORD_ONLY]
    require_known(config.setdefault("fit", {}), set(options) - {"task", "tokenizer"}, f"[fit] in {path}")
    return config


def require_known(given: dict[str, Any], known: Any, place: str) -> None:
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(sorted(known))}."
            raise CourseError(f"{place} has {name!r}, which is not known; {hint}")


def build(room: Any, table: dict[str, Any], place: str) -> Any:
    """The object that a table describes: the class `name` of a room of the library, the other entries as fields."""
    options = {key: value for key, value in table.items() if key != "name"}
    classes = {name: item for name, item in vars(room).items() if isinstance(item, type)}
    require_known({table["name"]: None}, classes, f"[{place}]")
    kind = classes[table["name"]]
    if dataclasses.is_dataclass(kind):
        require_known(options, [f.name for f in dataclasses.fields(kind)], f"[{place}] {table['name']}")
    try:
        return kind(**options)
    except TypeError as error:
        raise CourseError(f"[{place}] does not fit {table['name']}: {error}.") from None


def call(load: Any, table: dict[str, Any], place: str) -> Any:
    """`load(name, ...)` with the table's other entries as options."""
    options = {key: value for key, value in table.items() if key != "name"}
    known = inspect.signature(load).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in known):
        require_known(options, [p.name for p in known if p.kind is not p.POSITIONAL_ONLY][1:], f"[{place}]")
    return load(table["name"], **options)


def train(path: str | Path) -> History:
    """Run the configuration at `path`: load, attach, fit, save; returns the history.

    The file holds the tables [base], [data], [method], [task] (each a name, and options) and [fit] (arguments of
    `fit`), perhaps [limit] (the most rows of a split), and `save`, the folder for what was trained.
    """
    config = read_config(path)
    from course_lib import additive, bases, corpora, tasks

    method, task = build(additive, config["method"], "method"), build(tasks, config["task"], "task")
    data = call(corpora.load_data, config["data"], "data")
    for split, rows in config.get("limit", {}).items():
        data[split] = data[split].select(range(min(rows, len(data[split]))))
    base = call(bases.load_base, config["base"], "base")
    seed(config["fit"].get("seed", 0))  # what attach draws, too
    tuned = additive.attach(base, method, task=task)
    history = fit(tuned, data, **config["fit"])
    if "save" in config:
        from accelerate import PartialState

        if PartialState().is_main_process:
            tuned.save(config["save"])
    return history
