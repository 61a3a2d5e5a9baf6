"""What `make bench` computes of its times, and how it stores rows. The measurements themselves are no tests."""

import importlib.util
import json
import random
import sys
from types import SimpleNamespace

import pytest

from course_lib.experiments import store
from course_lib.runtime import root


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench", root() / "benchmarks" / "bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_ratio_is_the_median_within_rounds_with_an_interval(bench):
    draw = random.Random(1)
    to = [draw.uniform(1, 3) for _ in range(40)]  # the machine's speed changes from round to round
    of = [1.2 * time * draw.uniform(0.95, 1.05) for time in to]
    measured = bench.ratio(of, to)
    assert measured["ratio"] == pytest.approx(1.2, abs=0.02)
    assert measured["ratio_low"] < 1.2 < measured["ratio_high"]
    assert measured["ratio_high"] - measured["ratio_low"] < 0.04


def test_contenders_take_turns(bench):
    calls = []
    times = bench.Clock(lambda: len(calls), quick=False).rounds(
        {name: lambda name=name: calls.append(name) for name in "abc"}, seconds=30
    )
    assert [len(values) for values in times.values()] == [10, 10, 10]
    rounds = [calls[begin : begin + 3] for begin in range(6, 36, 3)]  # after each was run twice, for warmth and length
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_rows_of_a_point_are_replaced_and_others_stay(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "path_of", lambda name: tmp_path / f"{name}.json")
    for ratio in (1.1, 0.9):
        bench.keep([bench.row({"section": "steps", "method": "LoRA"}, {"ratio": ratio})])
    bench.keep([bench.row({"section": "steps", "method": "IA3"}, {"ratio": 1.0})])
    content = json.loads((tmp_path / "bench.json").read_text())
    assert [row["measured"]["ratio"] for row in content["rows"]] == [0.9, 1.0]
    assert store.results("bench").values("ratio", method="LoRA") == {0: 0.9}
    assert content["provenance"]["packages"]["peft"]


def test_a_worker_that_ends_is_a_sentence(bench, tmp_path, monkeypatch):
    (tmp_path / "adapters_worker.py").write_text('print(\'{"trained": 3}\')\ninput()')
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "bench.py"))
    contest = SimpleNamespace(rows=2, tokens=3)
    worker = bench.Elsewhere(sys.executable, "folder", "LoReFT", contest)
    assert worker.trained == 3
    with pytest.raises(SystemExit, match="has ended"):
        worker.ask("step")
    worker.process.communicate()
