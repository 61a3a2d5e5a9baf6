"""Every model under the one interface: shapes, causality, training, generation, the same measure."""

import math

import pytest
import torch

import course_lib as cl
from course_lib.runtime import CourseError

lms = cl.language_models
TEXT = "the cat sat on the mat. the dog sat on the log. " * 8
IDS = lms.as_ids(TEXT)


def small(name):
    cl.seed(0)
    return {
        "n-gram": lambda: lms.NGram(order=3).fit(IDS),
        "convolution": lambda: lms.Convolution(width=16, layers=2),
        "rnn": lambda: lms.Recurrent("rnn", width=16),
        "lstm": lambda: lms.Recurrent("lstm", width=16, layers=2),
        "gru": lambda: lms.Recurrent("gru", width=16),
        "gpt": lambda: lms.GPT(context=32, width=16, layers=2, heads=2),
        "llama": lambda: lms.GPT(
            context=32, width=16, layers=2, heads=4, key_value_heads=2, norm="rms", positions="rotary",
            activation="silu", gated=True, bias=False,
        ),
    }[name]()  # fmt: skip


NAMES = ("n-gram", "convolution", "rnn", "lstm", "gru", "gpt", "llama")
NEURAL = NAMES[1:]


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_their_shape_and_see_no_future(name):
    model, ids = small(name).eval(), IDS[:20].repeat(2, 1)
    logits = model(ids)
    assert logits.shape == (2, 20, 256)
    assert model.num_parameters() > 0
    changed = ids.clone()
    changed[:, 12:] = 7
    torch.testing.assert_close(model(changed)[:, :12], logits[:, :12])
    assert not torch.allclose(model(changed)[:, 12:], logits[:, 12:])


@pytest.mark.parametrize("name", NEURAL)
def test_fit_trains_it(name):
    model = small(name)
    before = lms.bits_per_byte(model, TEXT, context=32)
    history = cl.fit(
        model, lms.windows(IDS, 16), task=cl.tasks.NextToken(), max_steps=30, batch_size=8, learning_rate=1e-2,
        progress=False, dtype="float32",
    )  # fmt: skip
    assert history.loss[-1] < history.loss[0]
    assert lms.bits_per_byte(model, TEXT, context=32) < before - 1


@pytest.mark.parametrize("name", NAMES)
def test_generation_with_and_without_a_cache_agrees(name):
    model = small(name)
    options = {"tokens": 40, "seed": 3, "top_k": 50}  # more than the context of 32
    out = lms.generate(model, IDS[:5].repeat(2, 1), **options)
    assert out.shape == (2, 45)
    assert torch.equal(out[:, :5], IDS[:5].repeat(2, 1))
    assert torch.equal(out, lms.generate(model, IDS[:5].repeat(2, 1), cache=False, **options))
    assert not torch.equal(out, lms.generate(model, IDS[:5].repeat(2, 1), **{**options, "seed": 4}))


@pytest.mark.parametrize("name", NAMES)
def test_surprise_is_the_chain_rule_term_by_term(name):
    """Windows as long as the text: the same as one forward pass; shorter ones: each token once, from its own past."""
    model, ids = small(name).eval(), IDS[:30]
    whole = -model(ids[None]).float().log_softmax(-1)[0, :-1].gather(-1, ids[1:, None])[:, 0] / math.log(2)
    bits = lms.surprise(model, ids, context=32)
    assert bits[0] == 8
    torch.testing.assert_close(bits[1:].float(), whole.detach())
    windowed = lms.surprise(model, ids, context=8, stride=4, batch_size=2)
    torch.testing.assert_close(windowed[1:9].float(), whole[:8].detach())
    for t in range(9, 30):  # the first window that holds token t ends at the next multiple of the stride
        end = min(9 + 4 * math.ceil((t - 8) / 4), 30)
        window = ids[end - 9 : end]
        logits = model(window[None, :-1]).float().log_softmax(-1)[0, t - (end - 9) - 1]
        assert windowed[t] == pytest.approx(-logits[ids[t]].item() / math.log(2), rel=1e-4), t
    assert lms.bits_per_byte(model, bytes(ids.tolist())) == pytest.approx(
        float(lms.surprise(model, ids).sum()) / 30
    )
    assert lms.perplexity(model, ids) == pytest.approx(2 ** float(lms.surprise(model, ids)[1:].mean()))


def test_a_shuffled_past_is_noticed_by_who_looks_there():
    near, far = lms.NGram(order=3).fit(IDS), small("gpt")
    order = {keep: lms.bits_after_shuffling(near, IDS, keep, context=32, samples=50) for keep in (1, 2, 32)}
    assert order[2] == order[32] < order[1]
    looked = {keep: lms.bits_after_shuffling(far, IDS, keep, context=32, samples=50) for keep in (2, 32)}
    assert looked[2] != looked[32]
    with pytest.raises(CourseError, match="no place behind 128"):
        lms.bits_after_shuffling(near, IDS[:100], 8)


def test_a_text_too_long_for_the_model_is_a_sentence():
    with pytest.raises(CourseError, match="33 tokens were given, but this model looks at 32"):
        small("gpt")(IDS[None, :33])
    with pytest.raises(CourseError, match="no window of 129 tokens"):
        lms.windows(IDS[:100], 128)


def test_an_encoder_is_not_asked_for_the_next_token():
    for ask in (lms.surprise, lms.perplexity, lambda model, ids: lms.generate(model, ids, 3)):
        with pytest.raises(CourseError, match="sees the whole text"):
            ask(lms.Encoder(width=8, layers=1, heads=1), "abc")


def test_windows_guess_every_token_once():
    cut = lms.windows(torch.arange(100), 9)
    assert torch.cat([window["input_ids"][1:] for window in cut]).tolist() == list(range(1, 100))


def test_it_compiles_as_one_graph():
    model, ids = small("llama").eval(), IDS[:20].repeat(2, 1)
    plain = model(ids)
    model.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(ids), plain, atol=1e-5, rtol=1e-5)
