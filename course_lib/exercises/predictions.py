"""Predictions: written down before a result is seen, compared with it after, and scored for calibration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime import CourseError
from . import ledger

SURE = 0.8  # the share of ranges that should hold the truth: learners give one they are 80 % sure of
ENOUGH = 5  # fewer ranges than this say nothing about calibration

Answer = float | str


def predict(
    key: str,
    question: str,
    *,
    unit: str = "",
    choices: Sequence[str] | None = None,
    value: Answer | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Answer | None:
    """Ask for a prediction before the result is shown, and return the one recorded, or None.

    In a notebook a small form appears: a number, with a range you are 80 % sure of if you like, or one of
    `choices`. Without a form, record it in code: cl.predict(key, question, value=.3, low=.1, high=.5). It
    never waits for an answer. Once the result was revealed the prediction stays: hindsight does not count.
    """
    entry = ledger.load()["predictions"].get(key, {})
    if value is not None:
        if "truth" in entry:
            print(f"The result of {key!r} has been revealed; your prediction stays {describe(entry)}.")
            return entry["value"]
        return record(key, question, value, low=low, high=high, unit=unit, choices=choices)
    show(key, question, unit, choices, entry)
    return entry.get("value")


def record(
    key: str,
    question: str,
    value: Answer,
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    choices: Sequence[str] | None = None,
) -> Answer:
    """Write one prediction down with the time; a later one replaces it until the result is revealed."""
    if choices is not None and value not in choices:
        raise CourseError(
            f"{value!r} is none of the choices of {key!r}; choose one of {', '.join(map(repr, choices))}."
        )
    if choices is None and not isinstance(value, int | float):
        raise CourseError(f"The prediction of {key!r} is {value!r}; it must be a number.")
    if (low is None) != (high is None):
        raise CourseError(f"The range of {key!r} has one end; give both low and high, or neither.")
    if low is not None and not low <= value <= high:
        raise CourseError(f"Your value {value:g} lies outside your own range {low:g} to {high:g}; mend one of them.")
    entry = {
        "question": question,
        "value": value,
        "low": low,
        "high": high,
        "unit": unit,
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    ledger.update(lambda content: content["predictions"].update({key: entry}))
    return value


def reveal(key: str, truth: Answer) -> None:
    """Say how far off the prediction was, and keep the truth for `calibration`."""
    entry = ledger.load()["predictions"].get(key)
    if entry is None:
        print(f"It is {number(truth)}. You recorded no prediction for {key!r}.")
        return
    truth = truth if isinstance(truth, str) else float(truth)
    entry.setdefault("truth", truth)
    ledger.update(lambda content: content["predictions"].update({key: entry}))
    print(f"You predicted {describe(entry)}. It is {number(truth)}{entry['unit']}: {verdict(entry, truth)}.")


def verdict(entry: dict, truth: Answer) -> str:
    """The distance between a prediction and the truth, in words."""
    if isinstance(truth, str):
        return "right" if entry["value"] == truth else "not what you expected; which assumption was wrong?"
    off = entry["value"] - truth
    said = "exactly right" if off == 0 else f"{number(abs(off))} too {'high' if off > 0 else 'low'}"
    if entry["low"] is None:
        return said
    return f"{said}, {'inside' if entry['low'] <= truth <= entry['high'] else 'outside'} your range"


def describe(entry: dict) -> str:
    """A recorded prediction in words: 0.3 (between 0.1 and 0.5)."""
    said = f"{number(entry['value'])}{entry['unit']}"
    return said if entry["low"] is None else f"{said} (between {number(entry['low'])} and {number(entry['high'])})"


def number(value: Answer) -> str:
    """A value with three significant digits, thousands kept whole."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class Calibration:
    """How often the ranges held the truth, and how often a choice was right."""

    ranges: int
    inside: int
    choices: int
    choices_right: int

    def __str__(self) -> str:
        parts = []
        if self.choices:
            parts.append(f"Of {self.choices} choices {self.choices_right} were right.")
        if not self.ranges:
            return " ".join([*parts, "No revealed prediction has a range yet; give low and high, 80 % sure."])
        parts.append(
            f"{self.inside} of {self.ranges} ranges held the truth ({self.inside / self.ranges:.0%}; "
            f"aim for {SURE:.0%})."
        )
        if self.ranges < ENOUGH:
            parts.append(f"Fewer than {ENOUGH} say little.")
        elif self.inside / self.ranges < SURE - 0.15:
            parts.append("Your ranges are too narrow: you are surer than you should be.")
        elif self.inside / self.ranges > SURE + 0.15:
            parts.append("Your ranges may be too wide: dare a narrower one.")
        else:
            parts.append("That is well calibrated.")
        return " ".join(parts)

    __repr__ = __str__


def calibration() -> Calibration:
    """Score what was revealed: ranges you are 80 % sure of should hold the truth four times in five."""
    revealed = [entry for entry in ledger.load()["predictions"].values() if "truth" in entry]
    ranges = [entry for entry in revealed if entry["low"] is not None]
    chosen = [entry for entry in revealed if isinstance(entry["value"], str)]
    return Calibration(
        len(ranges),
        sum(entry["low"] <= entry["truth"] <= entry["high"] for entry in ranges),
        len(chosen),
        sum(entry["value"] == entry["truth"] for entry in chosen),
    )


def show(key: str, question: str, unit: str, choices: Sequence[str] | None, entry: dict) -> None:
    """Display the form, with a static text for places that cannot: GitHub, print, a script."""
    asked = f"Your prediction: {question}{f' ({unit.strip()})' if unit else ''}"
    if choices:
        asked += f" [{' / '.join(choices)}]"
    if "truth" in entry:
        print(f"{asked}\n{describe(entry)}, written down {entry['at'][:16]}; the result was revealed since.")
        return
    example = repr(choices[0]) if choices else "..., low=..., high=..."
    static = f"{asked}\n" + (
        f"Recorded: {describe(entry)}" if entry else f"None yet. In code: cl.predict({key!r}, ..., value={example})"
    )
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        get_ipython = None
    if get_ipython is None or get_ipython() is None or not hasattr(get_ipython(), "kernel"):
        print(static)
        return
    bundle = form(key, question, unit, choices, entry)._repr_mimebundle_()
    display({**bundle, "text/plain": static}, raw=True)


def form(key: str, question: str, unit: str, choices: Sequence[str] | None, entry: dict) -> object:
    """The ipywidgets form: value, range, a button that records, and a line that says what is recorded."""
    import ipywidgets as widgets

    style, wide = {"description_width": "initial"}, widgets.Layout(width="11em")
    said = widgets.HTML(f"Recorded: {describe(entry)}" if entry else "", layout=widgets.Layout(margin="0 0 0 1em"))
    button = widgets.Button(description="Write it down", button_style="primary")
    if choices:
        answer = widgets.RadioButtons(options=list(choices), value=entry.get("value"), description="")
        fields = [answer]
    else:
        answer, low, high = (
            widgets.Text(
                value="" if entry.get(part) is None else f"{entry[part]:g}",
                description=label,
                style=style,
                layout=wide,
            )
            for part, label in (("value", "value"), ("low", "at least"), ("high", "at most"))
        )
        fields = [answer, low, high]

    def save(_: object) -> None:
        try:
            values = [answer.value] if choices else [float(box.value) if box.value.strip() else None for box in fields]
            if values[0] is None:
                raise CourseError("Write a value first.")
            limits = {} if choices else {"low": values[1], "high": values[2]}
            record(key, question, values[0], unit=unit, choices=choices, **limits)
            said.value = f"Recorded: {describe({'value': values[0], 'low': None, 'unit': unit, **limits})}"
        except ValueError:
            said.value = "Please write numbers, as in 0.3 or 250."
        except CourseError as error:
            said.value = str(error)

    button.on_click(save)
    hint = "" if choices else " <span style='opacity:.7'>(the range: 80 % sure; may stay empty)</span>"
    asked = widgets.HTML(f"<b>Your prediction:</b> {question}{f' ({unit.strip()})' if unit else ''}{hint}")
    return widgets.VBox([asked, widgets.HBox(fields), widgets.HBox([button, said])])
