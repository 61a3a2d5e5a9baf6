"""Lecture decks: what a slide shows of the prose, how cells are put on slides, whether a lecture fits its minutes."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib import notebooks
from course_lib.publishing import slides

COURSE = [pytest.param(path, id=path.stem) for path in notebooks.find()]
STATED = slides.stated_minutes()


# --- the course's lectures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COURSE)
def test_the_lecture_fits_its_minutes(path):
    made = slides.plan(notebooks.read(path))
    stated = STATED.get(path.name[:2])
    assert stated in (50, 80), f"docs/teachers_guide.md plans 50 or 80 minutes for chapter {path.name[:2]}"
    assert made.minutes <= stated, f"{made} takes {made.minutes:.0f} minutes"
    assert made.minutes > stated * 0.45, f"{made} takes {made.minutes:.0f} minutes only"
    assert 15 <= made.slides <= 90
    assert made.minutes / made.slides > 0.5, "more than two slides a minute"


@pytest.mark.parametrize("path", COURSE)
def test_a_lecture_has_notes_and_leaves_solutions_out(path):
    notebook = notebooks.read(path)
    own = [cell for cell in notebook.cells if slides.slide_type(cell) == "notes"]
    assert own, "no speaker notes"
    shown = [cell for cell in slides.lecture(notebook).cells if slides.slide_type(cell) != "notes"]
    assert not [cell.id for cell in shown if "solution" in cell.metadata.get("tags", [])]
    assert not [cell.id for cell in shown if cell.source.startswith(notebooks.SETUP_START)]
    assert not [cell.id for cell in shown if cell.cell_type == "markdown" and slides.height(cell) > 1.3 * slides.TALL]


# --- prose ----------------------------------------------------------------------------------------------------


def test_a_sentence_ends_where_it_ends():
    text = "He et al. (2022) use `a. B` and $x. Y$. **They win.** (Or do they?) Third, e.g. This one. 中文句子。 “End”"
    assert slides.sentences(text) == [
        "He et al. (2022) use `a. B` and $x. Y$.", "**They win.**", "(Or do they?)", "Third, e.g. This one.",
        "中文句子。", "“End”",
    ]


def test_a_long_paragraph_shows_its_opening_and_what_leads_on():
    long = "The first sentence says what is to come here, at some length and with many more words than are needed. "
    filler = "A second one explains it and goes on for a while. " * 3
    source = f"## A heading\n\n{long}{filler}It has the form\nof this sum:\n\n$$a\n\n= b$$\n\nShort."
    assert slides.shown(source).split("\n\n") == [
        "## A heading", f"{long}A second one explains it and goes on for a while. It has the form of this sum:"
        if slides.words(long) < slides.OPENING else f"{long}It has the form of this sum:", "$$a", "= b$$", "Short.",
    ]


def test_blocks_keep_together_what_belongs_together():
    source = "one\ntwo\n\n```\na\n\nb\n```\n\n$$x$$\n\n<details><summary>s</summary>\n\nin\n\n</details>\n\n| a | b |"
    assert [block.splitlines()[0] for block in slides.blocks(source)] == [
        "one", "```", "$$x$$", "<details><summary>s</summary>", "| a | b |",
    ]
    assert [slides.is_prose(block) for block in slides.blocks(source)] == [True, False, False, False, False]


def test_words_are_those_that_are_said():
    assert slides.words("Two words, **three** don't") == 4
    assert slides.words("a formula $x + y + z$ and `code.call()`") == 5
    assert slides.words("<details><summary>no</summary>nothing of this</details> yes") == 1
    assert slides.words("我们学习") == 2


# --- decks ----------------------------------------------------------------------------------------------------


def cell(make, source, kind, **more):
    return make(source, metadata={"slideshow": {"slide_type": kind}}, **more)


def test_what_does_not_fit_goes_to_the_next_slide():
    lines = "\n".join(f"print({i})" for i in range(40))
    notebook = new_notebook(cells=[
        cell(new_markdown_cell, "# Title", "slide"),
        cell(new_code_cell, lines, "fragment"),
        cell(new_code_cell, lines, "fragment"),
        cell(new_markdown_cell, "hidden", "skip"),
        cell(new_markdown_cell, "said", "notes"),
    ])
    kinds = [slides.slide_type(one) for one in slides.lecture(notebook).cells]
    assert kinds == ["slide", "fragment", "subslide", "notes"]
    assert slides.plan(notebook) == slides.Plan(slides=2, words=2, code_cells=2, predictions=0)
    assert slides.slide_type(notebook.cells[2]) == "fragment", "the notebook itself stays as it was"


def test_a_tall_cell_is_cut_and_a_heading_stays_with_what_it_heads():
    table = "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 10
    source = f"Before.\n\n{table}\n\n## Heading\n\n{table}"
    made = slides.lecture(new_notebook(cells=[cell(new_markdown_cell, source, "slide")])).cells
    assert [slides.slide_type(one) for one in made] == ["slide", "subslide"]
    assert made[1].source.startswith("## Heading")
    nbformat.validate(new_notebook(cells=made))


def test_a_figure_folds_its_code():
    picture = new_output("display_data", {"image/png": "AA=="}, metadata={"image/png": {"height": 300}})
    notebook = new_notebook(cells=[cell(new_code_cell, "draw()", "slide", outputs=[picture])])
    made = slides.lecture(notebook).cells[0]
    assert "folded-code" in made.metadata.tags
    assert slides.height(made) < slides.FIGURE + 60
