"""The two JavaScript libraries that decks and book carry along, so that both work without a network.

They come as the course's other sources do: Python packages pinned by hash in sources.txt, of which only the
JavaScript is copied.
"""

import shutil
from pathlib import Path

from course_lib import sources

REVEAL = ("sphinx-revealjs", "sphinx_revealjs/_static/revealjs")  # reveal.js 5.2
MATHJAX = ("sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax/tex-svg-full.js")  # MathJax 3.2


def copy_reveal(target: Path) -> Path:
    """Copy reveal.js and its speaker notes into `target`/reveal.js; return that folder."""
    package, inside = REVEAL
    origin, here = sources.folder(package) / inside, target / "reveal.js"
    for part in ("dist/reveal.js", "dist/reveal.css", "dist/reset.css", "plugin/notes", "LICENSE"):
        (here / part).parent.mkdir(parents=True, exist_ok=True)
        if (origin / part).is_dir():
            shutil.copytree(origin / part, here / part, dirs_exist_ok=True)
        else:
            shutil.copy(origin / part, here / part)
    return here


def copy_mathjax(target: Path) -> Path:
    """Copy MathJax, one file that draws formulas as SVG and needs no fonts, into `target`; return the file."""
    package, inside = MATHJAX
    target.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(sources.folder(package) / inside, target / "mathjax.js"))
