"""The experiment of chapter 54, small: every kind of point is measured, and legal sequences are legal and best."""

import itertools

import numpy as np
import pytest

from course_lib.experiments import chapter_54
from course_lib.experiments.registry import named

TAGS = ("B-x", "B-y", "I-x", "I-y", "O")


def breaks(tags):
    return sum(b[0] == "I" and a[2:] != b[2:] for a, b in itertools.pairwise(["O", *tags]))


@pytest.mark.parametrize("seed", range(20))
def test_legal_is_the_best_of_all_legal_sequences(seed):
    scores = np.random.default_rng(seed).normal(size=(4, len(TAGS)))
    every = (row for row in itertools.product(range(len(TAGS)), repeat=4) if not breaks([TAGS[i] for i in row]))
    best = max(every, key=lambda row: sum(scores[t, i] for t, i in enumerate(row)))
    assert chapter_54.legal(scores, TAGS) == [TAGS[i] for i in best]


def test_shuffled_rows_keep_their_tags_and_lose_their_places():
    row = {"tokens": list("abcdef"), "roles": ["B-x", "I-x", "O", "O", "B-y", "O"]}
    [moved] = chapter_54.shuffled([row], "roles", 3)
    assert sorted(moved["roles"]) == sorted(row["roles"])
    assert moved["roles"] != row["roles"]
    assert moved["tokens"] == row["tokens"]


@pytest.mark.parametrize("method", ["probe", "upper-half", "random-base"])
def test_a_point_is_measured(monkeypatch, method):
    few = {split: rows[:6] for split, rows in chapter_54.sentences().items()}
    monkeypatch.setattr(chapter_54, "sentences", lambda: few)
    recipes = {name: recipe | {"epochs": 1} for name, recipe in chapter_54.METHODS.items()}
    monkeypatch.setattr(chapter_54, "METHODS", recipes)
    measured = chapter_54.taggers(layer="roles", method=method, seed=0)
    assert set(measured) == {"templates", "templates_legal", "written", "written_legal", "trained"}
    assert all(0 <= value <= 1 for name, value in measured.items() if name != "trained")


def test_the_grid_has_five_seeds_a_method():
    grid = named("54-taggers").grid
    assert len(grid) == 2 * len(chapter_54.METHODS) * 5
