"""The three pretraining tasks: what is hidden, what is asked, and that models of ours and of transformers learn it."""

import math

import pytest
import torch
import transformers

import course_lib as cl
from course_lib.runtime import CourseError
from course_lib.tasks.span_denoising import lengths

lms, tasks = cl.language_models, cl.tasks
TEXT = "the cat sat on the mat. the dog sat on the log. " * 8
BYTES = lms.Bytes(sentinels=32)


def trained(model, data, task, tokenizer=None, **options):
    options = {"max_steps": 25, "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32", **options}
    return cl.fit(model, data, task=task, tokenizer=tokenizer, progress=False, **options)


# --- next token ------------------------------------------------------------------------------------------------------


def test_next_token_asks_for_the_following_token():
    batch = tasks.NextToken().collate([{"input_ids": [1, 2, 3, 4]}, {"input_ids": [5, 6, 7, 8]}], None)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 6, 7]]
    assert batch["labels"].tolist() == [[2, 3, 4], [6, 7, 8]]


def test_next_token_counts_no_padding():
    task, model = tasks.NextToken(), lms.GPT(width=16, layers=1, heads=2, vocabulary=10)
    rows = [{"input_ids": [1, 2, 3, 4, 5]}, {"input_ids": [6, 7]}]
    batch = task.collate(rows, None)
    assert batch["labels"].tolist() == [[2, 3, 4, 5], [7, -100, -100, -100]]
    together, units = task.loss(model(batch["input_ids"]), batch)
    alone = [task.loss(model(b["input_ids"]), b) for b in (task.collate([row], None) for row in rows)]
    torch.testing.assert_close(together, sum(loss for loss, _ in alone))
    assert units == sum(n for _, n in alone) == 5
    ids = torch.tensor([rows[0]["input_ids"]])
    probabilities = model(ids).softmax(-1)[0]
    expected = -sum(math.log(probabilities[t, ids[0, t + 1]].item()) for t in range(4))
    assert alone[0][0].item() == pytest.approx(expected, rel=1e-5)


def test_next_token_is_transformers_own_loss_and_trains_its_models():
    own = lms.GPT(width=16, layers=1, heads=2, context=32)
    theirs = lms.to_transformers(own).train()
    features = lms.windows(TEXT, 16)
    batch = tasks.NextToken().collate(features[:4], None)
    total, units = tasks.NextToken().loss(theirs(input_ids=batch["input_ids"]), batch)
    ids = torch.stack([feature["input_ids"] for feature in features[:4]])
    assert (total / units).item() == pytest.approx(theirs(ids, labels=ids).loss.item(), rel=1e-5)
    history = trained(theirs, features, tasks.NextToken())
    again = trained(own, features, tasks.NextToken())
    assert history.loss == pytest.approx(again.loss, rel=1e-3)  # the same function, the same steps


def test_raw_text_goes_through_a_tokenizer():
    rows = [{"text": "hello there"}, {"text": "a"}, {"text": "good bye"}]
    encoded = tasks.NextToken(max_length=6).encode({"text": [row["text"] for row in rows]}, BYTES)["input_ids"]
    assert encoded == [list(b"hello t"), list(b"good by")]  # one letter leaves nothing to guess
    trained(lms.GPT(width=16, layers=1, heads=2), rows, tasks.NextToken(), BYTES, max_steps=1)


# --- masked tokens ---------------------------------------------------------------------------------------------------


def test_masking_hides_80_10_10_of_15_percent_and_no_special_token():
    ids = torch.randint(256, (400, 500))
    ids[:, 0], ids[:, -1] = BYTES.bos_token_id, BYTES.pad_token_id
    seen, labels = tasks.MaskedTokens().mask(ids, BYTES, torch.Generator().manual_seed(0))
    chosen = labels != -100
    assert not chosen[:, 0].any()
    assert not chosen[:, -1].any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(seen[~chosen], ids[~chosen])
    assert chosen[:, 1:-1].float().mean().item() == pytest.approx(0.15, abs=0.004)
    masked = (seen == BYTES.mask_token_id)[chosen].float().mean().item()
    other = ((seen != BYTES.mask_token_id) & (seen != ids))[chosen].float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.01)
    assert other == pytest.approx(0.1 * 255 / 256, abs=0.008)
    assert seen[seen != BYTES.mask_token_id].max() <= BYTES.bos_token_id  # random tokens are ordinary ones


def test_masks_change_from_batch_to_batch_unless_fixed():
    task, features = tasks.MaskedTokens(), lms.windows(TEXT, 32, guess_next=False)
    torch.manual_seed(0)
    first, second = task.collate(features, BYTES), task.collate(features, BYTES)
    assert not torch.equal(first["input_ids"], second["input_ids"])
    fixed = task.fixed(features, BYTES, seed=1)
    assert torch.equal(task.collate(fixed, BYTES)["labels"], task.collate(fixed, BYTES)["labels"])
    again = task.fixed(features, BYTES, seed=1)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(fixed, again))


def test_masked_loss_counts_the_chosen_alone_and_padding_changes_nothing():
    task, model = tasks.MaskedTokens(), lms.Encoder(width=16, layers=1, heads=2).eval()
    rows = task.fixed([{"input_ids": lms.as_ids(TEXT[:40])}, {"input_ids": lms.as_ids(TEXT[3:20])}], BYTES, seed=2)
    together = task.collate(rows, BYTES)
    assert together["attention_mask"].sum().item() == 57
    loss, units = task.loss(model(together["input_ids"], together["attention_mask"]), together)
    alone = [task.loss(model(b["input_ids"]), b) for b in (task.collate([row], BYTES) for row in rows)]
    torch.testing.assert_close(loss, sum(one for one, _ in alone))
    assert units == sum(n for _, n in alone) > 0


def test_an_encoder_learns_from_masks():
    features = lms.windows(TEXT, 32, guess_next=False)
    own = lms.Encoder(width=32, layers=1, heads=2)
    for model in (lms.to_transformers(own), own):
        history = trained(model, features, tasks.MaskedTokens(rate=0.3), BYTES, max_steps=40)
        assert sum(history.loss[-5:]) / 5 < history.loss[0] - 1.5


def test_masking_without_a_mask_is_a_sentence():
    with pytest.raises(CourseError, match="mask token"):
        tasks.MaskedTokens().collate([{"input_ids": [1, 2, 3]}], None)
    with pytest.raises(CourseError, match="add up to at most 1"):
        tasks.MaskedTokens(mask_share=0.8, random_share=0.3)


# --- span denoising --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "hidden", "spans"), [(2, 1, 1), (3, 1, 1), (20, 3, 1), (100, 15, 5), (512, 77, 26)])
def test_spans_are_as_many_and_as_long_as_asked(length, hidden, spans):
    for seed in range(5):
        torch.manual_seed(seed)
        noise = tasks.SpanDenoising().noise(length)
        assert noise.shape == (length,)
        assert noise.sum() == hidden
        assert not noise[0]
        assert (noise[1:] & ~noise[:-1]).sum() == spans


def test_every_cut_is_equally_likely():
    torch.manual_seed(0)
    drawn = [tuple(lengths(5, 3).tolist()) for _ in range(3000)]
    assert all(sum(cut) == 5 and min(cut) >= 1 for cut in drawn)
    counts = {cut: drawn.count(cut) for cut in set(drawn)}
    assert len(counts) == 6
    assert min(counts.values()) > 400


def test_source_and_target_hold_the_whole_text():
    torch.manual_seed(0)
    task, ids = tasks.SpanDenoising(rate=0.3), lms.as_ids(TEXT[:90])
    source, target = task.corrupt(ids, BYTES)
    assert target[-1] == BYTES.eos_token_id
    spans = {}
    for token in target[:-1].tolist():
        if token >= 260:
            spans[token] = []
            last = token
        else:
            spans[last].append(token)
    assert list(spans) == BYTES.sentinel_ids[: len(spans)]
    whole = [t for token in source.tolist() for t in (spans[token] if token >= 260 else [token])]
    assert whole == ids.tolist()


def test_the_decoder_reads_its_target_one_place_later():
    batch = tasks.SpanDenoising().collate(lms.windows(TEXT, 40, guess_next=False)[:3], BYTES)
    assert (batch["decoder_input_ids"][:, 0] == BYTES.bos_token_id).all()
    assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1])


def test_encoder_decoders_learn_from_spans():
    features = lms.windows(TEXT, 40, guess_next=False)
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=len(BYTES), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=257, pad_token_id=256, eos_token_id=258,
    ))  # fmt: skip
    for model in (lms.EncoderDecoder(vocabulary=len(BYTES), width=32, layers=1, heads=2), t5):
        history = trained(model, features, tasks.SpanDenoising(), BYTES, max_steps=40)
        assert sum(history.loss[-5:]) / 5 < history.loss[0] - 1.5


def test_the_courses_encoder_decoder_takes_the_task_of_translation():
    rows = [{"source": "one two", "target": "un deux"}, {"source": "three", "target": "trois"}] * 4
    tokenizer = lms.Bytes(end=True)
    model = lms.EncoderDecoder(width=32, layers=1, heads=2)
    history = trained(model, rows, tasks.SequenceToSequence(), tokenizer, max_steps=60)
    assert history.loss[-1] < 0.5
    for beams in (1, 3):
        said = tasks.SequenceToSequence().generate(model, rows[:2], tokenizer, num_beams=beams)
        assert said == ["un deux", "trois"]
    assert cl.evaluate(model, rows, task=tasks.SequenceToSequence(), tokenizer=tokenizer)["exact_match"].value == 1


def test_too_few_sentinels_are_a_sentence():
    with pytest.raises(CourseError, match="lost 10 spans"):
        tasks.SpanDenoising().corrupt(torch.arange(200), lms.Bytes(sentinels=4))
    with pytest.raises(CourseError, match="needs a tokenizer with sentinels"):
        tasks.SpanDenoising().corrupt(torch.arange(20), lms.Bytes())


def test_bytes_are_ids_and_come_back():
    text = "naïve 中文 text"
    assert BYTES(text)["input_ids"] == list(text.encode())
    assert BYTES.decode(BYTES(text)["input_ids"]) == text
    assert lms.Bytes(end=True)([text], truncation=True, max_length=4)["input_ids"] == [[*text.encode()[:3], 258]]
    assert BYTES.decode([104, 259, 105]) == "hi"
    assert BYTES.decode([104, 259, 105], skip_special_tokens=False) == "h<259>i"
    assert len(BYTES) == 292
