"""The Hugging Face Hub's originals of the same tasks, with their columns named as ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..runtime import CourseError
from .splits import normalise, split_of

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Original:
    """A dataset on the Hub: path, configuration, and which of its columns is which of ours.

    key: the column whose text decides the split where the original has no such split.
    """

    path: str
    columns: Mapping[str, str]
    config: str | None = None
    key: str = "text"
    prepare: Callable[[Any], Any] | None = field(default=None, compare=False)


def _translation(language: str) -> Original:
    def prepare(rows):
        return rows.map(lambda row: {"source": row["translation"]["en"], "target": row["translation"][language]})

    config = "de-en" if language == "de" else f"en-{language}"
    columns = {"source": "source", "target": "target"}
    return Original("Helsinki-NLP/opus-100", columns, config, key="source", prepare=prepare)


ORIGINALS = {
    "movie-reviews": Original("cornell-movie-review-data/rotten_tomatoes", {"text": "text", "label": "label"}),
    "product-reviews": Original("fancyzhx/amazon_polarity", {"text": "content", "label": "label"}),
    "tweets": Original("cardiffnlp/tweet_eval", {"text": "text", "label": "label"}, "sentiment"),
    "shop-reviews-zh": Original("lansinuote/ChnSentiCorp", {"text": "text", "label": "label"}),
    "sms-spam": Original("ucirvine/sms_spam", {"text": "sms", "label": "label"}),
    "news": Original("fancyzhx/ag_news", {"text": "text", "topic": "label"}),
    "ui-en-fr": _translation("fr"),
    "ui-en-zh": _translation("zh"),
    "ui-en-de": _translation("de"),
    "human-eval": Original(
        "openai/openai_humaneval",
        {name: name for name in ("task_id", "prompt", "canonical_solution", "test", "entry_point")},
        key="task_id",
    ),
}


def load(name: str) -> datasets.DatasetDict:
    """The Hub's original of the task, in train, validation and test.

    Missing splits are cut from its training part by the same hash that our own data use; a pure test set stays one.
    Raises CourseError where there is no original, no network or no such dataset any more.
    """
    import datasets

    if name not in ORIGINALS:
        raise CourseError(
            f"'{name}' has no original on the Hub; leave out source='hub'. With one: {', '.join(ORIGINALS)}."
        )
    original = ORIGINALS[name]
    try:
        loaded = datasets.load_dataset(original.path, original.config)
    except Exception as error:  # the network, the Hub's or the library's own: a score of types
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CourseError(
            f"'{original.path}' could not be loaded from the Hugging Face Hub ({cause}). "
            f"Check the network and try again, or use load_data('{name}') without source='hub', which needs none."
        ) from error
    renamed = {split: _rename(rows, original) for split, rows in loaded.items()}
    return datasets.DatasetDict(_complete(renamed, original.key))


def _rename(rows: datasets.Dataset, original: Original) -> datasets.Dataset:
    if original.prepare:
        rows = original.prepare(rows)
    rows = rows.select_columns(list(original.columns.values()))
    return rows.rename_columns({theirs: ours for ours, theirs in original.columns.items() if ours != theirs})


def _complete(splits: dict[str, datasets.Dataset], key: str) -> dict[str, datasets.Dataset]:
    if "train" not in splits:
        return splits
    missing = [split for split in ("validation", "test") if split not in splits]
    places = [split_of(normalise(text)) for text in splits["train"][key]] if missing else []
    cut = {split: [row for row, place in enumerate(places) if place == split] for split in missing}
    taken = {row for rows in cut.values() for row in rows}
    kept = splits["train"].select([row for row in range(len(splits["train"])) if row not in taken])
    made = {split: splits["train"].select(rows) for split, rows in cut.items()}
    return {"train": kept, **{split: made.get(split, splits.get(split)) for split in ("validation", "test")}}
