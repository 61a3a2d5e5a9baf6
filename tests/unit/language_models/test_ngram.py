"""The n-gram model against a slow exact one: dictionaries, fractions and the formulas of its docstring."""

from collections import Counter
from fractions import Fraction
from math import inf, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import course_lib as cl
from course_lib.runtime import CourseError

lms = cl.language_models


class Slow:
    """Interpolated Kneser-Ney or add-k, straight from the definitions, in exact fractions."""

    def __init__(self, order, vocabulary, text):
        self.order, self.vocabulary, self.text = order, vocabulary, tuple(text)

    def grams(self, order):
        return [self.text[i : i + order] for i in range(len(self.text) - order + 1)]

    def counts(self, order):
        """Counts at the top; below, how many different tokens were seen in front."""
        if order == self.order:
            return Counter(self.grams(order))
        return Counter(gram[1:] for gram in set(self.grams(order + 1)))

    def kneser_ney(self, context, word):
        order = len(context) + 1
        below = self.kneser_ney(context[1:], word) if context else Fraction(1, self.vocabulary)
        counts = self.counts(order)
        followers = {gram: count for gram, count in counts.items() if gram[:-1] == context}
        if not followers:
            return below
        ones, twos = (sum(count == n for count in counts.values()) for n in (1, 2))
        D = Fraction(ones, ones + 2 * twos) if ones and twos else Fraction(1, 2)
        total = sum(followers.values())
        own = max(followers.get((*context, word), 0) - D, 0) / Fraction(total)
        return own + D * len(followers) / total * below

    def add_k(self, context, word, k):
        counts = Counter(self.grams(len(context) + 1))
        total = sum(count for gram, count in counts.items() if gram[:-1] == context)
        if total + k * self.vocabulary == 0:
            return Fraction(1, self.vocabulary)
        return Fraction(counts[*context, word] + k) / (total + k * self.vocabulary)

    def table(self, ids, probability):
        """log p (T, V): the answer behind each of the ids."""
        rows = []
        for t in range(len(ids)):
            context = tuple(ids[max(0, t + 2 - self.order) : t + 1]) if self.order > 1 else ()
            p = [probability(context, word) for word in range(self.vocabulary)]
            assert sum(p) == 1
            rows.append([log(q) if q else -inf for q in p])
        return torch.tensor(rows)


TEXTS = st.lists(st.integers(0, 3), min_size=6, max_size=40)


@given(TEXTS, TEXTS, st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_kneser_ney_is_the_slow_one(text, ids, order):
    slow = Slow(order, 4, text)
    fast = lms.NGram(order, vocabulary=4).fit(text)
    torch.testing.assert_close(fast(torch.tensor([ids]))[0], slow.table(ids, slow.kneser_ney), atol=1e-5, rtol=1e-5)


@given(TEXTS, TEXTS, st.integers(1, 3), st.sampled_from([Fraction(1), Fraction(1, 10), Fraction(0)]))
@settings(deadline=None, max_examples=25)
def test_add_k_is_the_slow_one(text, ids, order, k):
    slow = Slow(order, 4, text)
    fast = lms.NGram(order, vocabulary=4, smoothing="add-k", k=float(k)).fit(text)
    expected = slow.table(ids, lambda context, word: slow.add_k(context, word, k))
    torch.testing.assert_close(fast(torch.tensor([ids]))[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 5, 6])
@pytest.mark.parametrize("smoothing", ["kneser-ney", "add-k"])
def test_probabilities_sum_to_one_on_bytes(order, smoothing, monkeypatch):
    text = np.random.default_rng(0).integers(0, 256, 3000) // 20 * 20
    model = lms.NGram(order, smoothing=smoothing, k=0.01).fit(text)
    ids = torch.randint(256, (5, 400))
    ids[:, ::2] = torch.from_numpy(text[:200])
    whole = model(ids)
    assert whole.shape == (5, 400, 256)
    torch.testing.assert_close(whole.double().exp().sum(-1), torch.ones(5, 400).double(), atol=1e-5, rtol=0)
    monkeypatch.setattr("course_lib.language_models.ngram.CELLS", 256 * 333)  # cut into pieces, the same
    assert torch.equal(model(ids), whole)


def test_unseen_words_have_no_probability_without_smoothing():
    model = lms.NGram(order=2, vocabulary=3, smoothing="add-k", k=0).fit([0, 1, 0, 1, 0])
    assert model(torch.tensor([[0, 2]])).exp()[0].tolist() == [[0, 1, 0], [pytest.approx(1 / 3)] * 3]
    assert lms.surprise(model, [0, 0]).tolist()[1] == inf


def test_what_cannot_be_counted_is_a_sentence():
    with pytest.raises(CourseError, match="does not fit the tables"):
        lms.NGram(order=9)
    with pytest.raises(CourseError, match="holds no 5-gram"):
        lms.NGram(order=5).fit("abc")
    with pytest.raises(CourseError, match="from 0 to 3, the vocabulary from 0 to 2"):
        lms.NGram(order=2, vocabulary=3).fit([0, 1, 3])
    with pytest.raises(CourseError, match="call fit"):
        lms.NGram()(torch.zeros(1, 3, dtype=torch.long))
    assert lms.NGram(order=2).fit("abcab").num_parameters() == 3 + 3  # a, b, c; ab, bc, ca
