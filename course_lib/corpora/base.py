"""What a corpus is, and how its rows become a `datasets.DatasetDict`: duplicates, splits, cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime import CourseError, cache_dir, root
from .splits import normalise, position, split_of
from .strict import Problem, Problems, Reading

if TYPE_CHECKING:
    import datasets
    import pyarrow

Row = dict[str, Any]
Columns = Mapping[str, str | list[str]]  # "string", "int32", "float32", "list:string"; a list of names is a ClassLabel


@dataclass(frozen=True)
class Corpus:
    """One source of rows.

    read(folder, reading, **options) yields rows; keys of a row that are no column are only seen by the functions below.
    columns: the documented columns, or a function of the options that gives them.
    split_on(row): the text whose hash decides the split; rows with the same one are never in two splits.
    same_as(row): rows with the same value are duplicates (default: split_on).
    label: the column that must agree among duplicates; where it does not, all of them are dropped.
    only: a single split for all rows (a pure test set).
    tables: several tables with columns of their own in place of splits; `read` then yields (table, row).
    written: the file in data/written that it is read from, where the course itself wrote the rows (package None).
    """

    name: str
    package: str | None  # None: the Python interpreter itself
    read: Callable[..., Iterable]
    columns: Columns | Callable[..., Columns] | Mapping[str, Columns]
    split_on: Callable[[Row], str] = lambda row: normalise(row["text"])
    same_as: Callable[[Row], str] | None = None
    label: str | None = None
    only: str | None = None
    tables: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    written: str = ""

    def version(self) -> str:
        """The pinned version of the package, or of the interpreter; of a file of ours, the start of its hash."""
        if self.written:
            return hashlib.sha256(find(self.folder(), self.written).read_bytes()).hexdigest()[:8]
        if self.package is None:
            return platform.python_version()
        from ..sources import SOURCES

        return SOURCES[self.package].version

    def folder(self) -> Path:
        """Where the package's files are; fetched on first use."""
        if self.written:
            return root() / "data" / "written"
        if self.package is None:
            import sysconfig

            return Path(sysconfig.get_paths()["stdlib"])
        from ..sources import folder

        return Path(folder(self.package))


def find(folder: Path, tail: str) -> Path:
    """The one file under `folder` whose path ends in `tail` (archives differ in what they put above it)."""
    found = sorted(folder.rglob(tail))
    if not found:
        raise CourseError(
            f"There is no {tail} in {folder}: the package is incomplete. "
            "Delete that folder and run `python -m course_lib fetch`."
        )
    return found[0]


# --- from rows to splits ---------------------------------------------------------------------------------------------


def collect(corpus: Corpus, keep_duplicates: bool, options: Mapping[str, Any]) -> tuple[dict[str, list[Row]], Reading]:
    """Read a corpus, drop duplicates, and deal the rows out to the splits, in the order of their hash.

    That order is a fixed shuffle: the first n rows of a split are a random sample of it.
    """
    reading = Reading(corpus.name)
    rows = list(corpus.read(corpus.folder(), reading, **options))
    reading.rows = len(rows)
    if corpus.tables:
        tables = {name: [] for name in corpus.columns}
        for name, row in rows:
            tables[name].append(row)
        return tables, reading

    same_as = corpus.same_as or corpus.split_on
    keyed = [(same_as(row), row) for row in rows]
    if not keep_duplicates:
        keyed = _without_duplicates(keyed, corpus.label, reading)
    keyed.sort(key=lambda pair: position(pair[0]))  # a stable sort: rows with equal keys keep the file's order
    if corpus.only:
        return {corpus.only: [row for _, row in keyed]}, reading
    splits = {"train": [], "validation": [], "test": []}
    for _, row in keyed:
        splits[split_of(corpus.split_on(row))].append(row)
    return splits, reading


def _without_duplicates(keyed: list[tuple[str, Row]], label: str | None, reading: Reading) -> list[tuple[str, Row]]:
    labels: dict[str, set] = {}
    if label:
        for key, row in keyed:
            labels.setdefault(key, set()).add(row[label])
    first, kept = set(), []
    for key, row in keyed:
        if label and len(labels[key]) > 1:
            reading.contradictions += 1
        elif key in first:
            reading.duplicates += 1
        else:
            first.add(key)
            kept.append((key, row))
    return kept


# --- Arrow and the cache ---------------------------------------------------------------------------------------------


def to_table(rows: list[Row], columns: Columns) -> pyarrow.Table:
    """Rows as an Arrow table that carries the `datasets` features in its schema; class names become numbers."""
    import datasets
    import pyarrow

    features, data = {}, {}
    for name, kind in columns.items():
        values = [row[name] for row in rows]
        if isinstance(kind, list) or kind.startswith("list:["):
            names = kind if isinstance(kind, list) else json.loads(kind[5:])
            numbers = {label: number for number, label in enumerate(names)} | {None: -1}
            feature = datasets.ClassLabel(names=names)
            if isinstance(kind, list):
                values = [numbers[value] for value in values]
            else:
                feature, values = (
                    datasets.List(feature),
                    [[numbers[item] for item in value] for value in values],
                )
        elif kind.startswith("list:"):
            feature = datasets.List(datasets.Value(kind[5:]))
        else:
            feature = datasets.Value(kind)
        features[name], data[name] = feature, values
    return pyarrow.table(data, schema=datasets.Features(features).arrow_schema)


@cache
def _code_version() -> str:
    """A hash of this room's files: a reader that changes makes its cached results stale."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(corpus: Corpus, keep_duplicates: bool = False, **options: Any) -> tuple[datasets.DatasetDict, Reading]:
    """The corpus from the cache, or read from its package and cached. Raises CourseError for an unknown option."""
    if unknown := set(options) - set(corpus.options):
        known = ", ".join(corpus.options) or "none besides keep_duplicates"
        raise CourseError(f"load_data('{corpus.name}') has no option '{sorted(unknown)[0]}'; it has: {known}.")
    options = dict(corpus.options) | options
    settings = [corpus.name, corpus.package, corpus.version(), keep_duplicates, options, _code_version()]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    cached = cache_dir() / "corpora" / f"{corpus.name}-{key}"
    found = _from_cache(cached)
    if found is None:
        columns = corpus.columns(**options) if callable(corpus.columns) else corpus.columns
        splits, reading = collect(corpus, keep_duplicates, options)
        tables = {s: to_table(rows, columns[s] if corpus.tables else columns) for s, rows in splits.items()}
        _to_cache(cached, tables, reading)
        found = tables, reading
    tables, reading = found
    return _dataset_dict(tables, reading, key, corpus), reading


def _dataset_dict(tables: Mapping[str, pyarrow.Table], reading: Reading, key: str, corpus: Corpus):
    import datasets

    origin = corpus.package or corpus.written or "Python"
    about = f"{origin} {corpus.version()}. {str(reading).splitlines()[0]}"
    parts = {}
    for split, table in tables.items():
        info = datasets.DatasetInfo(description=about, dataset_name=corpus.name)
        parts[split] = datasets.Dataset(table, info=info, split=datasets.Split(split), fingerprint=f"{key}-{split}")
    return datasets.DatasetDict(parts)


def _from_cache(folder: Path) -> tuple[dict[str, pyarrow.Table], Reading] | None:
    import pyarrow

    try:
        account = json.loads((folder / "reading.json").read_text("utf-8"))
        tables = {}
        for split in account.pop("splits"):
            with pyarrow.OSFile(str(folder / f"{split}.arrow")) as file:
                tables[split] = pyarrow.ipc.open_stream(file).read_all()
    except (OSError, ValueError, KeyError, pyarrow.ArrowInvalid):
        return None
    account["problems"] = Problems(Problem(*problem) for problem in account["problems"])
    account["left_out"] = Counter(account["left_out"])
    return tables, Reading(**account)


def _to_cache(folder: Path, tables: Mapping[str, pyarrow.Table], reading: Reading) -> None:
    """Write beside the final place and rename: another process sees all or nothing. A full disk costs time only."""
    import pyarrow

    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
        for split, table in tables.items():
            with (
                pyarrow.OSFile(str(temporary / f"{split}.arrow"), "wb") as file,
                pyarrow.ipc.new_stream(file, table.schema) as writer,
            ):
                writer.write_table(table)
        account = vars(reading) | {"splits": list(tables)}
        (temporary / "reading.json").write_text(json.dumps(account, ensure_ascii=False), "utf-8")
        if folder.exists():  # an unreadable one, or another process was quicker
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError:
        pass  # the data are in memory; the next call reads the source again
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
