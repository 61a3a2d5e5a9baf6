"""From a model and a dataset to predictions, and from predictions to metrics with intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from course_lib.evaluation.intervals import Measured, bootstrap
from course_lib.evaluation.metrics import metric_named
from course_lib.evaluation.tables import Table
from course_lib.runtime import CourseError, where

if TYPE_CHECKING:
    import torch

HEADS = ("head", "lm_head", "classifier", "score", "classification_head", "qa_outputs")  # ours, and transformers'
MANY = 1000  # scores of more classes than this (a whole vocabulary) are kept only for those asked for


@dataclass(frozen=True, repr=False)
class Predictions:
    """What a model said about each row of a dataset, in the dataset's order."""

    predictions: list
    references: list
    scores: np.ndarray | None = None  # (rows, classes) in float32, where the task has classes
    ties: int = 0  # rows whose two highest scores are equal: the lower class is predicted, by accident

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        return f"Predictions of {len(self):,} rows" + (f", {self.ties:,} of them ties" if self.ties else "")

    def sample(self, metric: str) -> tuple:
        """The tuple that `bootstrap` and `paired_bootstrap` take."""
        return (metric, self.references, self.predictions, self.scores)


class Scores(dict):
    """Metric name -> Measured, shown as a table."""

    def __init__(self, measured: dict[str, Measured], rows: int, ties: int = 0):
        super().__init__(measured)
        self.rows, self.ties = rows, ties

    def table(self) -> Table:
        """The metrics with their values and intervals over the rows."""
        lines = []
        for name, measured in self.items():
            digits = ".1f" if name in ("bleu", "bleu_zh", "chrf") else ".3f"  # percentages by custom
            value, _, interval = format(measured, digits).partition(" ")
            lines.append((name, value, interval))
        note = f"{self.rows:,} rows; 95 % bootstrap intervals over rows"
        if self.ties:
            note += f"; {self.ties:,} rows tie for the highest score and go to the lower class"
        return Table(("metric", "value", "interval"), lines, note)

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def outputs(
    model: torch.nn.Module,
    dataset: Any,
    task: Any = None,
    batch_size: int = 64,
    *,
    tokenizer: Any = None,
    classes: Sequence[int] | None = None,
    progress: bool = True,
) -> Predictions:
    """Run `model` over every row of `dataset`, without gradients and without dropout.

    Rows of similar length share a batch, longest first (so too little memory shows at once); the order of the dataset
    is restored. Matrix products run in the number format of `runtime.where()`, but the head in float32: bfloat16
    keeps eight bits, so close classes tie and an argmax picks the first of them. Afterwards every module is in
    the mode, training or not, that it was in before. `task` and `tokenizer` default to the model's own; `classes`
    are the columns of the scores to keep (default: all, but none of more than a thousand).
    """
    import torch
    from tqdm.auto import tqdm

    from course_lib.tasks import inputs_of
    from course_lib.training.batches import encode, length_of

    task, tokenizer = _defaults(model, task, tokenizer)
    features = encode(dataset, task, tokenizer, part="evaluation")
    order = sorted(range(len(features)), key=lambda i: -length_of(features[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))

    predictions, references, scores, ties = [], [], [], 0
    bar = tqdm(total=len(features), desc="evaluating", unit="row", delay=2, leave=False, disable=not progress)
    with bar, torch.no_grad(), _evaluation_mode(model), _autocast(model, device):
        for rows in batches:
            chosen = [features[i] for i in rows]
            if hasattr(task, "generate"):  # a text is written token after token, not read off one call
                predictions += task.generate(model, chosen, tokenizer, batch_size=len(chosen))
                references += [feature["reference"] for feature in chosen]
                bar.update(len(rows))
                continue
            batch = task.collate(chosen, tokenizer)
            batch = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
            output = model(**inputs_of(batch))
            predictions += list(task.predictions(output, batch))
            references += list(task.references(batch))
            if hasattr(task, "scores"):
                found = task.scores(output, batch).float()  # (B, C)
                ties += _ties(found)
                if classes is not None:
                    found = found[:, list(classes)]
                if found.shape[1] <= MANY:
                    scores.append(found.cpu().numpy())
            bar.update(len(rows))
    if not len(predictions) == len(references) == len(order):
        raise CourseError(
            f"The task gave {len(predictions)} predictions and {len(references)} references for {len(order)} rows. "
            "Its predictions() and references() must return one entry a row."
        )
    back = np.argsort(order)
    in_order = np.concatenate(scores)[back] if scores else None
    return Predictions([predictions[i] for i in back], [references[i] for i in back], in_order, ties)


def evaluate(
    model: torch.nn.Module | Predictions,
    dataset: Any = None,
    metrics: Sequence[str] | None = None,
    *,
    task: Any = None,
    tokenizer: Any = None,
    batch_size: int = 64,
    n_boot: int = 10_000,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """Metrics of `model` on `dataset`, each with its bootstrap interval over the rows.

        cl.evaluate(tuned, reviews["test"])
        cl.evaluate(predictions, metrics=["accuracy", "roc_auc"])     # from `outputs`, without running the model again

    `metrics` defaults to the task's own; `course_lib.evaluation.METRICS` lists all of them.
    """
    if isinstance(model, Predictions):
        metrics = metrics or ("accuracy",)
        found = model
    else:
        task, tokenizer = _defaults(model, task, tokenizer)
        metrics = metrics or getattr(task, "metrics", ("accuracy",))
    metrics = [metrics] if isinstance(metrics, str) else metrics
    for name in metrics:
        metric_named(name)  # a misspelt name is found before the model runs
    if not isinstance(model, Predictions):
        found = outputs(model, dataset, task, batch_size, tokenizer=tokenizer, progress=progress)
    measured = {name: bootstrap(found.sample(name), n_boot, seed) for name in metrics}
    return Scores(measured, len(found), found.ties)


def _ties(scores: torch.Tensor) -> int:
    """Rows of (B, C) scores whose two highest are equal."""
    top = scores.topk(2, dim=1).values
    return int((top[:, 0] == top[:, 1]).sum())


def _defaults(model: Any, task: Any, tokenizer: Any) -> tuple[Any, Any]:
    task = task if task is not None else getattr(model, "task", None)
    if task is None:
        raise CourseError(
            "This model has no task, so it is not known what its outputs mean. Give one: "
            "evaluate(model, dataset, task=cl.tasks.Classification(2))."
        )
    return task, tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)


@contextlib.contextmanager
def _evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards each in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _autocast(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Matrix products in the fast number format, those of the output head in float32."""
    import torch

    dtype = where().dtype
    if dtype == torch.float32:
        yield
        return
    heads = [module for name, module in model.named_modules() if name.rpartition(".")[2] in HEADS]
    heads = [head for head in heads if all(tensor.dtype == torch.float32 for tensor in head.parameters())]
    own = [vars(head).get("forward") for head in heads]  # set on the module itself, as accelerate does, or None
    try:
        for head in heads:
            head.forward = _in_float32(head.forward, device)
        with torch.autocast(device.type, dtype=dtype):
            yield
    finally:
        for head, forward in zip(heads, own):
            if forward is None:
                del head.forward
            else:
                head.forward = forward


def _in_float32(forward: Any, device: torch.device) -> Any:
    import torch

    def run(*inputs, **options):
        inputs = [x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs]
        with torch.autocast(device.type, enabled=False):
            return forward(*inputs, **options)

    return run
