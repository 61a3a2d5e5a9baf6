"""The experiments of chapter 43 on a tiny model with SmolLM2's tokenizer."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import course_lib as cl
from course_lib.bases import Base
from course_lib.experiments import chapter_43


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    tokenizer = cl.load_base("smollm2").tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )
    base = Base("tiny", LlamaForCausalLM(config).eval().requires_grad_(False), tokenizer)
    monkeypatch.setattr(cl, "load_base", lambda name: base, raising=False)
    monkeypatch.setattr(chapter_43, "REVIEWS", 16)
    monkeypatch.setattr(chapter_43, "TEST", 8)


@pytest.mark.parametrize("init", chapter_43.CHOSEN)
def test_a_point_is_shares_and_what_became_of_the_vectors(init):
    row = chapter_43.prompts(init=init, length=3, seed=0)
    shares = {"says", "says_untrained", "two_way", "two_way_untrained", "nearest_is_start"}
    assert shares < set(row)
    assert all(0 <= row[name] <= 1 for name in shares)
    assert row["moved"] > 0
    again = chapter_43.prompts(init=init, length=3, seed=0)
    assert again["moved"] == pytest.approx(row["moved"], rel=1e-4)


def test_small_steps_leave_the_vectors_beside_their_tokens(monkeypatch):
    still, far = (chapter_43.prompted("vocabulary", 3, 0, rate, "test", 4) for rate in (1e-7, 10.0))
    assert still["nearest_is_start"] == 1
    assert far["nearest_is_start"] < 1
    assert far["moved"] > still["moved"]
