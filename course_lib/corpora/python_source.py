"""The interpreter's own standard library as text: its manual's topics, its docstrings, its code."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from ..runtime import CourseError
from .base import Corpus, Row
from .strict import Reading

_NOT_LIBRARY = {
    "site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "_bundled", "pydoc_data",
    "turtledemo", "encodings",
}  # fmt: skip


def _modules(library: Path, reading: Reading) -> Iterator[tuple[str, str, ast.Module]]:
    """(module name, source, syntax tree) of each file of the standard library, in the order of names."""
    for path in sorted(library.rglob("*.py")):
        place = path.relative_to(library)
        if _NOT_LIBRARY.intersection(place.parts[:-1]) or place.parts[0].startswith("config-"):
            continue
        try:
            source = path.read_text("utf-8")
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError) as error:
            reading.problem(getattr(error, "lineno", None) or 1, f"{place} does not parse", str(error))
            continue
        yield ".".join(place.with_suffix("").parts), source, tree


def _definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Functions, methods and classes with their dotted names; what is defined inside a function is part of it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name, node
            yield from _definitions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node, prefix)


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- prose -----------------------------------------------------------------------------------------------------------


def read_docs(library: Path, reading: Reading, *, kind: str) -> Iterator[Row]:
    """Rows of name, text and summary.

    kind "docstrings": body and first line; "topics": the manual's topics, without a summary.
    """
    if kind == "topics":
        from pydoc_data.topics import topics

        for name, text in sorted(topics.items()):
            yield {"name": name, "text": text.strip(), "summary": ""}
    elif kind == "docstrings":
        yield from _docstrings(library, reading)
    else:
        raise CourseError(f"python-docs has no kind '{kind}'; it has: docstrings, topics.")


def _docstrings(library: Path, reading: Reading) -> Iterator[Row]:
    for module, _, tree in _modules(library, reading):
        for name, node in [("", tree), *_definitions(tree)]:
            head, _, body = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").partition("\n\n")
            summary, words = _one_line(head), len(body.split())
            if not body.strip():
                reading.leave_out("no docstring, or one paragraph only")
            elif "\n" in head.strip() or not 3 <= len(summary.split()) <= 30 or words < 10:
                reading.leave_out("first paragraph not a line of 3 to 30 words, or fewer than 10 words below it")
            else:
                yield {
                    "name": f"{module}.{name}".strip("."),
                    "text": textwrap.dedent(body).strip(),
                    "summary": summary,
                }


# --- code ------------------------------------------------------------------------------------------------------------


def read_code(library: Path, reading: Reading, *, unit: str) -> Iterator[Row]:
    """Rows of module, name, kind, code and docstring.

    unit "definitions": functions and methods; "files": whole modules.
    """
    if unit not in ("definitions", "files"):
        raise CourseError(f"python-code has no unit '{unit}'; it has: definitions, files.")
    for module, source, tree in _modules(library, reading):
        if unit == "files":
            if source.strip():
                docstring = ast.get_docstring(tree) or ""
                yield {
                    "module": module,
                    "name": module,
                    "kind": "module",
                    "code": source,
                    "docstring": docstring,
                }
            continue
        lines = source.splitlines(keepends=True)
        for name, node in _definitions(tree):
            if isinstance(node, ast.ClassDef):
                continue
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            code = textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
            kind = "method" if "." in name else "function"
            yield {
                "module": module,
                "name": name,
                "kind": kind,
                "code": code,
                "docstring": ast.get_docstring(node) or "",
            }


CORPORA = [
    Corpus(
        "python-docs", None, read_docs, {"name": "string", "text": "string", "summary": "string"},
        options={"kind": "docstrings"},
    ),
    Corpus(
        "python-code", None, read_code,
        {"module": "string", "name": "string", "kind": "string", "code": "string", "docstring": "string"},
        split_on=lambda row: row["module"], same_as=lambda row: _one_line(row["code"]), options={"unit": "definitions"},
    ),
]  # fmt: skip
