"""The course's own pretrained models: found by name under data/models, with a record of how they were trained."""

import pytest

import course_lib as cl
from course_lib import bases
from course_lib.runtime import CourseError

lms = cl.language_models


@pytest.mark.parametrize(("name", "model"), [("course-gpt", lms.GPT), ("course-bert", lms.Encoder)])
def test_own_models_are_read_by_name_from_the_courses_folder(name, model, tmp_path, monkeypatch):
    monkeypatch.setattr(bases, "root", lambda: tmp_path)
    tiny = model(vocabulary=260, width=16, layers=1, heads=2)
    lms.save(tiny, tmp_path / "data" / "models" / name, lms.Bytes())
    base = cl.load_base(name)
    assert base.name == name
    assert base.tokenizer("hi")["input_ids"][:2] == [104, 105]
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert cl.fingerprint(cl.load_base(tmp_path / "data" / "models" / name).model) == base.fingerprint()


@pytest.mark.parametrize("name", bases.OWN)
def test_an_own_model_that_is_missing_names_the_command_that_trains_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(bases, "root", lambda: tmp_path)
    with pytest.raises(CourseError, match=f"python -m course_lib experiment {bases.OWN[name]}"):
        cl.load_base(name)


def test_a_near_name_is_suggested():
    with pytest.raises(CourseError, match="Did you mean 'course-gpt'"):
        cl.load_base("course_gpt")
    if not bases.own_folder("course-bert").exists():  # what is not trained yet is not offered
        with pytest.raises(CourseError, match="Did you mean 'course-gpt'"):
            cl.load_base("course_bert")
