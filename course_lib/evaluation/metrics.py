"""Metrics over the field's libraries, each with what a fast bootstrap needs.

The value always comes from the library (scikit-learn, sacrebleu, rouge-score, seqeval). For the interval a metric
also says which numbers a row contributes, its `table`, and how the metric follows from the rows and how often each
was drawn, `resampled`. Almost every metric is a function of SUMS over rows: accuracy of right answers, F1 of right,
predicted and true ones, BLEU of n-gram counts. So ten thousand resamples are one matrix product, not ten thousand
calls.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from course_lib.runtime import CourseError


@dataclass(frozen=True)
class Metric:
    """A metric of n rows: its value, the numbers each row contributes, and its value on resampled rows."""

    name: str
    value: Callable[..., float]  # (references, predictions[, scores]) -> the metric, by the field's library
    table: Callable[..., np.ndarray]  # the same arguments -> (n, k), what each row contributes
    resampled: Callable[..., np.ndarray]  # weights (B, m), distinct rows (m, k) -> (B,)
    about: str = ""

    def check(self, references: Sequence | None, predictions: Sequence, scores: Sequence | None = None) -> None:
        """Stop with a sentence if there are no rows or the columns differ in length."""
        if len(predictions) == 0:
            raise CourseError(f"The metric {self.name} needs at least one row, but the dataset is empty.")
        for word, column in (("references", references), ("scores", scores)):
            if column is not None and len(column) != len(predictions):
                raise CourseError(
                    f"Each prediction needs its reference, but there are {len(predictions)} predictions and "
                    f"{len(column)} {word}."
                )


# --- metrics that are a mean over rows ----------------------------------------------------------------------


def _weighted_mean(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return weights @ rows[:, 0] / weights.sum(axis=1)


def _mean_metric(
    name: str, row_values: Callable[..., Sequence[float]], about: str, library: Callable[..., float] | None = None
) -> Metric:
    """A metric that is the mean of one number a row; its value may come from a library's function."""

    def table(references, predictions, scores=None):
        return np.asarray(row_values(references, predictions), dtype=float).reshape(-1, 1)

    def value(references, predictions, scores=None):
        return float(table(references, predictions).mean())

    return Metric(name, library or value, table, _weighted_mean, about)


def _same_label(references: Sequence, predictions: Sequence) -> np.ndarray:
    return np.asarray(references) == np.asarray(predictions)


def _same_text(references: Sequence[str], predictions: Sequence[str]) -> list[bool]:
    return [reference.strip() == prediction.strip() for reference, prediction in zip(references, predictions)]


def _rouge(kind: str) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
    def row_values(references, predictions):
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], tokenizer=Words())
        return [scorer.score(ref, hyp)[kind].fmeasure for ref, hyp in zip(references, predictions)]

    return row_values


class Words:
    """A tokenizer for ROUGE in any script: a word, or one Chinese, Japanese or Korean character, is a token.

    rouge-score's own tokenizer keeps Latin letters and digits only, so a Chinese summary always scores zero.
    """

    ideographs = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    pattern = re.compile(rf"[{ideographs}]|[^\W{ideographs}]+")

    def tokenize(self, text: str) -> list[str]:
        return self.pattern.findall(text.casefold())


# --- metrics of the confusion matrix ------------------------------------------------------------------------


def _classes(references: Sequence, predictions: Sequence) -> np.ndarray:
    """The sorted labels in use; {0}, {1} and {0, 1} all mean the two classes 0 and 1."""
    found = np.unique(np.concatenate([np.asarray(references), np.asarray(predictions)]))
    return np.array([0, 1]) if set(found.tolist()) <= {0, 1} else found


def _class_table(references: Sequence, predictions: Sequence, scores: Sequence | None = None) -> np.ndarray:
    """(n, 3C): for each class whether the row is a hit of it, predicted as it, and truly of it."""
    classes = _classes(references, predictions)
    true = np.asarray(references)[:, None] == classes
    predicted = np.asarray(predictions)[:, None] == classes
    return np.hstack([true & predicted, predicted, true]).astype(float)


def _class_sums(weights: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, predicted and true counts of each class in each resample, (B, C) each."""
    hits, predicted, true = np.split(weights @ rows, 3, axis=1)
    return hits, predicted, true


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, and 0 where the denominator is 0 (a class that was never predicted, say)."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=float), where=denominator > 0)


def _over_classes(per_class: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Two classes: that of class 1. More: the plain mean over the classes that occur (macro)."""
    occurs = (predicted + true) > 0
    return per_class[:, 1] if per_class.shape[1] == 2 else _ratio((per_class * occurs).sum(1), occurs.sum(1))


def _precision(weights, rows):
    hits, predicted, true = _class_sums(weights, rows)
    return _over_classes(_ratio(hits, predicted), predicted, true)


def _recall(weights, rows):
    hits, predicted, true = _class_sums(weights, rows)
    return _over_classes(_ratio(hits, true), predicted, true)


def _f1(weights, rows):
    hits, predicted, true = _class_sums(weights, rows)
    return _over_classes(_ratio(2 * hits, predicted + true), predicted, true)


def _matthews(weights, rows):
    """Gorodkin's R_K, which for two classes is Matthews' correlation; 0 where one side is constant."""
    hits, predicted, true = _class_sums(weights, rows)
    n = weights.sum(axis=1)
    covariance = hits.sum(1) * n - (predicted * true).sum(1)
    return _ratio(covariance, np.sqrt((n**2 - (predicted**2).sum(1)) * (n**2 - (true**2).sum(1))))


def _sklearn(name: str) -> Callable[..., float]:
    """scikit-learn's function; with two classes precision, recall and F1 are those of class 1, else macro means."""

    def value(references, predictions, scores=None):
        import sklearn.metrics

        function = getattr(sklearn.metrics, name)
        if name in ("accuracy_score", "matthews_corrcoef"):
            return float(function(references, predictions))
        classes = _classes(references, predictions)
        if len(classes) == 2:
            return float(function(references, predictions, pos_label=classes[1], zero_division=0))
        return float(function(references, predictions, average="macro", zero_division=0))

    return value


# --- ROC AUC ------------------------------------------------------------------------------------------------


def _auc_scores(references: Sequence, scores: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Truth (n, C) and scores (n, C): one column for two classes (class 1 minus class 0), else one each."""
    if scores is None:
        raise CourseError(
            "ROC AUC ranks rows by a score, but only predicted labels were given. Pass the logits or probabilities "
            "as `scores`: an AUC of hard labels looks at a single threshold."
        )
    truth, scores = np.asarray(references), np.asarray(scores, dtype=float)
    classes = np.unique(truth)
    if len(classes) < 2:
        raise CourseError(
            f"ROC AUC compares rows of different classes, but every reference is {classes[0]}. "
            "Use a test set in which both classes occur."
        )
    if not np.isfinite(scores).all():
        raise CourseError("ROC AUC needs finite scores, but some are NaN or infinite.")
    if scores.ndim == 1:
        scores = scores[:, None]
    elif scores.shape[1] == 2:
        scores = scores[:, 1:] - scores[:, :1]  # orders rows as the softmax does, and never saturates
    elif not np.allclose(scores.sum(axis=1), 1):  # logits: scikit-learn asks for probabilities
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    if scores.shape[1] == 1:
        if len(classes) > 2:
            raise CourseError(f"ROC AUC of {len(classes)} classes needs a score for each class, but got one a row.")
        if len(np.unique(scores)) <= 2 and len(truth) > 4:
            raise CourseError(
                f"ROC AUC ranks rows by a score, but the {len(truth)} scores take at most two values: these look "
                "like predicted labels. Pass the logits or probabilities."
            )
        return (truth == classes[1])[:, None], scores
    return truth[:, None] == np.arange(scores.shape[1]), scores


def _auc_value(references, predictions, scores=None):
    from sklearn.metrics import roc_auc_score

    truth, scores = _auc_scores(references, scores)
    present = truth.any(axis=0)
    return float(roc_auc_score(truth[:, present], scores[:, present], average="macro"))


def _auc_table(references, predictions, scores=None):
    truth, scores = _auc_scores(references, scores)
    return np.hstack([truth, scores])


def _auc_resampled(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The share of (true, other) pairs in the right order, a tie counting one half; mean of one-vs-rest classes."""
    classes = rows.shape[1] // 2
    total = np.zeros(len(weights))
    present = [c for c in range(classes) if rows[:, c].any()]
    for c in present:
        order = np.argsort(rows[:, classes + c], kind="stable")
        truth, score = rows[order, c], rows[order, classes + c]
        first, last = np.searchsorted(score, score, "left"), np.searchsorted(score, score, "right")
        ours = np.flatnonzero(truth)
        others = np.zeros((len(weights), len(order) + 1), dtype=weights.dtype)
        np.cumsum(weights[:, order] * (1 - truth).astype(weights.dtype), axis=1, out=others[:, 1:])
        drawn = weights[:, order[ours]]
        pairs = drawn.sum(1) * others[:, -1]
        below_and_tied = others[:, first[ours]] + others[:, last[ours]]  # twice: below plus half of those that tie
        right = np.einsum("bm,bm->b", drawn, below_and_tied) / 2
        total += np.divide(right, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return total / len(present)


# --- text and tags ------------------------------------------------------------------------------------------


def _sacrebleu_metric(name: str, make: Callable, about: str) -> Metric:
    """A corpus metric of sacrebleu: sums of its sentence statistics, then its own formula."""
    def table(references, predictions, scores=None):
        return np.asarray(make()._extract_corpus_statistics(list(predictions), [list(references)]), dtype=float)

    def value(references, predictions, scores=None):
        return float(make().corpus_score(list(predictions), [list(references)]).score)

    def resampled(weights, rows):
        formula = make()._compute_score_from_stats
        return np.array([formula(sums.tolist()).score for sums in weights @ rows])

    return Metric(name, value, table, resampled, about)


def _bleu(tokenize: str = "13a"):
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenize)


def _chrf():
    from sacrebleu.metrics import CHRF

    return CHRF()


def _entity_table(references: Sequence[list[str]], predictions: Sequence[list[str]], scores=None) -> np.ndarray:
    """(n, 3): entities found, predicted and true in each sentence of BIO tags."""
    from seqeval.metrics.sequence_labeling import get_entities

    rows = []
    for number, (reference, prediction) in enumerate(zip(references, predictions)):
        if len(reference) != len(prediction):
            raise CourseError(
                f"Each token needs a tag, but row {number} has {len(reference)} true and {len(prediction)} predicted "
                "tags."
            )
        true, predicted = set(get_entities(list(reference))), set(get_entities(list(prediction)))
        rows.append((len(true & predicted), len(predicted), len(true)))
    return np.array(rows, dtype=float)


def _entity_metric(name: str, function: str, about: str) -> Metric:
    def value(references, predictions, scores=None):
        import seqeval.metrics

        _entity_table(references, predictions)  # says which row has too few tags
        return float(getattr(seqeval.metrics, function)(list(references), list(predictions), zero_division=0))

    def resampled(weights, rows):
        found, predicted, true = (weights @ rows).T
        numerator, denominator = {
            "precision_score": (found, predicted), "recall_score": (found, true),
            "f1_score": (2 * found, predicted + true),
        }[function]
        return _ratio(numerator, denominator)

    return Metric(name, value, _entity_table, resampled, about)


# --- the table of metrics -----------------------------------------------------------------------------------

MEAN = _mean_metric("mean", lambda references, values: values, "the mean of one number a row")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _mean_metric("accuracy", _same_label, "share of rows whose label is right", _sklearn("accuracy_score")),
        Metric("precision", _sklearn("precision_score"), _class_table, _precision,
               "of the rows called class 1, the share that is (more than two classes: mean over classes)"),
        Metric("recall", _sklearn("recall_score"), _class_table, _recall,
               "of the rows of class 1, the share that was found (more than two classes: mean over classes)"),
        Metric("f1", _sklearn("f1_score"), _class_table, _f1, "harmonic mean of precision and recall"),
        Metric("matthews", _sklearn("matthews_corrcoef"), _class_table, _matthews,
               "correlation of labels and predictions, -1 to 1"),
        Metric("roc_auc", _auc_value, _auc_table, _auc_resampled,
               "chance that a row of class 1 scores higher than one of class 0, ties counting half"),
        _mean_metric("exact_match", _same_text, "share of texts that are equal, outer spaces aside"),
        _sacrebleu_metric("bleu", _bleu, "n-gram overlap with the reference, 0 to 100 (sacrebleu, 13a tokens)"),
        _sacrebleu_metric("bleu_zh", lambda: _bleu("zh"), "BLEU with each Chinese character a token"),
        _sacrebleu_metric("chrf", _chrf, "character n-gram F-score, 0 to 100 (sacrebleu)"),
        _mean_metric("rouge1", _rouge("rouge1"), "F1 of words, 0 to 1; a Chinese character is a word"),
        _mean_metric("rouge2", _rouge("rouge2"), "F1 of word pairs, 0 to 1"),
        _mean_metric("rougeL", _rouge("rougeL"), "F1 of the longest common subsequence of words, 0 to 1"),
        _entity_metric("entity_precision", "precision_score", "of the entities tagged, the share that is right"),
        _entity_metric("entity_recall", "recall_score", "of the true entities, the share that was found whole"),
        _entity_metric("entity_f1", "f1_score", "harmonic mean of entity precision and recall (seqeval)"),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of that name; an unknown name is an error that suggests the nearest."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise CourseError(f"There is no metric {name!r}.{hint} Known are: {', '.join(METRICS)}.")
    return METRICS[name]


def from_function(function: Callable, references: Sequence, predictions: Sequence) -> Metric:
    """A metric of one's own, bound to its rows: it is called once for each resample, so choose `n_boot` accordingly."""

    def of_rows(index: np.ndarray) -> float:
        return float(function([references[i] for i in index], [predictions[i] for i in index]))

    def resampled(weights, rows):
        index = rows[:, 0].astype(int)
        return np.array([of_rows(np.repeat(index, drawn)) for drawn in weights])

    def table(references, predictions, scores=None):
        return np.arange(len(predictions), dtype=float)[:, None]

    return Metric(
        function.__name__, lambda r, p, s=None: float(function(r, p)), table, resampled, function.__doc__ or ""
    )
