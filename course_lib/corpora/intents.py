"""Commands to a house: the sentence templates of Home Assistant, expanded here. The sentences are synthetic.

A template such as `<turn> on [the] {area} (light|lights)` stands for many sentences. The grammar: [optional],
(one|of|these), (in;any;order), <rule> and {list:slot}. Rooms, devices, shopping and places are free in the templates;
`_HOME` below gives them words of ours.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .base import Corpus, Row, find
from .splits import normalise, position
from .strict import Reading

_HOME = {
    "area": [
        "kitchen",
        "living room",
        "bedroom",
        "office",
        "garage",
        "bathroom",
        "hallway",
        "basement",
        "attic",
        "dining room",
    ],
    "floor": ["ground", "first", "second", "upper", "lower"],
    "zone": ["home", "work", "school", "the gym", "the office"],
    "shopping_list_item": [
        "milk",
        "eggs",
        "brown bread",
        "apples",
        "coffee beans",
        "olive oil",
        "toothpaste",
        "rice",
        "green tea",
    ],
    "name": [
        "desk lamp",
        "coffee machine",
        "heater",
        "ceiling fan",
        "front door",
        "kitchen window",
        "printer",
        "washing machine",
    ],
    "name light": ["desk lamp", "floor lamp", "reading light", "night light", "ceiling lamp", "porch light"],
    "name cover": ["left curtain", "garage door", "kitchen blinds", "patio shutter", "awning"],
    "name lock": ["front door", "back door", "garden gate", "cellar door"],
    "name media_player": ["television", "kitchen radio", "stereo", "bedroom speaker"],
    "name vacuum": ["robot vacuum", "rover", "upstairs vacuum"],
    "name climate": ["thermostat", "air conditioner", "heat pump"],
    "name weather": ["home forecast", "Oslo", "Lisbon"],
}
_NUMBERS = {
    "brightness": range(5, 101, 5),
    "position": range(5, 101, 5),
    "volume": range(5, 101, 5),
    "temperature": range(15, 28),
}
_MARK = re.compile(r"[\[\](){}<>|;]")
SENTENCES = 12  # drawn from each template; equal ones are dropped
FEWEST_TEMPLATES = 5


@dataclass
class Grammar:
    """Lists of values and named rules, and a source of chance that is the same everywhere."""

    lists: dict
    rules: dict
    domain: str = ""
    chance: random.Random = field(default_factory=random.Random)

    def choose(self, items):
        """One of the items, by the one method of `random` whose results Python promises to keep."""
        return items[int(self.chance.random() * len(items))]

    def expand(self, template: str) -> list[tuple[str, str]]:
        """One sentence of the template, as pieces of (text, slot or "")."""
        pieces, rest = self._sequence(template)
        if rest:
            raise ValueError(f"unbalanced template: {template}")
        return pieces

    def _sequence(self, rest: str) -> tuple[list, str]:
        pieces = []
        while rest and rest[0] not in "])|;":
            mark = _MARK.search(rest)
            end = mark.start() if mark else len(rest)
            if end:
                pieces.append((rest[:end], ""))
                rest = rest[end:]
            elif rest[0] in "[(":
                inside, rest = self._group(rest)
                pieces += inside
            else:
                closing = {"<": ">", "{": "}"}.get(rest[0])
                name, found, after = rest[1:].partition(closing or "\0")
                if not found:
                    raise ValueError(f"unbalanced template at: {rest}")
                pieces += self._rule(name) if closing == ">" else [self._slot(*self._list_and_slot(name))]
                rest = after
        return pieces, rest

    def _group(self, rest: str) -> tuple[list, str]:
        opening, choices, separator = rest[0], [], "|"
        rest = rest[1:]
        while True:
            pieces, rest = self._sequence(rest)
            choices.append(pieces)
            if not rest or rest[0] in "])":
                break
            separator, rest = rest[0], rest[1:]
        if not rest:
            raise ValueError("unbalanced template: a bracket is not closed")
        if opening == "[" and self.chance.random() < 0.5:
            return [], rest[1:]
        if separator == ";":  # all of them, in some order
            order = sorted(choices, key=lambda _: self.chance.random())
            return [piece for choice in order for piece in [(" ", ""), *choice, (" ", "")]], rest[1:]
        return self.choose(choices), rest[1:]

    def _rule(self, name: str) -> list[tuple[str, str]]:
        if name not in self.rules:
            raise ValueError(f"a template names the rule '{name}', which is not there")
        return self.expand(self.rules[name])

    @staticmethod
    def _list_and_slot(name: str) -> tuple[str, str]:
        values, _, slot = name.partition(":")
        return values, slot or values

    def _slot(self, values: str, slot: str) -> tuple[str, str]:
        if values in _NUMBERS:
            return str(self.choose(_NUMBERS[values])), slot
        if values in _HOME:
            return self.choose(_HOME.get(f"{values} {self.domain}", _HOME[values])), slot
        if values not in self.lists:
            raise ValueError(f"a template names '{values}', which is not a list")
        value = self.choose(self.lists[values]["values"])
        template = value["in"] if isinstance(value, dict) else value
        return "".join(text for text, _ in self.expand(template)), slot


def tagged(pieces: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Words and their BIO tags; a word belongs to a slot if any of its characters does ("50%")."""
    text, spans = "", []
    for piece, slot in pieces:
        if slot:
            spans.append((len(text), len(text) + len(piece), slot))
        text += piece
    tokens, tags, last = [], [], None
    for word in re.finditer(r"\S+", text):
        span = next((span for span in spans if word.start() < span[1] and span[0] < word.end()), None)
        tokens.append(word.group())
        tags.append("O" if span is None else ("I-" if span is last else "B-") + span[2])
        last = span
    return tokens, tags


def _domain(data: dict) -> str:
    for place in ("requires_context", "slots"):
        domain = data.get(place, {}).get("domain", "")
        if isinstance(domain, str) and domain:
            return domain
    return ""


def read(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of text, intent, tokens, tags (BIO) and the template that the sentence comes from."""
    spoken = json.loads(find(folder, "data/en.json").read_text("utf-8"))
    for intent, content in spoken["intents"].items():
        templates = [(data, template) for data in content["data"] for template in data["sentences"]]
        for number, (data, template) in enumerate(templates, start=1):
            rules = spoken["expansion_rules"] | data.get("expansion_rules", {})
            lists = spoken["lists"] | data.get("lists", {})
            chance = random.Random(int(position(f"{intent} {number} {template}") * 2**32))
            grammar = Grammar(lists, rules, _domain(data), chance)
            try:
                drawn = [tagged(grammar.expand(template)) for _ in range(SENTENCES)]
            except (ValueError, KeyError) as error:
                reading.problem(number, f"{intent}: {error}", template)
                continue
            for tokens, tags in drawn:
                row = {
                    "text": " ".join(tokens),
                    "intent": intent,
                    "tokens": tokens,
                    "tags": tags,
                    "template": template,
                }
                yield row | {"few": len(templates) < FEWEST_TEMPLATES}


def _split_on(row: Row) -> str:
    """The template, so that those of the test set are new; the sentence where an intent has too few templates."""
    return normalise(row["text"]) if row["few"] else row["template"]


CORPORA = [
    Corpus(
        "intents", "home-assistant-intents", read,
        {"text": "string", "intent": "string", "tokens": "list:string", "tags": "list:string", "template": "string"},
        split_on=_split_on, same_as=lambda row: row["text"].casefold(), label="intent",
    )
]  # fmt: skip
