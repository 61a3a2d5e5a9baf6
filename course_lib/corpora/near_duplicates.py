"""Near-duplicates inside and across splits, found with MinHash (Broder 1997) and checked exactly.

Exact duplicates are gone when a corpus is loaded. Texts that differ by a few words remain; where one of them is in
the training set and the other in the test set, the score on the test set is too good.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runtime import CourseError
from .splits import normalise

if TYPE_CHECKING:
    import datasets

PERMUTATIONS = 128


@dataclass(frozen=True)
class Pair:
    """Two rows whose texts share at least `threshold` of their letter sequences."""

    split: str
    row: int
    other_split: str
    other_row: int
    similarity: float
    text: str
    other_text: str


@dataclass(frozen=True)
class Audit:
    """What `audit` found: the pairs, the most similar first, and the rows that were compared."""

    pairs: list[Pair]
    rows: dict[str, int]
    column: str
    threshold: float

    def counts(self) -> Counter:
        """Pairs for each two splits."""
        return Counter((pair.split, pair.other_split) for pair in self.pairs)

    def leaks(self, split: str = "test", source: str = "train") -> list[int]:
        """The rows of `split` that have a near-duplicate in `source`."""
        mine = {pair.row for pair in self.pairs if (pair.split, pair.other_split) == (split, source)}
        theirs = {pair.other_row for pair in self.pairs if (pair.split, pair.other_split) == (source, split)}
        return sorted(mine | theirs)

    def __str__(self) -> str:
        total = sum(self.rows.values())
        lines = [
            f"{len(self.pairs):,} near-duplicate pairs "
            f"(similarity of '{self.column}' >= {self.threshold:g}) in {total:,} rows"
        ]
        lines += [f"  {split:<11} {other:<11} {count:>7,}" for (split, other), count in sorted(self.counts().items())]
        for split in self.rows:
            if split != "train" and "train" in self.rows and self.rows[split]:
                leaked = len(self.leaks(split))
                lines.append(
                    f"  {leaked:,} of {self.rows[split]:,} {split} rows "
                    f"({leaked / self.rows[split]:.1%}) have one in train"
                )
        for pair in self.pairs[:3]:
            lines += [
                f"  {pair.similarity:.2f}  {pair.split}: {pair.text[:90]!r}",
                f"        {pair.other_split}: {pair.other_text[:90]!r}",
            ]
        return "\n".join(lines)

    __repr__ = __str__


def shingles(text: str) -> set[str]:
    """All sequences of 5 letters of the normal form; of 2 in scripts such as Chinese, whose signs say more."""
    letters = normalise(text)
    length = 2 if sum(letter >= "\u2e80" for letter in letters) > len(letters) / 2 else 5
    return {letters[i : i + length] for i in range(max(1, len(letters) - length + 1))}


def audit(
    dataset: datasets.DatasetDict | datasets.Dataset,
    column: str = "text",
    threshold: float = 0.8,
    progress: bool = True,
) -> Audit:
    """Pairs of rows whose texts have a Jaccard similarity of at least `threshold` over their `shingles`.

    MinHash proposes pairs, a little below the threshold so that few are missed; each is then computed exactly.
    """
    from datasketch import MinHash, MinHashLSH
    from tqdm.auto import tqdm

    splits: dict[str, Any] = dict(dataset) if isinstance(dataset, dict) else {"all": dataset}
    for split, rows in splits.items():
        if column not in rows.column_names:
            names = ", ".join(rows.column_names)
            raise CourseError(
                f"The split '{split}' has no column '{column}'; it has: {names}. Give audit(..., column=NAME)."
            )
    texts = {(split, row): text for split, rows in splits.items() for row, text in enumerate(rows[column])}
    proposed = MinHashLSH(threshold=max(0.1, threshold - 0.1), num_perm=PERMUTATIONS)
    pairs = []
    for place, text in tqdm(texts.items(), desc="audit", delay=2, disable=not progress):
        mine = shingles(text)
        sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        sketch.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in mine])
        for other in proposed.query(sketch):
            theirs = shingles(texts[other])
            similarity = len(mine & theirs) / len(mine | theirs)
            if similarity >= threshold:
                pairs.append(Pair(*other, *place, similarity, texts[other], text))
        proposed.insert(place, sketch, check_duplication=False)
    pairs.sort(key=lambda pair: (-pair.similarity, pair.split, pair.row, pair.other_split, pair.other_row))
    return Audit(pairs, {split: len(rows) for split, rows in splits.items()}, column, threshold)
