"""Who did what to whom: sentences of ours with entities, relations and semantic roles (data/written/roles.txt).

The training and validation sentences are drawn from a small grammar, those of the test set were written by hand. The
notation is explained at the head of that file.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row
from .splits import position
from .strict import Reading

SENTENCES = {"train": 25, "validation": 12}  # drawn from each template; equal ones are dropped
ROLES = ("verb", "agent", "patient", "recipient", "source", "instrument", "place", "time")
KINDS = ("PER", "ORG", "LOC")
RELATIONS = ("works_for", "founded", "lives_in", "located_in", "child_of")
_MARK = re.compile(r"\[(\w+) |\((\w+) | \| ([^)]*)\)|([\])])| +|([^][() |]+)")


def parse(line: str) -> Row:
    """An annotated sentence -> tokens, BIO tags of its entities and of its roles, and its relations.

    A relation is "0 works_for 1": the numbers count the entities of the sentence. Raises ValueError where a bracket
    is not closed or a name is unknown.
    """
    tokens, open_ = [], []
    layers = {"entities": [], "roles": []}  # (name, first token, token after the last)
    notes = []
    place = 0
    while place < len(line):
        mark = _MARK.match(line, place)
        if mark is None:
            raise ValueError(f"cannot be read from: {line[place:]}")
        role, kind, note, closing, token = mark.groups()
        if role or kind:
            if (role or kind) not in (ROLES if role else KINDS):
                raise ValueError(f"unknown name: {role or kind}")
            open_.append(("roles" if role else "entities", role or kind, len(tokens)))
        elif note or closing:
            if not open_:
                raise ValueError(f"a bracket too many before: {line[place:]}")
            layer, name, first = open_.pop()
            layers[layer].append((name, first, len(tokens)))
            notes += [(len(layers["entities"]) - 1, text) for text in (note or "").split(";") if text]
        elif token:
            tokens.append(token)
        place = mark.end()
    if open_:
        raise ValueError(f"a bracket is not closed: {open_[-1][1]}")
    tokens[0] = tokens[0][0].upper() + tokens[0][1:]
    tags = {layer: _bio(spans, len(tokens)) for layer, spans in layers.items()}
    return {"text": " ".join(tokens), "tokens": tokens, **tags, "relations": [_relation(*note) for note in notes]}


def _bio(spans: list[tuple[str, int, int]], length: int) -> list[str]:
    tags = ["O"] * length
    for name, first, end in spans:
        tags[first:end] = [f"B-{name}", *[f"I-{name}"] * (end - first - 1)]
    return tags


def _relation(entity: int, note: str) -> str:
    """("1 works_for *", of entity 3) -> "2 works_for 3"."""
    head, name, tail = note.split()
    if name not in RELATIONS:
        raise ValueError(f"unknown relation: {name}")
    number = {end: entity if end == "*" else entity - int(end) for end in (head, tail)}
    return f"{number[head]} {name} {number[tail]}"


def expand(template: str, lists: dict, parts: dict, chance: random.Random) -> str:
    """One annotated sentence of a template: parts first, then values, none of them twice."""

    def choose(items: list[str]) -> str:
        return items[int(chance.random() * len(items))]

    def part(found: re.Match) -> str:
        line = choose(parts[found[1]])
        return "" if line == "-" else line.replace("ROLE", found[2] or "")

    used: set[str] = set()

    def value(found: re.Match) -> str:
        chosen = choose([value for value in lists[found[1]] if value not in used or "{" in value])
        used.add(chosen)
        return chosen

    line = re.sub(r"<(\w+) ?(\w*)>", part, template)
    while "{" in line:
        line = re.sub(r"\{(\w+)\}", value, line)
    return re.sub(r"(?<=[^|]) ,(?= [.,])", "", " ".join(line.split()))  # "... , ." -> "... ."


def sections(text: str) -> dict[str, list[str]]:
    """The file's sections: title -> lines, comments and empty lines left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            found[line[3:]] = []
        elif line.strip() and not line.startswith("#"):
            found[next(reversed(found))].append(line.strip())
    return found


def read(folder: Path, reading: Reading) -> Iterator[tuple[str, Row]]:
    """(split, row) of every sentence, in the file's order."""
    text = sections((folder / "roles.txt").read_text("utf-8"))
    parts: dict[str, list[str]] = {}
    for line in text["parts"]:
        if re.fullmatch(r"<\w+>", line):
            parts[line[1:-1]] = []
        else:
            parts[next(reversed(parts))].append(line)
    for split, count in SENTENCES.items():
        lists = {name: values.strip().split(", ") for name, _, values in (
            line.partition(":") for line in text[f"lists {split}"]
        )}
        for template in text[split]:
            chance = random.Random(int(position(f"{split} {template}") * 2**32))
            drawn = dict.fromkeys(expand(template, lists, parts, chance) for _ in range(count))
            yield from ((split, parse(line) | {"template": template}) for line in drawn)
    for line in text["test"]:
        yield "test", parse(line) | {"template": ""}


_COLUMNS = {
    "text": "string", "tokens": "list:string", "entities": "list:string", "roles": "list:string",
    "relations": "list:string", "template": "string",
}  # fmt: skip
CORPORA = [
    Corpus("roles", None, read, dict.fromkeys(("train", "validation", "test"), _COLUMNS), tables=True,
           written="roles.txt")
]  # fmt: skip
