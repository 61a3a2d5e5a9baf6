"""Chapter 42: in which blocks adapters stand, and which of the trained ones are missed when they are taken off."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from course_lib.experiments.registry import experiment

if TYPE_CHECKING:
    from collections.abc import Iterator

    import datasets

    from course_lib.additive import Tuned

SEEDS = range(5)
WORDS, ROWS, BLOCKS = 10, 400, 6  # reviews of at most ten words; MiniLM's blocks
DESIGNS = {"pfeiffer": 16, "houlsby": 8}  # bottlenecks of about equal size: one adapter a block, or two
SPANS = [(first, last) for first in range(BLOCKS) for last in range(first, BLOCKS)]


def reviews() -> tuple[datasets.Dataset, datasets.Dataset]:
    """The first ROWS short reviews to train on, and all short ones of the test split."""
    from course_lib.corpora import load_data, short

    corpus = load_data("movie-reviews")
    return short(corpus["train"], WORDS, ROWS), short(corpus["test"], WORDS)


def probe(seed: int) -> tuple[Tuned, list]:
    """A head on the frozen [CLS] states: where every adapter below begins; and the test rows' states."""
    import course_lib as cl

    base = cl.load_base("minilm")
    cl.seed(seed)
    head = cl.attach(base, cl.additive.LinearProbe(), task=cl.tasks.Classification(2))
    train, test = (cl.cache_below(head, rows) for rows in reviews())
    cl.fit(head, train, epochs=10, batch_size=16, learning_rate=5e-3, seed=seed, progress=False)
    return head, test


def trained(placement: str, skip: int, seed: int) -> tuple[Tuned, list, float]:
    """Adapters from block `skip` on, trained from the probe's head; the test rows, and the seconds of training."""
    import course_lib as cl

    base = cl.load_base("minilm")
    head, _ = probe(seed)
    cl.seed(seed)
    method = cl.additive.BottleneckAdapter(DESIGNS[placement], placement=placement, skip_layers=skip)
    tuned = cl.attach(base, method, task=cl.tasks.Classification(2))
    tuned.additions["default"].head.load_state_dict(head.additions["default"].head.state_dict())
    train, test = reviews()
    if tuned.lowest_block():
        train, test = cl.cache_below(tuned, train), cl.cache_below(tuned, test)
    history = cl.fit(tuned, train, epochs=3, batch_size=16, learning_rate=3e-3, seed=seed, progress=False)
    return tuned, test, history.seconds


@contextmanager
def without(tuned: Tuned, first: int, last: int) -> Iterator[None]:
    """Inside, the adapters of blocks `first` to `last` add nothing."""
    import torch

    off = [module for site, module in tuned.additions["default"].at("after", "stream") if first <= site.block <= last]
    kept = [(tensor, tensor.detach().clone()) for module in off for tensor in module.up.parameters()]
    with torch.no_grad():
        for tensor, _ in kept:
            tensor.zero_()
        try:
            yield
        finally:
            for tensor, old in kept:
                tensor.copy_(old)


def accuracy(tuned: Tuned, rows) -> float:
    import course_lib as cl

    return cl.evaluate(tuned, rows, metrics=["accuracy"], progress=False)["accuracy"].value


@experiment(
    "42-depth",
    about="MiniLM, 400 short movie reviews: a Pfeiffer adapter in the blocks from `skip` on; the probe it began as.",
    grid=[{"skip": skip, "seed": seed} for seed in SEEDS for skip in reversed(range(BLOCKS + 1))],
    minutes=6,
)
def depth(skip: int, seed: int) -> dict[str, float]:
    if skip == BLOCKS:  # no adapter: the probe alone
        tuned, test = probe(seed)
        return {"accuracy": accuracy(tuned, test), "trained": float(tuned.budget().trained)}
    tuned, test, seconds = trained("pfeiffer", skip, seed)
    return {"accuracy": accuracy(tuned, test), "trained": float(tuned.budget().trained), "seconds": seconds}


@experiment(
    "42-ablation",
    about="The same in all blocks, trained; then the adapters of blocks i to j taken off: without_i_j is what remains.",
    grid=[{"placement": placement, "seed": seed} for seed in SEEDS for placement in DESIGNS],
    minutes=10,
)
def ablation(placement: str, seed: int) -> dict[str, float]:
    tuned, test, seconds = trained(placement, 0, seed)
    found = {"accuracy": accuracy(tuned, test), "trained": float(tuned.budget().trained), "seconds": seconds}
    for first, last in SPANS:
        with without(tuned, first, last):
            found[f"without_{first}_{last}"] = accuracy(tuned, test)
    return found
