"""The notebooks as files: the same first cell, outputs made by the code that stands there, ids, nothing volatile."""

import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib import notebooks
from course_lib.runtime import CourseError, root

COURSE = [pytest.param(path, id=path.stem) for path in notebooks.find()]


# --- the course's notebooks ----------------------------------------------------------------------


@pytest.mark.parametrize("path", COURSE)
def test_the_first_code_cell_is_the_template(path):
    first = next(cell for cell in notebooks.read(path).cells if cell.cell_type == "code")
    assert first.source == notebooks.setup_cell(), "make notebooks renews it"


@pytest.mark.parametrize("path", COURSE)
def test_outputs_were_made_by_the_code_that_stands_there(path):
    notebook = notebooks.read(path)
    assert not notebooks.is_stale(notebook), f"the code of {path.name} changed: run `make notebooks`"
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.strip():
            assert cell.execution_count, f"{path.name}: cell {cell.id} was not run"
            assert all(output.output_type != "error" for output in cell.outputs), cell.id


@pytest.mark.parametrize("path", COURSE)
def test_nothing_volatile_is_stored(path):
    notebook = notebooks.read(path)
    nbformat.validate(notebook)
    before = nbformat.writes(notebook)
    notebooks.normalise(notebook)
    assert nbformat.writes(notebook) == before, "run `make notebooks`"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", COURSE)
def test_no_warning_and_no_folder_of_a_machine_is_stored(path):
    for cell in notebooks.read(path).cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", f"{path.name}, cell {cell.id}: {output.text}"
            assert not re.search(r"/(tmp|home|root|work|Users)/", nbformat.from_dict(output).get("text", "")), cell.id


@pytest.mark.parametrize("path", COURSE)
def test_the_chinese_guide_was_read_beside_this_english(path):
    notebook = notebooks.read(path)
    assert 100 <= len(re.findall("[\u4e00-\u9fff]", notebooks.guide(notebook))) <= 260
    assert not notebooks.guide_is_stale(notebook), (
        f"the English that 本章导读 sums up changed in {path.name}: read it again, mend it, then "
        f"`python -m course_lib guides {path.name[:2]}`"
    )


@pytest.mark.parametrize("path", COURSE)
def test_each_chapter_asks_for_recall_and_folds_the_answers(path):
    prose = [cell.source for cell in notebooks.read(path).cells if cell.cell_type == "markdown"]
    asked = next((source for source in prose if re.search(r"\*\*Recall|<summary>Answers</summary>", source)), "")
    answers = " ".join(re.findall(r"<details>\s*<summary>.+?</summary>(.+?)</details>", asked, re.DOTALL))
    assert asked.count("?") >= 4
    assert len(answers.split()) > 60


def test_the_minutes_are_those_of_the_notebooks():
    table = root() / "data" / "results" / "chapter_minutes.json"
    stored = json.loads(table.read_text())["rows"] if table.exists() else []
    for row in stored:
        course = notebooks.read(notebooks.folder() / row["notebook"]).metadata["course"]
        assert (row["seconds"], row["peak_mb"]) == (course["seconds"], course["peak_mb"])


# --- the tool ------------------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of one notebook, with an address of its own."""
    monkeypatch.setenv("PYTHONPATH", str(root()))  # the kernel starts elsewhere
    monkeypatch.setattr(notebooks, "root", lambda: tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.course]\nrepository = ""\n')
    cells = [
        new_markdown_cell("# A chapter"),
        new_code_cell(notebooks.setup_cell()),
        new_code_cell("import ipywidgets\nipywidgets.interact(lambda k: print(k), k=3);"),
        new_code_cell("import os\nprint('threads', os.environ['OMP_NUM_THREADS'])"),
    ]
    path = tmp_path / "notebooks" / "41_toy.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_refresh_runs_what_changed_and_nothing_else(course, capsys):
    assert notebooks.is_stale(notebooks.read(course))
    assert notebooks.refresh() == 0
    stored = notebooks.read(course)
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2, 3]
    assert stored.cells[3].outputs[0].text == "threads 1\n"
    assert stored.cells[2].outputs == [], "a live widget is not stored"
    assert "widgets" not in stored.metadata
    assert stored.metadata.course.peak_mb > 20
    assert not notebooks.is_stale(stored)
    minutes = json.loads((course.parents[1] / "data/results/chapter_minutes.json").read_text())
    assert minutes["rows"][0]["seconds"] == stored.metadata.course.seconds

    bytes_before = course.read_bytes()
    assert notebooks.refresh() == 0
    assert "unchanged" in capsys.readouterr().out
    assert course.read_bytes() == bytes_before


def test_an_edit_makes_outputs_stale_and_prose_does_not(course):
    notebook = notebooks.read(course)
    notebook.metadata["course"] = {"code_hash": notebooks.code_hash(notebook)}
    notebook.cells[0].source = "# Another title"
    assert not notebooks.is_stale(notebook)
    notebook.cells[3].source += "\nprint(1)"
    assert notebooks.is_stale(notebook)


def test_a_guide_is_stale_when_what_it_sums_up_changes(course):
    notebook = notebooks.read(course)
    folded = "<details><summary><b>本章导读</b></summary>\n\n这里说什么\n\n</details>"
    notebook.cells[0].source = f"# A chapter\n\n{folded}\nAims"
    nbformat.write(notebook, course)
    assert notebooks.guide(notebook) == "这里说什么"
    assert notebooks.guide_is_stale(notebook)
    assert notebooks.guides_read(["41"]) == [course]
    read = notebooks.read(course)
    assert not notebooks.guide_is_stale(read)
    read.cells[2].source += "\nprint(1)"
    read.cells[0].source = read.cells[0].source.replace("这里", "那里")
    assert not notebooks.guide_is_stale(read), "neither code nor the guide itself"
    read.cells[0].source = read.cells[0].source.replace("Aims", "Other aims")
    assert notebooks.guide_is_stale(read)


def test_a_failing_notebook_keeps_what_it_had(course, capsys):
    notebook = notebooks.read(course)
    notebook.cells[3].source = "from course_lib.runtime import CourseError\nraise CourseError('Plainly wrong.')"
    nbformat.write(notebook, course)
    before = course.read_bytes()
    assert notebooks.refresh(["41"]) == 1
    assert "Plainly wrong." in capsys.readouterr().out
    assert course.read_bytes() == before


def test_run_writes_nothing(course):
    before = course.read_bytes()
    assert notebooks.run(["all"]) == 0
    assert course.read_bytes() == before
    assert not (course.parents[1] / "data").exists()


def test_an_unknown_chapter_is_a_sentence(course):
    with pytest.raises(CourseError, match=r"no chapter '99'.*there are: 41"):
        notebooks.find(["99"])


def test_the_address_is_written_everywhere_and_leaves_outputs_fresh(course):
    notebook = notebooks.read(course)
    notebook.metadata["course"] = {"code_hash": notebooks.code_hash(notebook)}
    nbformat.write(notebook, course)
    changed = notebooks.set_repository("https://example.org/a/course.git")
    assert [path.name for path in changed] == ["pyproject.toml", "41_toy.ipynb"]
    assert notebooks.repository() == "https://example.org/a/course.git"
    stored = notebooks.read(course)
    assert 'REPO = "https://example.org/a/course.git"' in stored.cells[1].source
    assert not notebooks.is_stale(stored)
    for bad in ('https://x"; import os', "not an address", "https://x/$(id)", "https://x/`id`"):
        with pytest.raises(CourseError, match="not an address"):
            notebooks.set_repository(bad)


def test_the_setup_cell_is_short():
    lines = notebooks.setup_cell("").splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 110


def test_normalise_keeps_pictures_and_drops_timings():
    cell = new_code_cell("x", outputs=[new_output("display_data", {"image/png": "AA=="}, metadata={"a": 1})])
    cell.metadata.update(execution={"iopub.execute_input": "2026"}, tags=["kept"], slideshow={"slide_type": "slide"})
    notebook = new_notebook(cells=[cell], metadata={"widgets": {}, "course": {"minutes": 3}})
    notebooks.normalise(notebook)
    assert notebook.cells[0].metadata == {"tags": ["kept"], "slideshow": {"slide_type": "slide"}}
    assert notebook.cells[0].outputs[0].data == {"image/png": "AA=="}
    assert notebook.metadata.course == {"minutes": 3}
    assert "widgets" not in notebook.metadata
