"""The experiments of chapter 42 on a few rows: the spans are taken off, and put back."""

import pytest

from course_lib.experiments import chapter_42


@pytest.fixture(autouse=True)
def few(monkeypatch):
    train, test = chapter_42.reviews()
    monkeypatch.setattr(chapter_42, "reviews", lambda: (train.select(range(16)), test.select(range(12))))
    monkeypatch.setattr(chapter_42, "SPANS", [(0, 5), (5, 5)])


def test_an_ablated_span_adds_nothing_and_comes_back():
    tuned, _, _ = chapter_42.trained("pfeiffer", 0, seed=0)
    scores = [parameter.clone() for parameter in tuned.trainable_parameters()]
    with chapter_42.without(tuned, 1, 4):
        zero = [not module.up.weight.any() for _, module in tuned.additions["default"].at("stream")]
        assert zero == [False, True, True, True, True, False]
    assert all((a == b).all() for a, b in zip(scores, tuned.trainable_parameters(), strict=True))


def test_a_point_of_each():
    probe, high = (chapter_42.depth(skip=skip, seed=0) for skip in (6, 5))
    assert probe["trained"] == 770
    assert high["trained"] == 770 + 2 * 384 * 16 + 384 + 16
    row = chapter_42.ablation(placement="pfeiffer", seed=0)
    assert set(row) == {"accuracy", "trained", "seconds", "without_0_5", "without_5_5"}
    assert all(0 <= row[name] <= 1 for name in ("accuracy", "without_0_5", "without_5_5"))
