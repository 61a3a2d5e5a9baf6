"""The experiments of chapter 11 on a tiny grid: every kind of point is measured, and the numbers make sense."""

import math

import pytest

from course_lib.experiments import chapter_11
from course_lib.experiments.registry import named


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    from course_lib import language_models as lms

    def small(name):
        if name.endswith("-gram"):
            return lms.NGram(order=int(name[0]))
        kinds = {"convolution": lms.Convolution, "gpt": lambda **sizes: lms.GPT(heads=2, **sizes)}
        return kinds[name](width=16, layers=1) if name in kinds else lms.Recurrent(name, width=16)

    text = "the cat sat on the mat, and the dog sat on the log. " * 60
    monkeypatch.setattr(chapter_11, "model_of", small)
    monkeypatch.setattr(chapter_11, "text", lambda split: text.encode())
    monkeypatch.setattr(chapter_11, "HELD_OUT", 500)


@pytest.mark.parametrize("model", ["3-gram", *chapter_11.NEURAL])
def test_a_point_is_bits_parameters_and_seconds(model):
    row = chapter_11.models(model=model, bytes=2200, seed=0)
    assert set(row) == {"bits_per_byte", "parameters", "seconds", "bits_after_8", "bits_after_32", "bits_after_128"}
    assert all(math.isfinite(value) and value > 0 for value in row.values())
    assert row["bits_per_byte"] < 8.5
    again = chapter_11.models(model=model, bytes=2200, seed=0)
    assert again["bits_per_byte"] == pytest.approx(row["bits_per_byte"], rel=1e-4)


def test_the_learning_rate_matters():
    low, high = (chapter_11.learning_rates(model="gpt", rate=rate, seed=100)["bits_per_byte"] for rate in (1e-6, 1e-2))
    assert high < low


def test_no_model_passes_the_floor():
    counts = {n: chapter_11.floor(model="3-gram", symbols=n, seed=0) for n in (2_000, 40_000)}
    assert counts[2_000]["beyond"] > counts[40_000]["beyond"] > 0
    assert chapter_11.floor(model="2-gram", symbols=40_000, seed=0)["beyond"] > counts[40_000]["beyond"]
    assert chapter_11.floor(model="gpt", symbols=2_000, seed=0)["beyond"] > 0


def test_the_grid_has_five_seeds_where_something_is_drawn():
    points = named("11-models").grid
    for name in chapter_11.NEURAL:
        for size in chapter_11.SIZES:
            assert [p["seed"] for p in points if (p["model"], p["bytes"]) == (name, size)] == list(range(5))
    assert {p["seed"] for p in points if p["model"].endswith("gram")} == {0}
    assert {p["rate"] for p in named("11-learning-rates").grid if p["model"] == "gpt"} >= {chapter_11.CHOSEN["gpt"]}
