"""Grading: right, wrong, dangerous, tampered and broken submissions; each gives lines, none a crash."""

import csv

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_lib import sandbox
from course_lib.exercises import grade as exported
from course_lib.exercises import grade as grade_function
from course_lib.exercises.grade import exercises_in, harmless, pieces_of
from course_lib.runtime import CourseError

needs_sandbox = pytest.mark.skipif(not sandbox.protection().ok, reason="no sandbox here")


def cell(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)


SETUP = "import course_lib as cl\nimport torch\n%matplotlib inline\nraise SystemExit('training is not run')"
COUNT = '@cl.exercise("00.1")\ndef numbers_in_prompt(p, d):\n    return {}'
SAME = '@cl.exercise("00.2")\ndef unchanged(before, after):\n    {}'
STRICT = "return before.keys() == after.keys() and all(same(before[name], after[name]) for name in before)"
HELPER = "def same(a, b):\n    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The lines of a class of six, by student and exercise."""
    if not sandbox.protection().ok:
        pytest.skip("no sandbox here")
    folder = tmp_path_factory.mktemp("class")
    outside = folder / "precious"
    outside.write_text("data")
    name = "00_start_here.ipynb"
    write(
        folder / "anna" / name,
        cell(SETUP), cell(HELPER), cell(COUNT.format("p * d"), "exercise"), cell(SAME.format(STRICT), "exercise"),
        cell('cl.check("00.1")', "check"), cell('cl.check("00.2")', "check"),
    )  # fmt: skip
    write(
        folder / "submitted" / "ben" / "00" / name,
        cell(SETUP), cell(COUNT.format("p"), "exercise"), cell(SAME.format("..."), "exercise"),
        cell('print("00.1  right")  # cl.check("00.1")', "check"),
    )  # fmt: skip
    write(
        folder / "carl" / name,
        cell(SETUP), cell(COUNT.format(f"__import__('os').unlink({str(outside)!r})"), "exercise"),
        cell(SAME.format("__import__('os')._exit(0)"), "exercise"),
    )  # fmt: skip
    write(
        folder / "dora" / name,
        cell(COUNT.format("p * * d"), "exercise"), cell(SAME.format("while True: pass"), "exercise"),
    )  # fmt: skip
    (folder / "eva.ipynb").write_text("{ this is no notebook")
    write(folder / "=HYPERLINK(1).ipynb", cell("print('nothing of the course')"))
    path = exported(folder)
    assert path == folder / "grades.csv"
    assert outside.read_text() == "data"
    with open(path, newline="", encoding="utf-8") as file:
        return {(row["student_id"], row["exercise"]): row for row in csv.DictReader(file)}


def test_right_answers_pass_and_use_what_was_defined_above(table):
    assert table["anna", "00.1"]["status"] == "passed"
    assert table["anna", "00.2"]["status"] == "passed"
    assert table["anna", "00.1"]["note"] == ""


def test_a_wrong_answer_has_the_key_of_its_mistake_and_a_tampered_check_does_not_help(table):
    wrong = table["ben", "00.1"]
    assert (wrong["status"], wrong["key"]) == ("failed", "00.1.vectors")
    assert "the course's own was used" in wrong["note"]
    assert table["ben", "00.2"]["status"] == "not attempted"
    assert wrong["assignment"] == "00"


def test_dangerous_code_is_stopped_and_judged_alone(table):
    assert table["carl", "00.1"]["status"] == "failed"
    assert "Error" in table["carl", "00.1"]["message"]
    assert table["carl", "00.2"]["status"] == "failed"
    assert "ended the process" in table["carl", "00.2"]["message"]


def test_code_that_does_not_parse_or_end_gives_a_sentence(table):
    assert "SyntaxError" in table["dora", "00.1"]["message"]
    assert table["dora", "00.2"]["status"] == "failed"


def test_broken_files_give_a_line_and_no_formula(table):
    assert table["eva", ""]["status"] == "unreadable"
    assert "cannot be read" in table["eva", ""]["message"]
    assert table["'=HYPERLINK(1)", ""]["status"] == "unreadable"


def test_an_empty_folder_and_a_missing_one_are_sentences(tmp_path):
    with pytest.raises(CourseError, match="no notebook"):
        grade_function(tmp_path)
    with pytest.raises(CourseError, match="no folder"):
        grade_function(tmp_path / "nowhere")


def test_only_imports_definitions_constants_and_exercises_are_run():
    notebook = new_notebook(
        cells=[
            cell("import math\nscale = 3\nmodel = train()\nprint(1)"),
            cell("def helper():\n    return scale"),
            cell('@cl.exercise("41.1")\ndef f(): ...\nf.tried = True\ncl.check("41.1")', "exercise"),
            cell('@cl.solution("41.1")\ndef f(): return 1', "solution"),
            cell('@cl.solution("41.1")\ndef f(): return 1'),
        ]
    )
    pieces = pieces_of(notebook)
    code = "\n".join(piece["code"] for piece in pieces)
    assert "train" not in code
    assert "solution" not in code
    assert "cl.check" not in code
    assert "f.tried = True" in code
    assert [piece["exercises"] for piece in pieces] == [[], [], ["41.1"]]


@pytest.mark.parametrize("source", ['@cl.exercise("41.1")\ndef f(): ...', "@exercise('41.1')\ndef f(): ..."])
def test_exercises_are_found(source):
    assert exercises_in(source) == ["41.1"]


@pytest.mark.parametrize(("text", "kept"), [("=1+1", "'=1+1"), ("@x", "'@x"), ("anna", "anna"), ("", "")])
def test_no_formulas(text, kept):
    assert harmless(text) == kept
