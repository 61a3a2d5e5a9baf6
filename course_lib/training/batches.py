"""Which rows make a batch: features from raw rows, and batches of similar length in a reproducible order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from course_lib.runtime import CourseError

POOL = 50  # batches that are sorted by length together: large enough to pad little, small enough to stay shuffled


def encode(rows: Any, task: Any, tokenizer: Any, part: str = "training") -> list[dict[str, Any]]:
    """Turn a split into a list of features, one dict a row; rows that already hold `input_ids` stay as they are.

    `rows` is a `datasets.Dataset` or a sequence of dicts. Raw columns go through `task.encode`, a thousand rows at a
    time, which may return more or fewer rows than it got (a language model's blocks).
    """
    if len(rows) == 0:
        raise CourseError(f"The {part} data has no rows. Check the split's name and the filters applied to it.")
    if not isinstance(rows[0], dict):
        raise CourseError(
            f"The {part} data holds rows of type {type(rows[0]).__name__}, but a row must be a dict: raw columns such "
            "as text and label, or features with input_ids."
        )
    if "input_ids" in rows[0] or not hasattr(task, "encode"):
        return list(rows)
    columns, features = list(rows[0]), []
    for start in range(0, len(rows), 1000):
        chunk = [rows[i] for i in range(start, min(start + 1000, len(rows)))]
        encoded = task.encode({name: [row[name] for row in chunk] for name in columns}, tokenizer)
        features += [dict(zip(encoded, values)) for values in zip(*encoded.values())]
    if not features:
        raise CourseError(f"The task kept none of the {len(rows)} rows of the {part} data: all were empty or too long.")
    return features


def length_of(feature: dict[str, Any]) -> int:
    """Number of tokens of one feature."""
    for name in ("input_ids", "attention_mask"):
        if name in feature:
            return len(feature[name])
    return len(next(iter(feature.values())))


def bucketed_batches(
    lengths: Sequence[int], batch_size: int, seed: int = 0, epoch: int = 0, bucket: bool = True
) -> list[list[int]]:
    """Row numbers of each batch of one epoch: shuffled, yet with rows of similar length together.

    The rows are shuffled, cut into pools of 50 batches, sorted by length within a pool, cut into batches, and the
    batches are shuffled. Every row appears once; the order depends on `seed` and `epoch` alone, so a resumed run
    finds the same batches again.
    """
    generator = random.Random(f"{seed} {epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    if not bucket:
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = sorted(order[start : start + POOL * batch_size], key=lengths.__getitem__)
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    generator.shuffle(batches)
    return batches


def parts_of(rows: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Cut `rows` into at most `parts` pieces of (nearly) equal size, none of them empty."""
    parts = min(parts, len(rows))
    bounds = [len(rows) * i // parts for i in range(parts + 1)]
    return [rows[start:end] for start, end in itertools.pairwise(bounds)]
