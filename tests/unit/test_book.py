"""The book's pages before Sphinx reads them, and the check of its links."""

import re

import pytest

from course_lib import notebooks
from course_lib.publishing import book

COURSE = [pytest.param(path, id=path.stem) for path in notebooks.find()]


@pytest.mark.parametrize("path", COURSE)
def test_a_page_folds_solutions_and_says_what_pictures_show(path):
    page = book.page(path)
    assert not [cell.id for cell in page.cells if cell.source.startswith("Speaker")]
    for cell in page.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and ("solution" in tags or cell.source.startswith(notebooks.SETUP_START)):
            assert "hide-input" in tags
        pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        if pictures:
            assert cell.metadata["mystnb"]["image"]["alt"], cell.id
    assert len(page.cells) > 30


def test_the_first_page_lists_every_page():
    listed = re.findall(r"^(?:notebooks|docs|data)/\S+$", book.first_page(), re.M)
    assert [name for name in listed if name.startswith("notebooks/")] == [
        f"notebooks/{path.stem}" for path in notebooks.find()
    ]
    assert {"docs/glossary", "docs/faq", "docs/coverage", "docs/teachers_guide", "data/README"} <= set(listed)


def test_every_term_has_a_name_of_its_own_and_leads_to_its_chapter():
    names = [book.term_id(english) for english, _, _ in book.terms()]
    assert len(names) == len(set(names)) >= 150
    linked = book.linked_glossary("| soft prompt | 软提示 | vectors | 41 |\n| cold start | 冷启动 | none | 99 |\n")
    assert '<span id="term-soft-prompt">soft prompt</span>' in linked
    assert "[41](../notebooks/41_the_additive_principle.ipynb)" in linked
    assert linked.endswith("| 99 |\n")


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "page.html").write_text(
        '<a href="../index.html#here">ok</a> <a href="https://example.org">out</a> <a href="#own" id="own">ok</a>'
        '<a href="../index.html#nowhere">1</a> <a href="gone.html">2</a> <img src="../no.png"> <a href="..">ok</a>'
    )
    (tmp_path / "index.html").write_text('<h1 id="here">x</h1><a href="a/page.html?q=1">ok</a>')
    assert book.broken_links(tmp_path) == [
        "a/page.html: ../index.html#nowhere", "a/page.html: ../no.png", "a/page.html: gone.html"
    ]
