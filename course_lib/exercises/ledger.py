"""What the learner has done, in progress.json in the course's folder: local, readable, safe to delete."""

from __future__ import annotations

import html
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..runtime import root

EMPTY = {"version": 1, "exercises": {}, "predictions": {}}


def path() -> Path:
    """Where progress is kept."""
    return root() / "progress.json"


def load() -> dict:
    """The progress so far. A file that cannot be read is set aside with a sentence, and a new one begun."""
    file = path()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(found[part], dict) for part in ("exercises", "predictions")):
            raise ValueError("it lacks its parts")
        return found
    except OSError:
        pass  # there is none yet, or no place for one: `update` says so
    except (ValueError, KeyError, TypeError):
        aside = file.with_name(f"progress.damaged-{time.strftime('%Y%m%d-%H%M%S')}.json")
        os.replace(file, aside)
        print(f"{file.name} could not be read; it was set aside as {aside.name} and a new one is begun.")
    return json.loads(json.dumps(EMPTY))


def update(change: Callable[[dict], None]) -> None:
    """Read, change and replace the file in one step: an interrupt or a second notebook never leaves half."""
    from filelock import FileLock

    file = path()
    try:
        with FileLock(f"{file}.lock", timeout=5):
            content = load()
            change(content)
            half = file.with_name(f"{file.name}.{os.getpid()}.tmp")
            half.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
            os.replace(half, file)
    except (OSError, TimeoutError) as error:
        print(f"Your progress was not saved in {file}: {error}. Everything else works without it.")


def record_check(number: str, status: str, key: str) -> None:
    """Count one judged attempt. An untouched stub is not an attempt and writes nothing."""
    if status == "not attempted":
        return

    def change(content: dict) -> None:
        entry = content["exercises"].setdefault(number, {"tries": 0, "right_at": None})
        entry["tries"] += entry["right_at"] is None
        entry["last"] = key
        if status == "right":
            entry["right_at"] = entry["right_at"] or time.strftime("%Y-%m-%d %H:%M")

    update(change)


@dataclass(frozen=True)
class Progress:
    """A table of exercises and predictions, chapter by chapter: HTML in a notebook, plain text elsewhere."""

    rows: tuple[tuple[str, ...], ...]
    summary: str
    head: tuple[str, ...] = ("exercise", "what", "minutes", "state", "tries")

    def __repr__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(row[column]) for row in lines) for column in range(len(self.head))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines
        ]
        return "\n".join([*table, "", self.summary])

    def _repr_html_(self) -> str:
        def line(row: tuple[str, ...], tag: str) -> str:
            cells = (f'<{tag} style="text-align:left">{html.escape(cell)}</{tag}>' for cell in row)
            return f"<tr>{''.join(cells)}</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        return f"<table><thead>{line(self.head, 'th')}</thead><tbody>{body}</tbody></table><p>{self.summary}</p>"


def progress() -> Progress:
    """How far you are: every exercise with its state and tries, and the number of predictions recorded."""
    from .registry import all_checks

    content, rows = load(), []
    for number, wanted in all_checks().items():
        entry = content["exercises"].get(number, {"tries": 0, "right_at": None})
        state = f"right, {entry['right_at'][:10]}" if entry["right_at"] else "open" if entry["tries"] else "-"
        rows.append((number, wanted.title, str(wanted.minutes), state, str(entry["tries"] or "-")))
    done = sum(row[3].startswith("right") for row in rows)
    summary = f"{done} of {len(rows)} exercises right, {len(content['predictions'])} predictions recorded."
    return Progress(tuple(rows), summary)
