"""Metrics against hand-computed cases and scikit-learn; intervals against their definitions; outputs on tiny models."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from course_lib import evaluation
from course_lib.evaluation import (
    Measured,
    Predictions,
    bootstrap,
    evaluate,
    holm,
    next_run_interval,
    outputs,
    paired_bootstrap,
    paired_seeds,
    seeds_interval,
)
from course_lib.evaluation.metrics import METRICS
from course_lib.evaluation.tables import Table
from course_lib.runtime import CourseError, Runtime

# Ten rows: 4 hits of class 1, 1 false alarm, 2 missed, 3 hits of class 0.
REFERENCES = [1, 1, 1, 1, 0, 1, 1, 0, 0, 0]
PREDICTIONS = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
BY_HAND = {
    "accuracy": 7 / 10,
    "precision": 4 / 5,
    "recall": 4 / 6,
    "f1": 8 / 11,
    "matthews": (4 * 3 - 1 * 2) / math.sqrt(5 * 6 * 4 * 5),
}
labels = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


def quick(sample, n_boot=200, **options):
    return bootstrap(sample, n_boot, **options)


# --- metrics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_HAND)
def test_metric_equals_the_value_computed_by_hand(name):
    assert quick((name, REFERENCES, PREDICTIONS)).value == pytest.approx(BY_HAND[name])


def test_auc_counts_ordered_pairs_and_half_of_the_ties():
    # class 1 scores .9 .5 .4, class 0 scores .5 .1: pairs in order (.9 over both, .5 over .1, .4 over .1), one tie
    sample = ("roc_auc", [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0.9, 0.5, 0.4, 0.5, 0.1])
    assert quick(sample).value == pytest.approx((4 + 0.5) / 6)


@pytest.mark.parametrize(("classes", "name"), [(c, n) for c in (2, 4) for n in [*BY_HAND, "roc_auc"]])
def test_resampled_values_are_those_of_scikit_learn(classes, name):
    rng = np.random.default_rng(classes)
    references = rng.integers(classes, size=40)
    predictions = np.where(rng.random(40) < 0.6, references, rng.integers(classes, size=40))
    scores = rng.random((40, classes)).round(1) + np.eye(classes)[predictions] / 2
    metric = METRICS[name]
    table = metric.table(references, predictions, scores)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=20)
    found = metric.resampled(weights, table)
    for drawn, value in zip(weights, found):
        rows = np.repeat(np.arange(40), drawn)
        if len(set(references[rows])) == classes:
            by_library = metric.value(references[rows], predictions[rows], scores[rows])
            assert value == pytest.approx(by_library, abs=1e-9)


@pytest.mark.parametrize("average", ["precision", "recall", "f1"])
def test_more_than_two_classes_are_averaged_plainly(average):
    references, predictions = [0, 1, 2, 2, 1, 0], [0, 2, 2, 2, 1, 1]
    by_library = getattr(sklearn_metrics, f"{average}_score")(references, predictions, average="macro")
    assert quick((average, references, predictions)).value == pytest.approx(by_library)


def test_a_class_that_is_never_predicted_has_precision_zero():
    assert quick(("precision", [1, 1, 0], [0, 0, 0])).value == 0


def test_text_metrics_by_hand():
    references, predictions = ["the cat sat", "a dog"], ["the cat lay", "a dog "]
    assert quick(("exact_match", references, predictions)).value == 0.5
    assert quick(("rouge1", references, predictions)).value == pytest.approx((2 / 3 + 1) / 2)
    assert quick(("rougeL", references, predictions)).value == pytest.approx((2 / 3 + 1) / 2)
    assert quick(("bleu", ["the cat sat on the mat"], ["the cat sat on the mat"])).value == pytest.approx(100)
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, none of 3 quadruples (sacrebleu counts one half); equal lengths
    by_hand = 100 * (5 / 6 * 3 / 5 * 1 / 4 * 0.5 / 3) ** (1 / 4)
    assert quick(("bleu", ["the cat sat on the mat"], ["the cat sat at the mat"])).value == pytest.approx(by_hand)
    assert quick(("chrf", ["abc"], ["abc"])).value == pytest.approx(100)


def test_rouge_reads_chinese():
    assert quick(("rouge1", ["房间很干净"], ["房间干净"])).value == pytest.approx(2 * 1 * 0.8 / 1.8)
    assert evaluation.Words().tokenize("GPT-2 很好, naïve") == ["gpt", "2", "很", "好", "naïve"]


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge2", "entity_f1"])
def test_corpus_metrics_of_a_resample_are_the_librarys(name):
    if name == "entity_f1":
        references = [["B-PER", "I-PER", "O"], ["O", "B-LOC", "O"], ["B-PER", "O", "B-LOC"]]
        predictions = [["B-PER", "I-PER", "O"], ["O", "B-PER", "O"], ["B-PER", "B-LOC", "B-LOC"]]
    else:
        references = ["the cat sat on the mat", "a dog barked at me", "we left early that day"]
        predictions = ["the cat sat on a mat", "a dog barked at him", "we left that day early"]
    metric, weights = METRICS[name], np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])
    found = metric.resampled(weights, metric.table(references, predictions))
    for drawn, value in zip(weights, found):
        rows = np.repeat(np.arange(3), drawn)
        again = metric.value([references[i] for i in rows], [predictions[i] for i in rows])
        assert value == pytest.approx(again)


def test_entities_count_when_whole():
    references = [["B-PER", "I-PER", "O", "B-LOC"]]
    predictions = [["B-PER", "O", "O", "B-LOC"]]  # half a name is no name
    assert quick(("entity_precision", references, predictions)).value == 0.5
    assert quick(("entity_recall", references, predictions)).value == 0.5


# --- intervals ----------------------------------------------------------------------------------------------


def test_measured_prints_and_contains():
    measured = Measured(0.8123, 0.797, 0.826, 2000)
    assert str(measured) == "0.812 [0.797, 0.826]"
    assert f"{measured:.1%}" == "81.2% [79.7%, 82.6%]"
    assert 0.8 in measured
    assert 0.79 not in measured
    assert float(measured) == 0.8123
    assert str(Measured(0.5, math.nan, math.nan, 1)) == "0.500 [one run]"


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, size=1000)
    measured = bootstrap(values)
    error = values.std() / math.sqrt(1000)
    assert measured.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert measured.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_two_ways_of_drawing_agree():
    few = bootstrap([0, 1] * 500)
    many = bootstrap(np.tile([0.0, 1.0], 500) + np.linspace(0, 1e-9, 1000))  # a thousand distinct rows
    assert few.low == pytest.approx(many.low, abs=0.004)
    assert few.high == pytest.approx(many.high, abs=0.004)


@given(labels, st.randoms())
@settings(max_examples=40, deadline=None)
def test_accuracy_properties(rows, random):
    references, predictions = map(list, zip(*rows))
    measured = quick(("accuracy", references, predictions))
    assert measured.low - 1e-9 <= measured.value <= measured.high + 1e-9
    random.shuffle(rows)
    assert quick(("accuracy", *map(list, zip(*rows)))) == measured  # the order of rows does not matter
    flipped = quick(("accuracy", references, [1 - p for p in predictions]))
    assert flipped.value == pytest.approx(1 - measured.value)
    assert quick(("accuracy", references, references)) == Measured(1.0, 1.0, 1.0, len(rows))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.floats(-10, 10))
@settings(max_examples=40, deadline=None)
def test_a_mean_lies_in_its_interval_and_moves_with_its_rows(values, shift):
    measured = quick(values)
    assert measured.low - 1e-6 <= measured.value <= measured.high + 1e-6
    assert quick([v + shift for v in values]).value == pytest.approx(measured.value + shift, abs=1e-6)


def test_a_function_is_a_metric_too():
    def half_right(references, predictions):
        return sum(r == p for r, p in zip(references, predictions)) / len(references) / 2

    own, known = quick((half_right, REFERENCES, PREDICTIONS)), quick(("accuracy", REFERENCES, PREDICTIONS), 2000)
    assert own.value == known.value / 2
    assert own.low == pytest.approx(known.low / 2, abs=0.06)


def test_bootstrap_is_quick():
    rng = np.random.default_rng(0)
    references, predictions = rng.integers(2, size=(2, 2000))
    quick(("accuracy", references, predictions))  # scikit-learn is loaded
    start = time.perf_counter()
    bootstrap(("accuracy", references, predictions), 10_000)
    assert time.perf_counter() - start < 0.3


def test_paired_bootstrap_sees_what_unpaired_intervals_hide():
    rng = np.random.default_rng(1)
    a = (rng.random(2000) < 0.8).astype(int)
    b = a.copy()
    b[np.flatnonzero(a)[:40]] = 0  # b fails on 40 rows more, on none less
    assert bootstrap(a).low < bootstrap(b).high
    difference = paired_bootstrap(a, b)
    assert difference.value == pytest.approx(0.02)
    assert difference.low > 0
    assert difference.p < 0.001
    assert paired_bootstrap(b, a).value == -difference.value
    assert paired_bootstrap(a, a).p == 1


def test_paired_bootstrap_of_a_metric():
    worse = [1 - p if i < 3 else p for i, p in enumerate(PREDICTIONS)]
    difference = paired_bootstrap(("f1", REFERENCES, PREDICTIONS), ("f1", REFERENCES, worse), 500)
    assert difference.value == pytest.approx(BY_HAND["f1"] - 2 / 8)  # 1 hit, 1 false alarm, 5 missed
    assert str(difference).endswith(f"p = {difference.p:.3f}")


def test_false_alarms_of_the_paired_bootstrap_are_about_five_in_a_hundred():
    rng = np.random.default_rng(2)
    alarms = [paired_bootstrap(*rng.integers(2, size=(2, 100)), 400).p < 0.05 for _ in range(300)]
    assert 0.02 < np.mean(alarms) < 0.09


def test_intervals_over_seeds_by_hand():
    values = [0.80, 0.82, 0.84]  # mean .82, s = .02; t(.975, 2) = 4.3027
    mean = seeds_interval(values)
    assert mean.value == pytest.approx(0.82)
    assert mean.high - mean.value == pytest.approx(4.3027 * 0.02 / math.sqrt(3), rel=1e-4)
    one_more = next_run_interval(values)
    assert one_more.high - one_more.value == pytest.approx(4.3027 * 0.02 * math.sqrt(4 / 3), rel=1e-4)


def test_paired_seeds_is_the_paired_t_test():
    a, b = [0.81, 0.83, 0.80, 0.84, 0.82], [0.79, 0.80, 0.80, 0.81, 0.80]  # differences .02 .03 0 .03 .02
    difference = paired_seeds(a, b)
    assert difference.value == pytest.approx(0.02)
    assert difference.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    half = 2.7764 * np.std([0.02, 0.03, 0, 0.03, 0.02], ddof=1) / math.sqrt(5)  # t(.975, 4) = 2.7764
    assert difference.high == pytest.approx(0.02 + half, rel=1e-4)
    assert paired_seeds(a, a).p == 1


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, len(p_values) * p) + 1e-12 for p, a in zip(p_values, adjusted))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(p_values)) for j in range(len(p_values))
               if p_values[i] < p_values[j])  # fmt: skip


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: bootstrap([]), "at least one row, but the dataset is empty"),
        (lambda: bootstrap(("accuracy", [], [])), "at least one row, but the dataset is empty"),
        (lambda: bootstrap(("accuracy", [1, 0], [1])), "1 predictions and 2 references"),
        (lambda: bootstrap(("acuracy", [1], [1])), "Did you mean 'accuracy'"),
        (lambda: bootstrap(("roc_auc", [1, 1], [1, 1], [0.2, 0.3])), "every reference is 1"),
        (lambda: bootstrap(("roc_auc", [1, 0], [1, 0])), "only predicted labels were given"),
        (lambda: bootstrap(("roc_auc", [1, 0] * 5, [1, 0] * 5, [1, 0] * 5)), "look like predicted labels"),
        (lambda: bootstrap(("roc_auc", [1, 0], [1, 0], [math.nan, 0])), "finite scores"),
        (lambda: bootstrap(("entity_f1", [["O", "O"]], [["O"]])), "row 0 has 2 true and 1 predicted tags"),
        (lambda: bootstrap([1, 0], level=95), "between 0 and 1"),
        (lambda: paired_bootstrap([1, 0], [1]), "a has 2 and b has 1"),
        (lambda: paired_bootstrap(("f1", [1, 0], [1, 0]), ("f1", [0, 1], [1, 0])), "references of a and b differ"),
        (lambda: seeds_interval([0.8]), "One seed proves nothing"),
        (lambda: paired_seeds([1, 2], [1]), "a has 2 and b has 1"),
        (lambda: holm([1.2]), "between 0 and 1"),
        (lambda: evaluate(torch.nn.Linear(1, 1), []), "This model has no task"),
    ],
)
def test_errors_are_sentences(act, sentence):
    with pytest.raises(CourseError, match=sentence):
        act()


# --- outputs ------------------------------------------------------------------------------------------------


class Parity:
    """Is the sum of the tokens odd? The made-up task of these tests."""

    metrics = ("accuracy", "roc_auc")

    def collate(self, features, tokenizer):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(f["input_ids"]) for f in features], batch_first=True)
        return {"input_ids": ids, "labels": torch.tensor([f["labels"] for f in features])}

    def predictions(self, output, batch):
        return output.logits.argmax(-1).tolist()

    def references(self, batch):
        return batch["labels"].tolist()

    def scores(self, output, batch):
        return output.logits


class SumModel(torch.nn.Module):
    """Scores (-s, s), s the sum of the tokens; padding adds zero. Dropout would show if it were left on."""

    def __init__(self):
        super().__init__()
        self.task, self.tokenizer = Parity(), None
        self.dropout, self.classifier = torch.nn.Dropout(0.9), torch.nn.Linear(1, 2, bias=False)
        self.classifier.weight.data = torch.tensor([[-1.0], [1.0]])
        self.seen, self.dtypes = [], []

    def forward(self, input_ids):
        self.seen.append(tuple(input_ids.shape))
        logits = self.classifier(self.dropout(input_ids.sum(1, keepdim=True).float()))
        self.dtypes.append(logits.dtype)
        return SimpleNamespace(logits=logits)


def rows(n=50):
    rng = np.random.default_rng(0)
    lists = [rng.integers(-3, 4, size=rng.integers(1, 9)).tolist() for _ in range(n)]
    return [{"input_ids": ids, "labels": sum(ids) % 2} for ids in lists]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_outputs_come_in_the_datasets_order(batch_size):
    model, data = SumModel().train(), rows()
    found = outputs(model, data, batch_size=batch_size, progress=False)
    sums = [sum(row["input_ids"]) for row in data]
    assert found.references == [row["labels"] for row in data]
    assert found.scores[:, 1].tolist() == sums  # no dropout
    assert found.predictions == [int(s > 0) for s in sums]
    assert found.ties == sums.count(0)
    lengths = [length for _, length in model.seen]
    assert lengths == sorted(lengths, reverse=True)
    assert model.training
    assert model.dropout.training


def test_outputs_keep_no_gradients_and_restore_mixed_modes():
    model = SumModel().train()
    model.dropout.eval()
    outputs(model, rows(3), progress=False)
    assert not model.dropout.training
    assert model.training
    assert model.classifier.weight.grad is None


def test_the_head_runs_in_float32_where_the_rest_runs_in_bfloat16(monkeypatch):
    from course_lib.evaluation import predict

    here = Runtime("cpu", torch.bfloat16, 1, "laptop", False)
    monkeypatch.setattr(predict, "where", lambda: here)
    model = SumModel()
    data = [{"input_ids": [1000, i], "labels": 1} for i in range(4)]  # bfloat16 cannot tell 1001 from 1002
    found = outputs(model, data, progress=False)
    assert set(model.dtypes) == {torch.float32}
    assert found.scores[:, 1].tolist() == [1000, 1001, 1002, 1003]
    assert "forward" not in vars(model.classifier)


def test_only_the_scores_asked_for_are_kept(monkeypatch):
    from course_lib.evaluation import predict

    monkeypatch.setattr(predict, "MANY", 1)
    assert outputs(SumModel(), rows(5), progress=False).scores is None
    assert outputs(SumModel(), rows(5), classes=[1], progress=False).scores.shape == (5, 1)


def test_evaluate_uses_the_tasks_metrics_and_shows_a_table():
    data = rows()
    scores = evaluate(SumModel(), data, n_boot=100, progress=False)
    assert list(scores) == ["accuracy", "roc_auc"]
    assert scores["accuracy"].value == np.mean([(sum(r["input_ids"]) > 0) == r["labels"] for r in data])
    assert "accuracy" in repr(scores)
    assert "50 rows" in repr(scores)
    assert "tie" in repr(scores)
    assert scores._repr_html_().startswith("<table")
    predictions = Predictions([1, 0], [1, 1])
    assert evaluate(predictions, metrics="accuracy", n_boot=10)["accuracy"].value == 0.5


def test_evaluate_says_that_a_dataset_is_empty():
    with pytest.raises(CourseError, match="has no rows"):
        evaluate(SumModel(), [], progress=False)


def test_a_misspelt_metric_is_found_before_the_model_runs():
    model = SumModel()
    with pytest.raises(CourseError, match="Did you mean"):
        evaluate(model, rows(), metrics=["acuracy"])
    assert model.seen == []


def test_a_table_aligns_numbers_and_chinese():
    table = Table(("name", "n"), [("准确率", "1,234"), ("F1", "7")])
    assert str(table).splitlines() == ["name        n", "------  -----", "准确率  1,234", "F1          7"]
    assert "text-align: right" in table._repr_html_()
    assert "&lt;b&gt;" in Table(("x",), [("<b>",)])._repr_html_()


# --- costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_operations_count_what_attention_multiplies(masked):
    """2 m n k for each product: scores, values, and in the backward pass the scores again and four more."""
    q, k = (torch.randn(2, 3, tokens, 8, requires_grad=True) for tokens in (5, 7))
    mask = torch.ones(5, 7, dtype=torch.bool) if masked else None
    one = 2 * 2 * 3 * 5 * 7 * 8

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask)

    with torch.no_grad():
        assert evaluation.operations(attend) == 2 * one
    assert evaluation.operations(lambda: attend().sum().backward()) == 7 * one


def test_operations_of_fused_and_written_out_attention_agree():
    model = transformers.BertModel(transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )).eval()  # fmt: skip
    ids = torch.arange(24).view(2, 12)
    counts = []
    for way in ("sdpa", "eager"):
        model.set_attn_implementation(way)
        with torch.no_grad():
            counts.append(evaluation.operations(lambda: model(ids)))
    assert counts[0] == counts[1] > 0
