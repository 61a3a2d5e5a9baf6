"""The book: all notebooks and the pages of docs/ as one site to browse and search, made by Sphinx and MyST-NB.

Outputs are those that the notebooks carry; nothing is run. MathJax lies beside the pages, so the site works from a
folder, without a network.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from course_lib import notebooks
from course_lib.runtime import CourseError, root

from . import assets

SETTINGS = Path(__file__).parent / "book"
PARTS = {
    "0": "Begin", "1": "Background", "2": "Attention", "3": "Pretraining", "4": "Additive fine-tuning",
    "5": "Applications", "6": "Frontier",
}
PAGES = ("glossary", "faq", "teachers_guide", "coverage")  # of docs/, in this order
BESIDE = ("data/README.md", "data/written/README.md", "data/models/README.md", "data/results/README.md")


# --- what Sphinx reads -----------------------------------------------------------------------------


def lay_out(source: Path) -> None:
    """Write what Sphinx reads into `source`: the files where they stand in the course, and a first page."""
    shutil.rmtree(source, ignore_errors=True)
    for folder in ("notebooks", "docs", "_static"):
        (source / folder).mkdir(parents=True)
    shutil.copy(SETTINGS / "conf.py", source)
    shutil.copy(SETTINGS / "book.css", source / "_static")
    assets.copy_mathjax(source / "_static")
    for path in notebooks.find():
        notebooks.write(page(path), source / "notebooks" / path.name)
    for path in (root() / "docs").iterdir():
        shutil.copy(path, source / "docs")
    glossary = source / "docs" / "glossary.md"
    glossary.write_text(linked_glossary(glossary.read_text(encoding="utf-8")), encoding="utf-8")
    for name in _beside():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root() / name, source / name)
    (source / "index.md").write_text(first_page(), encoding="utf-8")


def page(path: Path):
    """A notebook as the book shows it: speaker notes left out, set-up and solutions folded, pictures with their alt."""
    from nbformat.v4 import new_markdown_cell

    notebook = notebooks.read(path)
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip() and not _is_note(cell)]
    for cell in notebook.cells:
        cell.metadata.pop("slideshow", None)
        tags = cell.metadata.setdefault("tags", [])
        if cell.cell_type != "code":
            continue
        if "solution" in tags or cell.source.startswith(notebooks.SETUP_START):
            tags.append("hide-input")
        with_picture = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        if with_picture:
            about = with_picture[0].metadata.get("image/png", {})
            alt = " ".join(about.get("alt", "").split())
            cell.metadata["mystnb"] = {"image": {"alt": alt, "width": f"{about.get('width', 640)}px"}}
    words = [(english, chinese) for english, chinese, chapter in terms() if path.name.startswith(chapter)]
    if words:
        links = " · ".join(
            f'<a href="../docs/glossary.html#{term_id(english)}">{english}</a> {chinese}' for english, chinese in words
        )
        fold = f"<details><summary><b>Terms of this chapter · 本章术语</b></summary>\n<p>{links}</p>\n</details>"
        notebook.cells.append(new_markdown_cell(fold, id="terms-of-this-chapter"))
    return notebook


# --- the glossary, linked both ways ----------------------------------------------------------------


TERM = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \| (\d\d) \|$", re.M)


def terms() -> list[tuple[str, str, str]]:
    """(English, Chinese, chapter) of each row of docs/glossary.md."""
    text = (root() / "docs" / "glossary.md").read_text(encoding="utf-8")
    return [(english, chinese, chapter) for english, chinese, _, chapter in TERM.findall(text)]


def term_id(english: str) -> str:
    """The name by which a term's row is found: "attention mask" -> "term-attention-mask"."""
    return "term-" + re.sub(r"\W+", "-", english.casefold()).strip("-")


def linked_glossary(text: str) -> str:
    """The glossary with a name for each row, and its chapter as a link where that exists."""
    names = {path.name[:2]: path.name for path in notebooks.find()}

    def row(found: re.Match) -> str:
        english, chinese, meaning, chapter = found.groups()
        place = f"[{chapter}](../notebooks/{names[chapter]})" if chapter in names else chapter
        return f'| <span id="{term_id(english)}">{english}</span> | {chinese} | {meaning} | {place} |'

    return TERM.sub(row, text)


def _beside() -> list[str]:
    return [name for name in BESIDE if (root() / name).exists()]


def _is_note(cell) -> bool:
    return cell.metadata.get("slideshow", {}).get("slide_type") == "notes"


def first_page() -> str:
    """The table of contents, under the README's opening."""
    readme = (root() / "README.md").read_text(encoding="utf-8")
    opening = readme[: readme.index("## Two commands")]
    contents = []
    for digit, title in PARTS.items():
        chapters = [path.stem for path in notebooks.find() if path.name.startswith(digit)]
        if chapters:
            contents.append(_contents(title, [f"notebooks/{chapter}" for chapter in chapters]))
    contents.append(_contents("Beside the chapters", [f"docs/{name}" for name in PAGES]))
    contents.append(_contents("Data and numbers", [name.removesuffix(".md") for name in _beside()]))
    return opening + "\n".join(contents)


def _contents(caption: str, entries: list[str]) -> str:
    return f"```{{toctree}}\n:caption: {caption}\n:maxdepth: 1\n\n" + "\n".join(entries) + "\n```\n"


# --- building ------------------------------------------------------------------------------------


def build(target: Path | None = None) -> Path:
    """Write the book to `target` (default: build/book), check its links, and return its folder."""
    target = target or root() / "build" / "book"
    source = target.with_name(f"{target.name}-source")
    lay_out(source)
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", source / "_build", source, target]
    if subprocess.run(command).returncode != 0:
        raise CourseError("Sphinx could not build the book: see its lines above.")
    broken = broken_links(target)
    if broken:
        raise CourseError("These links of the book lead nowhere:\n" + "\n".join(broken))
    pages = len(list(target.rglob("*.html")))
    print(f"{pages} pages, no broken link. Open {target / 'index.html'}")
    return target


# --- links ---------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """The names that a page can be entered by, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        key = "href" if tag in ("a", "link") else "src"
        if found.get(key):
            self.links.append(found[key])


def broken_links(site: Path) -> list[str]:
    """What leads nowhere within a site, as "page: link"; what its pages load from the network counts as well."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken = []
    for path, found in pages.items():
        for link in found.links:
            if re.match(r"(https?:|mailto:|data:|javascript:)", link):
                continue
            name, _, anchor = unquote(link).partition("#")
            to = (path.parent / name.split("?")[0]).resolve() if name else path.resolve()
            to = to / "index.html" if to.is_dir() else to
            known = pages.get(to)
            if not to.exists() or (anchor and known and anchor not in known.names):
                broken.append(f"{path.relative_to(site)}: {link}")
    return sorted(set(broken))
