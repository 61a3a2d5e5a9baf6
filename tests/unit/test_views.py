"""Figures: readable without colour vision, nothing cut off, small, with alt text; widgets redraw in place."""

import io
import itertools
import math
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from course_lib import additive, views
from course_lib.runtime import CourseError, root
from course_lib.views import figures, style, widgets

HISTORY = SimpleNamespace(
    loss=[math.exp(-i / 20) for i in range(60)], validation_step=[30, 60], validation_loss=[0.3, 0.1]
)

# --- the palette -----------------------------------------------------------------------------------

SEEN_AS = {  # linear RGB as seen without red, without green, without blue cones (Machado et al. 2009)
    "full vision": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def linear(colour):
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", SEEN_AS)
@pytest.mark.parametrize("pair", list(itertools.combinations(views.ROLES, 2)), ids="-".join)
def test_any_two_roles_differ_for_all_eyes(eyes, pair):
    first, second = (lab(SEEN_AS[eyes] @ linear(views.role(name).colour)) for name in pair)
    assert np.linalg.norm(first - second) > 12  # 2 is just noticeable side by side


@pytest.mark.parametrize(
    "colour", [*(views.role(r).colour for r in views.ROLES if r != "neutral"), style.FAINT, style.INK]
)
def test_text_contrast(colour):
    luminance = linear(colour) @ [0.2126, 0.7152, 0.0722]
    assert 1.05 / (luminance + 0.05) >= 4.5  # WCAG AA on white


def test_roles_also_differ_without_colour():
    assert len({look.marker for look in views.ROLES.values()}) == len(views.ROLES)
    with pytest.raises(CourseError, match=r"no role 'hero'.*base"):
        views.role("hero")


# --- every figure ----------------------------------------------------------------------------------

PLACED = {  # every method of the course, and those that act elsewhere by their fields
    **{name: method for name, method in additive.METHODS.items() if method.__module__.startswith("course_lib")},
    "Sum": additive.Sum(additive.PromptTuning(), additive.ParallelAdapter(), additive.BottleneckAdapter()),
    "Houlsby": additive.BottleneckAdapter(placement="houlsby"),
    "ParallelAdapter at attention": additive.ParallelAdapter(where="attention"),
    "PTuning by LSTM": additive.PTuning(encoder="lstm"),
    "LoRA everywhere": additive.LoRA(targets=("query", "key", "value", "output", "ffn_in", "ffn_out")),
}
FIGURES = {
    "losses": lambda: views.losses(HISTORY, title="It falls"),
    "several losses": lambda: views.losses(
        {"adapter": HISTORY, "full tuning": HISTORY},
        title="Both fall, and this title is long enough to need two lines",
        level=0.69,
        level_label="guessing",
    ),
    "compare": lambda: views.compare(
        {"probe": (0.69, 0.67, 0.71), "adapter": 0.81, "one run": (0.5, math.nan, math.nan)},
        title="The adapter is ahead",
        unit="accuracy",
        reference=0.5,
        reference_label="guessing",
        roles={"probe": "probe"},
    ),
    "next tokens": lambda: views.next_tokens(
        {"before": [(" a", 0.2), ("$x$", 0.001), ("\n", 0.1)], "after": [(" yes", 0.9), (" no", 0.1), ("_", 0.0)]},
        title="It answers",
    ),
    "small probabilities": lambda: views.next_tokens(
        {"base": [(" a", 0.06), (" the", 0.04)]}, title="It wavers", largest=0.2
    ),
    "budget": lambda: views.budget({"SmolLM2": 134_515_008, "prompt": 5184}, title="The prompt is small"),
    "curves": lambda: views.curves(
        {"time (ms)": {"naive": ([1, 2, 4], [1, 4, 16]), "fused": ([1, 2, 4], [1, 2, 4])}, "memory": {"naive": [0, 5]}},
        x="T, tokens",
        title="Time grows",
    ),
    "attention map": lambda: views.attention_map(
        [[1, 0, 0], [0.5, 0.5, 0], [0, 0.2, 0.8]], ["The", "$", "a very long token"], title="It looks back"
    ),
    "block": views.draw_block,
    "pre": lambda: views.draw_block(list(views.SITES), title="All places"),
    "post": lambda: views.draw_block(dict.fromkeys(views.SITES, "f"), style="post", title="All", note="in BERT"),
    "where it adds": lambda: views.where_it_adds(PLACED["Sum"]),
}


@pytest.fixture(scope="module", params=FIGURES)
def picture(request):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return FIGURES[request.param]()


def test_a_picture_is_small_and_says_what_it_shows(picture):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's "axes sizes collapsed" is a broken picture
        bundle, metadata = picture._repr_mimebundle_()
    image = Image.open(io.BytesIO(bundle["image/png"]))
    assert len(bundle["image/png"]) < 60_000
    assert metadata["image/png"]["width"] == image.width / style.SHARPNESS <= 640
    assert metadata["image/png"]["alt"] == bundle["text/plain"] == picture.alt
    assert len(picture.alt) > 60


def laid_out(picture):
    """The picture's figure as it stands after it was drawn into a PNG."""
    picture.png()
    picture.figure.draw_without_rendering()
    return picture.figure


def test_no_text_is_cut_off_or_tiny(picture):
    no_text_is_cut_off_or_tiny(laid_out(picture))


def no_text_is_cut_off_or_tiny(figure):
    frame = figure.bbox.padded(1)
    ticks = [label for ax in figure.axes for label in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text not in ticks]
    assert len(texts) >= 4
    for text in texts:
        if text.get_visible() and text.get_window_extent().width:
            box = text.get_window_extent()
            assert frame.x0 <= min(box.x0, box.x1 - 1) < box.x1 <= frame.x1, text.get_text()
            assert text.get_fontsize() >= 7.5 or "$" in text.get_text(), text.get_text()


def test_the_finding_stands_left_and_over_the_axes(picture):
    figure = laid_out(picture)
    heading = [text for text in figure.texts if text.get_gid() == "finding"]
    assert heading[0].get_ha() == "left"
    lowest = min(text.get_window_extent().y0 for text in heading)
    tallest = max(ax.get_tightbbox().y1 for ax in figure.axes)
    assert lowest >= tallest - 1


def boxes_and_texts(picture):
    """The extents of the boxes of a drawn block, and the texts that stand inside them."""
    picture.figure.draw_without_rendering()
    ax = picture.figure.axes[0]
    boxes = [patch.get_window_extent() for patch in ax.patches if patch.get_zorder() == 5]
    return boxes, [text for text in ax.texts if text.get_zorder() == 6]


BLOCKS = {
    **{style: partial(views.draw_block, list(views.SITES), style=style) for style in ("pre", "post")},
    **{name: partial(views.where_it_adds, method) for name, method in PLACED.items()},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_boxes_of_the_block_hold_their_text_and_stand_apart(name):
    picture = BLOCKS[name]()
    boxes, inside = boxes_and_texts(picture)
    no_text_is_cut_off_or_tiny(picture.figure)
    assert len(inside) == len(boxes) >= 6
    for text in inside:
        extent = text.get_window_extent()
        assert any(
            box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1
            for box in (box.padded(-2) for box in boxes)
        ), text.get_text()
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_method_without_a_drawing_is_said():
    wrong = (("Adapters", "is not a method"), ("Sum", "with its parts"), (additive.Method, "no drawing of"))
    for method, message in wrong:
        with pytest.raises(CourseError, match=message):
            views.where_it_adds(method)


def test_what_trains_of_the_model_itself_is_told_and_looks_different():
    assert "biases are trained copies" in views.where_it_adds("BitFit").alt
    faces = {patch.get_facecolor() for patch in views.where_it_adds("FullFineTuning").figure.axes[0].patches}
    assert len(faces) == 2  # the block's ground, and blue boxes only
    with pytest.raises(CourseError, match="no 'head' of its own"):
        views.draw_block(own=["head"])


def test_unknown_sites_styles_and_rows_are_sentences():
    with pytest.raises(CourseError, match=r"no site 'mlp'.*beside-ffn"):
        views.draw_block(["mlp"])
    with pytest.raises(CourseError, match="pre"):
        views.draw_block(style="middle")
    with pytest.raises(CourseError, match="row 'a'"):
        views.compare({"a": (1, 2)}, title="", unit="")


def test_curves_keep_a_name_in_its_role_on_every_panel():
    panels = {"time": {"naive": ([1, 2], [3, 4]), "fused": ([1, 2], [1, 2])}, "memory": {"fused": [5, 6]}}
    picture = views.curves(panels, x="T", title="They grow", roles={"naive": "full", "fused": "addition"})
    first, second = picture.figure.axes
    assert [line.get_color() for line in first.lines] == [views.role("full").colour, views.role("addition").colour]
    assert second.lines[0].get_color() == views.role("addition").colour
    assert list(second.lines[0].get_xdata()) == [0, 1]
    assert (first.get_legend() is None, second.get_legend() is None) == (False, True)
    other = views.curves({"a": {"one": [1, 2]}, "b": {"two": [1, 2]}}, x="x", title="Each panel names its own")
    assert all(ax.get_legend() for ax in other.figure.axes)
    assert "time: naive from 3 to 4, fused from 1 to 2; memory: fused from 5 to 6" in picture.alt


def test_an_attention_map_must_be_square():
    with pytest.raises(CourseError, match=r"\(2, 3\).*3 names"):
        views.attention_map([[1, 0, 0], [0, 1, 0]], ["a", "b", "c"], title="No")


def test_smoothing_keeps_a_line_and_does_not_lag():
    line = [float(i) for i in range(100)]
    assert figures.smoothed(line)[10:-10] == pytest.approx(line[10:-10])
    assert len(figures.smoothed([1.0])) == 1


def test_titles_are_balanced():
    lines = style.balanced("The adapter closes most of the gap between probe and full tuning", 50)
    assert len(lines) == 2
    assert abs(len(lines[0]) - len(lines[1])) < 12


def test_nothing_is_left_in_pyplot():
    import matplotlib.pyplot as plt

    for make in FIGURES.values():
        make()
    assert plt.get_fignums() == []
    figure, _ = plt.subplots()
    assert repr(views.figure_with_alt(figure, "an empty plot")) == "an empty plot"
    assert plt.get_fignums() == []


# --- widgets ---------------------------------------------------------------------------------------


def test_each_kind_of_control_has_a_label():
    kinds = {(0, 9, 1): "IntSlider", (0, 1, 0.1, 0.5): "FloatSlider", True: "Checkbox", "text": "Text"}
    for wanted, kind in kinds.items():
        made = widgets.control("scale", wanted)
        assert type(made).__name__ == kind
        assert made.description == "scale"
    assert type(widgets.control("layer", ["a", "b"])).__name__ == "Dropdown"
    assert widgets.control("x", (0, 1, 0.1, 0.5)).value == 0.5
    with pytest.raises(CourseError, match=r"control 'x' is 3;"):
        widgets.control("x", 3)


NOTEBOOK = (
    """
import gc, matplotlib.figure
import ipywidgets
from course_lib import views
from course_lib.exercises import predict

slider = ipywidgets.FloatSlider(description="scale", min=0, max=1, value=0.5)

def line(ax, scale):
    ax.plot([0, scale])
    views.finding(ax.figure, f"The scale is {scale:.1f}")

views.explore(line, alt="A line", scale=slider)
""",
    """
slider.value = 0.7
slider.value = 0.9
gc.collect()
sum(isinstance(found, matplotlib.figure.Figure) for found in gc.get_objects())
""",
    """
predict("00.x", "how many", unit=" words")
""",
)


def test_explore_and_predict_in_a_real_kernel(tmp_path):
    pytest.importorskip("nbclient")
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in NOTEBOOK])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(root())}}).execute()
    controls, shown = notebook.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in controls.data
    assert controls.data["text/plain"] == "Controls (they move in a running notebook): scale 0.5"
    assert shown.data["text/plain"] == "A line (at scale 0.9)"  # the same output, redrawn in place
    assert shown.metadata["image/png"]["alt"] == "A line (at scale 0.9)"
    assert [output.output_type for output in notebook.cells[1].outputs] == ["execute_result"]
    assert notebook.cells[1].outputs[0].data["text/plain"] == "1"
    form = notebook.cells[2].outputs[0].data
    assert "how many (words)" in form["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in form


def test_explore_shows_the_picture_that_draw_brings_along(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(data))
    views.explore(lambda ax, method: views.where_it_adds(method), method=["IA3", "PromptTuning"])
    assert "text/plain" in shown[0]
    picture = views.where_it_adds("IA3")
    assert shown[1]["text/plain"] == f"{picture.alt} (at method IA3)"
    assert shown[1]["image/png"] == picture.png()


def test_importing_the_views_loads_no_pyplot():
    import subprocess

    code = "import course_lib.views, sys; sys.exit('matplotlib' in sys.modules or 'ipywidgets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root()).returncode == 0
