"""The student version of a chapter: its notebook without solutions and outputs, the exercise stubs kept."""

from __future__ import annotations

import ast
from pathlib import Path

from ..runtime import CourseError, root


def assignment(chapter: str, out: str | Path | None = None) -> Path:
    """Write chapter `chapter` ("41") without its solutions and return the new notebook's path.

    Cells tagged "solution", code and text, are left out; outputs, execution counts and widget states are
    cleared. `out` is a folder or a file name ending in .ipynb; the default folder is assignments/ beside
    notebooks/. An exercise cell that holds more than its stub is an error: an answer must not be handed out
    by accident.
    """
    import nbformat

    source = notebook_of(chapter)
    target = Path(out) if out is not None else root() / "assignments"
    if target.suffix != ".ipynb":
        target = target / source.name
    if target.resolve() == source.resolve():
        raise CourseError(f"{target} is the chapter itself; name another place for the student version.")
    notebook = nbformat.read(source, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if "exercise" in cell.metadata.get("tags", []) and cell.cell_type == "code":
            refuse_answers(cell.source, source.name)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    return target


def notebook_of(chapter: str) -> Path:
    """The notebook of a chapter, by its number."""
    folder = root() / "notebooks"
    found = sorted(folder.glob(f"{chapter}_*.ipynb"))
    if len(found) != 1:
        there = ", ".join(sorted(path.name.split("_")[0] for path in folder.glob("*_*.ipynb"))) or "none"
        raise CourseError(f"There is no chapter {chapter!r} in {folder}; there are: {there}.")
    return found[0]


def refuse_answers(code: str, name: str) -> None:
    """Raise CourseError if a function under @cl.exercise has more in its body than a stub."""
    for node in ast.parse(code).body:
        if (
            isinstance(node, ast.FunctionDef)
            and node.decorator_list
            and not all(
                isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
                for line in node.body
            )
        ):
            raise CourseError(f"The exercise cell of {node.name} in {name} holds an answer; put the stub back first.")
