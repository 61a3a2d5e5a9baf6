"""Real text and other real data, each behind one name, as `datasets.DatasetDict` with documented columns.

    reviews = load_data("movie-reviews")         # train, validation, test
    print(card("movie-reviews"))                 # where it is from, its columns, its licence, its flaws
    print(reading("movie-reviews"))              # what was read, dropped and left out
    print(audit(reviews))                        # near-duplicates that remain

One file reads one package; data/README.md has a card for each name, data/written/README.md for what we wrote.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from ..runtime import CourseError
from . import (
    base,
    cards,
    chat,
    course_questions,
    entities_zh,
    faq,
    hub,
    human_eval,
    intents,
    news,
    pairs,
    pronunciation,
    python_source,
    ratings,
    roles,
    shop_reviews_zh,
    sms_spam,
    vader,
    words_zh,
)
from .near_duplicates import Audit, audit
from .splits import normalise, split_of
from .strict import Problem, Problems, Reading, read_tsv

if TYPE_CHECKING:
    import datasets

__all__ = [
    "Audit", "Problem", "Problems", "Reading", "audit", "card", "load_data", "names", "normalise", "read_tsv",
    "reading", "short", "split_of",
]  # fmt: skip

_MODULES = (
    vader, shop_reviews_zh, sms_spam, news, pairs, pronunciation, chat, faq, intents, python_source,
    human_eval, ratings, entities_zh, words_zh, roles, course_questions,
)  # fmt: skip
CORPORA: dict[str, base.Corpus] = {corpus.name: corpus for module in _MODULES for corpus in module.CORPORA}


def names() -> list[str]:
    """The names that `load_data` knows."""
    return list(CORPORA)


def _find(name: str) -> base.Corpus:
    if name in CORPORA:
        return CORPORA[name]
    near = difflib.get_close_matches(str(name).lower().replace("_", "-"), CORPORA, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise CourseError(f"There is no corpus '{name}'. {hint}There are: {', '.join(CORPORA)}.")


def load_data(
    name: str, *, source: str = "package", keep_duplicates: bool = False, **options: Any
) -> datasets.DatasetDict:
    """Load a corpus as train, validation and test; `card(name)` describes its columns and options.

    Rows with the same normalised text count as duplicates: the first is kept, and equal texts never straddle splits.
    The split and the order of rows depend on the text alone, so they are the same everywhere, and the first n rows
    of a split are a random sample of it. The package is fetched on first use and the result cached.

    source: "package" (pinned, works offline once fetched) or "hub" (the Hugging Face Hub's original of the same task).
    keep_duplicates: keep them, to see what they do; equal texts still share a split.
    Raises CourseError for an unknown name, source or option.
    """
    corpus = _find(name)
    if source == "hub":
        if options or keep_duplicates:
            raise CourseError("source='hub' takes no options: the rows come as the Hub has them.")
        return hub.load(name)
    if source != "package":
        raise CourseError(f"source is '{source}'; give 'package' (the pinned one) or 'hub' (the Hugging Face Hub).")
    return base.load(corpus, keep_duplicates, **options)[0]


def reading(name: str, *, keep_duplicates: bool = False, **options: Any) -> Reading:
    """The account of how `load_data(name, ...)` was read: malformed lines, duplicates, what was left out and why."""
    return base.load(_find(name), keep_duplicates, **options)[1]


def short(rows: datasets.Dataset, words: int, count: int | None = None, *, least: int = 1) -> datasets.Dataset:
    """The rows whose text has `least` to `words` words between blanks; with `count`, the first so many of them.

    The first of a split are a random sample of it (see `load_data`), so these are one of its short rows.
    """
    chosen = [i for i, text in enumerate(rows["text"]) if least <= len(text.split()) <= words]
    return rows.select(chosen[:count])


def card(name: str) -> cards.Card:
    """The card of a corpus: origin, rows, columns, options, licence, known flaws, use."""
    return cards.read(_find(name).name)
