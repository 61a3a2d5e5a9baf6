"""Chapter 54: the taggers of the written sentences over five seeds, and how deep an adapter should reach.

Each point trains one tagger on the synthetic sentences and scores it on new templates and on the sixty hand-written
sentences, by entity F1, word by word and over legal sequences of tags only.
"""

from __future__ import annotations

import functools

from course_lib.experiments.registry import Point, experiment

SEEDS = range(5)
METHODS: dict[str, dict] = {  # blocks without an adapter, epochs, learning rate, base
    "probe": {"skip": 6, "epochs": 10, "rate": 5e-3},
    "upper-half": {"skip": 3, "epochs": 6, "rate": 1e-2},
    "all-blocks": {"skip": 0, "epochs": 8, "rate": 5e-3},
    "random-base": {"skip": 3, "epochs": 6, "rate": 1e-2},
    "shuffled-labels": {"skip": 3, "epochs": 6, "rate": 1e-2},
}
GRID: list[Point] = [
    {"layer": layer, "method": method, "seed": seed}
    for layer in ("roles", "entities") for method in METHODS for seed in SEEDS
]  # fmt: skip


@functools.cache
def sentences() -> dict[str, list[dict]]:
    """The written sentences, split by split."""
    import course_lib as cl

    return {split: list(rows) for split, rows in cl.load_data("roles").items()}


def shuffled(rows: list[dict], layer: str, seed: int) -> list[dict]:
    """The rows with the tags of each sentence in a random order."""
    import random

    chance = random.Random(seed)
    return [row | {layer: chance.sample(row[layer], len(row[layer]))} for row in rows]


def train(method: str, layer: str, seed: int):
    """A trained tagger of MiniLM; adapters on the true base begin with the head of a probe of the same seed."""
    import course_lib as cl
    from course_lib.additive import BottleneckAdapter, LinearProbe

    recipe, rows = METHODS[method], sentences()
    tags = tuple(sorted({tag for part in rows.values() for row in part for tag in row[layer]}))
    task, base = cl.tasks.Tagging(tags, label=layer), cl.load_base("minilm")
    learn = shuffled(rows["train"], layer, seed) if method == "shuffled-labels" else rows["train"]
    base = base.randomised(seed=seed) if method == "random-base" else base
    cl.seed(seed)
    if method == "probe":
        tuned = cl.attach(base, LinearProbe(), task=task)
    else:
        tuned = cl.attach(base, BottleneckAdapter(16, skip_layers=recipe["skip"]), task=task)
    if method in ("upper-half", "all-blocks"):
        start = train("probe", layer, seed).additions["default"].head.state_dict()
        tuned.additions["default"].head.load_state_dict(start)
    given = cl.cache_below(tuned, learn) if recipe["skip"] else learn
    cl.fit(
        tuned, given, epochs=recipe["epochs"], batch_size=16, learning_rate=recipe["rate"], seed=seed, progress=False
    )
    return tuned


def legal(scores, tags: tuple[str, ...]) -> list[str]:
    """The best row of tags for scores (words, tags) in which no I continues what is not there (Viterbi)."""
    import numpy as np

    may = np.array([[not b.startswith("I") or a[2:] == b[2:] for b in tags] for a in tags])
    best, back = np.where([not tag.startswith("I") for tag in tags], scores[0], -np.inf), []
    for row in scores[1:]:
        total = np.where(may, best[:, None], -np.inf)
        back.append(total.argmax(0))
        best = total.max(0) + row
    path = [int(best.argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return [tags[number] for number in reversed(path)]


def scores_of(tuned, rows: list[dict]) -> list:
    """Log-probabilities (words, tags) of each row."""
    import torch

    import course_lib as cl

    found, features = [], tuned.task.features(rows, tuned.tokenizer)
    device = next(tuned.model.parameters()).device
    with torch.no_grad():
        for start in range(0, len(features), 32):
            batch = tuned.task.collate(features[start : start + 32], tuned.tokenizer)
            inputs = {name: value.to(device) for name, value in cl.tasks.inputs_of(batch).items()}
            said = tuned(**inputs).logits.log_softmax(-1).cpu()
            found += [row[labels != -100].numpy() for row, labels in zip(said, batch["labels"], strict=True)]
    return found


@experiment(
    "54-taggers",
    about="MiniLM on 450 synthetic sentences: entity F1 of roles and of entities, on new templates and on 60 "
    "hand-written sentences, by method, word by word and over legal sequences.",
    grid=GRID,
    minutes=20,
)
def taggers(layer: str, method: str, seed: int) -> dict[str, float]:
    import course_lib as cl

    f1, tuned, measured = cl.evaluation.METRICS["entity_f1"].value, train(method, layer, seed), {}
    for split, name in (("validation", "templates"), ("test", "written")):
        rows = sentences()[split]
        scores, true, tags = scores_of(tuned, rows), [row[layer] for row in rows], tuned.task.tags
        measured[name] = f1(true, [[tags[i] for i in row.argmax(-1)] for row in scores])
        measured[f"{name}_legal"] = f1(true, [legal(row, tags) for row in scores])
    return measured | {"trained": tuned.budget().trained}
