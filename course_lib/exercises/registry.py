"""`exercise` registers an attempt, `check` judges it, `solution` never overwrites it."""

from __future__ import annotations

import contextlib
import dis
import importlib
import inspect
import io
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..runtime import CourseError
from . import ledger, messages

SECONDS = 10.0  # a check takes under 3 s with a right answer; longer than this is an endless loop
LINES_SHOWN = 8  # of what the attempt itself prints while it is judged


class Wrong(Exception):
    """Raised by a check: `key` names the misconception in messages.toml, `values` fill its gaps."""

    def __init__(self, key: str, **values: object):
        super().__init__(key)
        self.key, self.values = key, values


class TooSlow(BaseException):
    """The time limit; no Exception, so that an `except Exception` in the attempt does not swallow it."""


@dataclass(frozen=True)
class Check:
    """What a chapter module declares about one exercise."""

    number: str
    title: str
    minutes: int
    function: Callable[[Callable], None]


@dataclass(frozen=True)
class Verdict:
    """The judgement of one attempt: "right", "wrong" or "not attempted", and the key of its message."""

    number: str
    status: str
    key: str
    values: dict[str, object] = field(default_factory=dict)
    printed: str = ""

    def __str__(self) -> str:
        lines = messages.wrapped(self.key, **self.values)
        shown = self.printed.splitlines()[:LINES_SHOWN] if self.status == "wrong" else []
        if shown:
            lines += ["Printed while it was checked / 检查时的打印输出:", *("    " + line for line in shown)]
        head, indent = f"{self.number}  {self.status}", " " * (len(self.number) + 2)
        return "\n".join([head, *(indent + line for line in lines)])


ATTEMPTS: dict[str, Callable] = {}
CHECKS: dict[str, Check] = {}


def check_of(number: str, title: str, minutes: int) -> Callable[[Callable], Callable]:
    """Declare a function as the check of exercise `number`: it takes an attempt and raises Wrong, or not."""

    def declare(function: Callable) -> Callable:
        CHECKS[number] = Check(number, title, minutes, function)
        return function

    return declare


def all_checks() -> dict[str, Check]:
    """Every exercise of the course, in order; imports the chapters' modules."""
    for file in Path(__file__).parent.glob("chapter_*.py"):
        importlib.import_module(f"{__package__}.{file.stem}")
    return dict(sorted(CHECKS.items(), key=lambda item: [int(part) for part in item[0].split(".")]))


def exercise(number: str) -> Callable[[Callable], Callable]:
    """Register a function as the attempt at exercise `number`; it comes back unchanged."""
    if callable(number):
        raise CourseError('@cl.exercise needs the exercise\'s number: write @cl.exercise("41.1") above the function.')
    _check_named(number)

    def register(function: Callable) -> Callable:
        ATTEMPTS[number] = function
        return function

    return register


def check(number: str) -> None:
    """Judge the registered attempt at exercise `number`, print the verdict in both languages, record it."""
    _check_named(number)
    if number not in ATTEMPTS:
        print(Verdict(number, "not attempted", "general.not_registered", {"number": number}))
        return
    verdict = judge(number, ATTEMPTS[number])
    print(verdict)
    ledger.record_check(number, verdict.status, verdict.key)


def solution(number: str) -> Callable[[Callable], Callable]:
    """The reference for exercise `number`; what comes back is the learner's own function if that is right.

    So "Run all" never overwrites an attempt, and cells below always have a function that works. A reference
    that fails its own check is the course's mistake and raises AssertionError.
    """

    def choose(reference: Callable) -> Callable:
        verdict = judge(number, reference)
        assert verdict.status == "right", f"the reference solution fails its own check:\n{verdict}"
        attempt = ATTEMPTS.get(number)
        return attempt if attempt is not None and judge(number, attempt).status == "right" else reference

    return choose


def judge(number: str, attempt: Callable) -> Verdict:
    """What the check of exercise `number` says about `attempt`; prints, records and raises nothing."""
    wanted = _check_named(number)
    if untouched(attempt):
        return Verdict(number, "not attempted", "general.not_attempted")
    printed = io.StringIO()
    key, values = f"{number}.right", {}
    try:
        with undisturbed_torch(), time_limit(SECONDS), contextlib.redirect_stdout(printed):
            wanted.function(attempt)
    except Wrong as wrong:
        key, values = wrong.key, wrong.values
    except TooSlow:
        key, values = "general.too_slow", {"seconds": f"{SECONDS:g}"}
    except Exception as error:
        key, values = explain(error, attempt)
    return Verdict(number, "right" if key == f"{number}.right" else "wrong", key, values, printed.getvalue())


def untouched(function: Callable) -> bool:
    """True if the body is only a docstring, `...` or `pass`.

    Such a function compiles to `return None` and nothing else. Comparing bytecode needs no
    source file: it works the same in Jupyter, nbval and scripts.
    """

    def stub(): ...

    def steps(code: object) -> list[tuple[str, object]]:
        instructions = [(step.opname, step.argval) for step in dis.get_instructions(code)]
        return [step for step in instructions if step[0] not in ("RESUME", "NOP", "CACHE")]

    return steps(inspect.unwrap(function).__code__) == steps(stub.__code__)


def explain(error: Exception, attempt: Callable) -> tuple[str, dict[str, object]]:
    """An exception as a message: with the line of the learner's own code if it came from there."""
    said = f"{type(error).__name__}: {error}".rstrip(": ").split("\n")[0]
    file = inspect.unwrap(attempt).__code__.co_filename
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not theirs:
        return "general.unusable", {"error": said}
    values = {"error": said, "line": theirs[-1].lineno, "source": theirs[-1].line or "..."}
    return "general.recursion" if isinstance(error, RecursionError) else "general.raised", values


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block after `seconds` of work, or ten times as many of waiting.

    Work is the process's CPU time, so a busy machine makes no answer wrong. Alarms exist in the main thread of a Unix
    process only; elsewhere nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise TooSlow

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}
    previous = {number: signal.signal(number, stop) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, _limit in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed_torch() -> Iterator[None]:
    """The same random numbers in every check, the learner's own untouched, and gradients on."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        yield


def _check_named(number: str) -> Check:
    """The check of exercise `number`, its chapter's module imported on the way."""
    module = f"chapter_{str(number).split('.')[0]}"
    if (Path(__file__).parent / f"{module}.py").is_file():
        importlib.import_module(f"{__package__}.{module}")
    if number not in CHECKS:
        raise CourseError(f"There is no exercise {number!r}; the course has {', '.join(all_checks())}.")
    return CHECKS[number]
