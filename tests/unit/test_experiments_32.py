"""The experiments of chapter 32 on tiny texts, and what decides which text goes where."""

import json
import math
from types import SimpleNamespace

import pytest

import course_lib as cl
from course_lib.experiments import chapter_32
from course_lib.experiments.registry import named


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    texts = {kind: [f"{kind} the cat sat on the mat, and the dog on the log. " * 8] * 12 for kind in chapter_32.KINDS}
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chapter_32, "documents", lambda split: texts)
    monkeypatch.setattr(chapter_32, "conversations", lambda split: texts["chat"])
    monkeypatch.setattr("course_lib.bases.own_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(chapter_32, "MERGES", 20)
    monkeypatch.setattr(chapter_32, "CONTEXT", 32)
    monkeypatch.setattr(chapter_32, "SIZES", {"width": 16, "layers": 1, "heads": 2})
    return tmp_path


def test_the_gpt_is_trained_and_written_with_its_provenance(tiny):
    measured = chapter_32.course_gpt(model="course-gpt", seed=0)
    assert set(measured) == {
        "parameters", "tokens", "seconds", *chapter_32.KINDS, *(f"ngram_{kind}" for kind in chapter_32.KINDS)
    }  # fmt: skip
    assert all(math.isfinite(value) and value > 0 for value in measured.values())
    about = json.loads((tiny / "course-gpt" / "training.json").read_text())
    assert about["text"]["chat"]["documents"] == 12
    base = cl.load_base(tiny / "course-gpt")
    assert base.tokenizer.eos_token == chapter_32.END
    assert len(base.tokenizer) == 277
    text = chapter_32.sample(chapter_32.documents("test")["chat"])
    again = cl.language_models.bits_per_byte(
        cl.language_models.from_transformers(base.model), text, tokenizer=base.tokenizer
    )
    assert again == pytest.approx(about["samples"]["chat"]["bits_per_byte"], abs=1e-6)


def test_a_killed_training_goes_on(tiny):
    first = chapter_32.course_gpt(model="course-gpt", seed=0)
    assert (tiny / "cache" / "runs" / "course-gpt").is_dir()
    assert chapter_32.course_gpt(model="course-gpt", seed=0)["chat"] == first["chat"]  # nothing is left to train


def test_scaling_measures_a_point(tiny):
    row = chapter_32.scaling(model="small", bytes=2000, seed=0)
    assert row["parameters"] == 2 * (12 * 16**2 + 13 * 16)
    assert 0 < row["bits_per_byte"] < 9


def test_the_fourth_size_is_larger_than_all_and_reads_more():
    points = named("32-scaling").grid
    assert len({(p["model"], p["bytes"]) for p in points if p["model"] != "held-out"}) == 9
    assert chapter_32.HELD[2] > max(chapter_32.BUDGETS)
    assert chapter_32.HELD[1] > max(chapter_32.SMALL.values())


def test_a_docstring_follows_its_module():
    modules = {"json": "train", "json.decoder": "test"}
    assert chapter_32.module_of("json.decoder.JSONDecoder.decode", modules) == "json.decoder"
    assert chapter_32.module_of("json.dumps", modules) == "json"
    assert chapter_32.module_of("zlib.compress", modules) == ""


def test_no_document_is_in_two_splits_and_contacts_are_gone():
    train, test = chapter_32.documents("train"), chapter_32.documents("test")
    for kind in chapter_32.KINDS:
        assert not set(train[kind]) & set(test[kind])
    code = "\n".join(train["code"])
    inside = sum(text.partition("\n\n")[2][:200] in code for text in test["docs"])
    assert inside < 0.02 * len(test["docs"])
    assert not any(chapter_32.CONTACT.search(text) for text in train["chat"])


def test_the_cures_of_overfitting_change_what_they_should(monkeypatch, tmp_path):
    texts = {kind: ["the cat sat on the mat, and the dog on the log. " * 12] * 14 for kind in chapter_32.KINDS}
    monkeypatch.setattr(chapter_32, "documents", lambda split: texts)
    monkeypatch.setattr(chapter_32, "conversations", lambda split: texts["chat"])
    tokenizer = chapter_32.tokenizer_of(texts["chat"])
    monkeypatch.setattr("course_lib.bases.load_base", lambda name: SimpleNamespace(tokenizer=tokenizer))
    monkeypatch.setattr(chapter_32.overfitting_run, "__defaults__", (2,))
    plain, decayed, sparse = (
        chapter_32.overfitting(cure=cure, strength=strength, seed=0)
        for cure, strength in (("none", 0.0), ("decay", 30.0), ("l1", 1e-2))
    )
    assert set(plain) == {"best", "last", "best_epoch", "train", "tiny", "seconds"}
    assert plain["best"] <= plain["last"]
    assert decayed["tiny"] > plain["tiny"]
    assert sparse["tiny"] > plain["tiny"]
    assert chapter_32.overfitting_run("dropout", 0.3, 0)[0].config.dropout == 0.3
