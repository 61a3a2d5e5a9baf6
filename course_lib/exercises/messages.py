"""The one table of what checks say, messages.toml: every message in English and in Chinese."""

from __future__ import annotations

import functools
import textwrap
import tomllib
import unicodedata
from pathlib import Path

WIDTH = 96  # columns
LANGUAGES = ("en", "zh")
NEVER_FIRST = "，。；：、！？）》」”’ "  # Chinese punctuation does not open a line


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """Key -> {"en": ..., "zh": ...}. Keys are exercise and misconception, as in "41.1.delta_only"."""
    nested = tomllib.loads(Path(__file__).with_name("messages.toml").read_text(encoding="utf-8"))
    return {f"{exercise}.{name}": text for exercise, names in nested.items() for name, text in names.items()}


def text(key: str, language: str, **values: object) -> str:
    """The message `key` in one language, its {gaps} filled from `values`."""
    return table()[key][language].format(**values)


def wrapped(key: str, **values: object) -> list[str]:
    """The message in both languages as lines of at most WIDTH columns, English first."""
    english = textwrap.wrap(text(key, "en", **values), WIDTH, break_long_words=False, break_on_hyphens=False)
    return english + wrap_chinese(text(key, "zh", **values))


def wrap_chinese(sentence: str, width: int = WIDTH) -> list[str]:
    """Lines of at most `width` columns, a Chinese character counting two; Latin words stay whole."""
    lines, line, used = [], "", 0
    for piece in _pieces(sentence):
        size = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in piece)
        if used + size > width and piece not in NEVER_FIRST:
            lines, line, used = [*lines, line.rstrip()], "", 0
        line, used = line + piece, used + size
    return [*lines, line] if line else lines


def _pieces(sentence: str) -> list[str]:
    """Single wide characters and spaces; runs of everything else, which is not broken."""
    pieces: list[str] = []
    open_run = False
    for letter in sentence:
        narrow = letter != " " and unicodedata.east_asian_width(letter) not in "WF"
        if narrow and open_run:
            pieces[-1] += letter
        else:
            pieces.append(letter)
        open_run = narrow
    return pieces
