"""The course's own models as bases: saved and read again, and added to through their twins."""

import pytest
import torch
import transformers

import course_lib as cl
from course_lib.runtime import CourseError

lms, additive = cl.language_models, cl.additive
TOKENIZER = lms.Bytes(sentinels=3)
TEXT = "the cat sat on the mat. the dog sat on the log. " * 8
SIZES = {"vocabulary": len(TOKENIZER), "width": 16, "layers": 2, "heads": 2, "context": 64}
MODELS = {
    "gpt": lambda: lms.GPT(**SIZES),
    "llama": lambda: lms.GPT(**SIZES, norm="rms", positions="rotary", activation="silu", gated=True, bias=False),
    "encoder": lambda: lms.Encoder(**SIZES),
}


def made(name):
    cl.seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 0), (torch.bfloat16, 0.2)])
def test_a_saved_model_comes_back_here_and_as_a_base(name, dtype, atol, tmp_path):
    own, ids = made(name), TOKENIZER("the cat")["input_ids"]
    lms.save(own, tmp_path, TOKENIZER, dtype)
    back = lms.load(tmp_path)
    assert {p.dtype for p in back.parameters()} == {torch.float32}
    ids = torch.tensor([ids])
    torch.testing.assert_close(back(ids), own(ids), atol=atol, rtol=0)
    base = cl.load_base(tmp_path)
    again = base.tokenizer("the cat", return_tensors="pt")["input_ids"]
    assert torch.equal(again, ids)
    states = base.model.base_model(ids).last_hidden_state
    torch.testing.assert_close(states, back.states(ids), atol=1e-5, rtol=1e-5)
    assert cl.load_base(tmp_path).fingerprint() == base.fingerprint()  # nothing is drawn anew


def test_bytes_is_a_transformers_tokenizer_too():
    theirs = TOKENIZER.to_transformers()
    assert len(theirs) == len(TOKENIZER)
    for text in ("naïve 中文\n\ttext 😀 ", " x", ""):
        assert theirs(text)["input_ids"] == TOKENIZER(text)["input_ids"]
        assert theirs.decode(TOKENIZER(text)["input_ids"]) == text
    assert theirs("a<mask>")["input_ids"] == [97, 259]
    for name in ("pad", "bos", "eos", "mask"):
        assert getattr(theirs, f"{name}_token_id") == getattr(TOKENIZER, f"{name}_token_id")
    assert set(theirs.all_special_ids) == set(TOKENIZER.all_special_ids)
    end = lms.Bytes(end=True)
    assert end.to_transformers()("ab")["input_ids"] == end("ab")["input_ids"] == [97, 98, 258]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [additive.LoRA(), additive.ParallelAdapter(), additive.IA3()])
def test_additions_of_identity_start_at_the_model_itself(name, method):
    own, ids = made(name), torch.randint(256, (2, 9))
    tuned = cl.attach(own, method)
    before = [p.clone() for p in own.parameters()]
    torch.testing.assert_close(tuned(input_ids=ids).logits, own(ids), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for parameter in tuned.trainable_parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.allclose(tuned(input_ids=ids).logits, own(ids), atol=1e-2)
    with tuned.disabled():
        torch.testing.assert_close(tuned(input_ids=ids).logits, own(ids), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters()))


def test_an_addition_to_a_course_model_trains_saves_and_loads(tmp_path):
    own, features = made("gpt"), lms.windows(TEXT, 32)
    tuned = cl.attach(own, additive.PrefixTuning(length=4, hidden=8), task=cl.tasks.NextToken())
    history = cl.fit(tuned, features, max_steps=10, batch_size=4, learning_rate=3e-2, progress=False, dtype="float32")
    assert history.loss[-1] < history.loss[0]
    tuned.save(tmp_path)
    ids = torch.randint(256, (2, 9))
    loaded = additive.load(own, tmp_path)
    torch.testing.assert_close(loaded(input_ids=ids).logits, tuned(input_ids=ids).logits)
    with pytest.raises(CourseError, match="other weights"):
        additive.load(MODELS["gpt"](), tmp_path)


def test_a_classifier_stands_on_a_course_encoder(tmp_path):
    lms.save(made("encoder"), tmp_path, TOKENIZER)
    rows = [{"text": text, "label": label} for text, label in (("good good", 1), ("bad bad", 0))] * 8
    tuned = cl.attach(cl.load_base(tmp_path), additive.ParallelAdapter(), task=cl.tasks.Classification(2))
    history = cl.fit(tuned, rows, epochs=20, batch_size=8, learning_rate=1e-2, progress=False, dtype="float32")
    assert history.loss[-1] < 0.3


def test_what_cannot_be_added_to_or_read_is_a_sentence(tmp_path):
    with pytest.raises(CourseError, match="No class of transformers computes what this EncoderDecoder does"):
        cl.attach(lms.EncoderDecoder(), additive.LoRA())
    with pytest.raises(CourseError, match="holds no model"):
        lms.load(tmp_path)
    config = transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(CourseError, match="holds no model"):
        lms.load(tmp_path)
