"""BERTScore: Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020.

Every token of one text is matched with the most similar token of the other, by the cosine of their contextual states:
R is the mean over reference tokens of the maximum over candidate tokens, P the same the other way round, and F their
harmonic mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..runtime import CourseError

if TYPE_CHECKING:
    from torch import Tensor

    from ..bases import Base


class BertScore(NamedTuple):
    """Precision, recall and their harmonic mean; cosines, so that unrelated texts are far above 0."""

    precision: float
    recall: float
    f1: float


def token_states(base: Base, text: str, layer: int = -1) -> tuple[list[str], Tensor]:
    """The tokens of a text and their states (T, d) in `layer`, each of length 1; [CLS] and [SEP] are left out."""
    import torch

    encoded = base.tokenizer(text, return_tensors="pt", return_special_tokens_mask=True, truncation=True)
    special = encoded.pop("special_tokens_mask")[0].bool()
    if special.all():
        raise CourseError(f"BERTScore compares tokens, and {text!r} has none.")
    with torch.no_grad():
        states = base.model(**encoded, output_hidden_states=True).hidden_states[layer][0, ~special]
    tokens = base.tokenizer.convert_ids_to_tokens(encoded["input_ids"][0, ~special])
    return tokens, torch.nn.functional.normalize(states.float(), dim=-1)


def bert_score(base: Base, references: Sequence[str], candidates: Sequence[str], layer: int = -1) -> list[BertScore]:
    """BERTScore of each candidate against its reference, by the states of an encoder such as MiniLM.

    Without weights by rarity and without rescaling, both of which the paper leaves open. Scores of different bases or
    layers are not comparable.
    """
    if len(references) != len(candidates):
        raise CourseError(f"Each candidate needs its reference; there are {len(candidates)} and {len(references)}.")
    return [
        _match(token_states(base, reference, layer)[1] @ token_states(base, candidate, layer)[1].T)
        for reference, candidate in zip(references, candidates)
    ]


def _match(similarity: Tensor) -> BertScore:
    """From the cosines (reference tokens, candidate tokens)."""
    recall, precision = similarity.max(1).values.mean().item(), similarity.max(0).values.mean().item()
    return BertScore(precision, recall, 2 * precision * recall / (precision + recall))
