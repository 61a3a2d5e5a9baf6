"""The experiments of chapter 51 at tiny sizes: fair draws, controls that act, a baseline that learns."""

import random

import pytest
import torch
from torch.nn import functional as F

import course_lib as cl
from course_lib.experiments import chapter_51
from course_lib.experiments.registry import named


@pytest.fixture
def small():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    base = BertModel(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes)).eval()
    method = cl.additive.BottleneckAdapter(4, skip_layers=1)
    return cl.attach(base, method, task=cl.tasks.Classification(2))


def test_dropout_acts_in_training_and_not_in_evaluation(small):
    ids = torch.randint(3, 40, (2, 7))
    before = small(input_ids=ids).logits
    chapter_51.with_dropout(small, 0.5)
    small.train()
    torch.manual_seed(0)
    assert not torch.allclose(small(input_ids=ids).logits, small(input_ids=ids).logits)
    small.eval()
    assert torch.equal(small(input_ids=ids).logits, before)
    assert F.dropout(torch.ones(3), 0.5, small.training).sum() == 3


def test_thinned_texts_lose_about_the_share_and_are_never_empty():
    rng, text = random.Random(0), " ".join(map(str, range(1000)))
    assert 650 < len(chapter_51.thinned(text, 0.3, rng).split()) < 750
    assert chapter_51.thinned("one two", 1.0, rng) == "one"
    assert chapter_51.thinned(text, 0.0, rng) == text


def test_every_control_and_every_model_is_in_the_grid_with_the_same_seeds():
    for name, column in (("51-overfitting", "control"), ("51-chinese", "model")):
        seeds = {}
        for point in named(name).grid:
            seeds.setdefault((point[column], point.get("strength"), point.get("rows")), []).append(point["seed"])
        assert len({tuple(drawn) for drawn in seeds.values()}) == 1


def test_counting_characters_learns(monkeypatch):
    rows = [{"text": "很好" * n, "label": 1} for n in (1, 2, 3)] + [{"text": "不好" * n, "label": 0} for n in (1, 2, 3)]
    assert chapter_51.counted(rows, rows) == 1
    monkeypatch.setattr(chapter_51, "reviews_zh", lambda split: rows * 10)
    assert chapter_51.chinese_reviews("TF-IDF", 20, 0)["accuracy"] == 1


def test_a_pretrained_encoder_is_tuned_in_three_ways(monkeypatch):
    rows = [{"text": "很好", "label": 1}, {"text": "不好", "label": 0}] * 20
    monkeypatch.setattr(chapter_51, "reviews_zh", lambda split: rows)
    monkeypatch.setattr(chapter_51, "ENCODER", {"context": 64, "width": 16, "layers": 1, "heads": 2})
    monkeypatch.setattr(chapter_51, "PRETRAINING_STEPS", 2)
    small = {flag: chapter_51.chinese.__wrapped__(flag, 0, 2) for flag in (True, False)}
    assert len(small[True].tokenizer) == 5 + 3
    monkeypatch.setattr(chapter_51, "chinese", lambda pretrained, seed: small[pretrained])
    found = {model: chapter_51.chinese_reviews(model, 20, 0, steps=5) for model in chapter_51.MODELS}
    assert chapter_51.chinese_reviews("from scratch", 20, 0, steps=300)["accuracy"] == 1
    assert found["pretrained, head only"]["trained"] < found["pretrained, adapters"]["trained"]
    assert found["pretrained, adapters"]["trained"] < found["pretrained, all weights"]["trained"]


def test_topics_are_learnt_from_words_and_longer_texts_begin_with_the_title(monkeypatch):
    title, more = chapter_51.articles("test", 0)[0]["text"], chapter_51.articles("test", 30)[0]["text"]
    assert more.startswith(title)
    assert len(more.split()) == len(title.split()) + 30
    assert chapter_51.topics("TF-IDF", "title", 0, train_rows=100)["accuracy"] > 0.35
