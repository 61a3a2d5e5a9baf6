"""What course_lib imports stands in pyproject.toml: a package that comes along with another one may go with it."""

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAB_ONLY = {  # commands of those who write and run the notebooks, which the library does without
    "notebooks.py": {"nbclient", "nbformat", "jupytext"}, "assignment.py": {"nbformat"}, "grade.py": {"nbformat"},
    "slides.py": {"nbconvert", "nbformat"}, "book.py": {"nbformat"},
}


def distribution(name: str) -> str:
    """"scikit_learn[all]>=1.5" -> "scikit-learn"."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name).group()).lower()


@functools.cache
def owners() -> dict[str, list[str]]:
    return dict(packages_distributions())


@functools.cache
def declared() -> tuple[set[str], set[str], set[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    library, lab, serve = project["dependencies"], *(project["optional-dependencies"][it] for it in ("lab", "serve"))
    return tuple({distribution(line) for line in lines} for lines in (library, lab, serve))


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports anywhere, its own package and the standard library left out."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"course_lib"}


def files():
    return sorted((ROOT / "course_lib").rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT / "course_lib")))
def test_imports_are_declared(path):
    library, lab, serve = declared()
    for module in imported(path):
        names = {distribution(name) for name in owners().get(module, [module])}
        allowed = library | (lab & LAB_ONLY.get(path.name, set()))
        allowed |= serve if "serving" in path.parts else set()
        assert names & allowed, f"{path.name} imports {module} of {names}, which pyproject.toml does not name"


def test_the_test_can_fail(tmp_path):
    (tmp_path / "new.py").write_text("def f():\n    import yaml.nodes\n    from torch import nn\n    from . import x\n")
    assert imported(tmp_path / "new.py") == {"yaml", "torch"}
    assert {"torch", "scikit-learn"} <= declared()[0]
