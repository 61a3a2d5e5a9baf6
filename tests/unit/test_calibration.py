"""Calibration against hand-computed cases and what is known of probabilities drawn from a known truth."""

import numpy as np
import pytest
from scipy.special import log_softmax

from course_lib.evaluation import bootstrap, calibration_error, reliability_bins, temperature
from course_lib.runtime import CourseError

# Two bins of five: [0, .5) says .1 .2 .3, of which one happened; [.5, 1] says .6 1, of which one happened.
OUTCOMES, PROBABILITIES = [0, 0, 1, 1, 0], [0.1, 0.2, 0.3, 0.6, 1.0]


def test_bins_and_error_equal_the_values_computed_by_hand():
    low, high = reliability_bins(OUTCOMES, PROBABILITIES, bins=2)
    assert (low.count, low.said, low.happened) == (3, pytest.approx(0.2), pytest.approx(1 / 3))
    assert (high.count, high.said, high.happened) == (2, pytest.approx(0.8), pytest.approx(0.5))
    right = 3 / 5 * (1 / 3 - 0.2) + 2 / 5 * (0.8 - 0.5)
    assert calibration_error(OUTCOMES, PROBABILITIES, bins=2) == pytest.approx(right)


def test_one_belongs_to_the_last_bin_and_empty_bins_are_left_out():
    [only] = reliability_bins([1, 0], [1.0, 0.95], bins=10)
    assert (only.low, only.high, only.count) == (0.9, 1.0, 2)


def test_gaps_of_different_bins_do_not_cancel():
    assert calibration_error([1, 0], [0.0, 1.0]) == pytest.approx(1)


def test_true_probabilities_have_a_small_error_and_sharpened_ones_a_large_one():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    happened = (rng.random(20_000) < p).astype(int)
    sharper = p**3 / (p**3 + (1 - p) ** 3)
    assert calibration_error(happened, p) < 0.015
    assert calibration_error(happened, sharper) > 0.1


def test_the_error_can_be_bootstrapped_as_any_metric():
    assert bootstrap((calibration_error, OUTCOMES * 20, PROBABILITIES * 20), 50).low > 0


def test_temperature_undoes_a_known_scaling():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    p = np.exp(log_softmax(logits, axis=1))
    labels = (p.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert temperature(labels, logits) == pytest.approx(1, abs=0.05)
    assert temperature(labels, 2.5 * logits) == pytest.approx(2.5, abs=0.1)
    assert temperature(labels, 2.5 * logits) == pytest.approx(
        temperature(labels, log_softmax(2.5 * logits, axis=1)), rel=1e-3
    )


@pytest.mark.parametrize(
    ("outcomes", "probabilities", "said"),
    [
        ([1, 0], [0.5], "one probability a row"),
        ([], [], "one probability a row"),
        ([1, 0], [3.2, -1], "softmax"),
        ([1, 2], [0.5, 0.5], "0 or 1"),
    ],
)
def test_what_is_no_probability_is_refused_with_a_sentence(outcomes, probabilities, said):
    with pytest.raises(CourseError, match=said):
        calibration_error(outcomes, probabilities)


def test_temperature_refuses_scores_of_another_shape():
    with pytest.raises(CourseError, match="needs logits"):
        temperature([0, 1], [0.2, 0.8])
