"""The experiments of chapter 47 on a few rows: sums of additions are exact, and every column is there."""

import pytest
import torch

from course_lib.experiments import chapter_47


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(chapter_47, "WORDS", 8)
    monkeypatch.setattr(chapter_47, "ROWS", 16)
    monkeypatch.setattr(chapter_47, "TEST_ROWS", 12)
    monkeypatch.setattr(chapter_47, "FEW", 8)
    for function in (chapter_47.cached, chapter_47.film_prompt, chapter_47.images):
        function.cache_clear()
    yield
    for function in (chapter_47.cached, chapter_47.film_prompt, chapter_47.images):
        function.cache_clear()


def drawn(seed):
    """An addition with numbers of size one, so that it changes something."""
    import course_lib as cl

    cl.seed(seed)
    tuned = cl.attach(chapter_47.base_of("minilm"), chapter_47.low_rank(), task=chapter_47.two_way())
    for tensor in tuned.trainable_parameters():
        tensor.data = 0.1 * torch.randn_like(tensor)
    return tuned


def test_the_stack_is_the_weighted_sum_of_the_changes():
    first, second = drawn(0), drawn(1)
    states = [tuned.additions["default"].state_dict() for tuned in (first, second)]
    both = chapter_47.stacked(states, [0.5, 2.0])
    one, two, sum_of_both = (tuned.merge().bert.encoder.layer[5].attention.self for tuned in (first, second, both))
    base = chapter_47.base_of("minilm").model.encoder.layer[5].attention.self
    for role in ("query", "value"):
        W, W1, W2, merged = (getattr(block, role).weight for block in (base, one, two, sum_of_both))
        assert torch.allclose(merged - W, 0.5 * (W1 - W) + 2 * (W2 - W), atol=1e-5)
    heads = [tuned.additions["default"].head.bias for tuned in (first, second, both)]
    assert torch.allclose(heads[2], 0.5 * heads[0] + 2 * heads[1], atol=1e-6)
    apart = chapter_47.separately(states).merge().bert.encoder.layer[5].attention.self.query.weight
    mean = (one.query.weight + two.query.weight) / 2
    assert (apart - mean).abs().max() > 1e-2
    alone = chapter_47.separately(states[:1]).merge().bert.encoder.layer[5].attention.self.query.weight
    assert torch.allclose(alone, one.query.weight, atol=1e-6)


def test_a_point_of_merging():
    row = chapter_47.merging(start="same", seed=0)
    some = {"own", "joint", "films_on_tweets", "films+tweets_averaged_on_films", "films+products+tweets_ensemble"}
    assert some <= set(row)
    assert all(0 <= value <= 1 for value in row.values())
    assert row["own"] == pytest.approx(sum(row[f"{name}_on_{name}"] for name in chapter_47.DOMAINS) / 3)


def test_what_moves_and_what_does_not(monkeypatch):
    import course_lib as cl

    taken = chapter_47.film_prompt(0)
    kept = []
    monkeypatch.setattr(cl, "fit", lambda tuned, *args, **options: kept.append(tuned.additions["default"].state_dict()))
    for start in ("nothing", "head", "prompt", "both"):
        chapter_47.transfer(start=start, seed=0)
    for key, tensor in taken.items():
        same = [torch.equal(tensor, state[key]) for state in kept]
        assert same == ([False, True, False, True] if "head" in key else [False, False, True, True])


def test_a_point_of_digits(monkeypatch):
    monkeypatch.setattr(chapter_47, "IMAGES", 40)
    monkeypatch.setattr(chapter_47, "EPOCHS", 1)
    monkeypatch.setattr(chapter_47, "base_of", small_gpt)
    found = chapter_47.digits(model="pretrained", seed=0)
    assert set(found) == {"loss", "said", "of_ten", "next_said", "next_of_ten", "same_said", "same_of_ten"}
    assert chapter_47.digits(model="random", seed=0)["loss"] != found["loss"]
    assert 0.5 < chapter_47.digits(model="logistic", seed=0)["said"] < 1


def small_gpt(name):
    from course_lib.bases import load_base

    return load_base("course-gpt")


def test_the_map_learns_and_the_model_does_not():
    base = small_gpt("smollm2")
    before = base.fingerprint()
    picture = chapter_47.Picture(base, 0)
    x, y = chapter_47.images()["train"]
    losses = picture.train(x[:8], y[:8], epochs=15, batch=8, rate=1e-2)
    assert losses[-1] < losses[0] / 2
    assert base.fingerprint() == before
    token, of_ten = picture.said(x[:8], chapter_47.TRAINED)
    assert token.shape == of_ten.shape == (8,)
    assert of_ten.max() < 10
