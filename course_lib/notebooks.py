"""The notebooks as files: run them headless, store their outputs, keep their first cell the same.

Outputs are committed, because readers on GitHub see them. So each notebook carries the hash of the code that
made them (metadata "course"), and a test fails when the code has changed since: `make notebooks` runs it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.runtime import CourseError, root, write_text_atomically

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_SECONDS = 600  # a cell that takes longer is stuck
WIDGET = "application/vnd.jupyter.widget-view+json"
VOLATILE_NOTEBOOK = ("widgets", "signature", "toc", "vscode", "colab", "varInspector")
VOLATILE_CELL = (
    "execution",
    "ExecuteTime",
    "collapsed",
    "scrolled",
    "trusted",
    "vscode",
    "outputId",
    "colab",
)

SETUP_CELL = """\
# Set-up, the same in every chapter. On Colab it fetches the course first (about three minutes).
REPO = "{repository}"  # its git address: `python -m course_lib colab --repo ADDRESS` fills it in
import importlib.util, site, sys
if not importlib.util.find_spec("course_lib"):
    if "google.colab" not in sys.modules or not REPO:
        raise SystemExit("The course is not here: run `make lab` in its folder; on Colab, fill in REPO.")
    !test -d course || git clone --quiet --depth=1 {{REPO}} course
    !{{sys.executable}} course/bootstrap.py colab
    %cd -q course/notebooks
    site.main()
import course_lib as cl"""
SETUP_START = SETUP_CELL.split(".")[0]


# --- the files -----------------------------------------------------------------------------------


def folder() -> Path:
    """The folder of the notebooks."""
    return root() / "notebooks"


def find(chapters: list[str] | None = None) -> list[Path]:
    """The notebooks of `chapters` ("41", "00"); of none or "all", every one, in reading order."""
    every = sorted(folder().glob("[0-9][0-9]_*.ipynb"))
    if not chapters or "all" in chapters:
        return every
    found = []
    for chapter in chapters:
        matches = [path for path in every if path.name.startswith(f"{chapter}_")]
        if not matches:
            known = ", ".join(path.name[:2] for path in every) or "none yet"
            raise CourseError(f"There is no chapter {chapter!r} in {folder()}; there are: {known}.")
        found += matches
    return found


def read(path: Path) -> NotebookNode:
    """Read a notebook file (format 4)."""
    import nbformat

    return nbformat.read(path, as_version=4)


def write(notebook: NotebookNode, path: Path) -> bool:
    """Write a notebook if that changes the file; return whether it did."""
    import nbformat

    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_text_atomically(path, text)
    return True


def code_hash(notebook: NotebookNode) -> str:
    """sha256 over the sources of the code cells, in order; the set-up cell shows nothing and is left out."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.startswith(SETUP_START):
            digest.update(cell.source.strip().encode() + b"\0")
    return digest.hexdigest()


def is_stale(notebook: NotebookNode) -> bool:
    """Were the stored outputs made by other code than what stands there now?"""
    return notebook.metadata.get("course", {}).get("code_hash") != code_hash(notebook)


# --- the Chinese guide to a chapter ----------------------------------------------------------------

GUIDE = re.compile(r"<details><summary>(?:<b>)?本章导读(?:</b>)?</summary>(.*?)</details>", re.DOTALL)


def guide(notebook: NotebookNode) -> str:
    """The folded Chinese guide to a chapter, 本章导读, or an empty text."""
    found = (GUIDE.search(cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    return next((one.group(1).strip() for one in found if one), "")


def guide_hash(notebook: NotebookNode) -> str:
    """A hash of the English that the guide sums up: the opening, all headings, and what to keep."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    folded = re.compile(r"<details.*?</details>", re.DOTALL)
    first = next((index for index, source in enumerate(prose) if GUIDE.search(source)), 0)
    told = [folded.sub("", source) for source in prose[: first + 1]]
    told += re.findall(r"^#+ .+", "\n".join(folded.sub("", source) for source in prose), re.MULTILINE)
    told += [folded.sub("", source) for source in prose if re.match(r"## (What to keep|Summary)", source)]
    return hashlib.sha256(" ".join(" ".join(told).split()).encode()).hexdigest()[:16]


def guide_is_stale(notebook: NotebookNode) -> bool:
    """Has the English changed since somebody last read the guide beside it?"""
    return notebook.metadata.get("guide_hash") != guide_hash(notebook)


def guides_read(chapters: list[str]) -> list[Path]:
    """Note that the guides of `chapters` were read beside their English and are right; return the changed files."""
    changed = []
    for path in find(chapters):
        notebook = read(path)
        notebook.metadata["guide_hash"] = guide_hash(notebook)
        if write(notebook, path):
            changed.append(path)
    return changed


def normalise(notebook: NotebookNode) -> None:
    """Take out what differs from run to run or machine to machine and says nothing to a reader.

    Live widgets go too: without their kernel they show an error, and a static figure stands beside each.
    """
    metadata = notebook.metadata
    for name in VOLATILE_NOTEBOOK:
        metadata.pop(name, None)
    metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for name in VOLATILE_CELL:
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]


# --- the first cell ------------------------------------------------------------------------------


def repository() -> str:
    """The course's git address: pyproject.toml is the one place of it."""
    with open(root() / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["tool"]["course"]["repository"]


def setup_cell(address: str | None = None) -> str:
    """The source of every notebook's first code cell."""
    return SETUP_CELL.format(repository=repository() if address is None else address)


def renew_setup_cell(notebook: NotebookNode) -> None:
    """Bring the set-up cell, the first code cell, to the present template."""
    first = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    if first is not None and first.source.startswith(SETUP_START):
        first.source = setup_cell()


def set_repository(address: str) -> list[Path]:
    """Write the course's git address into pyproject.toml and all notebooks; return the changed files."""
    if not re.fullmatch(
        r"(https?|ssh|git|file)://[^\s\"'{};$`\\]+|[\w.-]+@[\w.-]+:[^\s\"'{};$`\\]+|", address
    ):
        raise CourseError(
            f"{address!r} is not an address that git can clone, such as https://host/name/course.git."
        )
    project = root() / "pyproject.toml"
    old = project.read_text(encoding="utf-8")
    new = re.sub(r'^repository = ".*"$', f'repository = "{address}"', old, count=1, flags=re.MULTILINE)
    changed = []
    if new != old:
        write_text_atomically(project, new)
        changed.append(project)
    for path in find():
        notebook = read(path)
        renew_setup_cell(notebook)
        if write(notebook, path):
            changed.append(path)
    return changed


# --- running -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Execution:
    """How a notebook ran: seconds, the kernel's peak memory, and the error that ended it, if one did."""

    seconds: float
    peak_mb: int
    error: str | None = None


def execute(notebook: NotebookNode, name: str, cwd: Path) -> Execution:
    """Run all cells in place on a fresh kernel, one thread as in the tests, showing the cell it is at."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    os.environ["OMP_NUM_THREADS"] = "1"  # the kernel inherits it
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(cwd)}},
    )
    started, error, peak_mb = time.monotonic(), None, 0
    client.reset_execution_trackers()
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            _show(f"{name}: cell {index + 1} of {len(notebook.cells)}, {time.monotonic() - started:.0f} s")
            try:
                client.execute_cell(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
                error = f"cell {index + 1} ({cell.get('id')}): {_last_line(failure)}"
                break
        else:
            peak_mb = _peak_memory(client)
    _show("")
    return Execution(time.monotonic() - started, peak_mb, error)


def _last_line(failure: Exception) -> str:
    evalue = getattr(failure, "evalue", None)
    return f"{failure.ename}: {evalue}" if evalue is not None else str(failure).strip().splitlines()[-1]


def _peak_memory(client) -> int:
    """Ask the kernel for the most memory it held, in MB (Linux counts in KiB, macOS in bytes)."""
    from nbformat.v4 import new_code_cell

    code = "import resource as _r, sys as _s\n"
    code += "print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss // (1000 if _s.platform == 'linux' else 1_000_000))"
    client.nb.cells.append(new_code_cell(code))
    try:
        cell = client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1, store_history=False)
    finally:
        client.nb.cells.pop()
    return int(cell.outputs[0].text)


def _show(text: str) -> None:
    """One line that is written over; nothing where there is no terminal."""
    if sys.stderr.isatty():
        print(f"\r{text[:100]:<100}\r", end="", file=sys.stderr, flush=True)


def run(chapters: list[str] | None = None) -> int:
    """Run notebooks headless; nothing is written. Returns 0 if all went through, else 1."""
    failed = 0
    for path in find(chapters):
        result = execute(read(path), path.stem, path.parent)
        print(_report(path, result), flush=True)
        failed += result.error is not None
    return int(failed > 0)


def refresh(chapters: list[str] | None = None) -> int:
    """Run the notebooks whose code changed (named ones always) and store outputs, times and code hash.

    A notebook that fails keeps what it had. Returns 0 if all went through, else 1.
    """
    failed = 0
    for path in find(chapters):
        notebook = read(path)
        renew_setup_cell(notebook)
        if not chapters and not is_stale(notebook):
            print(f"{path.stem:<32} unchanged")
        else:
            result = execute(notebook, path.stem, path.parent)
            print(_report(path, result), flush=True)
            if result.error is not None:
                failed += 1
                continue
            measured = {"seconds": round(result.seconds, 1), "peak_mb": result.peak_mb}
            course = notebook.metadata.setdefault("course", {})
            course.update(code_hash=code_hash(notebook), **measured)
        if guide(notebook):  # a new chapter's guide was written beside this English
            notebook.metadata.setdefault("guide_hash", guide_hash(notebook))
        normalise(notebook)
        write(notebook, path)
    write_minutes()
    return int(failed > 0)


def _report(path: Path, result: Execution) -> str:
    outcome = f"FAILED at {result.error}" if result.error else f"peak {result.peak_mb:,} MB"
    return f"{path.stem:<32} {result.seconds:6.1f} s  {outcome}"


def write_minutes() -> Path:
    """Collect what the notebooks' last executions took into data/results/chapter_minutes.json."""
    rows = []
    for path in find():
        course = read(path).metadata.get("course", {})
        if "seconds" in course:
            measured = {"seconds": course["seconds"], "peak_mb": course["peak_mb"]}
            minutes = round(course["seconds"] / 60, 2)
            rows.append({"chapter": path.name[:2], "notebook": path.name, "minutes": minutes, **measured})
    about = "Wall-clock time and peak memory of each notebook on a clean kernel, one thread, laptop scale."
    table = {"name": "chapter_minutes", "about": about, "command": "make notebooks", "rows": rows}
    target = root() / "data" / "results" / "chapter_minutes.json"
    write_text_atomically(target, json.dumps(table, indent=1) + "\n")
    return target
