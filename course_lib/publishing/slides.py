"""Lecture decks: each notebook's lecture path as reveal.js slides, with speaker notes, for a room without a network.

A notebook is written to be read, a slide to be looked at. So a slide shows headings, formulas, lists, tables, figures,
code and what it printed, and of each paragraph what opens it, a sentence or two; the whole paragraph stands in the
speaker notes. Cells are put on one slide as long as they fit into 1280 x 720; what is a little too tall is drawn
smaller by lecture/lecture.js, and tests/browser looks at every slide.
"""

from __future__ import annotations

import re
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib import notebooks
from course_lib.runtime import CourseError, root

if TYPE_CHECKING:
    from nbformat import NotebookNode

TEMPLATES = Path(__file__).parent
WORDS_A_MINUTE = 130
SECONDS_A_CODE_CELL = 20  # to run it and to let the room read what it printed
SECONDS_A_PREDICTION = 60  # to ask the room and write its numbers on the board
WHOLE = 38  # words: a paragraph up to this length is shown whole
OPENING = 22  # words: of a longer one, as many sentences as it takes to say this much
TALL = 620  # pixels of a slide that hold content
FIGURE = 460  # pixels: the tallest figure
CODE_LINES, OUTPUT_LINES = 14, 12  # more than these are scrolled


# --- prose: what a slide shows of it ---------------------------------------------------------------


def blocks(source: str) -> list[str]:
    """The Markdown blocks of a cell; what stands between fences, in a formula or in <details> stays together."""
    result, block, closing = [], [], None
    for line in [*source.splitlines(), ""]:
        text = line.strip()
        if closing:
            block.append(line)
            closing = None if closing in text else closing
            continue
        opening = next((end for start, end in _KEPT if text.startswith(start) and end not in text[len(start) :]), None)
        if opening:
            closing = opening
        if text:
            block.append(line)
        elif block:
            result.append("\n".join(block))
            block = []
    return result + (["\n".join(block)] if block else [])


_KEPT = (("```", "```"), ("$$", "$$"), ("<details", "</details>"), ("<table", "</table>"))


def is_prose(block: str) -> bool:
    """Is this block running text, and not a heading, list, table, quotation, formula, code or HTML?"""
    return not re.match(r"\s*(#|>|\||<|\$\$|!\[|```|[-*+] |\d+\. )", block)


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences; full stops in `code`, in formulas and after abbreviations end none."""
    kept: list[str] = []

    def keep(found: re.Match) -> str:
        kept.append(found.group())
        return f"\0{len(kept) - 1}\0"

    text = re.sub(r"`[^`]*`|\$[^$]+\$|\]\([^)]*\)", keep, " ".join(paragraph.split()))
    text = re.sub(r"\b(al|e\.g|i\.e|vs|cf|Fig|Eq|No|St|Mr|Dr)\. ", lambda found: found.group()[:-1] + "\1", text)
    ends = [found.end() for found in re.finditer(r"""[.!?。！？]["”’)*_]*\s+(?=["“‘(*\[`A-Z\0\u4e00-\u9fff])""", text)]
    parts = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)])]
    restored = [re.sub(r"\0(\d+)\0", lambda found: kept[int(found.group(1))], part) for part in parts]
    return [part.replace("\1", " ").strip() for part in restored if part.strip()]


def words(source: str) -> int:
    """Words that would be said aloud: a formula or a piece of code counts as one, HTML and folded text as none."""
    text = re.sub(r"<details.*?</details>|```.*?```|<[^>]+>|<!--.*?-->|\]\([^)]*\)", " ", source, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]+\$|`[^`]*`", " formula ", text, flags=re.DOTALL)
    return len(re.findall(r"[\w’'-]*[A-Za-z][\w’'-]*|\d[\d,.%]*|[\u4e00-\u9fff]{2}", text))


def shown(source: str) -> str:
    """What the slide shows of a Markdown cell: of a long paragraph its opening, and a last sentence that leads on."""
    parts = blocks(source)
    result = []
    for index, block in enumerate(parts):
        if is_prose(block) and words(block) > WHOLE:
            said = sentences(block)
            prediction = block.lstrip().startswith("**")
            picked = said[:3] if prediction else _opening(said)
            leads_on = index + 1 < len(parts) and not is_prose(parts[index + 1]) and block.rstrip()[-1] in ",:"
            if leads_on and len(said) > len(picked):
                picked.append(said[-1])
            block = " ".join(picked)
        result.append(block)
    return "\n\n".join(result)


def _opening(said: list[str]) -> list[str]:
    picked = said[:1]
    while len(picked) < len(said) and words(" ".join(picked)) < OPENING:
        picked = said[: len(picked) + 1]
    return picked


# --- the lecture path ------------------------------------------------------------------------------


def slide_type(cell: NotebookNode) -> str:
    """The cell's mark for lectures: slide, subslide, fragment, notes, skip or "-" (goes on)."""
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def path_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that are shown or said in a lecture."""
    spoken = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    return [cell for cell in spoken if slide_type(cell) != "skip" and cell.source.strip()]


def height(cell: NotebookNode) -> int:
    """About how many pixels the cell takes on a slide."""
    if cell.cell_type == "markdown":
        return sum(_block_height(block) for block in blocks(cell.source))
    printed = sum(_output_height(output) for output in cell.outputs)
    lines = sum(1 + len(line) // 112 for line in cell.source.splitlines())
    return printed + (34 if shows_more(cell) else 16 + 23 * min(lines, CODE_LINES))


def _block_height(block: str) -> int:
    lines = block.splitlines()
    if block.startswith("#"):
        return 62
    if block.startswith("$$"):
        return 90 + 34 * block.count(r"\\")
    if block.startswith("<details"):
        return 40
    if block.startswith("|"):
        return 36 * sum(1 + max(len(part) for part in line.split("|")) // 70 for line in lines)
    if block.startswith("```"):
        return 24 + 23 * len(lines)
    return 16 + 37 * sum(1 + len(line) // 94 for line in (lines if not is_prose(block) else [" ".join(lines)]))


def _output_height(output: NotebookNode) -> int:
    if output.output_type == "stream":
        text = output.text
    elif "image/png" in output.data:
        picture = output.metadata.get("image/png", {})
        return 16 + min(FIGURE, int(picture.get("height", 360) * 1.6))
    elif "text/html" in output.data:
        return 16 + min(FIGURE, 34 * max(3, output.data["text/html"].count("<tr")))
    else:
        text = output.data.get("text/plain", "")
    return 16 + 21 * min(OUTPUT_LINES, sum(1 + len(line) // 118 for line in text.splitlines()))


def shows_more(cell: NotebookNode) -> bool:
    """Does the cell show a figure or a table? Then its code is folded."""
    kinds = ("image/png", "text/html")
    return any(kind in output.get("data", {}) for output in cell.get("outputs", []) for kind in kinds)


def lecture(notebook: NotebookNode) -> NotebookNode:
    """The notebook of a deck: the lecture path, its prose shortened and kept in notes, cut into slides that fit."""
    from nbformat.v4 import new_markdown_cell

    result = deepcopy(notebook)
    result.cells = []
    filled = 0
    for cell in map(deepcopy, path_cells(notebook)):
        kind = slide_type(cell)
        if kind == "notes":
            result.cells.append(cell)
            continue
        said = cell.source if cell.cell_type == "markdown" else ""
        pieces = cut(cell, shown(said)) if said else [cell]
        for piece in pieces:
            tall = height(piece)
            if kind in ("fragment", "-") and filled + tall > TALL:
                kind = "subslide"
            filled = tall if kind in ("slide", "subslide") else filled + tall
            tags = [*piece.metadata.get("tags", []), *(["folded-code"] if shows_more(piece) else [])]
            piece.metadata.update(slideshow={"slide_type": kind}, tags=tags)
            result.cells.append(piece)
            kind = "-"
        if said and shown(said) != "\n\n".join(blocks(said)):
            full = "\n\n".join(block for block in blocks(said) if not block.startswith("<details"))
            result.cells.append(new_markdown_cell(full, metadata={"slideshow": {"slide_type": "notes"}}))
    return result


def cut(cell: NotebookNode, source: str) -> list[NotebookNode]:
    """The Markdown cell with `source`, in as many cells as it takes slides to show it."""
    from nbformat.v4 import new_markdown_cell

    pieces: list[list[str]] = [[]]
    for block in blocks(source):
        if pieces[-1] and sum(map(_block_height, [*pieces[-1], block])) > TALL:
            heading = [pieces[-1].pop()] if pieces[-1][-1].startswith("#") else []  # goes with what it heads
            pieces = [piece for piece in pieces if piece] + [heading]
        pieces[-1].append(block)
    made = [new_markdown_cell("\n\n".join(piece), metadata=deepcopy(cell.metadata)) for piece in pieces if piece]
    made[0]["id"] = cell.id
    return made


@dataclass(frozen=True)
class Plan:
    """What a lecture takes: slides, words said (slides and notes together), code cells run, predictions asked."""

    slides: int
    words: int
    code_cells: int
    predictions: int

    @property
    def minutes(self) -> float:
        """At 130 words a minute, 20 seconds a code cell and a minute for each prediction."""
        seconds = self.code_cells * SECONDS_A_CODE_CELL + self.predictions * SECONDS_A_PREDICTION
        return self.words / WORDS_A_MINUTE + seconds / 60


def plan(notebook: NotebookNode) -> Plan:
    """Count a notebook's lecture."""
    cells = path_cells(notebook)
    kinds = [slide_type(cell) for cell in lecture(notebook).cells]
    return Plan(
        slides=sum(kind in ("slide", "subslide") for kind in kinds),
        words=sum(words(cell.source) for cell in cells if cell.cell_type == "markdown"),
        code_cells=sum(cell.cell_type == "code" for cell in cells),
        predictions=sum(cell.cell_type == "code" and "cl.predict(" in cell.source for cell in cells),
    )


def stated_minutes() -> dict[str, int]:
    """The minutes that the teacher's guide plans for each chapter's lecture."""
    guide = (root() / "docs" / "teachers_guide.md").read_text(encoding="utf-8")
    return {
        chapter: int(minutes)
        for chapter, minutes in re.findall(r"^## (\d\d) .*?^Lecture: (\d+) minutes", guide, re.M | re.S)
    }


# --- writing -------------------------------------------------------------------------------------


def build(chapters: list[str] | None = None, target: Path | None = None) -> Path:
    """Write the decks of `chapters` (default: all) and a page that lists them; return the folder."""
    from nbconvert import SlidesExporter

    from . import assets

    target = target or root() / "build" / "slides"
    reveal = assets.copy_reveal(target)
    assets.copy_mathjax(target)
    (reveal / "dist" / "theme").mkdir(exist_ok=True)
    shutil.copy(TEMPLATES / "lecture" / "lecture.css", reveal / "dist" / "theme" / "lecture.css")
    shutil.copy(TEMPLATES / "lecture" / "lecture.js", target / "lecture.js")
    exporter = SlidesExporter(
        template_name="lecture",
        extra_template_basedirs=[str(TEMPLATES)],
        reveal_url_prefix="reveal.js",
        reveal_theme="lecture",
        reveal_width="1280",
        reveal_height="720",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
    )
    for path in notebooks.find(chapters):
        deck = lecture(notebooks.read(path))
        deck.metadata["title"] = path.stem.replace("_", " ")
        page, _ = exporter.from_notebook_node(deck)
        (target / f"{path.stem}.html").write_text(page, encoding="utf-8")
        made = plan(notebooks.read(path))
        print(f"{path.stem:<32} {made.slides:3d} slides, {made.words:5,d} words, {made.minutes:3.0f} minutes")
    _write_list(target)
    print(f"Open {target / 'index.html'}")
    return target


def _write_list(target: Path) -> None:
    stated = stated_minutes()
    rows = []
    for path in notebooks.find():
        if (target / f"{path.stem}.html").exists():
            title = notebooks.read(path).cells[0].source.splitlines()[0].lstrip("# ")
            minutes = f" · {stated[path.name[:2]]} minutes" if path.name[:2] in stated else ""
            rows.append(f'<li><a href="{path.stem}.html">{title}</a>{minutes}</li>')
    if not rows:
        raise CourseError("There is no deck to list: no notebook was found.")
    page = (TEMPLATES / "lecture" / "list.html").read_text(encoding="utf-8")
    (target / "index.html").write_text(page.replace("ROWS", "\n".join(rows)), encoding="utf-8")
