"""The synthetic language: its entropy is exact, and models approach it and never pass it."""

import math

import numpy as np
import pytest
import torch

import course_lib as cl

lms = cl.language_models
LANGUAGE = lms.SyntheticLanguage(seed=3, vocabulary=8)
TRAIN, TEST = LANGUAGE.sample(60_000, seed=1), LANGUAGE.sample(30_000, seed=2)


def excess(model, text=TEST):
    """Mean and standard error of the bits a symbol that a model needs beyond the true language, on the same text."""
    extra = (lms.surprise(model, text) - lms.surprise(LANGUAGE, text))[2:].numpy()
    blocks = extra[: len(extra) // 50 * 50].reshape(-1, 50).mean(1)  # neighbours are not independent
    return blocks.mean(), blocks.std(ddof=1) / math.sqrt(len(blocks))


@pytest.mark.parametrize(("seed", "vocabulary"), [(0, 2), (1, 5), (2, 16)])
def test_the_stationary_distribution_is_one(seed, vocabulary):
    language = lms.SyntheticLanguage(seed, vocabulary)
    pi = language.stationary
    assert pi.min() >= 0
    assert pi.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.einsum("ij,ijk->jk", pi, language.p), pi, atol=1e-12)
    np.testing.assert_allclose(language.p.sum(-1), 1)


def test_a_fair_coin_has_one_bit_and_a_certain_symbol_nearly_none():
    coin = lms.SyntheticLanguage(vocabulary=2, concentration=1e6)
    assert coin.entropy == pytest.approx(1, abs=1e-4)
    assert lms.SyntheticLanguage(vocabulary=4, concentration=1e-4).entropy < 0.02


def test_entropy_is_the_surprise_of_the_language_itself():
    bits = lms.surprise(LANGUAGE, TEST)[2:].numpy()
    blocks = bits[: len(bits) // 50 * 50].reshape(-1, 50).mean(1)
    error = blocks.std(ddof=1) / math.sqrt(len(blocks))
    assert abs(blocks.mean() - LANGUAGE.entropy) < 3.5 * error
    assert error < 0.02
    counts = np.bincount(TEST[:-1] * 8 + TEST[1:], minlength=64) / (len(TEST) - 1)
    np.testing.assert_allclose(counts, LANGUAGE.stationary.ravel(), atol=0.01)


def test_samples_are_reproducible():
    assert torch.equal(LANGUAGE.sample(100, seed=5), LANGUAGE.sample(100, seed=5))
    assert not torch.equal(LANGUAGE.sample(100, seed=5), LANGUAGE.sample(100, seed=6))


def test_shorter_memories_know_less():
    one, two, three = (LANGUAGE.entropy_at(order) for order in (1, 2, 3))
    assert one > two > three == LANGUAGE.entropy


def test_ngrams_approach_the_floor_of_their_order_and_never_pass_it():
    before = math.inf
    for n in (500, 5_000, 60_000):
        mean, error = excess(lms.NGram(3, vocabulary=8).fit(TRAIN[:n]))
        assert -3.5 * error < mean < before
        before = mean
    assert before < 0.01
    for order in (1, 2):
        bits = lms.surprise(lms.NGram(order, vocabulary=8).fit(TRAIN), TEST).mean().item()
        assert bits == pytest.approx(LANGUAGE.entropy_at(order), abs=0.03)
    long, error = excess(lms.NGram(6, vocabulary=8).fit(TRAIN))  # more context than there is to know is no help
    assert long > 3.5 * error


def test_a_small_gpt_approaches_the_floor_and_never_passes_it():
    cl.seed(0)
    model = lms.GPT(vocabulary=8, context=8, width=32, layers=2, heads=2)
    means = []
    for steps in (20, 400):
        cl.fit(
            model, lms.windows(TRAIN, 8), task=cl.tasks.NextToken(), max_steps=steps, batch_size=64,
            learning_rate=1e-2, dtype="float32", progress=False,
        )  # fmt: skip
        mean, error = excess(model, TEST[:12_000])
        assert mean > -3.5 * error
        means.append(mean)
    assert means[1] < means[0]
    assert means[1] < 0.1 * (math.log2(8) - LANGUAGE.entropy)
