"""The runner: resumable, honest about errors, and able to say whether a point repeats."""

import json

import pytest

from course_lib.experiments import all_experiments, registry, results, runner, store
from course_lib.runtime import CourseError


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A cheap experiment in a folder of its own; `calls` lists the points that were really measured."""
    calls = []

    def run_one(method, seed):
        calls.append((method, seed))
        if method == "broken":
            raise ValueError("no such thing")
        if method == "interrupted" and len(calls) == 2:
            raise KeyboardInterrupt
        return {"accuracy": {"good": 0.8}.get(method, 0.5) + 0.01 * (seed % 5), "seconds": 1.0}

    def grid(*methods):
        points = [{"method": method, "seed": seed} for method in methods for seed in range(3)]
        one = registry.Experiment("toy", "A toy.", tuple(points), run_one, 0.1)
        monkeypatch.setitem(registry.REGISTERED, "toy", one)
        return calls

    monkeypatch.setattr(store, "path_of", lambda name: tmp_path / f"{name}.json")
    monkeypatch.setattr(runner, "path_of", lambda name: tmp_path / f"{name}.json")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    return grid


def test_points_are_measured_once_and_stored_with_what_made_them(toy, capsys):
    calls = toy("good", "poor")
    assert runner.command("toy") == 0
    assert runner.command("toy") == 0
    assert len(calls) == 6
    stored = results("toy")
    assert len(stored.rows(method="good")) == 3
    row = stored.rows()[0]
    assert set(row) == {"point", "measured", "seconds", "commit", "machine"}
    assert "cores" in row["machine"]
    assert stored.provenance["command"] == "python -m course_lib experiment toy"
    assert stored.measured("accuracy", method="good").value == pytest.approx(0.81)
    difference = stored.difference("accuracy", {"method": "good"}, {"method": "poor"})
    assert difference.value == pytest.approx(0.3)
    assert "0.810" in str(stored.table(["method"], ["accuracy"]))
    assert "0 of 6 points to measure" in capsys.readouterr().out


def test_an_interrupt_keeps_what_was_measured(toy):
    calls = toy("interrupted")
    with pytest.raises(KeyboardInterrupt):
        runner.command("toy")
    assert len(results("toy").rows()) == 1
    runner.command("toy")
    assert len(results("toy").rows()) == 3
    assert len(calls) == 4


def test_an_error_in_one_point_hides_no_other(toy, capsys):
    calls = toy("broken", "good")
    assert runner.command("toy") == 1
    assert "ValueError: no such thing" in capsys.readouterr().out
    assert len(results("toy").rows()) == 3
    runner.command("toy")
    assert len(calls) == 6 + 3  # only the broken points are tried again


def test_only_and_list_choose_points(toy, capsys):
    calls = toy("good", "poor")
    runner.command("toy", only=["method=good,seed=1"])
    assert calls == [("good", 1)]
    runner.command("toy", show=True, only=["seed=1"])
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("stored", "missing"))]
    assert listed == ["stored  method=good seed=1", "missing method=poor seed=1"]
    with pytest.raises(CourseError, match="No point of toy"):
        runner.command("toy", only=["method=best"])
    with pytest.raises(CourseError, match="KEY=VALUE"):
        runner.command("toy", only=["good"])


def test_again_tells_a_repeated_point_from_a_changed_one(toy, capsys):
    toy("good")
    runner.command("toy")
    assert runner.command("toy", again=True) == 0
    assert "accuracy 0.83: inside" in capsys.readouterr().out
    path = store.path_of("toy")
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row["measured"]["accuracy"] -= 0.5
    path.write_text(json.dumps(content))
    assert runner.command("toy", again=True) == 1
    assert "OUTSIDE" in capsys.readouterr().out


def test_unknown_names_have_a_hint(toy):
    with pytest.raises(CourseError, match="Did you mean '41-three-ways'"):
        runner.command("41-three-way")
    with pytest.raises(CourseError, match="python -m course_lib experiment nothing"):
        results("nothing")


def test_every_stored_result_belongs_to_an_experiment_and_its_grid():
    known = all_experiments()
    for path in (store.root() / "data" / "results").glob("*-*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        grid = known[content["name"]].grid
        assert path.stem == content["name"]
        for row in content["rows"]:
            assert row["point"] in grid
            assert row["seconds"] > 0
            assert row["commit"] != "unknown"


def test_chapter_41_uses_the_learning_rates_that_its_sweep_chooses():
    """The smallest rate within one standard error of the best, on the 1,051 validation reviews."""
    from course_lib.experiments.chapter_41 import CHOSEN

    stored = results("41-learning-rates")
    for method, chosen in CHOSEN.items():
        found = {row["point"]["learning_rate"]: row["measured"]["accuracy"] for row in stored.rows(method=method)}
        best = max(found.values())
        error = (best * (1 - best) / 1051) ** 0.5
        assert chosen == min(rate for rate, accuracy in found.items() if accuracy >= best - error), method
