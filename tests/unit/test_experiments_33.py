"""The experiments of chapter 33 on tiny texts, and what is asked of the features."""

import json
import math

import pytest
import torch

import course_lib as cl
from course_lib.experiments import chapter_33
from course_lib.experiments.registry import named

CODE = '''def count(words, seen=None):
    seen = seen or {}
    for word in words:
        seen[word] = seen.get(word, 0) + 1
    return sorted(seen)
'''


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    texts = {kind: [f"{kind} the cat sat on the mat, and the dog on the log. " * 8] * 12 for kind in chapter_33.KINDS}
    rows = [{"text": f"the cat sat {word} on the mat", "label": i % 2} for i, word in enumerate(["well", "badly"] * 8)]
    data = {"movie-reviews": rows, "python-code": [{"code": CODE}] * 6}
    splits = ("train", "validation", "test")
    from datasets import Dataset, DatasetDict

    monkeypatch.setattr(
        "course_lib.corpora.load_data",
        lambda name: DatasetDict({split: Dataset.from_list(data[name]) for split in splits}),
    )
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chapter_33, "documents", lambda split: texts)
    monkeypatch.setattr("course_lib.bases.own_folder", lambda name: tmp_path / name)
    sizes = {"context": 32, "width": 16, "layers": 1, "heads": 2}
    small = {**sizes, "context": 256}
    numbers = {"MERGES": 20, "SMALL_MERGES": 20, "STEPS": 3, "REVIEWS": 8}
    for name, value in {"SIZES": sizes, "SMALL": small, **numbers}.items():
        monkeypatch.setattr(chapter_33, name, value)
    for cached in (chapter_33.tokenizer, chapter_33.small_tokenizer, chapter_33.stream, chapter_33.names):
        cached.cache_clear()
    yield tmp_path
    for cached in (chapter_33.tokenizer, chapter_33.small_tokenizer, chapter_33.stream, chapter_33.names):
        cached.cache_clear()


def test_the_encoder_is_trained_and_written_with_its_provenance(tiny):
    measured = chapter_33.course_bert(model="course-bert", seed=0)
    kinds = [f"{column}{kind}" for kind in chapter_33.KINDS for column in ("", "commonest_", "bits_")]
    assert set(measured) == {"parameters", "tokens", "seconds", *kinds}
    assert all(math.isfinite(value) and value >= 0 for value in measured.values())
    about = json.loads((tiny / "course-bert" / "training.json").read_text())
    assert about["command"] == "python -m course_lib experiment 33-course-bert"
    base = cl.load_base(tiny / "course-bert")
    assert type(base.model).__name__ == "BertModel"
    assert base.tokenizer.mask_token == "<mask>"
    assert len(base.tokenizer) == 280
    chapter_33.tokenizer.cache_clear()  # now the kept one is read, and it is the same
    both = (chapter_33.tokenizer(), chapter_33.learnt_tokenizer(20, 4))
    kept, learnt = (words("the <mask> sat on")["input_ids"] for words in both)
    assert kept == learnt
    again = cl.language_models.load(tiny / "course-bert")  # with the head over the vocabulary, which a base leaves out
    rows = cl.tasks.MaskedTokens().fixed(chapter_33.rows_of([chapter_33.sample(["the cat " * 40])]), base.tokenizer)
    assert 0 <= chapter_33.guesses(again, rows)["right"] <= 1
    ids = torch.tensor([rows[0]["input_ids"].tolist()])
    torch.testing.assert_close(again.states(ids), base.model(ids).last_hidden_state)


def test_a_mask_takes_in_the_space_before_it_and_texts_are_closed_in(tiny):
    words = chapter_33.tokenizer()
    ids = words("the <mask> sat")["input_ids"]
    assert (ids[0], ids[-1]) == (words.bos_token_id, words.eos_token_id)
    assert ids[ids.index(words.mask_token_id) - 1] == words("the", add_special_tokens=False)["input_ids"][-1]
    assert all(8 < len(row["input_ids"]) <= 32 for row in chapter_33.rows_of(["the cat sat " * 100]))


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_a_point_of_both_sides_is_probed(tiny, objective):
    columns = {"review_mean", "review_last", "name_here", "name_next", "parameters", "seconds"}
    assert set(chapter_33.both_sides_or_one(objective=objective, tokens=0, seed=0)) == columns
    row = chapter_33.both_sides_or_one(objective=objective, tokens=1000, seed=0)
    assert set(row) == columns | {"loss"}
    assert 0 <= row["name_here"] <= 1
    assert chapter_33.learning_rates(objective=objective, rate=1e-3, seed=100)["loss"] > 0


def test_the_two_models_differ_in_what_they_see_alone(tiny):
    torch.manual_seed(0)
    causal, masked = (chapter_33.model_of(name).eval() for name in ("causal", "masked"))
    masked.load_state_dict(causal.state_dict())
    ids = torch.randint(250, (2, 10))
    changed = ids.clone()
    changed[:, -1] += 1
    assert torch.equal(causal.states(ids)[:, :-1], causal.states(changed)[:, :-1])
    assert not torch.allclose(masked.states(ids)[:, :-1], masked.states(changed)[:, :-1])
    torch.testing.assert_close(masked.states(ids[:, :1]), causal.states(ids[:, :1]))  # nothing to hide
    alone = masked.states(ids[:1, :6])
    real = torch.tensor([[1] * 6 + [0] * 4, [1] * 10])
    torch.testing.assert_close(masked.states(ids, real)[:1, :6], alone)


def test_scoring_the_hidden_alone_changes_neither_loss_nor_gradients(tiny):
    texts = ["the cat sat " * 9, "on the mat " * 5]
    rows = cl.tasks.MaskedTokens().fixed(chapter_33.rows_of(texts), chapter_33.tokenizer())
    for net in (chapter_33.model_of("masked"), cl.language_models.Encoder(vocabulary=280, **chapter_33.SIZES)):
        found = []
        for model, task in ((net, cl.tasks.MaskedTokens()), chapter_33.asked_only(net)):
            batch = task.collate(rows, chapter_33.tokenizer())
            loss, units = task.loss(model(**cl.tasks.inputs_of(batch)), batch)
            gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
            found.append((loss, torch.as_tensor(units), [g for g in gradients if g is not None]))
        torch.testing.assert_close(found[0], found[1])


def test_names_have_the_roles_that_the_parser_gives():
    roles = [(CODE[:end].split()[-1].split("(")[-1].split("[")[-1], role) for end, role in chapter_33.names_in(CODE)]
    assert roles == [
        ("seen", "stored"), ("seen", "read"), ("word", "stored"), ("words", "read"), ("seen", "read"),
        ("word", "read"), ("seen", "read"), ("word", "read"), ("sorted", "called"), ("seen", "read"),
    ]  # fmt: skip
    assert chapter_33.names_in("    a = 1\n") == []


def test_states_come_back_in_the_order_of_the_rows(tiny):
    model = chapter_33.model_of("masked").eval()
    rows = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]
    for row, states in zip(rows, chapter_33.states_of(model, rows)):
        torch.testing.assert_close(states, model.states(torch.tensor([row]))[0])


def test_the_grid_has_five_seeds_of_each():
    points = named("33-both-sides").grid
    for objective in ("causal", "masked"):
        for tokens in (0, *chapter_33.BUDGETS):
            found = [p["seed"] for p in points if (p["objective"], p["tokens"]) == (objective, tokens)]
            assert found == list(range(5))
    for name, rate in chapter_33.CHOSEN.items():
        assert rate in {p["rate"] for p in named("33-learning-rates").grid if p["objective"] == name}
