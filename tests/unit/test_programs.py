"""Programs as answers: cutting, pass@k against counting, the sandboxed tests, and chapter 56's experiment."""

import itertools

import pytest

from course_lib import sandbox
from course_lib.experiments import chapter_56
from course_lib.runtime import CourseError
from course_lib.tasks import programs

PROBLEM = {
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n",
    "entry_point": "double",
}
needs_sandbox = pytest.mark.skipif(not sandbox.protection().ok, reason="no sandbox here")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("    return 1\n\ndef next():\n    pass", "    return 1\n"),
        ("    x = 1\n    if x:\n        return x\nif __name__", "    x = 1\n    if x:\n        return x"),
        ("    return 1\n# now\ndef g()", "    return 1"),
        ("    return 'a # b'", "    return 'a # b'"),
        ("", ""),
    ],
)
def test_cut_stops_where_the_function_ends(text, kept):
    assert programs.cut(text) == kept


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 2), (6, 1, 3), (4, 0, 2), (4, 4, 2), (5, 3, 3), (5, 4, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n, c, k):
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert programs.pass_at_k(n, c, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(CourseError, match="pass@"):
        programs.pass_at_k(n, c, k)


@needs_sandbox
@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("    return 2 * x", "ok"),
        ("    return x + 2", "error"),
        ("    raise SystemExit(0)", "error"),
        ("    import os\n    os._exit(0)", "error"),
        ("    while True: pass", "timeout"),
        ("    return [0] * 10**10", "memory"),
        ("    return (", "error"),
    ],
)
def test_a_program_is_judged_by_its_tests(completion, status):
    assert programs.try_program(PROBLEM, completion, seconds=1).status == status


def test_complete_writes_as_many_samples_as_asked_and_cuts_them():
    import course_lib as cl

    base = cl.load_base("course-gpt")
    prompts = ["def f(x):\n", "import os\n\n\ndef path_of(name):\n"]
    greedy = programs.complete(base, prompts, tokens=24)
    assert [len(texts) for texts in greedy] == [1, 1]
    one_by_one = [programs.complete(base, [prompt], tokens=24)[0] for prompt in prompts]
    assert greedy == one_by_one  # padding changes nothing
    drawn = programs.complete(base, prompts, samples=3, temperature=1.0, tokens=24, seed=1)
    assert drawn == programs.complete(base, prompts, samples=3, temperature=1.0, tokens=24, seed=1)
    assert len(set(drawn[0])) > 1
    assert all("\ndef " not in text for texts in drawn for text in texts)


@needs_sandbox
def test_the_experiment_tells_right_programs_from_constants():
    right = chapter_56.humaneval("canonical", 0.0, 1, 0, problems=6)
    constant = chapter_56.humaneval("return True", 0.0, 1, 0, problems=6)
    assert right["pass_1"] == 1
    assert constant["pass_1"] < 1
    assert right["ended_ok"] == 6
    assert sum(constant[f"ended_{name}"] for name in ("ok", "error", "timeout", "memory", "killed")) == 6


def test_the_first_argument_is_found():
    assert chapter_56.first_argument("from typing import List\n\ndef f(xs: List[int], y):\n", "f") == "xs"
