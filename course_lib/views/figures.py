"""The figures that several chapters use: losses, comparisons with intervals, next words, budgets, and the block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..runtime import CourseError
from .style import FAINT, INK, Picture, finding, new_figure, role

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Interval = tuple[float, float, float]  # value, low, high

# --- curves and comparisons ----------------------------------------------------------------------


def losses(
    histories: Any,
    *,
    title: str,
    note: str = "",
    unit: str = "nats",
    roles: Mapping[str, str] | None = None,
    level: float | None = None,
    level_label: str = "",
    ax: Axes | None = None,
) -> Picture:
    """Training losses over steps, smoothed, with validation losses as marks; one History or {name: History}.

    `roles` says who is who in the palette (the first is the addition by default). `level` draws a line to measure
    against, such as the loss of guessing, log 2.
    """
    histories = histories if isinstance(histories, Mapping) else {"": histories}
    roles = roles or dict(zip(histories, ("addition", "full", "probe", "base", "neutral"), strict=False))
    figure, ax = (ax.figure, ax) if ax is not None else new_figure()
    ends = []
    for name, history in histories.items():
        look = role(roles[name])
        steps = range(1, len(history.loss) + 1)
        ax.plot(steps, history.loss, "-", color=look.colour, alpha=0.2, linewidth=0.9)
        smooth = smoothed(history.loss)
        ax.plot(steps, smooth, color=look.colour, linestyle=look.dash)
        ax.plot(
            history.validation_step,
            history.validation_loss,
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            markeredgecolor="white",
            zorder=4,
        )
        ends.append((smooth[-1], name, look.colour))
    if level is not None:
        ax.axhline(level, color=role("neutral").colour, linestyle=role("neutral").dash, linewidth=1.2)
        ax.annotate(
            level_label,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            ha="right",
            textcoords="offset points",
            color=FAINT,
            size=9,
        )
    ax.set_xlabel("step")
    ax.set_ylabel(f"loss ({unit})")
    ax.margins(x=0.02)
    label_ends(ax, ends)
    marks = "marks: validation; line: training, smoothed" if any(h.validation_loss for h in histories.values()) else ""
    finding(figure, title, note or marks)
    said = "; ".join(
        f"{name or 'training loss'} from {h.loss[0]:.2f} to {smoothed(h.loss)[-1]:.2f} in {len(h.loss)} steps"
        for name, h in histories.items()
    )
    return Picture(figure, f"{title}. Line plot of the loss over steps: {said}.")


Line = Sequence[float] | tuple[Sequence[float], Sequence[float]]  # ys over 0, 1, 2, ..., or (xs, ys)


def curves(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    x: str,
    title: str,
    note: str = "",
    roles: Mapping[str, str] | None = None,
    height: float = 3.1,
) -> Picture:
    """Lines over `x`, a panel for each quantity: {"time (ms)": {"naive": (xs, ys), ...}, ...}; ys alone count from 0.

    A name has the same role in all panels. Scales, limits and ticks are left to the caller: `picture.figure.axes`.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    roles = dict(zip(names, ("addition", "base", "full", "probe", "neutral"), strict=False)) | dict(roles or {})
    figure, axes = new_figure(height=height, ncols=len(panels), squeeze=False)
    said, explained = [], set()
    for ax, (quantity, lines) in zip(axes[0], panels.items(), strict=True):
        ends = []
        for name, line in lines.items():
            look = role(roles[name])
            xs, ys = line if isinstance(line, tuple) else (range(len(line)), line)
            marks = look.marker if len(xs) <= 40 else None
            ax.plot(xs, ys, color=look.colour, linestyle=look.dash, marker=marks, markersize=4.5, label=name)
            ends.append(f"{name} from {float(ys[0]):.3g} to {float(ys[-1]):.3g}")
        said.append(f"{quantity}: {', '.join(ends)}")
        ax.set(xlabel=x, ylabel=quantity)
        if len(names) > 1 and not explained >= set(lines):
            ax.legend()
        explained |= set(lines)
    finding(figure, title, note)
    return Picture(figure, f"{title}. Lines over {x}. {'; '.join(said)}.")


def smoothed(values: Sequence[float], share: float = 0.05) -> list[float]:
    """The running mean over `share` of all steps to either side: centred, so it does not lag behind."""
    reach = int(len(values) * share)
    windows = ((max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values)))
    return [sum(values[start:end]) / (end - start) for start, end in windows]


def label_ends(ax: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each line's name at its right end, moved apart where two would overlap."""
    low, high = ax.get_ylim()
    apart, last = (high - low) * 0.07, -float("inf")
    for value, name, colour in sorted(ends):
        last = max(value, last + apart)
        ax.annotate(
            name,
            (1, last),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            weight="bold",
            size=9,
            annotation_clip=False,
        )


def compare(
    rows: Mapping[str, Any],
    *,
    title: str,
    unit: str,
    note: str = "",
    roles: Mapping[str, str] | None = None,
    reference: float | None = None,
    reference_label: str = "",
    digits: str = ".2f",
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Picture:
    """Values with their intervals as dots and whiskers, one row each, the number written beside it.

    `rows`: name -> Measured or (value, low, high), drawn from the top in the order given. `roles`: name -> role.
    """
    measured = {name: as_interval(name, value) for name, value in rows.items()}
    roles = dict.fromkeys(rows, "addition") | dict(roles or {})
    figure, ax = (ax.figure, ax) if ax is not None else new_figure(height=1.25 + 0.36 * len(rows))
    for y, (name, (value, low, high)) in enumerate(measured.items()):
        look = role(roles[name])
        ax.plot([low, high], [y, y], "-", color=look.colour, linewidth=2.6, alpha=0.45, solid_capstyle="round")
        ax.plot(value, y, marker=look.marker, color=look.colour, markersize=8, markeredgecolor="white", zorder=4)
        ax.annotate(
            f"{value:{digits}}",
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            size=9.5,
            textcoords="offset points",
            va="center",
            weight="bold",
            annotation_clip=False,
            color=FAINT if roles[name] == "neutral" else look.colour,
        )
    if reference is not None:
        ax.axvline(reference, color=role("neutral").colour, linestyle=role("neutral").dash, linewidth=1.2, zorder=0)
        ax.annotate(
            reference_label,
            (reference, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -1),
            size=8.5,
            textcoords="offset points",
            va="top",
            color=FAINT,
        )
    ax.set_yticks(range(len(rows)), list(rows))
    ax.tick_params(axis="y", labelcolor=INK, length=0)
    ax.set_ylim(len(rows) - 0.4, -0.75 if reference_label else -0.6)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.06)
    if limits:
        ax.set_xlim(*limits)
    ax.set_xlabel(unit)
    finding(figure, title, note)
    said = "; ".join(
        f"{name} {value:{digits}} (from {low:{digits}} to {high:{digits}})"
        for name, (value, low, high) in measured.items()
    )
    return Picture(figure, f"{title}. Dots with intervals, {unit}: {said}.")


def as_interval(name: str, value: Any) -> Interval:
    """A Measured, a triple or a bare number as (value, low, high); without an interval all three are the value."""
    triple = (value.value, value.low, value.high) if hasattr(value, "low") else value
    triple = (triple,) * 3 if isinstance(triple, int | float) else tuple(triple)
    if len(triple) != 3:
        raise CourseError(f"The row {name!r} is {value!r}; give a Measured, (value, low, high) or one number.")
    middle, low, high = triple
    return middle, middle if low != low else low, middle if high != high else high  # NaN: no interval


def next_tokens(
    columns: Mapping[str, Sequence[tuple[str, float]]],
    *,
    title: str,
    note: str = "",
    roles: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | None = None,
    largest: float = 1.0,
) -> Picture:
    """The likeliest next tokens with their probabilities, one column of bars a model: {name: [(token, p), ...]}.

    The axis ends at `largest`: 1, unless all probabilities are small.
    """
    roles = roles or dict(zip(columns, ("base", "addition", "full", "probe"), strict=False))
    if axes is None:
        count = max(len(tokens) for tokens in columns.values())
        figure, axes = new_figure(height=1.35 + 0.24 * count, ncols=len(columns), sharex=True, squeeze=False)
        axes = axes[0]
    figure = axes[0].figure
    for ax, (name, tokens) in zip(axes, columns.items(), strict=True):
        look = role(roles[name])
        bars = ax.barh([visible(token) for token, _ in tokens], [p for _, p in tokens], color=look.colour, height=0.62)
        ax.bar_label(bars, [f"{p:.2f}" if p >= 0.005 else "<.01" for _, p in tokens], padding=3, size=9, color=INK)
        ax.set_title(name, size=10, color=look.colour, pad=4)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.12 * largest)  # room for the label of a sure token
        ax.spines["bottom"].set_bounds(0, largest)
        ax.set_xticks([0, largest / 2, largest])
        ax.set_xlabel("probability")
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", labelcolor=INK, length=0, labelfontfamily="monospace")
    finding(figure, title, note)
    said = "; ".join(
        f"{name}: " + ", ".join(f"{visible(token)} {p:.2f}" for token, p in tokens) for name, tokens in columns.items()
    )
    return Picture(figure, f"{title}. Bars of next-token probabilities. {said}.")


def visible(token: str) -> str:
    """A token as it can be read in a figure: an open box for its leading space, escapes for line breaks."""
    return token.replace("\n", "\\n").replace("\t", "\\t").replace("$", r"\$").replace(" ", "␣")


def budget(counts: Mapping[str, int], *, title: str, note: str = "", roles: Mapping[str, str] | None = None) -> Picture:
    """How many numbers each part holds, as bars on a logarithmic axis with the count and its share of the first."""
    roles = dict(zip(counts, ["base", *["addition"] * len(counts)], strict=False)) | dict(roles or {})
    figure, ax = new_figure(height=1.25 + 0.36 * len(counts))
    whole = next(iter(counts.values()))
    for y, (name, count) in enumerate(counts.items()):
        ax.barh(y, count, left=1, height=0.58, color=role(roles[name]).colour)
        share = "" if y == 0 else f"  {100 * count / whole:.2g} %"
        ax.annotate(
            f"{count:,}{share}",
            (count, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    ax.set_xscale("log")
    ax.set_xlim(1, max(counts.values()) * 300)
    ax.set_yticks(range(len(counts)), list(counts))
    ax.tick_params(axis="y", labelcolor=INK, length=0)
    ax.minorticks_off()
    ax.set_xticks([10**power for power in range(0, 12, 2) if 10**power < max(counts.values()) * 300])
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.invert_yaxis()
    ax.set_xlabel("numbers (logarithmic: every grid line is a hundred times the one before)")
    finding(figure, title, note)
    said = "; ".join(f"{name} {count:,}" for name, count in counts.items())
    return Picture(figure, f"{title}. Bars on a logarithmic axis: {said}.")


def attention_map(
    weights: Any, tokens: Sequence[str], *, title: str, note: str = "", ax: Axes | None = None
) -> Picture:
    """Attention weights (T, T) as shades from 0 to 1: row t is how position t looks, column s how s is looked at."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(tokens), len(tokens)):
        raise CourseError(f"The weights have shape {weights.shape}, but there are {len(tokens)} names for their sides.")
    figure, ax = (ax.figure, ax) if ax is not None else new_figure(height=4.8)
    names = [visible(token) for token in tokens]
    shades = LinearSegmentedColormap.from_list("shades", ["white", role("base").colour])
    ax.imshow(weights, cmap=shades, vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(names)), names, rotation=50, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(labelcolor=INK, labelsize=8.5, length=0)
    ax.set(xlabel="is looked at (key)", ylabel="looks (query)")
    ax.grid(visible=False)
    finding(figure, title, note)
    strongest = [f"{names[t]} looks at {names[row.argmax()]} ({row.max():.2f})" for t, row in enumerate(weights)]
    return Picture(figure, f"{title}. Attention map. {'; '.join(strongest)}.")
