"""Chapter 57's stored runs, at tiny sizes."""

import pytest

import course_lib as cl
from course_lib.experiments import chapter_57


def test_additions_differ_and_are_many(tmp_path):
    folders = chapter_57.additions_on(cl.load_base("minilm"), 3, tmp_path, seed=0)
    assert [folder.name for folder in folders] == ["addition-00", "addition-01", "addition-02"]
    assert len({(folder / "adapter_model.safetensors").read_bytes() for folder in folders}) == 3


def test_a_point_of_57_serving():
    found = chapter_57.serving(additions=2, seed=0, clients=4, requests=12, warm_up=4)
    assert found["answered"] == 12
    assert found["requests_per_second"] > 0.2
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert 0 < found["cpu_ms"] < 5000
    assert 150 < found["memory_mb"] < 3000
    assert found["requests_per_second"] * found["p50_ms"] / 1000 == pytest.approx(4, rel=0.9)  # Little's law, roughly
