"""The capstone: entries that keep the rules are scored, every fault is answered by a sentence."""

import base64
import shutil

import pytest

from course_lib import capstone
from course_lib.capstone import entrant
from course_lib.runtime import CourseError

GOOD = """
import course_lib as cl

def build(base, train, validation):
    print("said by the entry")
    tuned = cl.attach(base, cl.additive.LoRA(rank=1, layers=(5,)), task=cl.tasks.Classification(2))
    cl.fit(tuned, cl.cache_below(tuned, train), max_steps=2, batch_size=4, progress=False)
    return tuned
"""
ROWS = [{"text": text, "label": label} for text, label in (("a fine film", 1), ("a dull film", 0)) for _ in range(4)]


@pytest.fixture(scope="module")
def base():
    from course_lib.bases import load_base

    return load_base("minilm")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def faulty(source, base, seconds=30):
    return entrant.entered(source, base, ROWS, ROWS, seconds)["fault"]


def test_an_entry_that_keeps_the_rules_is_scored(base, capsys):
    report = entrant.entered(GOOD, base, ROWS, ROWS, seconds=30)
    assert set(report) == {"files", "seconds"}
    assert "said by the entry" not in capsys.readouterr().out
    verdict = capstone.score(report, ROWS)
    assert verdict.numbers == 770 + 2 * (384 + 384)
    assert verdict.accuracy.n == 8
    assert "1,5" not in str(verdict)
    assert "2,306 of at most 20,000" in str(verdict)


def test_the_comparison_with_ours_is_said(monkeypatch):
    from course_lib.evaluation import Measured

    verdict = capstone.Verdict("LoRA", 100, 3.0, Measured(0.80, 0.78, 0.82, 1569), to_beat=0.79)
    assert "0.790, our own entry; yours is at +0.010; your interval includes ours" in str(verdict)
    verdict = capstone.Verdict("LoRA", 100, 3.0, Measured(0.80, 0.78, 0.82, 1569), to_beat=0.70)
    assert "includes" not in str(verdict)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "defines no function build"),
        ("build = 3", "defines no function build"),
        ("def build(base:\n    pass", "no valid Python: line 1"),
        ("def build(base, train, validation):\n    return 1 / 0", "in line 2, `return 1 / 0`: ZeroDivisionError"),
        ("import no_such_module", "in line 1, `import no_such_module`: ModuleNotFoundError"),
        ("def build(base, train, validation):\n    return base.model", "returned BertModel"),
        ("def build(base, train):\n    return None", "TypeError"),
        (GOOD.replace('print("said', 'base.model.pooler.dense.bias.data[0] += 1e-3; print("said'), "changed the base"),
        (GOOD.replace("rank=1", "rank=0"), "LoRA was given rank=0"),
        (GOOD.replace('print("said by the entry")', "raise MemoryError"), "more memory"),
    ],
)
def test_a_fault_is_a_sentence(source, said, base):
    kept = base.model.pooler.dense.bias.detach().clone()
    try:
        assert said in faulty(source, base)
    finally:
        base.model.pooler.dense.bias.data.copy_(kept)


def test_out_of_time(base):
    found = faulty("def build(base, train, validation):\n    while True: pass", base, seconds=0.3)
    assert "more than 0.3 CPU seconds" in found
    caught = "def build(base, train, validation):\n    try:\n        while True: pass\n    except Exception: return 1"
    assert "more than 0.3 CPU seconds" in faulty(caught, base, seconds=0.3)


def test_too_many_numbers(base):
    report = entrant.entered(GOOD.replace("rank=1, layers=(5,)", "rank=16, layers=(5,)"), base, ROWS, ROWS, 30)
    with pytest.raises(CourseError, match=r"has 25,346 numbers, the head included; at most 20,000"):
        capstone.score(report, ROWS)


def test_another_base_or_task_is_refused(base):
    other = GOOD.replace("attach(base,", "attach(base.randomised(0),")
    with pytest.raises(CourseError, match=r"another base|other weights"):
        capstone.score(entrant.entered(other, base, ROWS, ROWS, 30), ROWS)
    shutil.rmtree("saved")
    report = entrant.entered(GOOD.replace("Classification(2)", "Classification(3)"), base, ROWS, ROWS, 30)
    with pytest.raises(CourseError, match=r"should be cl.tasks.Classification\(2\)"):
        capstone.score(report, ROWS)


def test_a_report_cannot_write_elsewhere(base, tmp_path):
    files = {"../../stray.txt": base64.b64encode(b"x").decode()}
    with pytest.raises(CourseError):
        capstone.score({"files": files, "seconds": 1.0}, ROWS)
    assert not list(tmp_path.parent.glob("stray.txt"))


@pytest.mark.parametrize(
    ("status", "said"),
    [("timeout", "more than 60 CPU seconds"), ("memory", "GiB of memory"), ("killed", "OSError: gone")],
)
def test_an_entry_that_cannot_report(status, said, monkeypatch):
    from course_lib import sandbox

    monkeypatch.setattr(sandbox, "run", lambda *_, **__: sandbox.Result(status, "noise", "Trace\nOSError: gone", 1.0))
    with pytest.raises(CourseError, match=said):
        capstone.enter(GOOD, ROWS, ROWS)


def test_a_missing_file_is_a_sentence():
    with pytest.raises(CourseError, match="cannot be read: No such file"):
        capstone.judge("nowhere.py")


def test_in_the_sandbox(base):
    """The whole way, with few rows: a good entry comes out, and the data's files are out of reach."""
    from course_lib import sandbox

    if not sandbox.protection().ok:
        pytest.skip("no sandbox here")
    peeks = GOOD.replace('print("said by the entry")', 'cl.load_data("movie-reviews")')
    with pytest.raises(CourseError, match="Your entry stopped in line 5"):
        capstone.enter(peeks, ROWS, ROWS, seconds=20)
    report = capstone.enter(GOOD, ROWS, ROWS, seconds=20)
    assert capstone.score(report, ROWS).numbers == 2306
