"""Chapter 46: every method on the same reviews with the same steps, and some on translation, with what each costs.

Fair means here: the same rows, order and number of steps for every method; four learning rates tried for each, chosen
on validation reviews by a seed that is not among the five; and the test reviews looked at once. A seed draws the rows,
their order and the initial numbers, the same rows for every method, so methods can be compared in pairs.
"""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from course_lib.experiments.registry import experiment
from course_lib.experiments.store import results
from course_lib.runtime import CourseError

if TYPE_CHECKING:
    import torch

    from course_lib.additive import Method, Tuned
    from course_lib.bases import Base

SEEDS = range(5)
SWEEP_SEED = 100  # not among the five
TOKENS = 20  # reviews of at most so many tokens, whole
STEPS = {32: 24, 256: 48, 2000: 250}  # rows -> steps of BATCH rows: 12, 3 and 2 times through them
BATCH = 16
POOL = 2000  # the first short training reviews: what the rows are drawn from

LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
LOWEST = {  # of the four neighbouring rates of the ladder that are tried; a pilot run showed where each method learns
    "houlsby": 3e-4, "pfeiffer": 3e-4, "pfeiffer-top": 1e-3, "parallel": 3e-4, "compacter": 1e-3,
    "prompt": 1e-2, "p-tuning": 3e-4, "prefix": 3e-4, "prefix-direct": 3e-3, "llama-adapter": 3e-3,
    "ia3": 3e-3, "side-tuning": 3e-4, "ladder": 3e-4, "loreft": 1e-3,
    "mix-and-match": 3e-4, "unipelt": 3e-4,
    "lora": 3e-4, "bitfit": 1e-3, "layer-norm": 1e-3, "probe": 3e-3, "full": 3e-5,
}  # fmt: skip
METHODS = tuple(LOWEST)
HEADLINE = ("pfeiffer", "parallel", "prefix", "ia3", "loreft", "lora", "full")
CONTROLS = {"untouched": None, "random-base": "parallel", "shuffled-labels": "parallel"}  # whose method they train


def method_of(name: str) -> Method:
    """The method as it is compared: the paper's defaults, with prompts and bottlenecks cut to a model of width 384."""
    from course_lib import additive as A

    return {
        "houlsby": A.BottleneckAdapter(placement="houlsby"), "pfeiffer": A.BottleneckAdapter(),
        "pfeiffer-top": A.BottleneckAdapter(skip_layers=4), "parallel": A.ParallelAdapter(),
        "compacter": A.Compacter(), "prompt": A.PromptTuning(length=10), "p-tuning": A.PTuning(length=10),
        "prefix": A.PrefixTuning(length=10), "prefix-direct": A.PrefixTuning(length=10, hidden=None),
        "llama-adapter": A.LlamaAdapter(length=10), "ia3": A.IA3(), "side-tuning": A.SideTuning(),
        "ladder": A.LadderSideTuning(), "loreft": A.LoReFT(),
        "mix-and-match": A.MixAndMatch(length=10, bottleneck=64),
        "unipelt": A.UniPELT(length=10, bottleneck=16), "lora": A.LoRA(), "bitfit": A.BitFit(),
        "layer-norm": A.LayerNormTuning(), "probe": A.LinearProbe(), "full": A.FullFineTuning(),
    }[name]  # fmt: skip


def rates(method: str) -> tuple[float, ...]:
    """The four learning rates that are tried."""
    first = LADDER.index(LOWEST[method])
    return LADDER[first : first + 4]


def best_rate(method: str, sweep: str = "46-learning-rates", column: str = "accuracy", sign: int = 1) -> float:
    """The rate that did best on the validation rows; of equals the smaller."""
    rows = results(sweep).rows(method=method)
    if len(rows) < 4:
        raise CourseError(
            f"The learning rates of {method!r} have not all been tried yet. Try them first: "
            f"python -m course_lib experiment {sweep}"
        )
    return max(rows, key=lambda row: (sign * row["measured"][column], -row["point"]["learning_rate"]))["point"][
        "learning_rate"
    ]


# --- classification ---------------------------------------------------------------------------------------------------


@functools.cache
def base_of(name: str) -> Base:
    """A base, read once; nothing changes it."""
    from course_lib.bases import load_base

    return load_base(name)


@functools.cache
def reviews(part: str) -> list[dict]:
    """Short reviews, whole: the pool to train on, the reviews that choose rates, and those that are scored."""
    from course_lib.corpora import load_data

    corpus, tokenizer = load_data("movie-reviews"), base_of("minilm").tokenizer

    def short(split: str) -> list[dict]:
        lengths = map(len, tokenizer(list(corpus[split]["text"]))["input_ids"])
        return [row for row, length in zip(corpus[split], lengths) if length <= TOKENS]

    return short("train")[:POOL] if part == "pool" else short(part)


def drawn(rows: int, seed: int) -> list[dict]:
    """The training rows of one seed."""
    return random.Random(seed).sample(reviews("pool"), rows)


def tune(method: str, rows: int, seed: int, learning_rate: float, part: str) -> dict[str, float]:
    """Train on rows drawn from the pool and score a part of the reviews."""
    import course_lib as cl

    base, train = base_of("minilm"), drawn(rows, seed)
    if method == "random-base":
        base = base.randomised(seed)
    if method == "shuffled-labels":
        labels = [row["label"] for row in train]
        random.Random(seed).shuffle(labels)
        train = [{**row, "label": label} for row, label in zip(train, labels)]
    cl.seed(seed)
    trained = CONTROLS.get(method, method)
    tuned = cl.attach(base, method_of(trained or "probe"), task=cl.tasks.Classification(2))
    begun, losses = time.process_time(), [float("nan")]
    if trained:
        data = cl.cache_below(tuned, train) if tuned.lowest_block() else train
        losses = cl.fit(
            tuned, data, max_steps=STEPS[rows], batch_size=BATCH, learning_rate=learning_rate, seed=seed,
            progress=False,
        ).loss  # fmt: skip
    seconds = time.process_time() - begun
    right = cl.evaluate(tuned, reviews(part), metrics=["accuracy"], progress=False, n_boot=2)["accuracy"].value
    found = {"accuracy": right, "learning_rate": learning_rate, "cpu_seconds": seconds}
    if trained:
        found["training_loss"] = statistics.fmean(losses[-8:])
    if rows == 256 and part == "test":
        found["found"] = retrieval(tuned)
    return found


PAIRS = 100


def retrieval(tuned: Tuned) -> float:
    """What MiniLM was made for: the share of news titles whose own article is the nearest of a hundred.

    A text is the mean of the states that the head would read, with the addition on; an article is its first words.
    """
    import torch

    from course_lib.corpora import load_data

    news = load_data("news")["test"].select(range(PAIRS))
    model = tuned._model_in_use()
    seen: dict[str, torch.Tensor] = {}
    handle = model.base_model.pooler.register_forward_pre_hook(lambda module, given: seen.update(states=given[0]))

    def vectors(texts: list[str]) -> torch.Tensor:
        batch = tuned.tokenizer(texts, truncation=True, max_length=24, padding=True, return_tensors="pt")
        tuned(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        mask = batch["attention_mask"][:, 1:, None]  # without [CLS] and, in front of the words, prompts
        mean = (seen["states"][:, -mask.shape[1] :] * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=1)  # (PAIRS, d)

    try:
        with torch.no_grad():
            titles, articles = vectors(list(news["title"])), vectors(list(news["text"]))
    finally:
        handle.remove()
    nearest = (titles @ articles.T).argmax(1)
    return float((nearest == torch.arange(len(nearest))).float().mean())


def _classification_grid() -> Iterator[dict]:
    for seed in SEEDS:
        for rows in (256, 32):
            yield from ({"method": method, "rows": rows, "seed": seed} for method in METHODS)
        yield from ({"method": control, "rows": 256, "seed": seed} for control in CONTROLS)
    yield from ({"method": method, "rows": 2000, "seed": seed} for seed in SEEDS for method in METHODS)


@experiment(
    "46-learning-rates",
    about="MiniLM, 256 short movie reviews, 48 steps of 16: accuracy on 310 validation reviews by learning rate.",
    grid=[
        {"method": method, "learning_rate": rate, "seed": SWEEP_SEED} for method in METHODS for rate in rates(method)
    ],
    minutes=15,
)
def learning_rates(method: str, learning_rate: float, seed: int) -> dict[str, float]:
    return tune(method, 256, seed, learning_rate, "validation")


@experiment(
    "46-classification",
    about="MiniLM on short movie reviews, 32, 256 or 2,000 of them, the same steps for every method at the best rate "
    "of 46-learning-rates: accuracy on 493 test reviews; at 256 rows also, with the addition on, how often a news "
    "title still finds its own article among 100.",
    grid=list(_classification_grid()),
    minutes=90,
)
def classification(method: str, rows: int, seed: int) -> dict[str, float]:
    """`found`: see `retrieval`; `training_loss`: the mean of the last eight steps."""
    trained = CONTROLS.get(method, method)
    return tune(method, rows, seed, best_rate(trained) if trained else 0.0, "test")


@experiment(
    "46-all-rows",
    about="MiniLM on all 7,753 movie reviews, uncut, 970 steps of 16 (twice through them): accuracy on all 1,569 test "
    "reviews.",
    grid=[{"method": method, "seed": seed} for seed in SEEDS for method in HEADLINE],
    minutes=200,
)
def all_rows(method: str, seed: int) -> dict[str, float]:
    import course_lib as cl

    corpus = cl.load_data("movie-reviews")
    cl.seed(seed)
    tuned = cl.attach(base_of("minilm"), method_of(method), task=cl.tasks.Classification(2))
    rate = best_rate(method)
    history = cl.fit(
        tuned, list(corpus["train"]), epochs=2, batch_size=BATCH, learning_rate=rate, seed=seed, progress=False
    )
    right = cl.evaluate(tuned, corpus["test"], metrics=["accuracy"], progress=False, n_boot=2)["accuracy"].value
    return {"accuracy": right, "learning_rate": rate, "seconds": history.seconds}


INITS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> (whose rate, method, its fields)
    "adapter std 0.001": ("pfeiffer", {"init_std": 1e-3}),
    "adapter std 0.1": ("pfeiffer", {"init_std": 0.1}),
    "adapter std 0.3": ("pfeiffer", {"init_std": 0.3}),
    "prompt random": ("prompt", {"init": "random"}),
    "prompt text": ("prompt", {"init": "text", "init_text": "Is this review of a film good or bad?"}),
}


@experiment(
    "46-inits",
    about="As 46-classification at 256 rows, with other initial numbers: how far an adapter starts from nothing, and "
    "what a prompt starts as.",
    grid=[{"init": init, "seed": seed} for seed in SEEDS for init in INITS],
    minutes=6,
)
def inits(init: str, seed: int) -> dict[str, float]:
    import dataclasses

    import course_lib as cl

    name, fields = INITS[init]
    cl.seed(seed)
    method = dataclasses.replace(method_of(name), **fields)
    tuned = cl.attach(base_of("minilm"), method, task=cl.tasks.Classification(2))
    cl.fit(
        tuned, drawn(256, seed), max_steps=STEPS[256], batch_size=BATCH, learning_rate=best_rate(name), seed=seed,
        progress=False,
    )  # fmt: skip
    scores = cl.evaluate(tuned, reviews("test"), metrics=["accuracy"], progress=False, n_boot=2)
    return {"accuracy": scores["accuracy"].value}


# --- what a step costs ------------------------------------------------------------------------------------------------

LONG = 32  # tokens of each of the 16 rows of the batch that is weighed
CACHED = ("pfeiffer-top", "llama-adapter", "probe")  # they leave the lower blocks alone: also with cached states


@experiment(
    "46-costs",
    about="One training step on 16 reviews of 32 tokens, MiniLM: floating-point operations, bytes kept for the "
    "backward pass, and CPU time beside that of full fine-tuning in the same minute.",
    grid=[
        {"method": method, "seed": seed}
        for seed in SEEDS[:3] for method in (*METHODS, *(f"{name}, cached" for name in CACHED))
    ],
    minutes=6,
)  # fmt: skip
def costs(method: str, seed: int) -> dict[str, float]:
    """`memory`: bytes beyond the weights: saved activations, a gradient and Adam's two moments for each number."""
    import course_lib as cl
    from course_lib.additive import saved_activation_bytes

    name, _, cached = method.partition(", ")
    task = cl.tasks.Classification(2, max_length=LONG)
    base = base_of("minilm")
    first = cl.load_data("movie-reviews")["train"].select(range(400))
    long = [row for row in first if len(row["text"].split()) >= LONG]
    cl.seed(seed)
    tuned = cl.attach(base, method_of(name), task=task)
    full = cl.attach(base, method_of("full"), task=task)
    features = cl.cache_below(tuned, long[:16]) if cached else task.features(long[:16], base.tokenizer)
    batch = task.collate(features, base.tokenizer)
    plain = task.collate(task.features(long[:16], base.tokenizer), base.tokenizer)
    saved, budget = saved_activation_bytes(tuned, batch), tuned.budget()
    step, full_step = _stepper(tuned, batch), _stepper(full, plain)
    flops = cl.evaluation.operations(step)
    full_step()
    times = [(_cpu_seconds(step), _cpu_seconds(full_step)) for _ in range(5)]
    own, other = (statistics.median(column) for column in zip(*times))
    return {
        "trained": budget.trained, "stored": budget.stored, "file_bytes": budget.bytes,
        "saved_bytes": saved.blocks + saved.rest, "memory": saved.blocks + saved.rest + 12 * budget.trained,
        "gflops": flops / 1e9, "step_cpu_seconds": own, "of_full_seconds": own / other,
    }  # fmt: skip


def _stepper(tuned: Tuned, batch: dict) -> Callable[[], None]:
    """A whole training step as a function: forward, backward, Adam."""
    import torch

    from course_lib.tasks import inputs_of

    optimizer = torch.optim.AdamW(tuned.trainable_parameters(), lr=1e-4, fused=True)

    def step() -> None:
        total, units = tuned.task.loss(tuned(**inputs_of(batch)), batch)
        (total / units).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    tuned.train()
    return step


def _cpu_seconds(step: Callable[[], None]) -> float:
    begun = time.process_time()
    step()
    return time.process_time() - begun


# --- generation -------------------------------------------------------------------------------------------------------

PILOT = ("parallel", "prompt", "prefix", "ia3", "loreft", "lora", "full")
WRITERS = tuple(name for name in METHODS if name not in ("bitfit", "probe", "pfeiffer-top"))
SENTENCES = 60  # of editorials: the prose on which forgetting is measured
LOWEST_WRITING = {"full": 1e-5}  # others as in classification


def writing_rates(method: str) -> tuple[float, ...]:
    first = LADDER.index(LOWEST_WRITING.get(method, LOWEST[method]))
    return LADDER[first : first + 4]


@functools.cache
def messages(split: str, rows: int) -> list[dict]:
    """JupyterLab's messages of at most 8 English and 16 French tokens of SmolLM2."""
    from course_lib.corpora import load_data

    tokenizer, corpus = base_of("smollm2").tokenizer, load_data("ui-en-fr")[split]
    sources, targets = (tokenizer(list(corpus[side]))["input_ids"] for side in ("source", "target"))
    short = [row for row, s, t in zip(corpus, sources, targets) if len(s) <= 8 and len(t) <= 16]
    return short[:rows]


def translate(
    method: str, pairs: int, seed: int, learning_rate: float, split: str, write: int = 0
) -> dict[str, float]:
    """Train on `pairs` messages twice; nats a token of held-out French and of English prose, and what it writes."""
    import course_lib as cl
    from course_lib.tasks import NextToken

    base = base_of("smollm2")
    task = cl.tasks.Generation(template="English: {source}\nFrench:", target=" {target}", max_target=24)
    train = random.Random(seed).sample(messages("train", 1200), pairs)
    cl.seed(seed)
    tuned = cl.attach(base, method_of(method), task=task)
    prose = list(cl.load_data("editorials")["test"].select(range(SENTENCES)))
    history = cl.fit(
        tuned, train, epochs=2, batch_size=8, learning_rate=learning_rate, seed=seed, progress=False
    )
    held_out = messages(split, 60)
    found = {"loss": nats(tuned, held_out, task), "learning_rate": learning_rate, "seconds": history.seconds}
    if write:
        found["prose"] = nats(tuned, prose, NextToken(max_length=32))
        with tuned.disabled():
            found["prose_before"] = nats(tuned, prose, NextToken(max_length=32))
        scores = cl.evaluate(tuned, held_out[:write], metrics=["chrf", "exact_match"], progress=False, n_boot=2)
        found |= {"chrf": scores["chrf"].value, "exact_match": scores["exact_match"].value}
    return found


def nats(tuned: Tuned, rows: Sequence[dict], task: Any, batch_size: int = 16) -> float:
    """Mean cross-entropy, in nats a token."""
    import torch

    from course_lib.tasks import inputs_of

    features = sorted(task.features(rows, tuned.tokenizer), key=lambda feature: len(feature["input_ids"]))
    total, count = 0.0, 0
    with torch.no_grad():
        for begin in range(0, len(features), batch_size):
            batch = task.collate(features[begin : begin + batch_size], tuned.tokenizer)
            loss, units = task.loss(tuned(**inputs_of(batch)), batch)
            total, count = total + float(loss), count + int(units)
    return total / count


@experiment(
    "46-pilot-rates",
    about="SmolLM2, 64 UI messages English to French, twice: nats a token of 60 validation messages by learning rate.",
    grid=[
        {"method": method, "learning_rate": rate, "seed": SWEEP_SEED}
        for method in PILOT for rate in writing_rates(method)
    ],
    minutes=12,
)  # fmt: skip
def pilot_rates(method: str, learning_rate: float, seed: int) -> dict[str, float]:
    return translate(method, 64, seed, learning_rate, "validation")


@experiment(
    "46-pilot",
    about="SmolLM2, 64 UI messages English to French, twice, at the best rate of 46-pilot-rates: nats a token of 60 "
    "test messages, chrF of 32 that it writes, and nats a token of English prose before and after.",
    grid=[{"method": method, "seed": seed} for seed in SEEDS for method in PILOT],
    minutes=25,
)
def pilot(method: str, seed: int) -> dict[str, float]:
    rate = best_rate(method, "46-pilot-rates", "loss", sign=-1)
    return translate(method, 64, seed, rate, "test", write=32)


@experiment(
    "46-generation-rates",
    about="As 46-pilot-rates with 200 messages and every method that a decoder without biases has.",
    grid=[
        {"method": method, "learning_rate": rate, "seed": SWEEP_SEED}
        for method in WRITERS for rate in writing_rates(method)
    ],
    minutes=75,
)  # fmt: skip
def generation_rates(method: str, learning_rate: float, seed: int) -> dict[str, float]:
    return translate(method, 200, seed, learning_rate, "validation")


@experiment(
    "46-generation",
    about="As 46-pilot with 1,000 messages, twice, at the best rate of 46-generation-rates.",
    grid=[{"method": method, "seed": seed} for seed in SEEDS for method in WRITERS],
    minutes=420,
)
def generation(method: str, seed: int) -> dict[str, float]:
    rate = best_rate(method, "46-generation-rates", "loss", sign=-1)
    return translate(method, 1000, seed, rate, "test", write=60)
