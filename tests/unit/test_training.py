"""The loop: what it computes, what it refuses, what it leaves behind."""

import json
import math
import os
import signal

import accelerate
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import Dying, Tagger, Tagging, splits, texts, tiny_bert

from course_lib.runtime import CourseError
from course_lib.training import History, bucketed_batches, encode, fit, history, learning_rate_at
from course_lib.training.batches import parts_of

TASK = Tagging()


def run(model=None, data=None, **options):
    model = model if model is not None else Tagger(dropout=0.0)
    options = {"task": TASK, "batch_size": 8, "dtype": "float32", "progress": False, **options}
    return model, fit(model, splits() if data is None else data, **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- batches ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 9), st.integers(0, 3)
)
@settings(deadline=None, max_examples=60)
def test_batches_hold_every_row_once_and_repeat_exactly(lengths, batch_size, seed, epoch):
    batches = bucketed_batches(lengths, batch_size, seed, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / batch_size)
    assert max(map(len, batches)) <= batch_size
    assert batches == bucketed_batches(lengths, batch_size, seed, epoch)


def test_batches_pad_little_and_stay_shuffled():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 128, (2000,), generator=generator).tolist()

    def share_of_padding(batches):
        cells = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        return 1 - sum(lengths) / cells

    bucketed, plain = bucketed_batches(lengths, 32), bucketed_batches(lengths, 32, bucket=False)
    assert share_of_padding(bucketed) < 0.05 < 0.4 < share_of_padding(plain)
    assert bucketed != bucketed_batches(lengths, 32, epoch=1)
    longest = [max(lengths[i] for i in batch) for batch in bucketed]
    assert longest != sorted(longest)


@given(st.integers(1, 50), st.integers(1, 60))
def test_parts_are_nearly_equal_and_never_empty(rows, parts):
    cut = parts_of(list(range(rows)), parts)
    assert [i for part in cut for i in part] == list(range(rows))
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
    assert min(map(len, cut)) >= 1


def test_raw_rows_are_encoded_and_features_kept():
    rows = texts(5)
    features = encode(rows, TASK, None)
    assert features[0]["input_ids"] == [ord(letter) % 50 for letter in rows[0]["text"]]
    extra = [{**feature, "states": torch.zeros(3)} for feature in features]
    assert encode(extra, TASK, None)[2]["states"] is extra[2]["states"]
    datasets = pytest.importorskip("datasets")
    assert encode(datasets.Dataset.from_list(rows), TASK, None) == features


# --- what it computes ---------------------------------------------------------------------------------------


def test_the_loop_is_the_textbook_step():
    """Against ten lines of plain PyTorch, on units that differ from batch to batch."""
    model, history = run(data={"train": texts(40)}, epochs=2, weight_decay=0.1, warmup=0.2, learning_rate=0.01)
    by_hand = Tagger(dropout=0.0)
    matrices = [by_hand.hidden.weight, by_hand.head.weight]
    vectors = [by_hand.hidden.bias, by_hand.norm.weight, by_hand.norm.bias, by_hand.head.bias]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=0.01
    )
    features, losses = encode(texts(40), TASK, None), []
    lengths = [len(feature["input_ids"]) for feature in features]
    batches = [batch for epoch in range(2) for batch in bucketed_batches(lengths, 8, 0, epoch)]
    for step, rows in enumerate(batches):
        batch = TASK.collate([features[i] for i in rows], None)
        output = by_hand(batch["input_ids"])["logits"].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(output, batch["labels"].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, len(batches), 0.01, 0.2)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert history.loss == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(weights(model), weights(by_hand), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 3, 8, 50])
def test_accumulation_changes_nothing_but_memory(accumulate):
    """Parts hold different numbers of counted tokens: a mean of means would differ by per cents."""
    whole, first = run(epochs=2)
    parts, second = run(epochs=2, accumulate=accumulate)
    assert second.loss == pytest.approx(first.loss, rel=1e-5)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-5)


def test_frozen_parameters_stay_and_get_no_gradient():
    model = Tagger()
    before = model.embedding.weight.clone()
    seen = []
    hook = model.head.register_full_backward_hook(lambda *_: seen.append(model.embedding.weight.grad))
    run(model)
    hook.remove()
    assert seen
    assert set(seen) == {None}
    assert torch.equal(before, model.embedding.weight)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate_at(step, 100, 1.0, warmup=0.1) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001
    assert learning_rate_at(55, 100, 1.0, 0.1, "linear") == pytest.approx(0.5)
    assert learning_rate_at(99, 100, 1.0, 0.1, "constant") == 1.0
    with pytest.raises(CourseError, match="schedule"):
        learning_rate_at(0, 10, 1.0, schedule="step")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_bfloat16_computes_in_bfloat16_and_keeps_weights_in_float32(dtype):
    kinds = set()
    model = Tagger(dropout=0.0)
    model.head.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    _, history = run(model, dtype=dtype)
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    _, exact = run()
    assert history.loss == pytest.approx(exact.loss, rel=0.02)


def test_another_trainer_of_the_process_may_have_asked_for_other_precision():
    """As transformers' Trainer does with bf16=True; accelerate keeps one precision for the whole process."""
    state = accelerate.state.AcceleratorState
    state._reset_state(reset_partial_state=True)
    theirs = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    try:
        _, history = run(max_steps=2)
        assert len(history.loss) == 2
        assert theirs.mixed_precision == "bf16"  # theirs goes on as it was
    finally:
        state._reset_state(reset_partial_state=True)


def test_the_best_weights_come_back_and_patience_ends_the_run():
    model = Tagger(dropout=0.0)
    _, history = run(model, epochs=60, learning_rate=0.3, patience=3, schedule="constant")
    assert history.stopped_early
    assert history.steps < 300
    assert history.steps == history.best_step + 3 * history.steps_per_epoch
    features = encode(splits()["validation"], TASK, None)
    batch = TASK.collate(features, None)
    with torch.no_grad():
        loss, units = TASK.loss(model(batch["input_ids"]), batch)
    assert float(loss / units) == pytest.approx(history.best_validation_loss, rel=1e-5)


def test_a_transformer_trains():
    _, history = run(tiny_bert(), epochs=8, learning_rate=0.01)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert history.steps == 40
    assert history.tokens_per_second > 0
    assert history.peak_memory_mb > 50


def test_max_steps_goes_on_into_further_epochs():
    _, history = run(max_steps=12)
    assert history.steps == 12
    assert history.validation_step == [5, 10, 12]


def test_history_survives_json_and_reads_well():
    _, history = run(epochs=2)
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history
    assert repr(history).startswith("10 steps, 2 epochs, ")
    assert f"(best, step {history.best_step})" in repr(history)


def test_nothing_reaches_stderr_and_one_line_is_left(capfd):
    run(progress=True)
    out, err = capfd.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    assert "tokens/s" in out


# --- what it refuses ----------------------------------------------------------------------------------------


def test_nothing_to_train():
    with pytest.raises(CourseError, match="nothing to train"):
        run(Tagger().requires_grad_(False))


def test_a_loss_without_trainable_parameters():
    class Detached(Tagger):
        def forward(self, input_ids, **others):
            return {"logits": super().forward(input_ids)["logits"].detach()}

    with pytest.raises(CourseError, match="does not depend on any trainable parameter"):
        run(Detached())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "no rows"),
        ({"test": texts(3)}, "no split named 'train'"),
        ({"train": texts(3), "validation": []}, "validation data has no rows"),
        (["a text"], "must be a dict"),
    ],
)
def test_data_that_cannot_be_trained_on(data, sentence):
    with pytest.raises(CourseError, match=sentence):
        run(data=data)


def test_no_task_and_unknown_dtype():
    with pytest.raises(CourseError, match="needs a task"):
        fit(Tagger(), splits())
    with pytest.raises(CourseError, match="float8"):
        run(dtype="float8")
    with pytest.raises(CourseError, match="at least 1"):
        run(batch_size=0)


def test_rows_longer_than_the_position_table():
    with pytest.raises(CourseError, match="12 tokens, but the model's position table ends at 8"):
        run(Tagger(max_position_embeddings=8))


def test_labels_out_of_range():
    features = [{**feature, "labels": [7] * len(feature["labels"])} for feature in encode(texts(8), TASK, None)]
    with pytest.raises(CourseError, match="label is out of range"):
        run(data=features)

    class Choice(Tagging):
        labels = 2

    with pytest.raises(CourseError, match="Row 1 has the label 2"):
        run(data=[{"input_ids": [1], "labels": 0}, {"input_ids": [1], "labels": 2}], task=Choice())


def test_tokens_outside_the_vocabulary():
    with pytest.raises(CourseError, match="outside the model's tables"):
        run(data=[{"input_ids": [99], "labels": [0]}])


# --- what it leaves behind ----------------------------------------------------------------------------------


class Failing(Tagging):
    """Does something to the nth loss."""

    def __init__(self, at, action):
        self.left, self.action = at, action

    def loss(self, output, batch):
        self.left -= 1
        loss, count = super().loss(output, batch)
        return (self.action(loss), count) if self.left == 0 else (loss, count)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_the_last_good_weights(bad):
    model = Tagger(dropout=0.0)
    with pytest.raises(CourseError, match=r"loss of step 4 .* learning rate"):
        run(model, data={"train": texts(40)}, task=Failing(4, lambda loss: loss * bad))
    reference = Tagger(dropout=0.0)
    with pytest.raises(RuntimeError, match="plain"):
        run(reference, data={"train": texts(40)}, task=Failing(4, raise_plainly))
    assert weights(model).isfinite().all()
    assert torch.equal(weights(model), weights(reference))
    assert not model.training


def raise_plainly(loss):
    raise RuntimeError("plain")


def test_a_gradient_that_is_no_number_stops_too():
    model = Tagger(dropout=0.0)
    with pytest.raises(CourseError, match="gradient of step 2"):
        run(model, task=Failing(2, lambda loss: loss + 0 * (loss - loss.detach()).sqrt()))
    assert weights(model).isfinite().all()


def test_nan_after_an_evaluation_leaves_the_best_weights():
    model = Tagger(dropout=0.0)
    with pytest.raises(CourseError, match="step 8"):  # 5 steps, 2 batches of validation, then step 8
        run(model, epochs=3, task=Failing(10, lambda loss: loss * math.nan))
    best, _ = run(Tagger(dropout=0.0), max_steps=15, task=Failing(8, interrupt))
    assert torch.equal(weights(model), weights(best))


def interrupt(loss):
    os.kill(os.getpid(), signal.SIGINT)
    return loss


def test_an_interrupt_leaves_a_usable_model_and_says_how_to_go_on(capsys, tmp_path):
    before = signal.getsignal(signal.SIGINT)  # a process started in the background ignores it
    model = Tagger(dropout=0.0)
    _, history = run(model, data={"train": texts(40)}, task=Dying(3, signal.SIGINT), folder=tmp_path, progress=True)
    assert history.interrupted
    assert history.steps == 3  # the step under way is completed
    assert not model.training
    assert "resume=True" in capsys.readouterr().out
    whole, complete = run(data={"train": texts(40)})
    resumed, rest = run(data={"train": texts(40)}, folder=tmp_path, resume=True)
    assert rest.loss == complete.loss
    assert not rest.interrupted
    assert torch.equal(weights(resumed), weights(whole))
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_after_an_evaluation_leaves_the_best_weights(capsys):
    _, history = run(epochs=3, task=Failing(9, interrupt), progress=True)
    assert history.interrupted
    assert f"best weights, of step {history.best_step}" in capsys.readouterr().out


class SmallMemory(Tagger):
    """Runs out of memory with more than `rows` rows."""

    rows = 8

    def forward(self, input_ids, **others):
        if len(input_ids) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory (a stand-in)")
        return super().forward(input_ids)


def test_out_of_memory_halves_the_parts_and_not_the_batch(capsys):
    model = SmallMemory(dropout=0.0)
    model.rows = 2
    _, history = run(model, epochs=2, progress=True)
    _, complete = run(epochs=2)
    assert history.loss == pytest.approx(complete.loss, rel=1e-5)
    assert history.validation_loss == pytest.approx(complete.validation_loss, rel=1e-5)
    assert len(history.notes) == 2  # 8 -> 4 -> 2 rows
    assert "cut into 4 parts" in capsys.readouterr().out


def test_out_of_memory_with_single_rows_is_a_sentence():
    model = SmallMemory()
    model.rows = 0
    with pytest.raises(CourseError, match="Memory ran out"):
        run(model)


def test_long_work_is_announced_after_three_steps(monkeypatch, capsys):
    now = iter(range(0, 10**6, 30))  # a clock on which every step takes half a minute
    monkeypatch.setattr(history.time, "perf_counter", lambda: next(now))
    progress = history.Progress(total=43, done=0, enabled=True)
    for _ in range(5):
        progress.step(loss=1.0, tokens_per_second=1.0)
    said = capsys.readouterr().out
    assert said.count("About 20 min to go") == 1


def test_short_work_is_not_announced(capsys):
    progress = history.Progress(total=43, done=0, enabled=True)
    for _ in range(5):
        progress.step(loss=1.0, tokens_per_second=1.0)
    assert not capsys.readouterr().out
