"""What looks at the words while they are generated indexes by id; a prompt's ids lie beyond the vocabulary."""

import pytest
import torch
from conftest import VOCABULARY, first, stir
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from course_lib.additive import LoRA, PromptTuning, attach

OPTIONS = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
PROCESSORS = {
    "penalty": ({"repetition_penalty": 1.7}, RepetitionPenaltyLogitsProcessor(1.7)),
    "once-each": ({"no_repeat_ngram_size": 1}, NoRepeatNGramLogitsProcessor(1)),
    "pairs": ({"no_repeat_ngram_size": 2}, NoRepeatNGramLogitsProcessor(2)),
}


@pytest.fixture(params=["llama", "gpt2"])
def tuned(request, models):
    tuned = attach(models[request.param], PromptTuning(5)).add(PromptTuning(2), "short").add(LoRA(2), "lora")
    return stir(tuned)


@pytest.mark.parametrize("additions", [None, ["short", "default", None], ["default", "lora", "short"]])
@pytest.mark.parametrize("name", PROCESSORS)
def test_penalties_and_bans_see_the_text_alone(tuned, ids, name, additions):
    option, processor = PROCESSORS[name]
    written = ids
    for _ in range(6):
        scores = first(tuned(input_ids=written, attention_mask=torch.ones_like(written), additions=additions))[:, -1]
        word = LogitsProcessorList([processor])(written, scores.detach().clone()).argmax(-1)
        written = torch.cat([written, word[:, None]], dim=1)
    mask = torch.ones_like(ids)
    said = tuned.generate(ids, attention_mask=mask, additions=additions, max_new_tokens=6, **option, **OPTIONS)
    assert torch.equal(said, written)
    plain = tuned.generate(ids, attention_mask=mask, additions=additions, max_new_tokens=6, **OPTIONS)
    assert not torch.equal(plain, said)
    options = {"attention_mask": mask, "additions": additions, "max_new_tokens": 4, **option, **OPTIONS}
    beams = tuned.generate(ids, num_beams=3, **options)
    assert beams.shape == (3, 13)
    assert int(beams.max()) < VOCABULARY


def test_lengths_count_the_text_alone(tuned, ids):
    options = {"attention_mask": torch.ones_like(ids), **OPTIONS}
    assert tuned.generate(ids, max_length=12, **options).shape == (3, 12)
    end = int(tuned.generate(ids, max_new_tokens=1, **options)[0, -1])  # the first row would end at once
    options["eos_token_id"] = end
    assert int((tuned.generate(ids, max_length=14, min_length=12, **options)[0, 9:12] == end).sum()) == 0
    assert int((tuned.generate(ids, max_new_tokens=5, min_new_tokens=3, **options)[0, 9:12] == end).sum()) == 0
    assert int(tuned.generate(ids, max_new_tokens=5, **options)[0, 9]) == end


def test_an_encoders_prompt_is_no_text_to_repeat(models, ids):
    tuned = stir(attach(models["t5"], PromptTuning(5)))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, **OPTIONS}
    plain = tuned.generate(ids, **options)
    for option in ({"encoder_repetition_penalty": 0.4}, {"encoder_no_repeat_ngram_size": 1}):
        said = tuned.generate(ids, **option, **options)
        assert said.shape == plain.shape


def test_stop_words_are_found(tuned, ids):
    """Stop criteria read ids too; this one stops each row at a word of its own."""
    from transformers import StoppingCriteria

    class Seen(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            assert int(input_ids.max()) < VOCABULARY
            return torch.zeros(len(input_ids), dtype=torch.bool)

    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 3, **OPTIONS}
    said = tuned.generate(ids, stopping_criteria=[Seen()], **options)
    assert said.shape == (3, 12)
