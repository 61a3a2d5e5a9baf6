"""The experiments of chapter 46, small: every kind of point is measured, and the comparison is as fair as it says."""

import json
import math

import pytest

from course_lib.experiments import chapter_46 as measured
from course_lib.experiments import registry, results, store
from course_lib.runtime import CourseError


@pytest.fixture
def quick(monkeypatch):
    """Four reviews, two steps, few to score, and no sweep to look up."""
    monkeypatch.setattr(measured, "STEPS", dict.fromkeys((4, 32, 256, 2000), 2))
    monkeypatch.setattr(measured, "BATCH", 4)
    whole, drawn = measured.reviews, measured.drawn
    monkeypatch.setattr(measured, "reviews", lambda part: whole(part)[: 2000 if part == "pool" else 8])
    monkeypatch.setattr(measured, "drawn", lambda rows, seed: drawn(rows, seed)[:8])
    monkeypatch.setattr(measured, "best_rate", lambda *args, **kwargs: 1e-3)
    monkeypatch.setattr(measured, "PAIRS", 40)


def test_reviews_are_short_and_no_part_shares_a_row():
    tokenizer = measured.base_of("minilm").tokenizer
    parts = {part: [row["text"] for row in measured.reviews(part)] for part in ("pool", "validation", "test")}
    assert {part: len(texts) for part, texts in parts.items()} == {"pool": 2000, "validation": 310, "test": 493}
    lengths = map(len, tokenizer([text for texts in parts.values() for text in texts])["input_ids"])
    assert max(lengths) == measured.TOKENS
    assert not set(parts["test"]) & {*parts["pool"], *parts["validation"]}
    assert not set(parts["pool"]) & set(parts["validation"])


def test_a_seed_draws_the_same_rows_for_every_method():
    assert measured.drawn(32, 0) == measured.drawn(32, 0) != measured.drawn(32, 1)


def test_four_rates_a_method_and_the_best_of_the_sweep_is_taken(tmp_path, monkeypatch):
    assert {len(measured.rates(method)) for method in measured.METHODS} == {4}
    assert {len(measured.writing_rates(method)) for method in measured.METHODS} == {4}
    rows = [
        {"point": {"method": "ia3", "learning_rate": rate, "seed": 100}, "measured": {"accuracy": accuracy, "loss": 1}}
        for rate, accuracy in zip(measured.rates("ia3"), (0.6, 0.8, 0.8, 0.7))
    ]
    content = {"name": "46-learning-rates", "about": "", "provenance": {}, "rows": rows}
    path = tmp_path / "46-learning-rates.json"
    monkeypatch.setattr(store, "path_of", lambda name: path)
    path.write_text(json.dumps(content))
    assert measured.best_rate("ia3") == measured.rates("ia3")[1]
    assert measured.best_rate("ia3", column="loss", sign=-1) == measured.rates("ia3")[0]
    with pytest.raises(CourseError, match="python -m course_lib experiment 46-learning-rates"):
        measured.best_rate("lora")


def test_every_method_gets_a_seed_before_any_gets_the_next():
    grid = registry.named("46-classification").grid
    small = [point for point in grid if point["rows"] != 2000]
    assert [point["seed"] for point in small] == sorted(point["seed"] for point in small)
    for rows in (32, 256, 2000):
        for method in measured.METHODS:
            found = [p["seed"] for p in grid if (p["method"], p["rows"]) == (method, rows)]
            assert found == list(range(5))
    assert {p["seed"] for p in registry.named("46-learning-rates").grid} == {measured.SWEEP_SEED}
    assert measured.SWEEP_SEED not in measured.SEEDS
    additive = set(measured.METHODS) - {"lora", "bitfit", "layer-norm", "probe", "full"}
    assert len(additive) == 16


@pytest.mark.parametrize("method", [*measured.METHODS, *measured.CONTROLS])
def test_a_point_is_an_accuracy(method, quick):
    row = measured.classification(method=method, rows=256, seed=0)
    assert 0 <= row["accuracy"] <= 1
    small = measured.classification(method=method, rows=32, seed=1)
    assert "found" not in small
    assert 0 <= row["found"] <= 1
    if method != "untouched":
        assert math.isfinite(row["training_loss"])
    if method == "parallel":
        again = measured.classification(method=method, rows=256, seed=0)
        assert again["training_loss"] == pytest.approx(row["training_loss"], rel=1e-5)


def test_retrieval_reads_what_the_head_reads(quick):
    import course_lib as cl

    def found(method):
        cl.seed(0)
        task = cl.tasks.Classification(2)
        tuned = cl.attach(measured.base_of("minilm"), measured.method_of(method), task=task)
        on = measured.retrieval(tuned)
        with tuned.disabled():
            return on, measured.retrieval(tuned)

    untouched = found("probe")
    assert untouched[0] == untouched[1] >= 0.7
    assert found("prompt")[1] == untouched[0]
    on, off = found("ladder")
    assert on < off == untouched[0]  # its head reads the side network alone


def test_a_step_of_full_tuning_weighs_most_where_theory_says_so():
    rows = {name: measured.costs(method=name, seed=0) for name in ("full", "parallel", "probe, cached", "ladder")}
    assert rows["full"]["of_full_seconds"] == pytest.approx(1, abs=0.5)
    assert rows["probe, cached"]["gflops"] < 0.02 * rows["full"]["gflops"]
    assert rows["full"]["gflops"] > rows["parallel"]["gflops"] > rows["ladder"]["gflops"]
    assert rows["full"]["saved_bytes"] > rows["parallel"]["saved_bytes"] > 2 * rows["ladder"]["saved_bytes"]
    assert rows["parallel"]["trained"] == 76_128 + 770


def test_other_inits_are_other_starts(quick):
    for init in measured.INITS:
        assert 0 <= measured.inits(init=init, seed=0)["accuracy"] <= 1


def test_rows_that_are_stored_were_trained_at_the_rate_that_the_sweep_chooses():
    for name, sweep, column, sign in (
        ("46-classification", "46-learning-rates", "accuracy", 1), ("46-pilot", "46-pilot-rates", "loss", -1),
    ):  # fmt: skip
        if not store.path_of(name).is_file():
            continue
        for row in results(name).rows():
            method = measured.CONTROLS.get(row["point"]["method"], row["point"]["method"])
            rate = measured.best_rate(method, sweep, column, sign) if method else 0.0
            assert row["measured"]["learning_rate"] == rate, row["point"]
