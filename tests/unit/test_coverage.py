"""docs/coverage.md keeps its word: what it says is taught in a chapter can be found there."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
PLANNED = {"11", "32", "33", "42", "43", "44", "45", "46", "47", "51", "52", "53", "54", "55", "56", "61", "62"}


def rows():
    for line in (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 5 and cells[0].isdigit():
            yield tuple(cells)


def chapters():
    return {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}


def words(path):
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells).casefold()


def test_every_article_is_covered_and_every_chapter_exists_or_is_planned():
    found = list(rows())
    assert {row[0] for row in found} == {"000", "001", "002", "003", "004"}
    assert len(found) > 90
    assert {row[3] for row in found} <= chapters().keys() | PLANNED


@pytest.mark.parametrize("chapter", sorted(chapters()))
def test_what_is_promised_is_there(chapter):
    text = words(chapters()[chapter])
    missing = [f"{row[0]}, {row[1]}: {row[4]}" for row in rows() if row[3] == chapter and row[4].casefold() not in text]
    assert not missing


def test_the_test_can_fail():
    assert "a phrase that stands nowhere" not in words(chapters()["00"])
    assert "soft prompt" in words(chapters()["00"])


# --- glossary -----------------------------------------------------------------------------------------------


def terms():
    for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if len(cells) == 4 and cells[3].isdigit():
            yield tuple(cells)


def stems(term):
    """The words of a term, without an ending that its plural or verb may change."""
    return [word[: max(3, len(word) - 3)] for word in re.findall(r"[A-Za-z][\w-]+", term.casefold())]


def test_the_glossary_has_each_term_once_in_both_languages():
    found = list(terms())
    assert len(found) >= 150
    assert len({english.casefold() for english, *_ in found}) == len(found)
    assert all(chinese and meaning for _, chinese, meaning, _ in found)
    assert {chapter for *_, chapter in found} <= chapters().keys() | PLANNED
    order = [english.casefold().lstrip("(") for english, *_ in found]
    assert order == sorted(order)


@pytest.mark.parametrize("chapter", sorted(chapters()))
def test_a_term_is_used_in_its_chapter(chapter):
    text = words(chapters()[chapter])
    here = [english for english, *_, place in terms() if place == chapter]
    missing = [term for term in here if not any(stem in text for stem in stems(term))]
    assert not missing


# --- questions ----------------------------------------------------------------------------------------------


def test_every_question_of_the_appendices_is_answered_and_every_link_leads_somewhere():
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    asked = re.findall(r"\*\*(.+?\?)\*\* \((00\d)[^:]*: ([^)]+？)\)", text)
    assert len(asked) == 20
    assert {article for _, article, _ in asked} == {"000", "001", "002", "003", "004"}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "docs" / link).resolve().exists(), link
