"""Chapter 51: how much of an article a topic needs, what holds overfitting back, a Chinese classifier from characters.

Learning rates were chosen by a few runs on validation rows with a seed that is not among those reported.
"""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

from course_lib.experiments.registry import experiment

if TYPE_CHECKING:
    import numpy as np

    from course_lib.additive import Tuned
    from course_lib.bases import Base

SEEDS = range(5)

# --- topics ----------------------------------------------------------------------------------------------------------

READ = {"title": 0, "30 words": 30, "150 words": 150}  # the title, and so many words of the article behind it


@functools.cache
def articles(split: str, words: int) -> list[dict]:
    """News with a topic and a title: the title and the first words of the article."""
    from course_lib.corpora import load_data

    rows = (row for row in load_data("news")[split] if row["topic"] >= 0 and row["title"])
    return [{"text": " ".join([row["title"], *row["text"].split()[:words]]), "label": row["topic"]} for row in rows]


@experiment(
    "51-topics",
    about="Topics of news articles from the title alone or with the article's first words: TF-IDF of words, a probe on "
    "MiniLM, adapters in its top two blocks: accuracy and macro F1 on the test articles.",
    grid=[
        {"model": model, "read": read, "seed": seed}
        for read in READ for model, seeds in (("TF-IDF", 1), ("probe", 1), ("adapters", 3)) for seed in range(seeds)
    ],
    minutes=12,
)  # fmt: skip
def topics(model: str, read: str, seed: int, train_rows: int | None = None) -> dict[str, float]:
    """TF-IDF and the probe have no chance in them: one seed is all there is."""
    import course_lib as cl
    from course_lib.evaluation import METRICS

    train, test = articles("train", READ[read])[:train_rows], articles("test", READ[read])
    if model == "adapters":
        cl.seed(seed)
        task = cl.tasks.Classification(7, max_length=256)
        tuned = cl.attach(cl.load_base("minilm"), cl.additive.BottleneckAdapter(64, skip_layers=4), task=task)
        cl.fit(tuned, cl.cache_below(tuned, train), epochs=4, batch_size=16, learning_rate=3e-3, seed=seed,
               progress=False)  # fmt: skip
        said = cl.evaluation.outputs(tuned, test, progress=False).predictions
    else:
        said = predicted(model, train, test)
    truth = [row["label"] for row in test]
    return {name: METRICS[name].value(truth, said) for name in ("accuracy", "f1")}


def predicted(model: str, train: list[dict], test: list[dict]) -> list[int]:
    """What logistic regression says on TF-IDF of words and word pairs, or on the mean of MiniLM's last states."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = [[row["text"] for row in rows] for rows in (train, test)]
    if model == "TF-IDF":
        vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit(texts[0])
        x, y = (vectors.transform(part) for part in texts)
    else:
        x, y = map(mean_states, texts)
    strength = 10 if model == "TF-IDF" else 1
    learnt = LogisticRegression(C=strength, max_iter=2000).fit(x, [row["label"] for row in train])
    return learnt.predict(y).tolist()


def mean_states(texts: list[str]) -> np.ndarray:
    """The mean of MiniLM's last states over each text's tokens, (N, d)."""
    import numpy as np

    import course_lib as cl

    task = cl.tasks.Classification(2, max_length=256)
    probe = cl.attach(cl.load_base("minilm"), cl.additive.LinearProbe(), task=task)
    rows = cl.cache_below(probe, [{"text": text, "label": 0} for text in texts])
    return np.stack([row["states"].mean(0).numpy() for row in rows])


# --- overfitting -----------------------------------------------------------------------------------------------------

ROWS, WORDS, EPOCHS, RATE = 64, 15, 20, 3e-3
CONTROLS = {  # name -> how strong: the share dropped, the decay a step (times the rate), the share of words left out
    "none": (0.0,), "dropout": (0.2, 0.5), "weight decay": (0.3, 3.0), "early stopping": (0.0,),
    "augmentation": (0.1, 0.3), "all four": (0.0,),
}  # fmt: skip
COPIES = 5  # of each row, with other words left out


def thinned(text: str, share: float, rng: random.Random) -> str:
    """The text without a random share of its words; never empty."""
    words = text.split()
    return " ".join([word for word in words if rng.random() >= share] or words[:1])


def with_dropout(tuned: Tuned, share: float) -> Tuned:
    """Drop a share of what each adapter adds and of what the head reads, in training only."""
    from torch.nn import functional as F

    addition = tuned.additions["default"]
    for _site, part in addition.at("stream"):
        part.register_forward_hook(lambda module, inputs, delta: F.dropout(delta, share, module.training))
    addition.head.register_forward_pre_hook(lambda module, x: (F.dropout(x[0], share, module.training),))
    return tuned


@functools.cache
def adapted(seed: int) -> Tuned:
    """MiniLM with fresh adapters in its top two blocks."""
    import course_lib as cl

    cl.seed(seed)
    method = cl.additive.BottleneckAdapter(64, skip_layers=4)
    return cl.attach(cl.load_base("minilm"), method, task=cl.tasks.Classification(2))


@functools.cache
def held_out(split: str, count: int) -> list[dict]:
    """Short reviews of a split with the states under the adapters."""
    import course_lib as cl

    return cl.cache_below(adapted(0), short(split)[:count])


@functools.cache
def short(split: str) -> list[dict]:
    from course_lib.corpora import load_data

    return [row for row in load_data("movie-reviews")[split] if len(row["text"].split()) <= WORDS]


@experiment(
    "51-overfitting",
    about="Adapters on 64 short reviews for 20 epochs, with one control of overfitting at a time: test accuracy, "
    "cross-entropy and calibration error, and the same on validation.",
    grid=[
        {"control": control, "strength": strength, "seed": seed}
        for seed in SEEDS for control, strengths in CONTROLS.items() for strength in strengths
    ],
    minutes=8,
)  # fmt: skip
def overfitting(control: str, strength: float, seed: int, rows: int = ROWS, test_rows: int = 400) -> dict[str, float]:
    """A control at a strength; `all four` takes the first strength of each."""
    import course_lib as cl

    adapted.cache_clear()
    tuned, every = adapted(seed), control == "all four"
    rng = random.Random(seed)
    drawn = rng.sample(short("train"), rows)
    if every or control == "augmentation":
        share = CONTROLS["augmentation"][0] if every else strength
        more = [{**row, "text": thinned(row["text"], share, rng)} for _ in range(COPIES - 1) for row in drawn]
        train, epochs = cl.cache_below(tuned, [*drawn, *more]), EPOCHS // COPIES  # as many steps as without
    else:
        train, epochs = cl.cache_below(tuned, drawn), EPOCHS
    if every or control == "dropout":
        with_dropout(tuned, CONTROLS["dropout"][0] if every else strength)
    decay = (CONTROLS["weight decay"][0] if every else strength) if every or control == "weight decay" else 0.0
    data = {"train": train}
    if every or control == "early stopping":
        data["validation"] = held_out("validation", 100)
    cl.seed(seed)
    history = cl.fit(
        tuned, data, epochs=epochs, batch_size=16, learning_rate=RATE, weight_decay=decay, seed=seed, progress=False,
        evaluate_every=ROWS // 16,
    )  # fmt: skip
    measured = {"train_loss": sum(history.loss[-8:]) / 8, "best_step": history.best_step or history.steps}
    for split, count in (("validation", 100), ("test", test_rows)):
        measured |= {f"{split}_{name}": value for name, value in scored(tuned, held_out(split, count)).items()}
    return measured


def scored(tuned: Tuned, rows: list[dict]) -> dict[str, float]:
    """Accuracy, cross-entropy and calibration error."""
    import numpy as np

    from course_lib.evaluation import calibration_error, outputs

    found = outputs(tuned, rows, progress=False)
    truth = np.array(found.references)
    right = np.array(found.predictions) == truth
    of_truth = found.scores[np.arange(len(truth)), truth]
    return {
        "accuracy": float(right.mean()),
        "cross_entropy": float(-np.log(np.maximum(of_truth, 1e-12)).mean()),
        "calibration_error": calibration_error(right.astype(int), found.scores.max(1).astype(float).clip(0, 1)),
    }


# --- Chinese ---------------------------------------------------------------------------------------------------------

LENGTH = 64  # characters that are read of a review, by every model
ENCODER = {"context": LENGTH, "width": 128, "layers": 3, "heads": 4}
MODELS = {  # name -> (pretrained on the reviews without labels?, method, learning rate)
    "from scratch": (False, "full", 1e-3),
    "pretrained, all weights": (True, "full", 1e-3),
    "pretrained, adapters": (True, "adapters", 3e-3),
    "pretrained, head only": (True, "probe", 5e-3),
    "random, adapters": (False, "adapters", 3e-3),
}
CHINESE_ROWS = (500, 4000)
CHINESE_STEPS = {500: 150, 4000: 500}  # of 32 rows
PRETRAINING_STEPS = 1800


@functools.cache
def reviews_zh(split: str) -> list[dict]:
    from course_lib.corpora import load_data

    return [{"text": row["text"][: LENGTH - 1], "label": row["label"]} for row in load_data("shop-reviews-zh")[split]]


@functools.cache
def chinese(pretrained: bool, seed: int, steps: int = PRETRAINING_STEPS) -> Base:
    """The course's encoder of characters: drawn, or after guessing hidden characters of the training reviews."""
    import course_lib as cl
    from course_lib.bases import Base
    from course_lib.experiments.chapter_33 import asked_only

    texts = [row["text"] for row in reviews_zh("train")]
    tokenizer = cl.language_models.Characters(texts)
    cl.seed(seed)
    encoder = cl.language_models.Encoder(vocabulary=len(tokenizer), **ENCODER)
    if pretrained:
        trained, asked = asked_only(encoder)
        rows = [{"input_ids": ids} for ids in tokenizer(texts)["input_ids"]]
        cl.fit(
            trained, rows, task=asked, tokenizer=tokenizer, max_steps=steps, batch_size=32, learning_rate=2e-3,
            weight_decay=0.1, dtype="float32", seed=seed, progress=False,
        )  # fmt: skip
    return Base("characters", encoder.eval(), tokenizer)


def counted(rows: list[dict], test: list[dict]) -> float:
    """The baseline: TF-IDF of characters and pairs of them, and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    model.fit([row["text"] for row in rows], [row["label"] for row in rows])
    return float(model.score([row["text"] for row in test], [row["label"] for row in test]))


@experiment(
    "51-chinese",
    about="Chinese shop reviews: TF-IDF of characters against the course's encoder of characters, trained from "
    "scratch, or pretrained on the same reviews and then tuned in three ways: accuracy on 1,000 test reviews.",
    grid=[
        {"model": model, "rows": rows, "seed": seed}
        for seed in range(3) for rows in CHINESE_ROWS for model in ("TF-IDF", *MODELS)
    ],
    minutes=25,
)  # fmt: skip
def chinese_reviews(model: str, rows: int, seed: int, test_rows: int = 1000, steps: int | None = None) -> dict:
    """`rows` training reviews drawn by the seed, the same for every model."""
    import course_lib as cl

    train, test = random.Random(seed).sample(reviews_zh("train"), rows), reviews_zh("test")[:test_rows]
    if model == "TF-IDF":
        return {"accuracy": counted(train, test)}
    pretrained, method, rate = MODELS[model]
    base = chinese(pretrained, 0)  # one pretraining for all seeds; it never sees a label
    if not pretrained:
        base = chinese(False, seed)
    kinds = {
        "full": cl.additive.FullFineTuning(), "probe": cl.additive.LinearProbe(),
        "adapters": cl.additive.BottleneckAdapter(16),
    }  # fmt: skip
    cl.seed(seed)
    tuned = cl.attach(base, kinds[method], task=cl.tasks.Classification(2, max_length=LENGTH))
    cl.fit(
        tuned, train, max_steps=steps or CHINESE_STEPS[rows], batch_size=32, learning_rate=rate, seed=seed,
        progress=False,
    )
    scores = cl.evaluate(cl.evaluation.outputs(tuned, test, progress=False))
    return {"accuracy": scores["accuracy"].value, "trained": tuned.budget().trained}
