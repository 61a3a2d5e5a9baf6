"""Chapter 45: the axes of the design space, one at a time, with equal numbers of trained parameters.

Every design adds  h <- h + s (W_u a(W_d . + b_d) + b_u)  in MiniLM's top two blocks. What varies is the sublayer that
it joins (`where`), whether it reads what the sublayer reads or what it answers (`reads`), the form a, and s. The probe
is the same head with nothing added.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from course_lib.experiments.registry import Point, experiment

ROWS, TOP, BOTTLENECK = 1000, 2, 16
SEEDS = range(5)
SWEEP_SEED = 100  # not among the five
RATES = (2e-3, 4e-3, 8e-3)  # learning rates tried on the validation split

DESIGNS: list[Point] = [
    *(
        {"where": where, "reads": reads, "form": "relu", "scale": 4}
        for where in ("ffn", "attention") for reads in ("input", "answer")
    ),
    {"where": "ffn", "reads": "input", "form": "softmax", "scale": 4},
    {"where": "ffn", "reads": "input", "form": "relu", "scale": 1},
    {"where": "head", "reads": "answer", "form": "probe", "scale": 1},
]  # fmt: skip


@functools.cache
def design():
    """The class of the designs. Made when it is needed: a method defined here would stand in the library's list."""
    from torch import nn

    from course_lib.additive import Method
    from course_lib.additive.sites import Site

    @dataclass(frozen=True)
    class Design(Method):
        where: str
        reads: str
        form: str
        scale: float

        family, paper, formula, count = "additive", "-", "h <- h + s W_u a(W_d x)", "L' (2 d r + d + r)"

        def place(self, layout):
            for block in range(layout.num_layers - TOP, layout.num_layers):
                yield Site({"input": "beside", "answer": "after"}[self.reads], self.where, block), Term(self, layout)

    class Term(nn.Module):
        def __init__(self, design, layout):
            super().__init__()
            self.form, self.scale = design.form, design.scale
            self.down, self.up = nn.Linear(layout.width, BOTTLENECK), nn.Linear(BOTTLENECK, layout.width)
            for zero in (self.up.weight, self.up.bias):
                nn.init.zeros_(zero)

        def forward(self, x):
            inside = self.down(x)  # (B, T, d) -> (B, T, r)
            inside = inside.relu() if self.form == "relu" else inside.softmax(-1)
            return self.scale * self.up(inside)

    return Design


def method_of(where: str, reads: str, form: str, scale: float):
    """The method of a point: one of the designs, or the head alone."""
    from course_lib.additive import LinearProbe

    return LinearProbe() if form == "probe" else design()(where, reads, form, scale)


@functools.cache
def cached(split: str, probe: bool) -> list[dict]:
    """The reviews of a split with the states below the top two blocks (the probe's: below the head), which stay."""
    import course_lib as cl

    reviews = cl.load_data("movie-reviews")[split]
    point = DESIGNS[-1 if probe else 0]
    below = cl.attach(cl.load_base("minilm"), method_of(**point), task=cl.tasks.Classification(2))
    return cl.cache_below(below, reviews.select(range(ROWS)) if split == "train" else reviews)


@functools.cache
def probe_head(seed: int) -> dict:
    """The head that every design begins with: trained alone, on the same rows."""
    import course_lib as cl

    cl.seed(seed)
    probe = cl.attach(cl.load_base("minilm"), method_of(**DESIGNS[-1]), task=cl.tasks.Classification(2))
    cl.fit(
        probe, cached("train", True), epochs=10, batch_size=16, learning_rate=5e-3, seed=seed, progress=False
    )
    return probe.additions["default"].head.state_dict()


def train(where: str, reads: str, form: str, scale: float, learning_rate: float, seed: int, split: str) -> dict:
    """Train one design, from the probe's head, for two epochs, and score it on the given split."""
    import course_lib as cl

    head, probe = probe_head(seed), form == "probe"
    cl.seed(seed)
    tuned = cl.attach(cl.load_base("minilm"), method_of(where, reads, form, scale), task=cl.tasks.Classification(2))
    tuned.additions["default"].head.load_state_dict(head)
    if not probe:
        cl.fit(
            tuned, cached("train", False), epochs=2, batch_size=32, learning_rate=learning_rate, seed=seed,
            progress=False,
        )
    scores = cl.evaluate(cl.evaluation.outputs(tuned, cached(split, probe), progress=False))
    return {"accuracy": scores["accuracy"].value, "trained": tuned.budget().trained}


@experiment(
    "45-learning-rates",
    about="The designs of 45-design-space: accuracy on the validation split by learning rate.",
    grid=[{**point, "learning_rate": rate, "seed": SWEEP_SEED} for point in DESIGNS[:-1] for rate in RATES],
    minutes=3,
)
def learning_rates(learning_rate: float, seed: int, **point) -> dict[str, float]:
    return train(**point, learning_rate=learning_rate, seed=seed, split="validation")


def best_rate(point: Point) -> float:
    """The design's best learning rate on the validation split, as stored."""
    from course_lib.experiments.store import results

    stored = results("45-learning-rates")
    return max(RATES, key=lambda rate: stored.measured("accuracy", **point, learning_rate=rate).value)


@experiment(
    "45-design-space",
    about="MiniLM, 1,000 movie reviews, two epochs from the probe's head, terms of equal size in the top two blocks: "
    "test accuracy by where a term stands, what it reads, its form and scale.",
    grid=[{**point, "seed": seed} for point in DESIGNS for seed in SEEDS],
    minutes=5,
)
def design_space(seed: int, **point) -> dict[str, float]:
    rate = best_rate(point) if point["form"] != "probe" else 0.0
    return {**train(**point, learning_rate=rate, seed=seed, split="test"), "learning_rate": rate}
