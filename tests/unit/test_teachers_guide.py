"""docs/teachers_guide.md has a section for each chapter, with everything a teacher needs."""

import re

import pytest

from course_lib import notebooks
from course_lib.runtime import root

PARTS = ("Lecture: ", "Aims:", "Misconceptions:", "Discussion:", "Demo:", "Skip:")


def sections():
    text = (root() / "docs" / "teachers_guide.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (\d\d) .*?\n(.*?)(?=^## |\Z)", text, re.M | re.S))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in notebooks.find()])
def test_each_chapter_has_its_section(path):
    section = sections().get(path.name[:2])
    assert section, f"docs/teachers_guide.md has no section for {path.name}"
    for part in PARTS:
        assert re.search(re.escape(part) + r"\s*\S", section), part
    assert len(section.split()) > 40


def test_the_weeks_name_every_chapter():
    text = (root() / "docs" / "teachers_guide.md").read_text(encoding="utf-8")
    weeks = text[text.index("## Fifteen weeks") : text.index("## Three days")]
    assert re.findall(r"^\| (\d+) \|", weeks, re.M) == [str(week) for week in range(1, 16)]
    named = set(re.findall(r"\b\d\d\b", weeks))
    for low, high in re.findall(r"(\d\d) to (\d\d)", weeks):
        named |= {f"{number:02d}" for number in range(int(low), int(high) + 1)}
    assert {path.name[:2] for path in notebooks.find()} <= named
    for row in re.findall(r"^\| \d+ \| ([\d, ]+) \| ([\d +]+) \|", weeks, re.M):
        chapters, minutes = re.findall(r"\d\d", row[0]), re.findall(r"\d+", row[1])
        stated = [re.search(r"Lecture: (\d+)", sections()[chapter]).group(1) for chapter in chapters]
        assert minutes == stated, row
