"""How good is it, and how sure are we? Outputs of a model, metrics over the field's libraries, intervals."""

from course_lib.evaluation.bertscore import BertScore, bert_score, token_states
from course_lib.evaluation.calibration import calibration_error, reliability_bins, temperature
from course_lib.evaluation.costs import operations
from course_lib.evaluation.distance import edit_distances
from course_lib.evaluation.intervals import (
    Difference,
    Measured,
    bootstrap,
    holm,
    next_run_interval,
    paired_bootstrap,
    paired_seeds,
    seeds_interval,
)
from course_lib.evaluation.metrics import METRICS, Metric, Words
from course_lib.evaluation.predict import Predictions, Scores, evaluate, outputs
from course_lib.evaluation.ranking import gains, hits, ranks, sampled_ranks

__all__ = [
    "METRICS",
    "BertScore",
    "Difference",
    "Measured",
    "Metric",
    "Predictions",
    "Scores",
    "Words",
    "bert_score",
    "bootstrap",
    "calibration_error",
    "edit_distances",
    "evaluate",
    "gains",
    "hits",
    "holm",
    "next_run_interval",
    "operations",
    "outputs",
    "paired_bootstrap",
    "paired_seeds",
    "ranks",
    "reliability_bins",
    "sampled_ranks",
    "seeds_interval",
    "temperature",
    "token_states",
]
