"""The mechanism: stubs, verdicts, solutions, two languages, progress, predictions, student versions."""

import contextlib
import json
import re
import string
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest

from course_lib.exercises import ledger, messages, predictions, registry
from course_lib.exercises.assignment import assignment
from course_lib.exercises.predictions import calibration, predict, reveal
from course_lib.runtime import CourseError

FOLDER = Path(registry.__file__).parent


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "path", lambda: tmp_path / "progress.json")
    monkeypatch.setattr(registry, "ATTEMPTS", {})
    return tmp_path / "progress.json"


# --- stubs and verdicts -----------------------------------------------------------------------------------


def stub_doc(p, d):
    """Only a docstring."""


def stub_dots(p, d):
    """A docstring and dots."""


def stub_pass(p, d, more=(1, 2)):
    pass


@pytest.mark.parametrize("stub", [stub_doc, stub_dots, stub_pass])
def test_a_stub_is_not_attempted(stub, capsys, own_progress):
    registry.exercise("00.1")(stub)
    registry.check("00.1")
    said = capsys.readouterr().out
    assert "not attempted" in said
    assert "尚未作答" in said
    assert not own_progress.exists()


def test_stub_without_source():
    scope = {}
    exec("def f(p, d):\n    '''doc'''\n    ...\n\ndef g(p, d):\n    '''doc'''\n    return p * d", scope)
    assert registry.untouched(scope["f"])
    assert not registry.untouched(scope["g"])


@pytest.mark.parametrize("body", ["return 0", "print(p)", "p * d", "x = 1"])
def test_any_statement_is_an_attempt(body):
    scope = {}
    exec(f"def f(p, d):\n    {body}", scope)
    assert not registry.untouched(scope["f"])


def test_check_before_the_cell_was_run(capsys):
    registry.check("00.1")
    assert "has not been run" in capsys.readouterr().out


def test_unknown_exercise_names_the_others():
    with pytest.raises(CourseError, match=r"no exercise '00.9'.*00\.1.*41\.1"):
        registry.check("00.9")
    with pytest.raises(CourseError, match="number"):
        registry.exercise(stub_doc)


def failing(p, d):
    table = {}
    return table["p"]


def test_an_error_is_a_sentence_with_their_line(capsys):
    registry.exercise("00.1")(failing)
    registry.check("00.1")
    said = capsys.readouterr().out
    line = failing.__code__.co_firstlineno + 2
    assert f"line {line}" in said
    assert 'return table["p"]' in said
    assert "KeyError: 'p'" in said
    assert "Traceback" not in said


def test_wrong_signature_is_a_sentence():
    verdict = registry.judge("00.1", lambda p: p)
    assert verdict.key == "general.unusable"
    assert "positional argument" in str(verdict)


def test_endless_loop_is_stopped(monkeypatch):
    monkeypatch.setattr(registry, "SECONDS", 0.2)

    def endless(p, d):
        while True:
            with contextlib.suppress(Exception):
                p += 1

    assert registry.judge("00.1", endless).key == "general.too_slow"


def test_judging_in_another_thread():
    verdicts = []
    worker = threading.Thread(target=lambda: verdicts.append(registry.judge("00.1", lambda p, d: p * d)))
    worker.start()
    worker.join()
    assert verdicts[0].status == "right"


def test_prints_of_a_wrong_attempt_are_kept():
    def chatty(p, d):
        print("p is", p)
        return p

    shown = str(registry.judge("00.1", chatty))
    assert "p is 9" in shown
    assert shown.count("p is") == registry.LINES_SHOWN


def test_a_check_leaves_the_random_numbers_alone():
    import torch

    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    registry.judge("41.3", lambda d, r: torch.nn.Linear(d, d))
    assert torch.equal(torch.rand(1), wanted)


# --- solutions --------------------------------------------------------------------------------------------


def test_solution_returns_the_reference_for_a_stub_or_a_wrong_attempt():
    for attempt in (stub_doc, lambda p, d: p, failing):
        registry.exercise("00.1")(attempt)
        assert registry.solution("00.1")(reference := lambda p, d: p * d) is reference


def test_solution_never_overwrites_a_right_attempt():
    def mine(p, d):
        return d * p

    registry.exercise("00.1")(mine)
    assert registry.solution("00.1")(lambda p, d: p * d) is mine


def test_a_wrong_reference_is_our_mistake():
    with pytest.raises(AssertionError, match="reference solution"):
        registry.solution("00.1")(lambda p, d: p)


# --- messages ---------------------------------------------------------------------------------------------


def keys_in_code():
    """Every message key written in the rooms' code, and the "right" of each exercise."""
    code = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    return set(re.findall(r'"((?:\d\d\.\d+|general)\.[a-zA-Z0-9_]+)"', code)) | {
        f"{number}.right" for number in registry.all_checks()
    }


def test_every_key_is_in_the_table_and_none_is_unused():
    assert keys_in_code() == set(messages.table())


def test_every_message_has_both_languages_with_the_same_gaps():
    def gaps(text):
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, text in messages.table().items():
        assert set(text) == {"en", "zh"}, key
        assert gaps(text["en"]) == gaps(text["zh"]), key
        assert [bool(re.search(r"[\u4e00-\u9fff]", text[language])) for language in ("en", "zh")] == [
            False,
            True,
        ]
        assert "精度" not in text["zh"], key


def test_every_misconception_is_tested():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_exercises*.py"))
    untested = [
        key
        for key in messages.table()
        if not re.search(rf'["\.]{key.rpartition(".")[2]}["\s]', tests)
        and not key.endswith(".right")
        and not key.startswith("general.")
    ]
    assert not untested


def test_chinese_is_wrapped_by_width():
    lines = messages.wrap_chinese("软提示的向量，放在 embedding 之外。" * 9, width=40)
    assert "".join(lines).replace(" ", "") == ("软提示的向量，放在 embedding 之外。" * 9).replace(" ", "")
    assert all(line[0] not in "，。" for line in lines)
    assert len(lines) > 5


# --- progress ---------------------------------------------------------------------------------------------


def test_progress_counts_tries_until_right(own_progress, capsys):
    for attempt in (lambda p, d: p, failing, lambda p, d: p * d, lambda p, d: p * d):
        registry.exercise("00.1")(attempt)
        registry.check("00.1")
    entry = json.loads(own_progress.read_text())["exercises"]["00.1"]
    assert entry["tries"] == 3
    assert entry["right_at"]
    view = ledger.progress()
    assert "1 of " in repr(view)
    assert "Count the numbers" in repr(view)
    assert "<table>" in view._repr_html_()


@pytest.mark.parametrize("content", ["{half", "[]", '{"exercises": 1, "predictions": {}}', "\x00\x00"])
def test_a_damaged_file_is_set_aside(own_progress, content, capsys):
    own_progress.write_text(content)
    predict("00.x", "how many", value=3)
    assert "set aside" in capsys.readouterr().out
    assert [path.read_text() for path in own_progress.parent.glob("progress.damaged-*")] == [content]
    assert predict("00.x", "how many") == 3


def test_a_place_that_cannot_be_written_is_a_sentence(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(ledger, "path", lambda: tmp_path / "file" / "progress.json")
    registry.exercise("00.1")(lambda p, d: p * d)
    registry.check("00.1")
    said = capsys.readouterr().out
    assert "right" in said
    assert "not saved" in said


def test_two_processes_lose_nothing(own_progress):
    code = (
        "import sys; from pathlib import Path; from course_lib.exercises import ledger\n"
        "ledger.path = lambda: Path(sys.argv[1])\n"
        "for i in range(20): ledger.update(lambda c: c['predictions'].update({f'{sys.argv[2]}{i}': {}}))"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(own_progress), name], cwd=FOLDER.parents[1]) for name in "ab"
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert len(json.loads(own_progress.read_text())["predictions"]) == 40


# --- predictions ------------------------------------------------------------------------------------------


def test_predict_without_a_form_prints_and_goes_on(capsys):
    assert predict("00.after", "share of right words", unit=" %") is None
    said = capsys.readouterr().out
    assert "share of right words (%)" in said
    assert "cl.predict(" in said
    reveal("00.after", 78)
    assert "no prediction" in capsys.readouterr().out


def test_reveal_compares_and_fixes_the_prediction(capsys):
    assert predict("00.after", "share", value=0.3, low=0.1, high=0.5) == 0.3
    reveal("00.after", 0.78)
    assert "You predicted 0.3 (between 0.1 and 0.5). It is 0.78: 0.48 too low, outside your range." in (
        capsys.readouterr().out
    )
    assert predict("00.after", "share", value=0.78) == 0.3
    assert "stays 0.3" in capsys.readouterr().out
    assert predict("00.after", "share") == 0.3


def test_choices(capsys):
    predict("41.x", "which", choices=["probe", "adapter"], value="probe")
    reveal("41.x", "adapter")
    assert "not what you expected" in capsys.readouterr().out
    with pytest.raises(CourseError, match="none of the choices"):
        predict("41.y", "which", choices=["probe", "adapter"], value="full")


@pytest.mark.parametrize(("given", "said"), [({"low": 1.0}, "one end"), ({"low": 4.0, "high": 5.0}, "outside")])
def test_a_range_must_hold_its_value(given, said):
    with pytest.raises(CourseError, match=said):
        predict("00.x", "how many", value=3.0, **given)


def test_calibration(capsys):
    assert "No revealed prediction has a range" in str(calibration())
    for i in range(6):
        predict(f"00.{i}", "n", value=5, low=4, high=6)
        reveal(f"00.{i}", 5 if i < 2 else 50)
    predict("00.c", "which", choices=["a", "b"], value="a")
    reveal("00.c", "a")
    found = calibration()
    assert (found.ranges, found.inside, found.choices_right) == (6, 2, 1)
    assert "too narrow" in str(found)
    assert "33%" in str(found)


def test_the_form_records_and_explains():
    form = predictions.form("00.f", "how many", "", None, {})
    value, low, high = form.children[1].children
    button, said = form.children[2].children
    value.value = "many"
    button.click()
    assert "numbers" in said.value
    value.value, low.value, high.value = "3", "1", "9"
    button.click()
    assert predict("00.f", "how many") == 3.0
    assert "between 1 and 9" in said.value
    low.value = "5"
    button.click()
    assert "outside" in said.value


# --- student versions -------------------------------------------------------------------------------------

STUB = '@cl.exercise("41.1")\ndef attach(linear, delta):\n    """Add."""\n    ...'


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course folder with one chapter: story, exercise, check, solution as text and code."""
    cells = [
        nbformat.v4.new_code_cell("1 + 1", execution_count=3, outputs=[nbformat.v4.new_output("stream", text="2")]),
        nbformat.v4.new_code_cell(STUB, metadata={"tags": ["exercise"]}),
        nbformat.v4.new_code_cell('cl.check("41.1")', metadata={"tags": ["check"]}),
        nbformat.v4.new_markdown_cell("Because ...", metadata={"tags": ["solution"]}),
        nbformat.v4.new_code_cell("# secret", metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}}),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {"state": 1}})
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "41_the_additive_principle.ipynb")
    monkeypatch.setattr(sys.modules["course_lib.exercises.assignment"], "root", lambda: tmp_path)
    return tmp_path


def test_assignment_leaves_out_the_solutions(course):
    written = assignment("41")
    assert written == course / "assignments" / "41_the_additive_principle.ipynb"
    notebook = nbformat.read(written, as_version=4)
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == ["1 + 1", STUB, 'cl.check("41.1")']
    assert all(cell.outputs == [] and cell.execution_count is None for cell in notebook.cells)
    assert "widgets" not in notebook.metadata
    assert assignment("41", course / "mine.ipynb") == course / "mine.ipynb"


def test_assignment_refuses_answers_and_unknown_chapters(course):
    path = course / "notebooks" / "41_the_additive_principle.ipynb"
    path.write_text(path.read_text().replace('...\\"', "return 1").replace('"    ..."', '"    return 1"'))
    with pytest.raises(CourseError, match=r"attach in 41_the_additive_principle\.ipynb holds an answer"):
        assignment("41")
    with pytest.raises(CourseError, match=r"no chapter '99'.*there are: 41"):
        assignment("99")
    with pytest.raises(CourseError, match="the chapter itself"):
        assignment("41", course / "notebooks")
