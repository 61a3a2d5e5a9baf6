"""Pairs for translation: a program's messages, the names of emoji, and the texts of a house automation system."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .splits import normalise
from .strict import Reading

# All pairs are split on the English side, so that no English text of the test set has been seen in training.


def _exact(row: Row) -> str:
    return f"{row['source']}\t{row['target']}"


def _letters(row: Row) -> str:
    return f"{normalise(row['source'])}\t{normalise(row['target'])}"


# --- JupyterLab's own messages ---------------------------------------------------------------------------------------


def read_messages(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of source, target and the part of JupyterLab that shows them."""
    for path in sorted(folder.rglob("LC_MESSAGES/*.json")):
        catalogue = json.loads(path.read_text("utf-8"))
        for message, translations in catalogue.items():
            if message == "":  # the catalogue's own header
                continue
            source = message.split("\x04")[-1].strip()  # what stands before \x04 is a context
            target = (translations[0] or "").strip() if isinstance(translations, list) and translations else ""
            if not target:
                reading.leave_out("not translated")
            elif target == source:
                reading.leave_out("translation equal to the source")
            else:
                yield {"source": source, "target": target, "part": path.stem}


def _messages(language: str, package: str) -> Corpus:
    columns = {"source": "string", "target": "string", "part": "string"}
    return Corpus(f"ui-en-{language}", package, read_messages, columns, lambda row: normalise(row["source"]), _letters)


# --- the names of emoji ----------------------------------------------------------------------------------------------

_TONE = re.compile(r"[ _]?\b(?:medium-light|medium-dark|medium|light|dark)[ _]skin[ _]tone\b")
_PERSON = re.compile(r"\b(?:man|men|woman|women|person|people)\b")


def _base_name(row: Row) -> str:
    """An emoji's name without skin tone and gender: its variants stay in one split."""
    name = _PERSON.sub("", _TONE.sub("", row["source"]))
    return normalise(name) or normalise(row["source"])


def _emoji_reader(language: str):
    def read(folder: Path, reading: Reading) -> Iterator[Row]:
        english = json.loads(find(folder, "unicode_codes/emoji.json").read_text("utf-8"))
        other = json.loads(find(folder, f"unicode_codes/emoji_{language}.json").read_text("utf-8"))
        for emoji, entry in english.items():
            if emoji not in other:
                reading.leave_out("not translated")
                continue
            source, target = (name.strip(":").replace("_", " ").strip() for name in (entry["en"], other[emoji]))
            if source == target:
                reading.leave_out("translation equal to the source")
            else:
                yield {"source": source, "target": target, "emoji": emoji}

    return read


# --- Home Assistant --------------------------------------------------------------------------------------------------


def _leaves(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key), value


def _home_reader(language: str):
    def read(folder: Path, reading: Reading) -> Iterator[Row]:
        for english in sorted(folder.rglob("components/*/translations/en.json")):
            other = english.with_name(f"{language}.json")
            if not other.exists():
                reading.leave_out("component not translated")
                continue
            targets = dict(_leaves(json.loads(other.read_text("utf-8"))))
            for path, source in _leaves(json.loads(english.read_text("utf-8"))):
                source, target = source.strip(), targets.get(path, "").strip()
                if not source or not target:
                    reading.leave_out("not translated")
                elif source == target:
                    reading.leave_out("translation equal to the source")
                else:
                    yield {"source": source, "target": target, "part": english.parent.parent.name}

    return read


def _home(language: str, code: str) -> Corpus:
    columns = {"source": "string", "target": "string", "part": "string"}
    read = _home_reader(code)
    return Corpus(f"home-en-{language}", "homeassistant", read, columns, lambda row: normalise(row["source"]), _letters)


CORPORA = [
    _messages("fr", "jupyterlab-language-pack-fr-FR"),
    _messages("zh", "jupyterlab-language-pack-zh-CN"),
    _messages("de", "jupyterlab-language-pack-de-DE"),
    *(
        Corpus(
            f"names-en-{language}", "emoji", _emoji_reader(language),
            {"source": "string", "target": "string", "emoji": "string"}, _base_name, _exact,
        )
        for language in ("fr", "zh", "de")
    ),
    _home("fr", "fr"),
    _home("zh", "zh-Hans"),
]  # fmt: skip
