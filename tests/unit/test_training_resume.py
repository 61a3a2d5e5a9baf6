"""Killed at any step and resumed, a run goes on to the last bit; and two processes compute what one does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from toy_training import Tagger, Tagging, splits, texts

from course_lib.runtime import CourseError
from course_lib.training import checkpoints, fit

ROOT = Path(__file__).parents[2]


def run(folder=None, task=None, **options):
    model = Tagger(dropout=0.3)
    options = {"batch_size": 8, "epochs": 3, "folder": folder, "progress": False, "dtype": "float32", **options}
    return model, fit(model, options.pop("data", splits()), task=task or Tagging(), **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Killed(Exception):
    pass


class Fragile(Tagging):
    def __init__(self, at):
        self.left = at

    def loss(self, output, batch):
        self.left -= 1
        if self.left == 0:
            raise Killed
        return super().loss(output, batch)


@given(at=st.integers(1, 21), every=st.integers(1, 6), dtype=st.sampled_from(["float32", "bfloat16"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_exception_at_any_step_changes_nothing(tmp_path_factory, at, every, dtype):
    folder = tmp_path_factory.mktemp("run")
    options = {"dtype": dtype, "checkpoint_every": every, "evaluate_every": 4}
    whole, complete = run(**options)
    with pytest.raises(Killed):
        run(folder, Fragile(at), **options)
    torch.manual_seed(at)  # whatever was drawn in between must not matter
    resumed, history = run(folder, resume=True, **options)
    assert history.loss == complete.loss
    assert history.validation_loss == complete.validation_loss
    assert history.learning_rate == complete.learning_rate
    assert torch.equal(weights(resumed), weights(whole))


def launch(*command, **environment):
    """A fresh process, or two."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


TOY = "tests/unit/toy_training.py"


def test_killed_by_the_system_and_resumed_in_another_process(tmp_path):
    options = {"batch_size": 8, "epochs": 3, "checkpoint_every": 2, "dtype": "bfloat16"}
    folder, out = tmp_path / "run", tmp_path / "out.json"
    toy = {**options, "dropout": 0.3, "folder": str(folder), "die_at": 10, "out": str(out)}
    killed = launch(TOY, json.dumps(toy))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    assert [path.name for path in folder.iterdir()] == ["step-000006"]  # steps 7 and 8: validation and the kill
    whole, complete = run(**options)
    resumed, history = run(folder, resume=True, **options)
    assert history.loss == complete.loss
    assert torch.equal(weights(resumed), weights(whole))


def test_two_processes_reach_the_loss_of_one(tmp_path):
    """Uneven units, a last batch of one row (21 rows, 4 a batch), validation shared out: the same numbers."""
    options = {"dropout": 0.0, "batch_size": 4, "epochs": 2, "dtype": "float32"}
    out = tmp_path / "two.json"
    launched = launch(
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no",
        TOY, json.dumps({**options, "rows": 21, "out": str(out)}), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    assert out.exists(), launched.stderr[-2000:]
    two = json.loads(out.read_text())
    assert two["world"] == "2"
    one = Tagger(dropout=0.0)
    del options["dropout"]
    history = fit(one, splits(21), task=Tagging(), progress=False, **options)
    assert two["history"]["loss"] == pytest.approx(history.loss, rel=1e-5)
    assert two["history"]["validation_loss"] == pytest.approx(history.validation_loss, rel=1e-5)
    sums = [float(p.detach().double().sum()) for p in one.parameters()]
    assert two["weights"] == pytest.approx(sums, rel=1e-4, abs=1e-4)


def test_a_checkpoint_holds_tensors_and_json_only(tmp_path):
    run(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "step-000015"
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "tensors.safetensors"]
    names = load_file(path / "tensors.safetensors")
    assert {name.split("/")[0] for name in names} == {"weights", "best", "adam", "random"}
    assert not any("embedding" in name for name in names)  # what is frozen is not stored
    state = json.loads((path / "state.json").read_text())
    assert (state["step"], state["epoch"], state["position"]) == (15, 3, 0)


def test_a_finished_run_is_not_trained_again(tmp_path):
    model, history = run(tmp_path)
    again, same = run(tmp_path, resume=True, task=Fragile(1))
    assert same.loss == history.loss
    assert torch.equal(weights(again), weights(model))


def test_an_early_stop_is_remembered(tmp_path):
    options = {"learning_rate": 0.5, "patience": 2, "epochs": 30, "schedule": "constant"}
    model, history = run(tmp_path, **options)
    assert history.stopped_early
    again, same = run(tmp_path, resume=True, task=Fragile(1), **options)
    assert same.steps == history.steps
    assert torch.equal(weights(again), weights(model))


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run(tmp_path)
    with pytest.raises(CourseError, match="step-000015 of an earlier run"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.001 and is 0.5"),
        ({"seed": 4}, "seed was 0 and is 4"),
        ({"data": {"train": texts(40, seed=9), "validation": texts(12, seed=1)}}, "lengths of the rows"),
        ({"data": {"train": texts(33)}}, "rows was 40 and is 33"),
    ],
)
def test_another_runs_checkpoint_is_refused(tmp_path, changed, sentence):
    run(tmp_path)
    with pytest.raises(CourseError, match=sentence):
        run(tmp_path, resume=True, **changed)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, capsys):
    real, calls = checkpoints.save_file, []

    def full_disk(tensors, path):
        calls.append(path)
        if len(calls) == 1:
            return real(tensors, path)
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full_disk)
    with pytest.raises(Killed):
        run(tmp_path, Fragile(18), progress=True)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]
    assert "step-000005 still stands" in capsys.readouterr().out
    monkeypatch.undo()
    _, complete = run()
    _, resumed = run(tmp_path, resume=True)
    assert resumed.loss == complete.loss


def test_a_half_written_checkpoint_is_never_read(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, Fragile(9))
    partial = tmp_path / ".partial-1"  # what a process killed while writing leaves
    partial.mkdir()
    (partial / "tensors.safetensors").write_bytes(b"half")
    _, complete = run()
    _, resumed = run(tmp_path, resume=True)
    assert resumed.loss == complete.loss
    assert not partial.exists()


def test_a_damaged_checkpoint_is_a_sentence(tmp_path):
    run(tmp_path)
    (tmp_path / "step-000015" / "tensors.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CourseError, match="cannot be read"):
        run(tmp_path, resume=True)
