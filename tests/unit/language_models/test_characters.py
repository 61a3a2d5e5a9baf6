"""Characters as tokens: what is kept, what is unknown, and that tasks and additions take them."""

import torch

import course_lib as cl
from course_lib.language_models import Characters, Encoder

TEXTS = ["很好很好", "不好", "好的"]


def test_frequent_characters_get_ids_and_the_rest_is_unknown():
    tokenizer = Characters(TEXTS)
    assert tokenizer.characters == ["好", "很"]
    assert len(tokenizer) == 7
    assert tokenizer("很好不")["input_ids"] == [1, 6, 5, 4]
    assert tokenizer.decode([1, 6, 5, 4, 0]) == "很好□"


def test_texts_are_cut_and_lists_are_taken():
    tokenizer = Characters(TEXTS, at_least=1)
    assert tokenizer(["很好", ""], truncation=True, max_length=2)["input_ids"] == [[1, tokenizer.ids["很"]], [1]]
    assert len(Characters(TEXTS, at_least=1)) == 5 + len(set("".join(TEXTS)))


def test_an_encoder_of_characters_takes_both_tasks():
    tokenizer = Characters(TEXTS, at_least=1)
    encoder = Encoder(vocabulary=len(tokenizer), context=8, width=16, layers=1, heads=2)
    rows = [{"text": text, "label": i % 3 % 2} for i, text in enumerate(TEXTS * 4)]
    history = cl.fit(encoder, rows, task=cl.tasks.MaskedTokens(rate=0.5), tokenizer=tokenizer, progress=False)
    assert history.loss[0] > 0
    task = cl.tasks.Classification(2, max_length=8)
    cl.seed(0)
    tuned = cl.attach(cl.bases.Base("characters", encoder, tokenizer), cl.additive.FullFineTuning(), task=task)
    cl.fit(tuned, rows, epochs=60, learning_rate=5e-3, progress=False)
    found = cl.evaluation.outputs(tuned, rows, progress=False)
    assert torch.tensor(found.predictions).equal(torch.tensor(found.references))
