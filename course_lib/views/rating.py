"""A form in which people rate things, one after the other; what they say comes back as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..runtime import CourseError

if TYPE_CHECKING:
    import ipywidgets


class Ratings:
    """A rating form over `items` (HTML, one shown at a time), with a row of buttons for each scale.

    `scales`: name -> the words of its buttons, from 0 upwards. `values[name]` has a number for each item, None while
    it is not rated. Shown as the last line of a cell, it is a form; a stored page shows how far the rating has got.
    """

    def __init__(self, items: Sequence[str], scales: Mapping[str, Sequence[str]]):
        if not items or not scales:
            raise CourseError("A rating form needs at least one thing to rate, and one scale to rate it on.")
        self.items, self.scales = list(items), dict(scales)
        self.values: dict[str, list[int | None]] = {name: [None] * len(self.items) for name in self.scales}

    def rate(self, number: int, **ratings: int) -> None:
        """Rate item `number`: rate(0, relevance=2)."""
        for name, value in ratings.items():
            if name not in self.scales or value not in range(len(self.scales[name])):
                known = ", ".join(f"{scale} 0 to {len(words) - 1}" for scale, words in self.scales.items())
                raise CourseError(f"{name}={value!r} is no rating here; the scales are: {known}.")
            self.values[name][number] = value

    def complete(self) -> list[int]:
        """The numbers of the items that are rated on every scale."""
        return [i for i in range(len(self.items)) if all(values[i] is not None for values in self.values.values())]

    def __repr__(self) -> str:
        return f"A rating form: {len(self.complete())} of {len(self.items)} rated on {', '.join(self.scales)}."

    def _repr_mimebundle_(self, **kwargs) -> dict[str, object]:
        return {**self.form()._repr_mimebundle_(), "text/plain": repr(self)}

    def form(self) -> ipywidgets.VBox:
        """The widget: the item, its buttons, and two that lead to the one before and the next one."""
        import ipywidgets as widgets

        look = {"style": {"description_width": "8em"}}
        shown, said = widgets.HTML(), widgets.HTML()
        rows = {
            name: widgets.ToggleButtons(options=[("?", None), *((w, i) for i, w in enumerate(words))],
                                        description=name, **look)
            for name, words in self.scales.items()
        }  # fmt: skip
        place = widgets.BoundedIntText(value=1, min=1, max=len(self.items), description="item", **look)

        def show(_: object = None) -> None:
            number = place.value - 1
            shown.value = self.items[number]
            for name, row in rows.items():
                row.value = self.values[name][number]
            said.value = repr(self)

        def keep(name: str, value: int | None) -> None:
            self.values[name][place.value - 1] = value
            said.value = repr(self)

        for name, row in rows.items():
            row.observe(lambda change, name=name: keep(name, change["new"]), names="value")
        place.observe(show, names="value")
        show()
        return widgets.VBox([place, shown, *rows.values(), said])
