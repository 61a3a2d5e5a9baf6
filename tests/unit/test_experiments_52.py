"""The experiments of chapter 52, small: every kind of point is measured on what it says it is."""

import dataclasses

import pytest

import course_lib as cl
from course_lib.experiments import chapter_52 as measured
from course_lib.experiments import registry


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Two steps, few and short messages to write, and what is trained kept elsewhere."""
    few = {"STEPS": 2, "BATCH": 2, "WRITTEN": 1, "EXAMPLES": 1, "NET_STEPS": {}, "OTHER_STEPS": 2, "NET_WRITTEN": 3}
    for name, value in few.items():
        monkeypatch.setattr(measured, name, value)
    marked, task_of = measured.marked, measured.task_of
    monkeypatch.setattr(measured, "marked", lambda language: marked(language)[1:2])
    monkeypatch.setattr(measured, "task_of", lambda *given: dataclasses.replace(task_of(*given), max_target=3))
    monkeypatch.setattr(measured, "models_folder", lambda: tmp_path)
    return tmp_path


def test_messages_are_short_and_test_messages_unseen():
    for language in measured.LANGUAGES:
        seen, unseen = ({row["source"] for row in measured.messages(language, part)} for part in ("train", "test"))
        assert len(seen) > 1500
        assert len(unseen) > 300
        assert not seen & unseen
        assert max(map(len, seen | unseen)) <= measured.LONGEST
        assert len(measured.marked(language)) >= 15
        assert all(measured.PLACEHOLDER.search(row["source"]) for row in measured.marked(language))


def test_the_prompt_shows_its_examples_and_keeps_their_braces():
    row = {"source": "Hello {name}", "target": "Bonjour {name}"}
    task = measured.task_of("fr", [row])
    shown = task.template.format(source="Save")
    assert shown == "English: Hello {name}\nFrench: Bonjour {name}\n\nEnglish: Save\nFrench:"


def test_an_answer_ends_with_its_line_and_placeholders_are_counted():
    assert measured.first_lines([" Ouvrir\nGerman: Öffnen", "\n\n"]) == ["Ouvrir", ""]
    assert measured.survives("%1 of %2", "%2, dont %1")
    assert not measured.survives("%1 of %1", "%1")
    assert not measured.survives("%1", "%10")


@pytest.mark.parametrize(("language", "way"), [("zh", "untouched"), ("fr", "few-shot"), ("fr", "parallel")])
def test_a_point_has_its_scores(language, way, quick):
    found = measured.ui(language=language, way=way, seed=0)
    assert 0 <= found["chrf"] <= 100
    assert all(0 <= found[name] <= 1 for name in ("exact_match", "copied", "broken", "kept"))
    if way == "parallel":
        cl.additive.load(measured.base_of("smollm2"), quick / "ui-en-fr")
        assert found["stored"] == 570_720


def test_shuffled_rows_have_translations_of_others(quick, monkeypatch):
    given = {}
    monkeypatch.setattr(cl, "fit", lambda tuned, rows, **options: given.update(rows=rows))
    measured.trained("shuffled", "fr", 0)
    true = {(row["source"], row["target"]) for row in measured.messages("fr", "train")}
    right = sum((row["source"], row["target"]) in true for row in given["rows"])
    assert right < 0.02 * len(given["rows"])
    assert {row["target"] for row in given["rows"]} == {target for _, target in true}


def test_words_are_spelt_sound_by_sound():
    rows = measured.words("train", 500)
    assert len(rows) == 500 == len({row["source"] for row in rows})
    assert len(measured.SOUNDS) == 39 == len(set(measured.LETTER.values()))
    spelt = "".join(measured.LETTER[sound] for sound in ("K", "AE", "T"))
    assert spelt == "tbE"


@pytest.mark.parametrize("kind", measured.KINDS)
def test_a_net_from_nothing_is_scored(kind, quick):
    found = measured.from_nothing(kind=kind, seed=0)
    assert found["parameters"] > 900_000
    assert 0 <= found["chrf"] <= 100
    assert found["errors"] > 0
    if kind == "pronunciation":
        again = measured.stored_net()
        assert again.num_parameters() == found["parameters"]
        assert again.head.weight is again.token_embedding.weight


def test_every_way_has_five_seeds():
    grid = registry.named("52-ui").grid
    for language, way in {(point["language"], point["way"]) for point in grid}:
        seeds = [p["seed"] for p in grid if (p["language"], p["way"]) == (language, way)]
        assert seeds == ([0] if way == "untouched" else list(range(5)))
