"""Where the course runs, what it says about that, and what it does where nothing is as it should be."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from course_lib import runtime, scales
from course_lib.runtime import CourseError

ROOT = Path(__file__).parents[2]


def test_runtime_is_found_without_torch():
    program = "import course_lib.runtime, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_root_is_the_course_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert runtime.root() == ROOT
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "site-packages" / "course_lib" / "runtime.py"))
    assert runtime.root() == tmp_path  # a single notebook: the working folder
    monkeypatch.chdir(ROOT / "tests" / "unit")
    assert runtime.root() == ROOT


def test_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "a" / "b"))
    assert runtime.cache_dir() == tmp_path / "a" / "b"
    assert runtime.cache_dir().is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CourseError, match="COURSE_CACHE"):
        runtime.cache_dir()


def test_cache_without_a_repository_is_in_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(runtime, "_find_root", lambda: None)
    assert runtime.cache_dir() == tmp_path / ".cache" / "additive-course"


def test_scale_can_be_chosen_and_is_checked(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "GPU")
    assert runtime.scale() == "gpu"
    monkeypatch.setenv("COURSE_SCALE", "huge")
    with pytest.raises(CourseError, match=r"'huge'.*'laptop' and 'gpu'"):
        runtime.scale()
    monkeypatch.setenv("COURSE_SCALE", "")
    assert runtime.scale() == ("gpu" if torch.cuda.is_available() else "laptop")


def test_every_chapter_has_the_same_sizes_at_both_scales(monkeypatch):
    for chapter, table in scales.SIZES.items():
        assert set(table) == set(runtime.SCALES), chapter
        assert table["laptop"].keys() == table["gpu"].keys(), chapter
        for scale in runtime.SCALES:
            monkeypatch.setenv("COURSE_SCALE", scale)
            assert vars(scales.sizes(chapter)) == table[scale]
    with pytest.raises(CourseError, match="'99'"):
        scales.sizes("99")


def test_where_reads_well():
    here = runtime.where()
    assert here.device in ("cuda", "mps", "cpu")
    assert here.dtype in (torch.float32, torch.bfloat16, torch.float16)
    assert here.threads == torch.get_num_threads()
    assert not here.colab
    assert str(here).startswith(f"{here.device}, ")


@pytest.mark.parametrize(("speedup", "dtype"), [(0.5, torch.float32), (1.1, torch.float32), (2.0, torch.bfloat16)])
def test_bfloat16_is_chosen_only_where_it_is_faster(monkeypatch, speedup, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "bfloat16_speedup", lambda: speedup)
    assert runtime._device_and_dtype.__wrapped__() == ("cpu", dtype)


def test_the_probe_runs_once_a_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(runtime, "_measure_bfloat16_speedup", lambda: calls.append(1) or 1.5)
    assert [runtime.bfloat16_speedup() for _ in range(3)] == [1.5] * 3
    assert len(calls) == 1
    path = tmp_path / "bfloat16_speedup.json"
    assert torch.__version__ in next(iter(json.loads(path.read_text())))
    path.write_text("{ half")  # damaged: measured again, and mended
    assert runtime.bfloat16_speedup() == 1.5
    assert len(calls) == 2
    assert json.loads(path.read_text())


def test_the_probe_is_short_and_positive():
    assert 0.01 < runtime._measure_bfloat16_speedup(budget=0.05) < 100


def test_seed_fixes_all_three_generators():
    def draw():
        return random.random(), numpy.random.rand(), torch.rand(1).item()  # noqa: NPY002

    runtime.seed(7)
    first = draw()
    assert draw() != first
    runtime.seed(7)
    assert draw() == first


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.json"
    runtime.write_text_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        runtime.write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_too_little_memory_is_a_sentence(monkeypatch):
    monkeypatch.setattr(runtime, "free_memory", lambda device="cpu": 4 * 2**30)
    runtime.require_memory(3 * 2**30, "The model")
    with pytest.raises(CourseError, match=r"The model needs about 5\.0 GB of memory, but 4\.0 GB are free"):
        runtime.require_memory(5 * 2**30, "The model")


def test_memory_estimate_counts_what_it_says():
    from toy_training import tiny_bert

    model = tiny_bert()
    weights = sum(p.numel() for p in model.parameters()) * 4
    assert runtime.estimate_memory(model, 1, 1) == weights * 4 + 2 * 32 * 17 * 4  # trained: gradient and two moments
    frozen = runtime.estimate_memory(model.requires_grad_(False), 8, 16)
    assert frozen == weights + 2 * 8 * 16 * 32 * 17 * 4


def test_a_course_error_stands_alone_in_a_notebook():
    assert CourseError("Do this.")._render_traceback_() == ["CourseError: Do this."]


def test_doctor_finds_nothing_wrong_with_what_is_installed():
    report = runtime.doctor()
    assert {"Python", "packages", "device", "threads", "sources"} <= {finding.item for finding in report.findings}
    wrong = [finding.item for finding in report.findings if not finding.ok]
    assert not set(wrong) - {"free memory", "free disk"}, str(report)


def test_doctor_names_what_is_missing_and_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "version_info", (3, 10))
    monkeypatch.setattr(runtime, "free_memory", lambda device="cpu": 2**30)
    from importlib import metadata

    kept = [d for d in metadata.distributions() if d.name != "datasets"]
    monkeypatch.setattr(metadata, "distributions", lambda: kept)
    report = runtime.doctor()
    assert not report.ok
    text = str(report)
    assert {f.item for f in report.findings if not f.ok} == {"Python", "datasets", "free memory", "sources"}
    assert "datasets: run `make lab`" in text
    assert "python -m course_lib fetch" in text


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_probe_works_wherever_it_is_asked_first(mode):
    """evaluate(...) on a fresh machine asks inside no_grad."""
    with mode():
        assert runtime._measure_bfloat16_speedup(budget=0.01) > 0
