"""One drawing for all of Part 4: a Transformer block on its residual stream, and the places where one can add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..runtime import CourseError
from .style import FAINT, INK, NOTE, SIZE, TITLE, Picture, balanced, finding, new_figure, role

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SITES = {  # site: (default label, what a reader who cannot see the drawing is told)
    "embedding": ("soft prompt", "vectors put before the embedded text"),
    "attention": ("prefix (keys, values)", "an addition inside attention"),
    "ffn": ("scale", "an addition inside the feed-forward network"),
    "after-attention": ("adapter", "a module in attention's branch, before it joins the stream"),
    "beside-attention": ("parallel\nadapter", "a module beside attention, summed into the stream"),
    "after-ffn": ("adapter", "a module in the feed-forward branch, before it joins the stream"),
    "beside-ffn": ("parallel\nadapter", "a module beside the feed-forward network, summed into the stream"),
    "stream": ("edit", "an edit of the stream after the block"),
    "logits": ("vocabulary bias", "a vector added to the logits"),
    "head": ("head", "a new head on the last states"),
    "side": ("small network", "a small network beside all blocks, summed with the last states"),
    "ladder": ("side block", "a small block beside each block, fed with what that hands on; the head reads the last"),
}
OWN = {  # what of the model itself may train, as a copy: what a reader who cannot see the drawing is told
    "norms": "the layer norms are trained copies",
    "biases": "the biases are trained copies",
    "weights": "all weights are trained copies",
}
STREAM, BRANCH, BELOW, ABOVE, LANE = 1.3, 2.14, 0.68, 2.7, 0.1  # heights in inches
HALF = 0.15  # half a box's height
JOIN = 5.255  # where a side network meets the stream, and a new head reads it

# Where things stand from left to right, in inches: where a branch leaves the stream, its boxes, where it joins again.
PRE = {"attention": (1.14, (1.24, 1.52), (1.63, 2.37), 2.6), "ffn": (2.98, (3.08, 3.36), (3.47, 4.02), 4.27)}
POST = {"attention": (1.14, (2.58, 2.84), (1.28, 2.02), 2.36), "ffn": (3.02, (4.22, 4.46), (3.2, 3.8), 4.08)}


def draw_block(
    additions: Iterable[str] | Mapping[str, str] = (),
    *,
    own: Iterable[str] = (),
    style: str = "pre",
    title: str = "",
    note: str = "",
) -> Picture:
    """A Transformer block on its residual stream, with additions drawn at their sites.

    `additions` lists sites of SITES, or maps a site to its label: {"beside-ffn": "4 f(x)"}. `own` says what of the
    model itself trains: "norms", "biases" or "weights". `style` is "pre" (each branch is normalised before its layer,
    as in Llama and GPT-2) or "post" (the stream after each sum, as in BERT).
    """
    from matplotlib.patches import FancyBboxPatch

    labels = dict(additions) if isinstance(additions, Mapping) else dict.fromkeys(additions, "")
    unknown = [site for site in labels if site not in SITES]
    if unknown:
        raise CourseError(f"There is no site {unknown[0]!r} in the block; choose from {', '.join(SITES)}.")
    if style not in ("pre", "post"):
        raise CourseError(f'The style is {style!r}; a block is "pre" or "post", after where it normalises.')
    wrong = [part for part in own if part not in OWN]
    if wrong:
        raise CourseError(f"A model has no {wrong[0]!r} of its own to train; choose from {', '.join(OWN)}.")
    labels = {site: label or SITES[site][0] for site, label in labels.items()}

    under, lane = bool({"beside-attention", "beside-ffn", "stream"} & set(labels)), {"side", "ladder"} & set(labels)
    bottom = BELOW - 0.28 if under or lane or "logits" in labels else STREAM - 0.42
    bottom = LANE - 0.28 if under and lane else bottom
    top = BRANCH + 0.48
    if {"attention", "ffn"} & set(labels):
        top = ABOVE + 0.27 + 0.18 * ("ffn" in labels)
    height = top - bottom + 0.38 + 0.06
    title = title or "A block adds to the stream, twice"
    lines = [len(balanced(text, int(letters * (SIZE[0] - 0.15)))) for text, letters in ((title, TITLE), (note, NOTE))]
    heading = 0.2 + 0.22 * lines[0] + 0.18 * lines[1]
    figure, ax = new_figure(height=height + heading)
    figure.set_layout_engine("none")
    ax.set_position((0, 0, 1, height / (height + heading)))
    ax.set(xlim=(0, 6.4), ylim=(bottom - 0.38, top + 0.06))
    ax.axis("off")
    ax.add_patch(
        FancyBboxPatch(
            (1.0, bottom),
            3.86,
            top - bottom,
            boxstyle="round,pad=0,rounding_size=0.12",
            linewidth=0,
            facecolor=role("neutral").tint,
            zorder=0,
        )
    )
    ax.text(4.76, top - 0.08, "one block, repeated L times", ha="right", va="top", size=8, color=FAINT)
    pen = Pen(ax, set(own))
    ax.plot([1.1, 4.3], [STREAM, STREAM], color=role("neutral").tint, linewidth=9, zorder=2.5)  # what passes under
    stops = [(0.4, 5.19), (5.5, 6.02)] if "ladder" in labels else [(0.4, 6.02)]  # the head reads the side alone
    for begin, end in stops:
        pen.line([(begin, STREAM), (end, STREAM)], "base", width=4.2)
    pen.arrow((5.95, STREAM), (6.1, STREAM), "base")
    ax.text(
        1.64 if style == "pre" else 1.24,
        STREAM - 0.09,
        "residual stream",
        ha="left",
        va="top",
        size=8,
        color=role("base").colour,
    )
    pen.box((0.1, 0.82), STREAM, "embed")
    for name, places in (PRE if style == "pre" else POST).items():
        draw_branch(pen, name, places, style, labels)
    if style == "pre":
        pen.box((4.91, 5.14), STREAM, "LN", small=True)
    pen.box((5.37, 5.8), STREAM, "vocab\nmatrix", tall=True)
    ax.text(6.13, STREAM, "logits", ha="left", va="center", size=8, color=role("base").colour, rotation=90)
    draw_ends(pen, labels)
    if lane:
        draw_lane(pen, labels, LANE if under else BELOW)
    draw_key(ax, bottom - 0.22, bool(labels), own)
    finding(figure, title, note)
    told = [f"{label}: {SITES[site][1]}".replace("\n", " ") for site, label in labels.items()]
    return Picture(
        figure,
        f"{title}. Drawing of a {style}-norm block: attention and feed-forward network each leave the residual stream "
        f"and are added back to it. {'; '.join([*told, *(OWN[part] for part in own)]) or 'No addition'}.",
    )


class Pen:
    """Boxes, lines, arrows and plus signs in the colours of their roles; `own` is what of the model itself trains."""

    def __init__(self, ax: Axes, own: set[str]):
        self.ax, self.own = ax, own

    def box(
        self,
        across: tuple[float, float],
        y: float,
        text: str,
        who: str = "base",
        *,
        small: bool = False,
        tall: bool = False,
    ) -> None:
        """A rounded box from across[0] to across[1] around height y, with its text inside."""
        from matplotlib.patches import FancyBboxPatch

        if who == "base" and ("weights" in self.own or (text == "LN" and "norms" in self.own)):
            who = "full"
        look, half = role(who), HALF * (1.5 if tall else 0.9 if small else 1)
        left, right = across
        face = "white" if who == "base" else look.tint
        self.ax.add_patch(
            FancyBboxPatch(
                (left, y - half),
                right - left,
                2 * half,
                zorder=5,
                linewidth=1.4,
                boxstyle="round,pad=0,rounding_size=0.05",
                facecolor=face,
                edgecolor=look.colour,
            )
        )
        self.ax.text(
            (left + right) / 2,
            y,
            text,
            ha="center",
            va="center",
            zorder=6,
            linespacing=1.05,
            size=7.5 if small else 8 if who == "addition" else 8.2,
            color=look.colour,
            weight="bold" if who == "addition" else "normal",
        )
        if who == "base" and "biases" in self.own and text in ("LN", "attention", "FFN"):
            self.tag(right, y + half, "b")

    def tag(self, x: float, y: float, text: str) -> None:
        """A small sign on the corner of a box: what inside it trains."""
        look = role("full")
        rim = {"boxstyle": "circle,pad=0.22", "facecolor": look.tint, "edgecolor": look.colour, "linewidth": 1.2}
        self.ax.text(x, y, text, ha="center", va="center", size=7.5, color=look.colour, zorder=9, bbox=rim)

    def line(self, points: list[tuple[float, float]], who: str, width: float = 1.5, *, over: bool = True) -> None:
        """A bent line; with over=False it passes under the stream."""
        xs, ys = zip(*points, strict=True)
        look = {"linewidth": width, "solid_joinstyle": "round", "solid_capstyle": "round"}
        self.ax.plot(xs, ys, "-", color=role(who).colour, zorder=3 if over else 2, **look)

    def dot(self, x: float, y: float, who: str) -> None:
        """Where a line begins on another, so that a mere crossing is not taken for one."""
        self.ax.plot(x, y, marker="o", markersize=5.5, color=role(who).colour, zorder=6)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], who: str) -> None:
        self.ax.annotate(
            "",
            end,
            start,
            zorder=4,
            arrowprops={
                "arrowstyle": "-|>,head_length=0.42,head_width=0.22",
                "color": role(who).colour,
                "linewidth": 1.5,
                "shrinkA": 0,
                "shrinkB": 0,
                "joinstyle": "miter",
            },
        )

    def plus(self, x: float, who: str) -> None:
        """A plus sign in a circle, on the stream."""
        look = role(who)
        self.ax.plot(
            x,
            STREAM,
            marker="o",
            markersize=13.5,
            color="white",
            markeredgecolor=look.colour,
            markeredgewidth=1.5,
            zorder=7,
        )
        self.ax.plot(x, STREAM, marker="+", markersize=7.5, color=look.colour, markeredgewidth=1.7, zorder=8)


def draw_branch(pen: Pen, name: str, places: tuple, style: str, labels: Mapping[str, str]) -> None:
    """Attention's or the feed-forward network's way off the stream and back, with what is added to it."""
    leave, norm, layer, join = places
    parallel = f"beside-{name}" in labels
    pen.line([(leave, STREAM), (leave, BRANCH), (join, BRANCH)], "base")
    pen.arrow((join, BRANCH), (join, STREAM + 0.1), "base")
    pen.box(layer, BRANCH, "attention" if name == "attention" else "FFN")
    pen.box(norm, BRANCH if style == "pre" else STREAM, "LN", small=True)
    if parallel:
        # It reads what the layer beside it reads: in a pre-norm block the normalised stream, behind LN.
        tap, height = ((norm[1] + layer[0]) / 2, BRANCH) if style == "pre" else (leave, STREAM)
        pen.line([(tap, height), (tap, BELOW), (join, BELOW)], "addition", over=style == "post")
        pen.dot(tap, height, "addition")
        pen.arrow((join, BELOW), (join, STREAM - 0.1), "addition")
        middle = (tap + join) / 2
        pen.box((middle - 0.34, middle + 0.34), BELOW, labels[f"beside-{name}"], "addition", tall=True)
    if f"after-{name}" in labels:
        pen.box((join - 0.28, join + 0.28), (STREAM + BRANCH) / 2, labels[f"after-{name}"], "addition")
    if name in labels:
        middle = sum(layer) / 2
        half = 0.8 if name == "attention" else 0.6
        left = max(middle - half, 1.08)
        pen.box((left, left + 2 * half), ABOVE, labels[name], "addition")
        pen.arrow((middle, ABOVE - HALF), (middle, BRANCH + HALF + 0.02), "addition")
    pen.plus(join, "addition" if parallel else "base")


def draw_ends(pen: Pen, labels: Mapping[str, str]) -> None:
    """The additions outside the two branches: at the input, on the stream, at the logits, and a head."""
    if "embedding" in labels:  # rows on top of the text's rows; both go into the stream
        above = STREAM + 2 * HALF + 0.05
        pen.line([(0.86, above), (0.96, above), (0.96, STREAM)], "addition")
        pen.dot(0.96, STREAM, "addition")
        pen.box((0.04, 0.88), above, labels["embedding"], "addition")
    if "stream" in labels:
        pen.box((4.31, 4.85), BELOW, labels["stream"], "addition")
        pen.arrow((4.66, BELOW + HALF), (4.66, STREAM - 0.1), "addition")
        pen.plus(4.66, "addition")
    if "logits" in labels:
        pen.box((5.18, 6.3), BELOW, labels["logits"], "addition")
        pen.arrow((5.93, BELOW + HALF), (5.93, STREAM - 0.1), "addition")
        pen.plus(5.93, "addition")
    if "head" in labels:
        pen.line([(JOIN, STREAM), (JOIN, BRANCH)], "addition")
        pen.dot(JOIN, STREAM, "addition")
        pen.arrow((JOIN, BRANCH), (5.4, BRANCH), "addition")
        pen.box((5.42, 6.02), BRANCH, labels["head"], "addition")
        pen.ax.text(6.08, BRANCH, "class", va="center", size=8, color=role("addition").colour)


def draw_lane(pen: Pen, labels: Mapping[str, str], y: float) -> None:
    """A side network on a lane under the block, from the embedded tokens to where the head reads."""
    ladder = "ladder" in labels
    left, right = (3.75, 4.79) if ladder else (1.6, 4.3)
    pen.line([(0.9, STREAM), (0.9, y), (JOIN, y)], "addition", over=False)
    pen.dot(0.9, STREAM, "addition")
    pen.box((left, right), y, labels["ladder" if ladder else "side"], "addition")
    if ladder:  # a rung
        pen.dot(4.5, STREAM, "addition")
        pen.arrow((4.5, STREAM), (4.5, y + HALF + 0.02), "addition")
        pen.line([(JOIN, y), (JOIN, STREAM)], "addition")
        pen.arrow((JOIN, STREAM), (5.37, STREAM), "addition")
    else:
        pen.arrow((JOIN, y), (JOIN, STREAM - 0.1), "addition")
        pen.plus(JOIN, "addition")


def draw_key(ax: Axes, y: float, added: bool, own: Iterable[str]) -> None:
    """What the looks mean, at the bottom."""
    from matplotlib.patches import Rectangle

    entries = [("base", "frozen", 0.9)] if "weights" not in own else []
    entries += [("addition", "added and trained", 1.45)] if added else []
    entries += [("full", "trained copy", 1.15)] if own else []
    x = 0.1
    for who, text, wide in entries:
        look = role(who)
        face = "white" if who == "base" else look.tint
        ax.add_patch(Rectangle((x, y - 0.065), 0.17, 0.13, facecolor=face, edgecolor=look.colour, linewidth=1.4))
        ax.text(x + 0.24, y, text, va="center", size=8, color=INK)
        x += wide
    ax.text(x, y, "LN: layer norm    FFN: feed-forward network", va="center", size=8, color=FAINT)
