"""Chapter 41: three ways to use a frozen or unfrozen encoder on the same reviews, with their controls."""

from __future__ import annotations

import random

from course_lib.experiments.registry import experiment

SEEDS = range(5)
SWEEP_SEED = 100  # not among the five
SWEEP = {  # learning rates tried on the validation split
    "adapter": (1e-3, 2e-3, 4e-3, 8e-3),
    "full": (5e-5, 1e-4, 2e-4, 4e-4),
    "probe": (1e-3, 3e-3, 1e-2, 3e-2),
}
# The smallest rate within one standard error (.012) of the best on the validation split: the one-standard-error rule.
CHOSEN = {"adapter": 1e-3, "full": 1e-4, "probe": 1e-2}
ALL = 0  # rows=0 stands for the whole training split
EPOCHS = {"probe": 10}  # two for the others; on cached states ten of the probe's cost less than one of theirs


def tune(
    method: str, rows: int, seed: int, learning_rate: float, split: str, batch_size: int = 32
) -> dict[str, float]:
    """Train on the first `rows` training reviews and score the given split."""
    import course_lib as cl

    methods = {
        "probe": cl.additive.LinearProbe(), "adapter": cl.additive.ParallelAdapter(bottleneck=16),
        "full": cl.additive.FullFineTuning(), "random-base": cl.additive.ParallelAdapter(bottleneck=16),
        "shuffled-labels": cl.additive.ParallelAdapter(bottleneck=16),
    }
    base, reviews = cl.load_base("minilm"), cl.load_data("movie-reviews")
    train = list(reviews["train"].select(range(rows)) if rows else reviews["train"])
    if method == "random-base":
        base = base.randomised(seed)
    if method == "shuffled-labels":
        labels = [row["label"] for row in train]
        random.Random(seed).shuffle(labels)
        train = [{**row, "label": label} for row, label in zip(train, labels)]
    cl.seed(seed)
    tuned = cl.attach(base, methods[method], task=cl.tasks.Classification(2))
    data = cl.cache_below(tuned, train) if method == "probe" else train
    history = cl.fit(
        tuned, data, epochs=EPOCHS.get(method, 2), batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        progress=False,
    )
    scores = cl.evaluate(tuned, reviews[split], metrics=["accuracy", "f1"], progress=False)
    return {
        "accuracy": scores["accuracy"].value, "f1": scores["f1"].value, "trained": tuned.budget().trained,
        "seconds": history.seconds,
    }


@experiment(
    "41-learning-rates",
    about="MiniLM on 2,000 movie reviews, two epochs (probe ten): validation accuracy by learning rate.",
    grid=[
        {"method": method, "learning_rate": rate, "seed": SWEEP_SEED}
        for method, rates in SWEEP.items() for rate in rates
    ],
    minutes=8,
)
def learning_rates(method: str, learning_rate: float, seed: int) -> dict[str, float]:
    return tune(method, 2000, seed, learning_rate, "validation")


@experiment(
    "41-three-ways",
    about="MiniLM on movie reviews, test split: probe (ten epochs), parallel adapter (r = 16), full fine-tuning (two).",
    grid=[
        *({"method": m, "rows": rows, "seed": seed} for rows in (2000, 256) for m in CHOSEN for seed in SEEDS),
        *({"method": m, "rows": 2000, "seed": seed} for m in ("random-base", "shuffled-labels") for seed in SEEDS),
        *({"method": m, "rows": ALL, "seed": seed} for m in CHOSEN for seed in SEEDS),
    ],
    minutes=45,
)
def three_ways(method: str, rows: int, seed: int) -> dict[str, float]:
    return tune(method, rows, seed, CHOSEN.get(method, CHOSEN["adapter"]), "test")


BEST = {"adapter": 4e-3, "full": 2e-4, "probe": 3e-2}  # the sweep's best, whatever its margin


@experiment(
    "41-best-rates",
    about="As 41-three-ways at 2,000 rows, with the best learning rate of the sweep, not the smallest near it.",
    grid=[{"method": method, "rows": 2000, "seed": seed} for method in BEST for seed in SEEDS],
    minutes=25,
)
def best_rates(method: str, rows: int, seed: int) -> dict[str, float]:
    return tune(method, rows, seed, BEST[method], "test")


SMALL = (1e-3, 2e-3, 4e-3)  # learning rates of the adapter with batches of 16
SWEEP_SEEDS = (100, 101, 102)
SMALL_BEST = 1e-3  # the best mean of the sweep


@experiment(
    "41-small-batches",
    about="The adapter of 41-three-ways with batches of 16, 2,000 rows: a sweep on validation, then the best on test.",
    grid=[
        *({"learning_rate": rate, "split": "validation", "seed": seed} for rate in SMALL for seed in SWEEP_SEEDS),
        *({"learning_rate": SMALL_BEST, "split": "test", "seed": seed} for seed in SEEDS),
    ],
    minutes=15,
)
def small_batches(learning_rate: float, split: str, seed: int) -> dict[str, float]:
    return tune("adapter", 2000, seed, learning_rate, split, batch_size=16)
