"""Chapter 00: what SmolLM2 says about a review, before and after nine trained vectors."""

from __future__ import annotations

import random

from course_lib.experiments.registry import experiment

SEEDS = range(5)
REVIEWS, TEST = 400, 300
WORDS = 25  # reviews of at most so many words
LEARNING_RATE, BATCH = 0.03, 16


@experiment(
    "00-soft-prompt",
    about="SmolLM2, nine soft-prompt vectors, 400 short movie reviews once: right answers among 300 held-out reviews.",
    grid=[{"method": method, "seed": seed} for method in ("trained", "shuffled-labels") for seed in SEEDS],
    minutes=30,
)
def soft_prompt(method: str, seed: int) -> dict[str, float]:
    """`says`: the likeliest token of the whole vocabulary is the right word; `two_way`: the likelier of the two words
    is; each for the untouched base, the prompt before training, and the prompt after it."""
    import course_lib as cl

    base, reviews, task = cl.load_base("smollm2"), cl.load_data("movie-reviews"), cl.tasks.Answer()
    train, test = (
        list(cl.corpora.short(reviews[split], WORDS, rows, least=5))
        for split, rows in (("train", REVIEWS), ("test", TEST))
    )
    if method == "shuffled-labels":
        labels = [row["label"] for row in train]
        random.Random(seed).shuffle(labels)
        train = [{**row, "label": label} for row, label in zip(train, labels)]
    cl.seed(seed)
    tuned = cl.attach(base, cl.additive.PromptTuning(length=9), task=task)
    found = {}
    with tuned.disabled():
        found |= _score(tuned, test, "untouched")
    found |= _score(tuned, test, "untrained")
    history = cl.fit(tuned, train, batch_size=BATCH, learning_rate=LEARNING_RATE, seed=seed, progress=False)
    found |= _score(tuned, test, "trained")
    return {**found, "numbers": tuned.budget().trained, "seconds": history.seconds}


def _score(tuned, rows: list[dict], name: str) -> dict[str, float]:
    from course_lib.evaluation import outputs

    words = tuned.task.word_ids(tuned.tokenizer)
    said = outputs(tuned, rows, classes=words, progress=False)
    likelier = [words[i] for i in said.scores.argmax(1)]
    right = [a == b for a, b in zip(said.predictions, said.references)]
    two_way = [a == b for a, b in zip(likelier, said.references)]
    return {f"says_{name}": sum(right) / len(right), f"two_way_{name}": sum(two_way) / len(two_way)}
