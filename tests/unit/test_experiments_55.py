"""The experiment of chapter 55 on a mall in place of MovieLens."""

import pytest

import course_lib as cl
from course_lib.experiments import chapter_55
from course_lib.tasks import shop_simulator


@pytest.fixture(autouse=True)
def small(monkeypatch):
    mall = shop_simulator.simulate(150)
    monkeypatch.setattr(cl, "load_data", lambda name: {"interactions": mall.purchases}, raising=False)
    monkeypatch.setattr(chapter_55, "ITEMS", len(mall.names) - 1)
    monkeypatch.setattr(chapter_55, "WIDTH", 16)
    monkeypatch.setattr(chapter_55, "BATCH", 16)


@pytest.mark.parametrize("method", chapter_55.METHODS)
def test_a_point_is_shares_of_users(method):
    row = chapter_55.scored(method, 0, "test", epochs=2)
    assert all(0 <= row[name] <= 1 for name in ("hr", "ndcg", "hr_sampled", "ndcg_sampled", "hr_tail"))
    assert row["ndcg"] <= row["hr"] <= row["hr_sampled"]
    assert 1 <= row["median_rank"] <= chapter_55.ITEMS
    assert chapter_55.scored(method, 0, "test", epochs=2) == pytest.approx(row)


def test_training_helps():
    assert chapter_55.scored("all-items", 0, "test", 25)["hr"] > 0.05 + chapter_55.scored("popularity", 0, "test")["hr"]
