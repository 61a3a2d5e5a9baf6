"""One look for every figure: a palette by role, readable without colour vision, and pictures with alt text.

Figures are made without pyplot (`new_figure`), so nothing leaks between cells and no backend matters.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (6.4, 3.6)  # inches
SHARPNESS = 2  # stored pixels a shown pixel, in each direction, so that pictures are crisp on fine screens
DPI = 100  # shown pixels an inch
COLOURS = 128  # of a stored picture: a palette keeps it at a third of the size


@dataclass(frozen=True)
class Role:
    """How one part in the story is drawn: colour, pale tint for areas, marker and dash for readers without colour."""

    colour: str
    tint: str
    marker: str
    dash: str | tuple


ROLES = {
    "base": Role("#3F4A59", "#E9ECF0", "o", "-"),  # the frozen model: slate
    "addition": Role("#C8500A", "#FBE7DA", "D", "-"),  # what is added and trained: burnt orange
    "full": Role("#2371B8", "#E1EEF9", "s", (0, (6, 2))),  # full tuning: blue
    "probe": Role("#2A8452", "#DDF1E6", "^", (0, (1, 1.5))),  # a head on frozen features: green
    "neutral": Role("#98A1AC", "#F4F5F7", "v", (0, (4, 2, 1, 2))),  # guides, baselines, controls: grey
}
INK = "#1B2430"  # text
FAINT = "#6A7480"  # second voice: notes and units; 4.5 : 1 on white
GRID = "#E3E6EA"
TITLE, NOTE = 10.3, 13.4  # letters an inch of the finding over a figure, and of the note under it


def role(name: str) -> Role:
    """The look of a role: "base", "addition", "full", "probe" or "neutral"."""
    if name not in ROLES:
        from ..runtime import CourseError

        raise CourseError(f"There is no role {name!r} in the palette; choose one of {', '.join(ROLES)}.")
    return ROLES[name]


SETTINGS: dict[str, Any] = {
    "figure.figsize": SIZE,
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.labelcolor": FAINT,
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#B9C0C8",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": "#B9C0C8",
    "ytick.color": "#B9C0C8",
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def apply() -> None:
    """Set matplotlib's defaults to the course's look, for figures made with pyplot as well."""
    import matplotlib
    from cycler import cycler

    colours = cycler(color=[one.colour for one in ROLES.values()]) + cycler(
        linestyle=[one.dash for one in ROLES.values()]
    )
    matplotlib.rcParams.update(SETTINGS | {"axes.prop_cycle": colours})


def new_figure(width: float = SIZE[0], height: float = SIZE[1], **subplots: Any) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches in the course's look, and its axes; `subplots` as for Figure.subplots."""
    from matplotlib.figure import Figure

    apply()
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def finding(figure: Figure, title: str, note: str = "") -> None:
    """Write the finding over a figure, left aligned, with a paler note under it; room is made for both.

    A long title is broken into lines of the figure's width. Writing again replaces what stood there.
    """
    for old in [text for text in figure.texts if text.get_gid() == "finding"]:
        old.remove()
    width, height = figure.get_size_inches()
    top = 1 - 0.08 / height
    voices = ((title, 11.5, "bold", INK, TITLE), (note, 9, "normal", FAINT, NOTE))
    for content, size, weight, colour, letters in voices:
        for line in balanced(content, int(letters * (width - 0.15))):
            figure.text(0.012, top, line, size=size, weight=weight, color=colour, ha="left", va="top", gid="finding")
            top -= size * 1.35 / 72 / height
    if figure.get_constrained_layout():
        figure.get_layout_engine().set(rect=(0.005, 0.005, 0.99, top - 0.03))


def balanced(text: str, columns: int) -> list[str]:
    """The text in as few lines as `columns` letters allow, all of them about equally long."""
    import textwrap

    lines = textwrap.wrap(text, columns)
    while len(lines) > 1 and columns > 1 and len(narrower := textwrap.wrap(text, columns - 1)) == len(lines):
        lines, columns = narrower, columns - 1
    return lines


@dataclass
class Picture:
    """A finished figure with its alt text. In a notebook it shows as a small PNG; `figure` is still there to change."""

    figure: Figure
    alt: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def png(self) -> bytes:
        """The picture as PNG bytes with a small palette."""
        from PIL import Image

        self.figure.draw_without_rendering()  # the layout settles in two rounds
        full = io.BytesIO()
        self.figure.savefig(full, format="png", dpi=DPI * SHARPNESS)
        small = io.BytesIO()
        image = Image.open(full).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        image.save(small, format="png", optimize=True)
        return small.getvalue()

    def save(self, path: str) -> None:
        """Write the picture to a file."""
        from pathlib import Path

        Path(path).write_bytes(self.png())

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        width, height = (int(inches * DPI) for inches in self.figure.get_size_inches())
        shown = {"width": width, "height": height, "alt": self.alt}
        return {"image/png": self.png(), "text/plain": self.alt}, {"image/png": shown}


def figure_with_alt(figure: Figure, alt: str) -> Picture:
    """A figure for a notebook's output with the alt text that a screen reader, or a page without images, gives."""
    import sys

    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    return Picture(figure, alt)
