"""Chapter 11: models of language on the same text, measured in the same bits, from counting to a small Transformer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from course_lib.experiments.registry import experiment

if TYPE_CHECKING:
    import torch
    from torch import nn

SEEDS = range(5)
SWEEP_SEED = 100  # not among the five
ORDERS = (1, 2, 3, 4, 5, 6, 7)
NEURAL = ("convolution", "lstm", "gpt", "rnn", "gru")
SIZES = (100_000, 300_000, 900_000)  # training bytes, each read once
LARGEST = 2_700_000  # for the convolution and the LSTM alone
HELD_OUT = 50_000  # bytes of the test split that are scored
PLACES = 400  # in the rest of the test split, at which the far past is shuffled
CONTEXT, BATCH = 128, 8
RATES = {"convolution": (1e-3, 2e-3, 4e-3, 8e-3), "lstm": (2e-3, 4e-3, 8e-3, 16e-3), "gpt": (1e-3, 2e-3, 4e-3),
         "rnn": (5e-4, 1e-3, 2e-3), "gru": (1e-3, 2e-3, 4e-3)}  # fmt: skip
CHOSEN = {"convolution": 8e-3, "lstm": 16e-3, "gpt": 2e-3, "rnn": 2e-3, "gru": 4e-3}


def model_of(name: str) -> nn.Module:
    """The neural models, of about 650,000 numbers each; "5-gram" and the like."""
    from course_lib import language_models as lms

    if name.endswith("-gram"):
        return lms.NGram(order=int(name.removesuffix("-gram")))
    return {
        "convolution": lambda: lms.Convolution(width=128, layers=4, kernel=4),
        "rnn": lambda: lms.Recurrent("rnn", width=448),
        "lstm": lambda: lms.Recurrent("lstm", width=256),
        "gru": lambda: lms.Recurrent("gru", width=288),
        "gpt": lambda: lms.GPT(width=128, layers=3, heads=4, context=CONTEXT),
    }[name]()


def text(split: str) -> bytes:
    """Conversations of the chat corpus, one after the other, in the corpus's fixed shuffle."""
    from course_lib.corpora import load_data

    return "\n\n".join(load_data("chat")[split]["text"]).encode()


def train(model: nn.Module, ids: torch.Tensor, rate: float, seed: int) -> float:
    """Count, or read every byte once; returns the seconds it took."""
    from course_lib import language_models as lms
    from course_lib import tasks
    from course_lib.training import fit

    begun = time.perf_counter()
    if isinstance(model, lms.NGram):
        model.fit(ids)
    else:
        fit(
            model, lms.windows(ids, CONTEXT), task=tasks.NextToken(), batch_size=BATCH, learning_rate=rate,
            weight_decay=0.1, seed=seed, progress=False,
        )  # fmt: skip
    return time.perf_counter() - begun


def grid() -> Iterator[dict]:
    for size in (*SIZES, LARGEST):
        yield from ({"model": f"{order}-gram", "bytes": size, "seed": 0} for order in ORDERS)  # nothing is drawn
    first, others = NEURAL[:3], NEURAL[3:]
    small, middle, large = SIZES
    parts = (small, first), (middle, first), (small, others), (large, first), (middle, others), (large, others)
    for size, names in parts:
        yield from ({"model": name, "bytes": size, "seed": seed} for name in names for seed in SEEDS)
    yield from ({"model": name, "bytes": LARGEST, "seed": seed} for name in ("convolution", "lstm") for seed in SEEDS)


@experiment(
    "11-learning-rates",
    about="Language models on 300,000 bytes of chat, read once: bits per byte of validation text by learning rate.",
    grid=[{"model": name, "rate": rate, "seed": SWEEP_SEED} for name in NEURAL for rate in RATES[name]],
    minutes=6,
)
def learning_rates(model: str, rate: float, seed: int) -> dict[str, float]:
    from course_lib import language_models as lms
    from course_lib.runtime import seed as set_seed

    set_seed(seed)
    net = model_of(model)
    seconds = train(net, lms.as_ids(text("train")[: SIZES[1]]), rate, seed)
    return {"bits_per_byte": lms.bits_per_byte(net, text("validation")[:HELD_OUT]), "seconds": seconds}


@experiment(
    "11-models",
    about="Language models on growing parts of the chat corpus, each byte read once: bits per byte of test text, "
    "and of bytes whose far past was shuffled.",
    grid=list(grid()),
    minutes=60,
)
def models(model: str, bytes: int, seed: int) -> dict[str, float]:  # noqa: A002 - the grid's word
    """`bits_after_8` and the like: bits of a byte behind 128, all but the last 8 (32, 128) of them shuffled."""
    from course_lib import language_models as lms
    from course_lib.runtime import seed as set_seed

    set_seed(seed)
    net, held_out = model_of(model), text("test")
    seconds = train(net, lms.as_ids(text("train")[:bytes]), CHOSEN.get(model, 0.0), seed)
    return {
        "bits_per_byte": lms.bits_per_byte(net, held_out[:HELD_OUT]), "parameters": net.num_parameters(),
        "seconds": seconds,
        **{
            f"bits_after_{keep}": lms.bits_after_shuffling(net, held_out[HELD_OUT:], keep, samples=PLACES)
            for keep in (8, 32, 128)
        },
    }  # fmt: skip


SYMBOLS = (10_000, 40_000, 160_000, 640_000)


@experiment(
    "11-floor",
    about="A synthetic language of known entropy: bits a symbol that models need beyond the language itself.",
    grid=[
        {"model": name, "symbols": n, "seed": seed}
        for n in SYMBOLS for name in ("2-gram", "3-gram", "5-gram", "lstm", "gpt") for seed in SEEDS
    ],
    minutes=6,
)  # fmt: skip
def floor(model: str, symbols: int, seed: int) -> dict[str, float]:
    """The seed draws the sample and the network; the language is always the same."""
    from course_lib import language_models as lms
    from course_lib import tasks
    from course_lib.runtime import seed as set_seed
    from course_lib.training import fit

    language = lms.SyntheticLanguage(seed=0, vocabulary=16)
    ids, held_out = language.sample(symbols, seed=seed), language.sample(20_000, seed=1000)
    set_seed(seed)
    if model.endswith("-gram"):
        net = lms.NGram(order=int(model.removesuffix("-gram")), vocabulary=16).fit(ids)
    else:
        small = {"vocabulary": 16, "width": 64}
        net = lms.Recurrent("lstm", **small) if model == "lstm" else lms.GPT(**small, layers=2, heads=4, context=16)
        fit(
            net, lms.windows(ids, 16), task=tasks.NextToken(), batch_size=64, learning_rate=5e-3, seed=seed,
            progress=False,
        )  # fmt: skip
    needed, least = (float(lms.surprise(one, held_out)[2:].mean()) for one in (net, language))
    return {"bits": needed, "beyond": needed - least, "entropy": language.entropy}
