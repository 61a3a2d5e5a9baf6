"""The rating form, and BERTScore against a case computed by hand."""

import pytest
import torch

import course_lib as cl
from course_lib.evaluation import bert_score, token_states
from course_lib.evaluation.bertscore import _match

SCALES = {"relevance": ("no", "partly", "yes"), "consistency": ("no", "yes")}


def test_the_form_writes_where_it_is_read():
    ratings = cl.views.Ratings(["<b>one</b>", "two", "three"], SCALES)
    place, shown, relevance, consistency, said = ratings.form().children
    assert shown.value == "<b>one</b>"
    relevance.value, consistency.value = 2, 0
    place.value = 3
    assert (shown.value, relevance.value, consistency.value) == ("three", None, None)
    relevance.value = 1
    place.value = 1
    assert (relevance.value, consistency.value) == (2, 0)
    assert ratings.values == {"relevance": [2, None, 1], "consistency": [0, None, None]}
    assert ratings.complete() == [0]
    assert said.value == repr(ratings) == "A rating form: 1 of 3 rated on relevance, consistency."


def test_ratings_by_code_and_wrong_ones():
    ratings = cl.views.Ratings(["one"], SCALES)
    ratings.rate(0, relevance=2, consistency=1)
    assert ratings.complete() == [0]
    for wrong in ({"relevance": 3}, {"beauty": 1}):
        with pytest.raises(cl.CourseError, match="relevance 0 to 2, consistency 0 to 1"):
            ratings.rate(0, **wrong)
    with pytest.raises(cl.CourseError, match="at least one thing"):
        cl.views.Ratings([], SCALES)
    assert ratings._repr_mimebundle_()["text/plain"] == repr(ratings)


def test_bert_score_by_hand():
    found = _match(torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.5, 0.4]]))  # two reference tokens, three candidate tokens
    assert found.recall == pytest.approx((0.9 + 0.5) / 2)
    assert found.precision == pytest.approx((0.9 + 0.5 + 0.4) / 3)
    assert found.f1 == pytest.approx(2 * 0.6 * 0.7 / 1.3)


def test_bert_score_of_texts():
    base = cl.load_base("minilm")
    candidates = ["the cat sat", "stocks fell", "the cat sat down today"]
    same, other, longer = bert_score(base, ["the cat sat"] * 3, candidates)
    assert same.f1 == pytest.approx(1, abs=1e-5)
    assert other.f1 < 0.5
    assert longer.recall > longer.precision
    tokens, states = token_states(base, "the cat")
    assert tokens == ["the", "cat"]
    torch.testing.assert_close(states.norm(dim=-1), torch.ones(2))
    with pytest.raises(cl.CourseError, match="has none"):
        bert_score(base, ["a"], [""])
    with pytest.raises(cl.CourseError, match="its reference"):
        bert_score(base, ["a"], [])
