"""The capstone of chapter 47: the best addition of at most 20,000 numbers, trained in a minute, on reviews never seen.

    python -m course_lib capstone my_entry.py

The file defines build(base, train, validation) -> tuned: MiniLM, two lists of film reviews ({"text": ..., "label": 0
or 1}), and back comes `cl.attach(base, ..., task=cl.tasks.Classification(2))`, trained. It runs in a sandbox, with the
two lists and without the files of the data, so the reviews it is scored on are out of its reach; what leaves the
sandbox is the saved addition, and it is put on a fresh base here. `ours.py` is an example, and the entry to beat.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..runtime import CourseError

if TYPE_CHECKING:
    from ..evaluation import Measured

NUMBERS = 20_000  # trained or stored, the head included
SECONDS = 60  # of CPU time, for build
START = 40  # more for the process: imports, reading the base, writing the addition
MEMORY = 24 * 2**30  # address space, of which torch reserves far more than it uses
CORPUS = "movie-reviews"
OURS = Path(__file__).with_name("ours.py")


@dataclass(frozen=True)
class Verdict:
    """What came of an entry that kept the rules."""

    method: str
    numbers: int
    seconds: float  # of CPU time in build
    accuracy: Measured  # with the bootstrap interval over the rows
    to_beat: float | None = None  # mean accuracy of our entry's stored runs

    def __str__(self) -> str:
        lines = [
            ("addition", self.method), ("numbers", f"{self.numbers:,} of at most {NUMBERS:,}"),
            ("time", f"{self.seconds:.1f} of at most {SECONDS} CPU seconds"),
            ("accuracy", f"{self.accuracy:.3f} on {self.accuracy.n:,} reviews that it has not seen"),
        ]  # fmt: skip
        if self.to_beat is not None:
            ahead = self.accuracy.value - self.to_beat
            chance = "; your interval includes ours" if self.to_beat in self.accuracy else ""
            lines.append(("to beat", f"{self.to_beat:.3f}, our own entry; yours is at {ahead:+.3f}{chance}"))
        return "\n".join(f"{name:<10}{text}" for name, text in lines)


def judge(file: str | Path) -> Verdict:
    """Run an entry and score it. Raises CourseError, a sentence, for an entry that breaks a rule."""
    from .. import corpora

    path = Path(file)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"The entry {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    reviews = corpora.load_data(CORPUS)
    rows = {name: [{"text": row["text"], "label": row["label"]} for row in reviews[name]] for name in reviews}
    report = enter(source, rows["train"], rows["validation"])
    return score(report, rows["test"])


def enter(source: str, train: list[dict], validation: list[dict], seconds: float = SECONDS) -> dict[str, Any]:
    """What entrant.py reports of an entry from inside the sandbox: the files of its addition, and the time it took."""
    from .. import runtime, sandbox
    from .entrant import MARK

    places = sandbox.course()
    folder = base_folder()
    told = {"source": source, "base": str(folder), "train": train, "validation": validation, "seconds": seconds}
    files = {"told.json": json.dumps(told)}
    known = runtime.cache_dir() / "bfloat16_speedup.json"  # how fast this machine is: measured once
    if known.is_file():
        files[f"cache/{known.name}"] = known.read_bytes()
    result = sandbox.run(
        "from course_lib.capstone import entrant\nentrant.main()", files=files, paths=places["paths"],
        readable=[*places["readable"], folder], seconds=seconds + START, memory=MEMORY, output=4_000_000,
        environment={"COURSE_CACHE": "cache", "HF_HUB_OFFLINE": "1", "USER": "learner"},
    )  # fmt: skip
    said = [line for line in result.stdout.splitlines() if line.startswith(MARK)]
    if said:
        report = json.loads(said[-1][len(MARK) :])
        if "fault" in report:
            raise CourseError(report["fault"])
        return report
    raise CourseError(_without_report(result.status, result.stderr, seconds))


def _without_report(status: str, stderr: str, seconds: float) -> str:
    """Why a process ended before it could report."""
    if status == "timeout":
        return too_slow(seconds)
    if status == "memory":
        return f"Your entry asked for more than {MEMORY / 2**30:.0f} GiB of memory and was stopped."
    last = stderr.strip().splitlines()[-1:] or ["nothing was said"]
    return f"Your entry ended before it gave an addition back ({status}): {last[0]}"


def too_slow(seconds: float) -> str:
    """The sentence for an entry that is out of time."""
    return (
        f"Your build took more than {seconds:g} CPU seconds and was stopped. Train on fewer or shorter rows, higher in "
        "the model (cl.cache_below), or in fewer epochs."
    )


def score(report: dict[str, Any], test: Sequence[dict]) -> Verdict:
    """Put the reported addition on a fresh base, count it, and ask it for the held-out rows."""
    from .. import additive, bases, evaluation, tasks

    base = bases.load_base("minilm")
    with TemporaryDirectory() as folder:
        for name, content in report["files"].items():
            (Path(folder) / Path(name).name).write_bytes(base64.b64decode(content))
        tuned = additive.load(base, folder)
    if not isinstance(tuned.task, tasks.Classification) or tuned.task.labels != 2:
        raise CourseError(f"The addition's task is {tuned.task}; it should be cl.tasks.Classification(2).")
    budget = tuned.budget()
    numbers = max(budget.trained, budget.stored)
    if numbers > NUMBERS:
        raise CourseError(
            f"Your addition {tuned.additions['default'].method} has {numbers:,} numbers, the head included; at most "
            f"{NUMBERS:,} are allowed. Make it narrower, or put it into fewer layers."
        )
    accuracy = evaluation.evaluate(tuned, test, metrics=["accuracy"], progress=False)["accuracy"]
    return Verdict(str(tuned.additions["default"].method), numbers, report["seconds"], accuracy, _to_beat())


def base_folder() -> Path:
    """Where MiniLM's files are."""
    from .. import bases, sources

    shipped = bases.SHIPPED["minilm"]
    return sources.folder(shipped.package) / shipped.path


def _to_beat() -> float | None:
    """The mean accuracy of our entry, if its runs are stored."""
    from ..experiments import results

    try:
        return results("47-capstone").measured("accuracy").value
    except CourseError:
        return None
