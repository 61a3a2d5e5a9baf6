"""Chapter 47: additions that are put together, a prompt that moves to another task, and images in a language model."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

from course_lib.experiments.registry import experiment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from course_lib.additive import LoRA, Method, Tuned
    from course_lib.bases import Base
    from course_lib.tasks import Classification

DOMAINS = {"films": "movie-reviews", "products": "product-reviews", "tweets": "tweets"}
WORDS, ROWS, TEST_ROWS = 16, 400, 300
SEEDS = range(5)


@functools.cache
def base_of(name: str) -> Base:
    """A base, read once; nothing changes it."""
    from course_lib.bases import load_base

    return load_base(name)


def rows_of(domain: str, split: str, count: int) -> list[dict]:
    """The first rows of a corpus with at most WORDS words."""
    from course_lib.corpora import load_data

    rows = load_data(DOMAINS[domain])[split]
    return list(rows.select([i for i, text in enumerate(rows["text"]) if len(text.split()) <= WORDS][:count]))


def two_way() -> Classification:
    from course_lib.tasks import Classification

    return Classification(2)


# --- merging ------------------------------------------------------------------------------------------------


def low_rank(rank: int = 2) -> LoRA:
    """LoRA on queries and values of MiniLM's two top blocks; its scale s = alpha / r is 8 at any rank."""
    from course_lib.additive import LoRA

    return LoRA(rank=rank, alpha=8.0 * rank, layers=(4, 5))


@functools.cache
def cached(domain: str, split: str) -> list[dict]:
    """The rows with their states below the two top blocks, which no addition here changes."""
    import course_lib as cl

    tuned = cl.attach(base_of("minilm"), low_rank(), task=two_way())
    return cl.cache_below(tuned, rows_of(domain, split, ROWS if split == "train" else TEST_ROWS))


def trained(rows: list[dict], start: dict[str, Tensor] | None, seed: int) -> Tuned:
    """One addition, from the numbers of `start` or from a draw of its own."""
    import course_lib as cl

    cl.seed(seed)
    tuned = cl.attach(base_of("minilm"), low_rank(), task=two_way())
    if start is not None:
        tuned.additions["default"].load_state_dict(start)
    cl.fit(tuned, rows, epochs=4, batch_size=16, learning_rate=4e-3, seed=seed, progress=False)
    return tuned


def scores(tuned: Tuned, domain: str) -> Any:
    """Probabilities (rows, 2) on a domain's test rows."""
    from course_lib.evaluation import outputs

    return outputs(tuned, cached(domain, "test"), progress=False).scores


def right(probabilities: Any, domain: str) -> float:
    labels = [row["labels"] for row in cached(domain, "test")]
    return float((probabilities.argmax(-1) == labels).mean())


def stacked(states: list[dict[str, Tensor]], weights: list[float]) -> Tuned:
    """sum_i w_i s B_i A_i, exactly: one LoRA whose rank is the sum of theirs. Heads are linear: w_i times theirs."""
    import torch

    import course_lib as cl

    tuned = cl.attach(base_of("minilm"), low_rank(2 * len(states)), task=two_way())
    merged = {}
    for key in states[0]:
        parts = [state[key] if key.endswith(".A") else w * state[key] for state, w in zip(states, weights, strict=True)]
        if key.startswith("head."):
            merged[key] = sum(parts)
        else:
            merged[key] = torch.cat(parts, dim=0 if key.endswith(".A") else 1)
    tuned.additions["default"].load_state_dict(merged)
    return tuned


def separately(states: list[dict[str, Tensor]]) -> Tuned:
    """The mistake: the A averaged, the B averaged, then multiplied."""
    import course_lib as cl

    tuned = cl.attach(base_of("minilm"), low_rank(), task=two_way())
    mean = {key: sum(state[key] for state in states) / len(states) for key in states[0]}
    tuned.additions["default"].load_state_dict(mean)
    return tuned


@experiment(
    "47-merging",
    about="MiniLM, LoRA on films, products, tweets (400 short rows each), from one start or three: own, merged, joint.",
    grid=[{"start": start, "seed": seed} for seed in SEEDS for start in ("same", "different")],
    minutes=14,
)
def merging(start: str, seed: int) -> dict[str, float]:
    """Accuracy of each on each domain, as "films_on_tweets"; of sets, as "films+products_merged_on_films"."""
    import course_lib as cl

    cl.seed(seed)
    begin = cl.attach(base_of("minilm"), low_rank(), task=two_way()).additions["default"].state_dict()
    own = {}
    for number, domain in enumerate(DOMAINS):
        drawn = (begin, seed) if start == "same" else (None, 100 * (number + 1) + seed)
        own[domain] = trained(cached(domain, "train"), *drawn)
    states = {domain: tuned.additions["default"].state_dict() for domain, tuned in own.items()}
    said = {domain: {on: scores(tuned, on) for on in DOMAINS} for domain, tuned in own.items()}
    found = {f"{domain}_on_{on}": right(said[domain][on], on) for domain in DOMAINS for on in DOMAINS}
    found["own"] = sum(found[f"{domain}_on_{domain}"] for domain in DOMAINS) / len(DOMAINS)
    joint = trained([row for domain in DOMAINS for row in cached(domain, "train")], begin, seed)
    _put(found, "joint", {on: scores(joint, on) for on in DOMAINS})
    for names in [*itertools.combinations(DOMAINS, 2), tuple(DOMAINS)]:
        chosen, share = [states[name] for name in names], 1 / len(names)
        together = {
            "averaged": stacked(chosen, [share] * len(names)), "summed": stacked(chosen, [1.0] * len(names)),
            "separately": separately(chosen),
        }  # fmt: skip
        for way, tuned in together.items():
            _put(found, f"{'+'.join(names)}_{way}", {on: scores(tuned, on) for on in names})
        ensemble = {on: sum(said[name][on] for name in names) / len(names) for on in names}
        _put(found, f"{'+'.join(names)}_ensemble", ensemble)
    return found


def _put(found: dict[str, float], name: str, said: dict[str, Any]) -> None:
    """The accuracy on each domain, and their mean under the name itself."""
    each = {on: right(probabilities, on) for on, probabilities in said.items()}
    found |= {f"{name}_on_{on}": value for on, value in each.items()}
    found[name] = sum(each.values()) / len(each)


# --- a prompt that moves --------------------------------------------------------------------------------------

FEW = 32  # labelled tweets
PROMPT_RATE = 0.1  # what chapter 46 chose for prompts on this model


def prompt() -> Method:
    from course_lib.additive import PromptTuning

    return PromptTuning(length=10)


@functools.cache
def film_prompt(seed: int) -> dict[str, Tensor]:
    """A soft prompt, and its head, for film reviews."""
    import course_lib as cl

    cl.seed(1000 + seed)  # not the draw that it is compared with
    tuned = cl.attach(base_of("minilm"), prompt(), task=two_way())
    rows = rows_of("films", "train", ROWS)
    cl.fit(tuned, rows, epochs=4, batch_size=16, learning_rate=PROMPT_RATE, seed=seed, progress=False)
    return tuned.additions["default"].state_dict()


@experiment(
    "47-transfer",
    about="MiniLM, a soft prompt for 32 tweets: begun from nothing, or from films (prompt, head or both).",
    grid=[{"start": start, "seed": seed} for seed in SEEDS for start in ("nothing", "head", "prompt", "both")],
    minutes=14,
)
def transfer(start: str, seed: int) -> dict[str, float]:
    import random

    import course_lib as cl

    pool, test = rows_of("tweets", "train", ROWS), rows_of("tweets", "test", TEST_ROWS)
    few = random.Random(seed).sample(pool, FEW)
    cl.seed(seed)
    tuned = cl.attach(base_of("minilm"), prompt(), task=two_way())
    own = tuned.additions["default"]
    if start != "nothing":
        taken = film_prompt(seed)
        kept = {key: value for key, value in taken.items() if start in ("both", "head" if "head" in key else "prompt")}
        own.load_state_dict(own.state_dict() | kept)

    def accuracy() -> float:
        return cl.evaluate(tuned, test, metrics=["accuracy"], progress=False, n_boot=2)["accuracy"].value

    before = accuracy()
    cl.fit(tuned, few, epochs=10, batch_size=8, learning_rate=PROMPT_RATE, seed=seed, progress=False)
    return {"before": before, "accuracy": accuracy()}


# --- digits ---------------------------------------------------------------------------------------------------

TRAINED, UNTRAINED = "The digit is ", "The number after it is "
VECTORS, IMAGES, EPOCHS = 4, 1200, 3


@functools.cache
def images() -> dict[str, tuple[Tensor, Tensor]]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels as 64 numbers: 1,200 to train on, 597 to test."""
    import torch
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(pixels / 16 - 0.3, dtype=torch.float32)[order], torch.tensor(digits)[order]
    return {"train": (x[:IMAGES], y[:IMAGES]), "test": (x[1200:], y[1200:])}


class Picture:
    """An image as VECTORS soft tokens before a text: one linear map into a frozen language model."""

    def __init__(self, base: Base, seed: int):
        import torch
        from torch import nn

        self.base = base
        self.width = base.model.get_input_embeddings().weight.shape[1]
        torch.manual_seed(seed)
        self.map = nn.Linear(64, VECTORS * self.width)
        nn.init.normal_(self.map.weight, std=0.02)
        nn.init.zeros_(self.map.bias)
        self.digits = torch.tensor([base.tokenizer(str(digit))["input_ids"][-1] for digit in range(10)])

    def __call__(self, x: Tensor, text: str) -> Tensor:
        """Logits (B, vocabulary) of what follows the text."""
        import torch

        ids = torch.tensor(self.base.tokenizer(text)["input_ids"])
        words = self.base.model.get_input_embeddings()(ids).expand(len(x), -1, -1)
        soft = self.map(x).view(len(x), VECTORS, self.width)
        return self.base.model(inputs_embeds=torch.cat([soft, words], dim=1), logits_to_keep=1).logits[:, -1]

    def train(self, x: Tensor, y: Tensor, epochs: int, batch: int = 20, rate: float = 3e-3) -> list[float]:
        """The map alone learns to let the model say the digit after TRAINED."""
        import torch
        from torch.nn import functional as F

        optimizer, losses = torch.optim.AdamW(self.map.parameters(), lr=rate), []
        for _epoch in range(epochs):
            for chosen in torch.randperm(len(x)).split(batch):
                loss = F.cross_entropy(self(x[chosen], TRAINED).float(), self.digits[y[chosen]])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
        return losses

    def said(self, x: Tensor, text: str) -> tuple[Tensor, Tensor]:
        """What is likeliest in the whole vocabulary, and among the ten digits (as a digit)."""
        import torch

        with torch.no_grad():
            logits = torch.cat([self(part, text) for part in x.split(100)])
        return logits.argmax(-1), logits[:, self.digits].argmax(-1)


@experiment(
    "47-digits",
    about="Digits into frozen SmolLM2, pretrained or random, by a linear map; logistic regression; another question.",
    grid=[{"model": model, "seed": seed} for seed in range(3) for model in ("logistic", "pretrained", "random")],
    minutes=22,
)
def digits(model: str, seed: int) -> dict[str, float]:
    """Of the test images: said right (whole vocabulary), right among ten digits; to the untrained question likewise."""
    (x, y), (unseen, truth) = images()["train"], images()["test"]
    if model == "logistic":
        from sklearn.linear_model import LogisticRegression

        return {"said": float(LogisticRegression(max_iter=5000).fit(x, y).score(unseen, truth))}
    base = base_of("smollm2")
    picture = Picture(base if model == "pretrained" else base.randomised(seed), seed)
    losses = picture.train(x, y, EPOCHS)
    found = {"loss": sum(losses[-10:]) / len(losses[-10:])}
    token, of_ten = picture.said(unseen, TRAINED)
    found |= {"said": share(token == picture.digits[truth]), "of_ten": share(of_ten == truth)}
    ask = truth < 9  # after nine comes no digit
    token, of_ten = picture.said(unseen[ask], UNTRAINED)
    found |= {
        "next_said": share(token == picture.digits[truth[ask] + 1]), "next_of_ten": share(of_ten == truth[ask] + 1),
        "same_said": share(token == picture.digits[truth[ask]]), "same_of_ten": share(of_ten == truth[ask]),
    }  # fmt: skip
    return found


def share(hits: torch.Tensor) -> float:
    return hits.float().mean().item()


# --- capstone -------------------------------------------------------------------------------------------------


@experiment(
    "47-capstone",
    about="Our own entry to the capstone, with five seeds: accuracy on the test reviews, CPU seconds of its build.",
    grid=[{"seed": seed} for seed in SEEDS],
    minutes=6,
)
def capstone(seed: int) -> dict[str, float]:
    import time

    import course_lib as cl
    from course_lib.capstone import CORPUS, ours

    base, reviews = base_of("minilm"), cl.load_data(CORPUS)
    begun = time.process_time()
    tuned = ours.build(base, list(reviews["train"]), list(reviews["validation"]), seed)
    cpu_seconds = time.process_time() - begun
    accuracy = cl.evaluate(tuned, reviews["test"], metrics=["accuracy"], progress=False, n_boot=2)["accuracy"].value
    return {"accuracy": accuracy, "cpu_seconds": cpu_seconds, "numbers": float(tuned.budget().trained)}
