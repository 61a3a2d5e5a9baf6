"""Grading submitted notebooks: their exercises are judged in the sandbox by the course's own checks.

Of a submission only imports, definitions, constants and the exercises' cells are run, not the chapter's training, and
none of its check cells: the verdict is always `judge`'s, from this repository. What a submission cannot do there is
told by `course_lib.sandbox`. Its code and the checks share one process, so somebody who sets out to forge a verdict
could; grading saves a teacher reading, and replaces no judgement.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from .. import sandbox
from ..runtime import CourseError, cache_dir, write_text_atomically
from .assignment import notebook_of

if TYPE_CHECKING:
    from nbformat import NotebookNode

SECONDS = 30  # of CPU time, for imports; each exercise may take its own limit besides
MEMORY = 16 * 2**30  # of address space, most of which torch reserves and never uses
LARGEST = 50 * 2**20  # bytes of a submitted file
STATUS = {"right": "passed", "wrong": "failed", "not attempted": "not attempted"}


@dataclass(frozen=True)
class Grade:
    """One line of the table: an exercise of a submission. `student_id` and `assignment` are nbgrader's names."""

    file: str
    student_id: str
    assignment: str
    exercise: str
    status: str  # "passed", "failed", "not attempted", "unreadable"
    key: str = ""  # of the message, as in messages.toml: the misconception
    message: str = ""
    note: str = ""


def grade(folder: str | Path, out: str | Path | None = None) -> Path:
    """Judge every notebook under `folder` and write a CSV, by default grades.csv in it; its path is returned.

    A student is the first folder below `folder` (below submitted/, where nbgrader puts them), or, for files that lie
    in it directly, the file's name. A notebook that cannot be read gives a line that says why. Raises CourseError for
    a folder without notebooks, and where this machine has no sandbox.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"{folder} is no folder; give the one that holds the submitted notebooks.")
    found = sorted(path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not found:
        raise CourseError(f"There is no notebook (*.ipynb) in {folder}.")
    here = sandbox.protection()
    if not here.ok:
        raise CourseError(f"Submissions are run in a sandbox only, and this machine has none that holds: {here.reason}")
    target = Path(out) if out is not None else folder / "grades.csv"
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Grade)])
    writer.writeheader()
    for path in found:
        for line in grades_of(path, folder):
            writer.writerow({name: harmless(value) for name, value in asdict(line).items()})
    write_text_atomically(target, table.getvalue())
    return target


def harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def grades_of(path: Path, folder: Path) -> Iterator[Grade]:
    """The lines of one submission."""
    place = path.relative_to(folder)
    parts = place.parts[1:] if place.parts[0] == "submitted" else place.parts
    who = {"file": str(place), "student_id": parts[0] if len(parts) > 1 else path.stem}
    try:
        notebook = read(path)
        chapter = chapter_of(notebook, path)
        original = read(notebook_of(chapter))
    except CourseError as error:
        yield Grade(**who, assignment="", exercise="", status="unreadable", message=str(error))
        return
    numbers = [n for cell in code_cells(original) if "exercise" in tags(cell) for n in exercises_in(cell.source)]
    changed = tampered(notebook, original)
    verdicts = judged(pieces_of(notebook), numbers)
    for number in numbers:
        note = "its check cell was changed; the course's own was used" if number in changed else ""
        yield Grade(**who, assignment=chapter, exercise=number, **verdicts[number], note=note)


# --- reading ----------------------------------------------------------------------------------------------


def read(path: Path) -> NotebookNode:
    """A notebook; CourseError, with a sentence, for whatever else the file may be."""
    import nbformat

    if path.stat().st_size > LARGEST:
        raise CourseError(f"{path.name} has more than {LARGEST // 2**20} MB; clear its outputs and submit it again.")
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook
    except Exception as error:  # whatever a broken file makes the reader raise
        said = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise CourseError(f"{path.name} cannot be read as a notebook ({said}); ask for the file again.") from None


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def exercises_in(source: str) -> list[str]:
    """The numbers N of @cl.exercise("N") in a cell."""
    return re.findall(r"^@(?:cl\.)?exercise\(\s*[\"']([\d.]+)[\"']", source, re.MULTILINE)


def checks_in(source: str) -> list[str]:
    return re.findall(r"^\s*(?:cl\.)?check\(\s*[\"']([\d.]+)[\"']", source, re.MULTILINE)


def chapter_of(notebook: NotebookNode, path: Path) -> str:
    """The chapter's number: of its exercises, or of its file's name."""
    numbers = [n.split(".")[0] for cell in code_cells(notebook) for n in exercises_in(cell.source)]
    named = re.match(r"\d\d", path.name)
    if numbers:
        return max(set(numbers), key=numbers.count)
    if named:
        return named.group()
    raise CourseError(f"{path.name} has no exercise of the course, and its name begins with no chapter's number.")


def tampered(notebook: NotebookNode, original: NotebookNode) -> set[str]:
    """Exercises whose check cell is missing from a submission, or is not the original one."""
    wanted = {n: cell.source.strip() for cell in code_cells(original) for n in checks_in(cell.source)}
    there = {n: cell.source.strip() for cell in code_cells(notebook) for n in checks_in(cell.source)}
    return {number for number, source in wanted.items() if there.get(number) != source}


def pieces_of(notebook: NotebookNode) -> list[dict[str, object]]:
    """What is run of a notebook, in order: {"code", "exercises"}; a cell that does not parse is kept as it is."""
    pieces: list[dict[str, object]] = []
    for cell in code_cells(notebook):
        if "solution" in tags(cell):
            continue
        source = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.split("\n"))
        numbers = exercises_in(source)
        try:
            nodes = ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            if numbers:
                pieces.append({"code": source, "exercises": numbers})
            continue
        kept = [node for node in nodes if (numbers and not is_check(node)) or is_definition(node)]
        code = "\n".join(ast.unparse(node) for node in kept if not is_solution(node))
        if code:
            pieces.append({"code": code, "exercises": numbers})
    return pieces


def is_definition(node: ast.stmt) -> bool:
    """An import, a function, a class, or a name for a constant."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return True
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    try:
        ast.literal_eval(node.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def is_check(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and bool(checks_in(ast.unparse(node)))


def is_solution(node: ast.stmt) -> bool:
    return any("solution(" in ast.unparse(one) for one in getattr(node, "decorator_list", []))


# --- judging ----------------------------------------------------------------------------------------------

PROGRAM = """
import json, os, sys
job = json.load(open("job.json"))
os.makedirs("cache")
for name in job["cached"]:
    os.symlink(os.path.join(job["cache"], name), os.path.join("cache", name))
import course_lib as cl
from course_lib.exercises import messages, registry
tell, judge, text, attempts = sys.stdout.write, registry.judge, messages.text, registry.ATTEMPTS
namespace, stopped = {"__name__": "__main__", "cl": cl}, {}
for piece in job["pieces"]:
    try:
        exec(compile(piece["code"], "submission", "exec"), namespace)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}".split("\\n")[0][:300]
        stopped.update(dict.fromkeys(piece["exercises"], said))
for number in job["numbers"]:
    if number in stopped:
        answer = {"status": "failed", "key": "", "message": f"The exercise's cell stopped with {stopped[number]}"}
    elif number not in attempts:
        answer = {"status": "not attempted", "key": "", "message": "The exercise's cell is not in the notebook."}
    else:
        verdict = judge(number, attempts[number])
        message = text(verdict.key, "en", **verdict.values)
        answer = {"status": verdict.status, "key": verdict.key, "message": message}
    tell(job["token"] + json.dumps({"number": number, **answer}) + "\\n")
    sys.stdout.flush()
"""


def judged(pieces: list[dict[str, object]], numbers: list[str]) -> dict[str, dict[str, str]]:
    """Status, key and message of each exercise; one that ends the process is judged again alone."""
    told, _ = run_checks(pieces, numbers)
    for number in numbers:
        if number not in told:
            own = [piece for piece in pieces if not piece["exercises"] or number in piece["exercises"]]
            alone, ended = run_checks(own, [number])
            sentence = f"The exercise's code ended the process ({ended}); nothing could be checked."
            told[number] = alone.get(number, {"status": "failed", "key": "", "message": sentence})
    return told


def run_checks(pieces: list[dict[str, object]], numbers: list[str]) -> tuple[dict[str, dict[str, str]], str]:
    """Run the pieces and the checks of `numbers` in the sandbox: what was told, and how the process ended."""
    token = secrets.token_hex(16)
    cache = cache_dir()
    cached = [path.name for path in cache.iterdir() if path.is_dir()]
    job = {"pieces": pieces, "numbers": numbers, "token": token, "cache": str(cache), "cached": cached}
    course = sandbox.course()
    result = sandbox.run(
        PROGRAM, files={"job.json": json.dumps(job)}, paths=course["paths"], readable=[*course["readable"], cache],
        environment={"COURSE_CACHE": "cache", "HF_HUB_OFFLINE": "1"}, seconds=SECONDS + 12 * len(numbers),
        memory=MEMORY, output=200_000,
    )  # fmt: skip
    told = {}
    for line in result.stdout.splitlines():
        if token in line:
            found = json.loads(line.split(token, 1)[1])
            status = STATUS.get(found["status"], found["status"])
            told[found["number"]] = {"status": status, "key": found["key"], "message": found["message"]}
    return told, result.status
