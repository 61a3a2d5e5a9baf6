"""Decoding by hand, token by token over a cache of one's own, says what generate says."""

import pytest
import torch
from conftest import stir
from test_contract import CASES, DECODERS, GRID
from transformers import DynamicCache, StaticCache

from course_lib.additive import ParallelAdapter, PromptTuning, attach

decoding = pytest.mark.parametrize(
    ("case", "family"), [pair for pair in GRID if pair[1] in DECODERS and pair[0] != "full"]
)


def mixed(model, method):
    tuned = attach(model, method)
    tuned.add(PromptTuning(2), name="short").add(ParallelAdapter(3), name="other")
    return stir(tuned)


@decoding
@torch.no_grad()
def test_a_loop_over_an_own_cache_says_what_generate_says(models, ids, case, family):
    """With padding on the left, and rows that use different additions (peft #1962, #2821: prefixes and caches)."""
    tuned = mixed(models[family], CASES[case][0])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    for rows in (None, ["default", "short", "other"], ["short", None, "default"]):
        cache, seen, new, text = DynamicCache(config=models[family].config), mask, ids, ids
        for _ in range(5):
            out = tuned(input_ids=new, attention_mask=seen, past_key_values=cache, use_cache=True, additions=rows)
            new = out.logits[:, -1:].argmax(-1)
            text, seen = torch.cat([text, new], 1), torch.cat([seen, torch.ones_like(new)], 1)
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        assert torch.equal(text, tuned.generate(ids, attention_mask=mask, additions=rows, **options))


@decoding
@torch.no_grad()
def test_pieces_of_a_text_over_an_own_cache_are_the_text(models, ids, case, family):
    """With a mask and without; a prompt is read once, before the first piece."""
    if case.startswith("loreft"):
        pytest.skip("the first piece is the prompt whose positions it edits")
    tuned = stir(attach(models[family], CASES[case][0]))
    whole = tuned(input_ids=ids).logits
    for masked in (True, False):
        cache, pieces = DynamicCache(config=models[family].config), []
        for begin, end in ((0, 4), (4, 5), (5, 9)):
            more = {"attention_mask": torch.ones(3, end, dtype=torch.long)} if masked else {}
            piece = ids[:, begin:end]
            pieces.append(tuned(input_ids=piece, past_key_values=cache, use_cache=True, **more).logits)
        assert (torch.cat(pieces, 1) - whole).abs().max() < 2e-5


def test_generate_takes_none_as_transformers_does(models, ids):
    """eos_token_id=None: never stop."""
    tuned = mixed(models["gpt2"], PromptTuning(2))
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "max_new_tokens": 6}
    tuned.model.generation_config.eos_token_id = int(tuned.generate(ids, **options)[0, 10])
    assert tuned.generate(ids[:1], **{**options, "attention_mask": None}).shape[1] < 15
    assert tuned.generate(ids[:1], **{**options, "attention_mask": None}, eos_token_id=None).shape[1] == 15


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("case", ["prompt", "prefix", "loreft", "unipelt", "llama-adapter", "ia3"])
@torch.no_grad()
def test_a_cache_of_fixed_size(models, ids, case, family):
    tuned = mixed(models[family], CASES[case][0])
    rows = ["default", "short", None]
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = tuned.generate(ids, additions=rows, eos_token_id=None, **options)
    cache = StaticCache(config=models[family].config, max_cache_len=40)
    again = tuned.generate(ids, additions=rows, eos_token_id=None, past_key_values=cache, **options)
    assert torch.equal(plain, again)
