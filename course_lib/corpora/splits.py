"""Which row goes to which split: decided by a hash of its text, so that it is the same on every machine and day."""

from __future__ import annotations

import hashlib
import re
import unicodedata

TEST, VALIDATION = 0.15, 0.10  # the rest, three quarters, is for training
_NOT_LETTERS = re.compile(r"[\W\d_]+")


def normalise(text: str) -> str:
    """The letters of `text` alone: NFKC, case folded, no digits, punctuation or spaces.

    Two texts with the same normal form count as duplicates ("GOOD film!!" and "Good film."). A text without any
    letter ("10/10", ":-)") keeps its other characters, so that such texts are not all thrown together.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_LETTERS.sub("", folded) or "".join(folded.split())


def position(key: str) -> float:
    """A number in [0, 1) that depends on nothing but `key`: the first 8 bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def split_of(key: str) -> str:
    """ "test" (15 %), "validation" (10 %) or "train" (75 %), by the position of `key`."""
    where = position(key)
    if where < TEST:
        return "test"
    return "validation" if where < TEST + VALIDATION else "train"
