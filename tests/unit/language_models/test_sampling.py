"""What is drawn from: temperature, top-k, top-p; generation with a stop; beams against every continuation."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import course_lib as cl
from course_lib.runtime import CourseError

lms = cl.language_models
P = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])


def drawn_from(**options):
    return lms.next_token_probabilities(P.log(), **options)


def test_temperature_sharpens_and_flattens():
    torch.testing.assert_close(drawn_from(), P)
    torch.testing.assert_close(drawn_from(temperature=0.5), P**2 / (P**2).sum())
    torch.testing.assert_close(drawn_from(temperature=1e6), torch.full((5,), 0.2), atol=1e-4, rtol=0)
    assert drawn_from(temperature=0).tolist() == [0, 1, 0, 0, 0]


def test_top_k_keeps_k_and_renormalises():
    torch.testing.assert_close(drawn_from(top_k=2), torch.tensor([0, 4 / 7, 0, 3 / 7, 0]))
    torch.testing.assert_close(drawn_from(top_k=99), P)


@pytest.mark.parametrize(("top_p", "kept"), [(0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.86, 4), (1.0, 5)])
def test_the_nucleus_is_the_fewest_that_reach_p(top_p, kept):
    p = drawn_from(top_p=top_p)
    assert (p > 0).sum() == kept
    order = P.argsort(descending=True)[:kept]
    torch.testing.assert_close(p[order], P[order] / P[order].sum())


def test_top_k_comes_before_top_p():
    assert (drawn_from(top_k=2, top_p=0.5) > 0).tolist() == [False, True, False, False, False]  # 4/7 reaches .5


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=9), st.floats(0.05, 1), st.integers(1, 9), st.floats(0.1, 3))
@settings(deadline=None, max_examples=40)
def test_what_is_drawn_from_is_a_distribution(logits, top_p, top_k, temperature):
    logits = torch.tensor(logits)
    p = lms.next_token_probabilities(logits, temperature, top_k, top_p)
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert 1 <= (p > 0).sum() <= top_k
    assert logits[p.argmax()] == logits.max()


def test_logits_whose_probabilities_round_to_a_tie():
    assert lms.next_token_probabilities(torch.tensor([-2.2e-16, 0.0]), top_k=1).tolist() == [0.0, 1.0]


def test_senseless_options_are_sentences():
    for options in ({"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": 0}):
        with pytest.raises(CourseError, match="must not be negative"):
            drawn_from(**options)
    with pytest.raises(CourseError, match="prompt is empty"):
        lms.generate(lms.NGram(1).fit("a"), "", 3)


def test_samples_follow_the_distribution():
    model = lms.NGram(1, vocabulary=3, smoothing="add-k", k=0).fit([0] * 5 + [1] * 3 + [2] * 2)
    drawn = lms.generate(model, torch.zeros(3000, 1, dtype=torch.long), 1, seed=0)[:, 1]
    torch.testing.assert_close(drawn.bincount() / 3000, torch.tensor([0.5, 0.3, 0.2]), atol=0.03, rtol=0)


def test_rows_stop_by_themselves():
    model = lms.NGram(2, vocabulary=4, smoothing="add-k", k=0).fit([0, 1, 2, 3, 3, 0, 1])
    out = lms.generate(model, torch.tensor([[0], [2]]), 9, temperature=0, stop=2)
    assert out.tolist() == [[0, 1, 2, 2, 2], [2, 3, 0, 1, 2]]  # a stop in the prompt ends nothing


def gpt():
    cl.seed(1)
    model = lms.GPT(vocabulary=5, context=16, width=16, layers=1, heads=2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@torch.no_grad()
def test_enough_beams_find_the_likeliest_text():
    model, prompt, found = gpt(), torch.tensor([[3]]), {}
    for text in itertools.product(range(5), repeat=3):
        ids = torch.tensor([[3, *text]])
        rows = model(ids[:, :-1]).log_softmax(-1)[0]
        found[text] = sum(rows[t, token].item() for t, token in enumerate(text))
    best = sorted(found, key=found.get, reverse=True)
    beams = lms.beam_search(model, prompt, 3, beams=25)
    assert [tuple(ids[1:].tolist()) for ids, _ in beams[:5]] == best[:5]
    assert beams[0][1] == pytest.approx(found[best[0]], abs=1e-4)
    ((greedy, _),) = lms.beam_search(model, prompt, 3, beams=1)
    assert greedy.tolist() == lms.generate(model, prompt, 3, temperature=0)[0].tolist()


@torch.no_grad()
def test_beams_stop_and_are_compared_by_length():
    model, prompt = gpt(), torch.tensor([[3]])
    for ids, log_p in lms.beam_search(model, prompt, 12, beams=6, stop=2):
        rows = model(ids[None, :-1]).log_softmax(-1)[0]
        assert log_p == pytest.approx(sum(rows[t, token].item() for t, token in enumerate(ids[1:])), abs=1e-4)
        assert 2 not in ids[1:-1]
    for penalty in (0.0, 1.0, 2.0):
        beams = lms.beam_search(model, prompt, 12, beams=6, stop=2, length_penalty=penalty)
        scores = [log_p / (len(ids) - 1) ** penalty for ids, log_p in beams]
        assert scores == sorted(scores, reverse=True)


def test_one_source_serves_all_beams():
    cl.seed(0)
    model = lms.EncoderDecoder(vocabulary=9, width=16, layers=1, heads=2)
    given_source = model.given(torch.tensor([[4, 5, 6]]))
    beams = lms.beam_search(given_source, torch.tensor([[1]]), 5, beams=3, stop=2)
    ids, log_p = beams[0]
    rows = model(torch.tensor([[4, 5, 6]]), ids[None, :-1]).log_softmax(-1)[0]
    assert log_p == pytest.approx(sum(rows[t, token].item() for t, token in enumerate(ids[1:])), abs=1e-4)
    assert math.isfinite(log_p)
