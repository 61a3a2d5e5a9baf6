"""The inside of the sandbox: run an entry's build, and report its addition or the fault as one line of JSON."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime import CourseError
from . import too_slow

if TYPE_CHECKING:
    from ..bases import Base

MARK = "course-capstone "  # before the report; what the entry itself prints is not passed on
NAME = "<entry>"


class Fault(Exception):
    """An entry broke a rule; the message is the sentence for its author."""


def main() -> None:
    """Read what the parent told, and print the report."""
    from .. import bases

    told = json.loads(Path("told.json").read_text(encoding="utf-8"))
    base = bases.load_base(told["base"])
    print("\n" + MARK + json.dumps(entered(told["source"], base, told["train"], told["validation"], told["seconds"])))


def entered(source: str, base: Base, train: list[dict], validation: list[dict], seconds: float) -> dict[str, Any]:
    """{"files": ..., "seconds": ...} of a trained addition, or {"fault": sentence}."""
    from ..exercises.registry import TooSlow, time_limit

    before = base.fingerprint()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            with time_limit(seconds):
                begun = time.process_time()
                tuned = _defined(source)(base, train, validation)
                took = time.process_time() - begun
            if base.fingerprint() != before:
                raise Fault(
                    "Your build changed the base: its tensors differ from before, to the last bit. An addition leaves "
                    "the base alone: use cl.attach, which works on a copy, and train tuned, not base.model."
                )
            return {"files": _saved(tuned), "seconds": round(took, 1)}
    except TooSlow:
        return {"fault": too_slow(seconds)}
    except Fault as fault:
        return {"fault": str(fault)}
    except MemoryError:
        return {"fault": "Your build asked for more memory than it may have and was stopped."}
    except Exception as error:
        return {"fault": _raised(error, source)}


def _defined(source: str) -> Callable:
    """The entry's build."""
    try:
        code = compile(source, NAME, "exec")
    except SyntaxError as error:
        raise Fault(f"Your entry is no valid Python: line {error.lineno}, {error.msg}.") from error
    scope: dict[str, Any] = {"__name__": "entry"}
    exec(code, scope)
    build = scope.get("build")
    if not callable(build):
        raise Fault(
            "Your entry defines no function build(base, train, validation). It should return the trained addition: "
            "tuned = cl.attach(base, method, task=cl.tasks.Classification(2)); cl.fit(tuned, train); return tuned."
        )
    return build


def _saved(tuned: Any) -> dict[str, str]:
    """The addition's two files, as text."""
    from ..additive.base import Tuned

    if not isinstance(tuned, Tuned):
        raise Fault(f"Your build returned {type(tuned).__name__}; it should return what cl.attach gives, trained.")
    folder = tuned.save(Path("saved"))
    return {path.name: base64.b64encode(path.read_bytes()).decode() for path in sorted(folder.iterdir())}


def _raised(error: Exception, source: str) -> str:
    """An exception as a sentence, with the last line of the entry that it passed."""
    said = str(error).strip() if isinstance(error, CourseError) else f"{type(error).__name__}: {error}".strip(": ")
    theirs = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
    lines = source.splitlines()
    at = f" in line {theirs[-1]}, `{lines[theirs[-1] - 1].strip()}`" if theirs and theirs[-1] <= len(lines) else ""
    return f"Your entry stopped{at}: {said}"
