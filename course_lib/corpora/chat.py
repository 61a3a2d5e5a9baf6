"""Typed conversations between two people (BYU's chit-chat challenge of 2018)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from .base import Corpus, Row, find
from .strict import Reading

# A crude filter for a classroom, not a judgement: it misses much and sometimes hits the harmless.
_OFFENSIVE = re.compile(
    r"\b(?:\w*fuck\w*|shit\w*|bullshit|bitch\w*|asshole\w*|cunt\w*|dick(?:head)?s?|pussy|slut\w*|whore\w*|fag(?:got)?s?|nigg\w*|"
    r"retard\w*|rap(?:e[ds]?|ist|ing)|porn\w*|penis\w*|vagina\w*|masturbat\w*|"
    r"kill (?:yourself|myself)|suicid\w*|nazis?)\b",
    re.IGNORECASE,
)


def read(folder: Path, reading: Reading, *, min_turns: int, keep_offensive: bool) -> Iterator[Row]:
    """Rows of turns, speakers (one for each turn), text (the turns, one a line), prompt and date."""
    conversations = json.loads(find(folder, "chitchat_dataset/dataset.json").read_text("utf-8"))
    for number, conversation in enumerate(conversations.values(), start=1):
        turns, speakers = [], []
        for block in conversation["messages"]:
            words = " ".join(" ".join(message["text"].split()) for message in block).strip()
            if not words:
                reading.problem(number, "turn without text", conversation.get("prompt") or "")
                continue
            speaker = block[0]["sender"][:8]
            if speakers and speakers[-1] == speaker:
                turns[-1] += " " + words
            else:
                turns.append(words)
                speakers.append(speaker)
        text = "\n".join(turns)
        if len(turns) < min_turns:
            reading.leave_out(f"fewer than {min_turns} turns")
        elif not keep_offensive and _OFFENSIVE.search(text):
            reading.leave_out("offensive words")
        else:
            date = (conversation.get("start") or "")[:10]
            prompt = conversation.get("prompt") or ""
            yield {"text": text, "turns": turns, "speakers": speakers, "prompt": prompt, "date": date}


CORPORA = [
    Corpus(
        "chat", "chitchat-dataset", read,
        {"text": "string", "turns": "list:string", "speakers": "list:string", "prompt": "string", "date": "string"},
        options={"min_turns": 2, "keep_offensive": False},
    )
]  # fmt: skip
