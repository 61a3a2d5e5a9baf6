"""`python -m course_lib train CONFIG`: what a configuration may say, and one run of it."""

import pytest

from course_lib.runtime import CourseError
from course_lib.training.config import EXAMPLE, build, call, read_config, train


def written(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_is_valid(tmp_path):
    from course_lib import additive, tasks

    config = read_config(written(tmp_path, EXAMPLE))
    assert build(additive, config["method"], "method") == additive.ParallelAdapter(bottleneck=16)
    assert build(tasks, config["task"], "task") == tasks.Classification(labels=2)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[base]", "[bases]", "'bases', which is not known; did you mean 'base'"),
        ('name = "minilm"', "", r"needs a table \[base\] with a name"),
        ("learning_rate", "learn_rate", r"\[fit\] .* 'learn_rate'.* did you mean 'learning_rate'"),
        ("epochs = 2", "epochs 2", "is not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, sentence):
    with pytest.raises(CourseError, match=sentence):
        read_config(written(tmp_path, EXAMPLE.replace(old, new)))


def test_a_missing_file_shows_an_example(tmp_path):
    with pytest.raises(CourseError, match="There is no file"):
        read_config(tmp_path / "nothing.toml")


def test_unknown_methods_and_fields_are_named():
    from course_lib import additive

    with pytest.raises(CourseError, match="did you mean 'ParallelAdapter'"):
        build(additive, {"name": "ParalelAdapter"}, "method")
    with pytest.raises(CourseError, match="did you mean 'bottleneck'"):
        build(additive, {"name": "ParallelAdapter", "botleneck": 8}, "method")


def test_unknown_options_of_a_loader_are_named():
    def load(name, source="package"):
        return name, source

    assert call(load, {"name": "x", "source": "hub"}, "data") == ("x", "hub")
    with pytest.raises(CourseError, match=r"\[data\] has 'sauce'.*did you mean 'source'"):
        call(load, {"name": "x", "sauce": "hub"}, "data")


def test_a_run_trains_and_saves(tmp_path):
    text = EXAMPLE.replace("runs/", f"{tmp_path}/").replace(
        "epochs = 2", "max_steps = 1\nbatch_size = 4\nprogress = false"
    )
    text = text.replace("labels = 2", "labels = 2\nmax_length = 16")
    text = text.replace("[method]", "[limit]\ntrain = 8\nvalidation = 8\n[method]")
    history = train(written(tmp_path, text))
    assert history.steps == 1
    assert any((tmp_path / "reviews").iterdir())
    assert [path.name for path in (tmp_path / "reviews-checkpoints").iterdir()] == ["step-000001"]
