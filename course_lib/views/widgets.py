"""One helper for everything that moves: controls above, and one figure below that is redrawn in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..runtime import CourseError
from .style import SIZE, Picture, new_figure

if TYPE_CHECKING:
    import ipywidgets

SMOOTH = 0.15  # seconds: a figure drawn faster than this follows the slider, a slower one waits for its release


def explore(
    draw: Callable,
    *,
    size: tuple[float, float] = SIZE,
    alt: str = "",
    columns: int = 1,
    labels: dict[str, str] | None = None,
    **controls: Any,
) -> None:
    """Show a figure that `draw(ax, **values)` fills, with a control for each value; a static PNG always stays.

    A control is (low, high, step, start) for a slider of whole or real numbers, a list or a dict for a choice, True or
    False for a box, a string for a text, or a widget. `labels` renames controls. With columns > 1 `draw` gets that many
    axes. If `draw` returns a Picture, this is shown, under its own alt text.

    The figure is an ordinary PNG output, replaced in place when a control moves: so a stored notebook, GitHub and
    print show its last state, and without a running kernel nothing is missing but the movement. Every control has
    a label and can be reached and moved by keyboard: sliders by the arrows, a menu by Space, arrows and Enter.
    """
    import ipywidgets as widgets
    from IPython.display import display

    labels = labels or {}
    made = {name: control(labels.get(name, name.replace("_", " ")), wanted) for name, wanted in controls.items()}
    figure, _ = new_figure(*size)

    def picture() -> Picture:
        figure.clear()
        axes = figure.subplots(ncols=columns)
        values = {name: widget.value for name, widget in made.items()}
        result = draw(axes, **values)
        state = ", ".join(f"{name} {value}" for name, value in values.items())
        said = result.alt if isinstance(result, Picture) else alt or draw.__name__.replace("_", " ")
        own = result.figure if isinstance(result, Picture) else figure
        return Picture(own, f"{said} (at {state})")

    fallback = "Controls (they move in a running notebook): " + ", ".join(
        f"{widget.description} {widget.value}" for widget in made.values()
    )
    started = time.perf_counter()
    first = picture()
    bundle, metadata = first._repr_mimebundle_()
    seconds = time.perf_counter() - started
    panel = widgets.VBox(list(made.values()))
    display({**panel._repr_mimebundle_(), "text/plain": fallback}, raw=True)
    shown = display(bundle, metadata=metadata, raw=True, display_id=True)

    def redraw(_: object) -> None:
        bundle, metadata = picture()._repr_mimebundle_()
        shown.update(bundle, metadata=metadata, raw=True)

    for widget in made.values():
        if hasattr(widget, "continuous_update") and not isinstance(widget, widgets.Text):
            widget.continuous_update = seconds < SMOOTH
        widget.observe(redraw, names="value")


def control(label: str, wanted: Any) -> ipywidgets.Widget:
    """The labelled widget for one control of `explore`."""
    import ipywidgets as widgets

    look = {"description": label, "style": {"description_width": "9em"}, "layout": widgets.Layout(width="32em")}
    if isinstance(wanted, widgets.Widget):
        wanted.description = wanted.description or label
        return wanted
    if isinstance(wanted, bool):
        return widgets.Checkbox(value=wanted, **look)
    if isinstance(wanted, str):
        return widgets.Text(value=wanted, continuous_update=False, **look)
    if isinstance(wanted, list | dict):
        return widgets.Dropdown(options=wanted, **look)
    if isinstance(wanted, tuple) and len(wanted) in (3, 4):
        low, high, step = wanted[:3]
        whole = all(isinstance(number, int) for number in wanted)
        slider = widgets.IntSlider if whole else widgets.FloatSlider
        return slider(value=wanted[3] if len(wanted) == 4 else low, min=low, max=high, step=step, **look)
    raise CourseError(
        f"The control {label!r} is {wanted!r}; give (low, high, step, start), a list or dict of choices, "
        "True or False, a text, or a widget."
    )
