"""Chapter 33: the course's own encoder, and whether reading from both sides gives better features than reading on."""

from __future__ import annotations

import ast
import itertools
import math
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from course_lib.experiments.chapter_32 import KINDS, documents, sample, sha256, write_provenance
from course_lib.experiments.registry import experiment

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerFast

    from course_lib.tasks import Task

# --- course-bert -----------------------------------------------------------------------------------------------------

SPECIAL = {"pad_token": "<pad>", "bos_token": "<begin>", "eos_token": "<end>", "mask_token": "<mask>"}
MERGES = 4096 - 256 - len(SPECIAL)
EVERY = 4  # the merges are learnt from every fourth training text
SIZES = {"context": 128, "width": 192, "layers": 4, "heads": 6}
STEPS, BATCH, RATE = 1200, 16, 1e-3
HELD_OUT = 200  # rows of each kind's test split that are scored


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    """course-bert's tokenizer: the kept one, or, before there is one, learnt from the texts; both are the same."""
    from transformers import AutoTokenizer

    from course_lib.bases import own_folder

    kept = own_folder("course-bert")
    if (kept / "training.json").is_file():
        return AutoTokenizer.from_pretrained(kept, local_files_only=True)
    return learnt_tokenizer(MERGES, EVERY)


def learnt_tokenizer(merges: int, every: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt from one text in `every`, and four special tokens; <begin> and <end> close a text in.

    A <mask> takes in the space before it, as a word's token does.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    from course_lib.language_models.bpe import BPE

    train = documents("train")
    fast = BPE.train([text for kind in KINDS for text in train[kind][::every]], merges).fast()
    fast.add_special_tokens([AddedToken(name, lstrip=name == "<mask>", special=True) for name in SPECIAL.values()])
    ends = [(name, fast.token_to_id(name)) for name in ("<begin>", "<end>")]
    fast.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", pair="<begin> $A <end> $B:1 <end>:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=fast, clean_up_tokenization_spaces=False, **SPECIAL)


def rows_of(texts: list[str]) -> list[dict]:
    """Documents cut into rows of at most 128 tokens, between <begin> and <end>; rows of under 8 tokens are left out."""
    words, length = tokenizer(), SIZES["context"] - 2
    ids = words(texts, add_special_tokens=False)["input_ids"]
    cut = (row[i : i + length] for row in ids for i in range(0, len(row), length))
    return [{"input_ids": [words.bos_token_id, *row, words.eos_token_id]} for row in cut if len(row) >= 8]


def asked_only(model: nn.Module) -> tuple[nn.Module, Task]:
    """The model and the task of hidden tokens, where the vocabulary is scored at the hidden positions alone.

    Loss and gradients are the same, and 85 % of the last and widest matrix product are saved.
    """
    from torch import nn
    from torch.nn import functional as F

    from course_lib.tasks import MaskedTokens

    class Asked(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.context = model, model.context

        def forward(self, input_ids, chosen, attention_mask=None):
            states = self.model.states(input_ids, attention_mask)[chosen]
            return self.model.score(states) if hasattr(self.model, "score") else self.model.head(states)

    class AskedTokens(MaskedTokens):
        def collate(self, features, tokenizer):
            batch = super().collate(features, tokenizer)
            return {**batch, "chosen": batch["labels"] != -100}

        def loss(self, output, batch):
            labels = batch["labels"][batch["chosen"]]
            return F.cross_entropy(output, labels, reduction="sum"), len(labels)

    return Asked(), AskedTokens()


@experiment(
    "33-course-bert",
    about="The course's encoder (4 layers, width 192, 4,096 tokens) guesses hidden tokens of chat, python-docs and "
    "python-code from both sides: the share guessed right in the test split. Writes data/models/course-bert.",
    grid=[{"model": "course-bert", "seed": 0}],
    minutes=15,
)
def course_bert(model: str, seed: int) -> dict[str, float]:
    """`chat`, `docs`, `code`: the share guessed right by the stored bfloat16 weights; `commonest_chat` and so on: the
    share of the commonest token; `bits_chat`: bits of a hidden token."""
    import torch

    from course_lib import language_models as lms
    from course_lib import runtime
    from course_lib.bases import own_folder
    from course_lib.tasks import MaskedTokens
    from course_lib.training import fit

    train, test, task = documents("train"), documents("test"), MaskedTokens()
    rows = [row for kind in KINDS for row in rows_of(train[kind])]
    runtime.seed(seed)
    net, begun = lms.Encoder(vocabulary=len(tokenizer()), **SIZES), time.perf_counter()
    trained, asked = asked_only(net)
    history = fit(
        trained, rows, task=asked, tokenizer=tokenizer(), max_steps=STEPS, batch_size=BATCH, learning_rate=RATE,
        weight_decay=0.1, dtype="float32", seed=seed, progress=False, checkpoint_every=100,
        folder=runtime.cache_dir() / "runs" / model, resume=True,
    )  # fmt: skip
    folder = lms.save(net, own_folder(model), tokenizer(), dtype=torch.bfloat16)
    stored = lms.load(folder)
    measured = {"parameters": net.num_parameters(), "tokens": sum(history.tokens), "seconds": history.seconds}
    for kind in KINDS:
        found = guesses(stored, task.fixed(rows_of(test[kind])[:HELD_OUT], tokenizer()))
        measured |= {kind: found["right"], f"commonest_{kind}": found["commonest"], f"bits_{kind}": found["bits"]}
    samples = {kind: guesses(stored, task.fixed(rows_of([sample(test[kind])]), tokenizer())) for kind in KINDS}
    smoothed = [round(sum(part) / len(part), 4) for part in zip(*[iter(history.loss)] * 100)]
    write_provenance(
        folder, "33-course-bert", train, time.perf_counter() - begun,
        training={"steps": STEPS, "rows": BATCH, "rate": RATE, "nats_per_hidden_token_by_100_steps": smoothed},
        samples={kind: {"sha256": sha256(sample(test[kind]).encode()), **samples[kind]} for kind in KINDS},
    )  # fmt: skip
    return measured


def guesses(model: nn.Module, held_out: list[dict]) -> dict[str, float]:
    """Of the hidden tokens of rows: bits of each, the share guessed right, and the share of the commonest of them."""
    import torch
    from torch.nn import functional as F

    from course_lib.tasks import MaskedTokens, inputs_of

    task, scores, asked = MaskedTokens(), [], []
    with torch.no_grad():
        for start in range(0, len(held_out), 32):
            batch = task.collate(held_out[start : start + 32], tokenizer())
            chosen = batch["labels"] != -100
            scores.append(model(**inputs_of(batch))[chosen].float())
            asked.append(batch["labels"][chosen])
    logits, labels = torch.cat(scores), torch.cat(asked)
    return {
        "bits": float(F.cross_entropy(logits, labels)) / math.log(2),
        "right": float((logits.argmax(-1) == labels).float().mean()),
        "commonest": int(labels.bincount().max()) / len(labels),
    }


# --- features from one side and from both ----------------------------------------------------------------------------

SEEDS = range(5)
SWEEP_SEED = 100  # not among the five
SMALL = {"context": 64, "width": 96, "layers": 2, "heads": 4}
SMALL_MERGES, SMALL_EVERY = 1024 - 256 - len(SPECIAL), 16
BUDGETS = (300_000, 1_200_000)  # training tokens, each read once
RATES = (2e-3, 4e-3, 8e-3)
CHOSEN = {"causal": 4e-3, "masked": 4e-3}
REVIEWS = 2000  # that the probe learns from; it is tested on the whole test split
FUNCTIONS = {"train": 600, "validation": 400, "test": 400}  # whose names are asked for
ROLES = ("read", "stored", "called")


@lru_cache
def small_tokenizer() -> PreTrainedTokenizerFast:
    """1,024 tokens: so few that a small model spends its numbers on more than a table of words."""
    return learnt_tokenizer(SMALL_MERGES, SMALL_EVERY)


def model_of(objective: str) -> nn.Module:
    """A small GPT; for "masked" the very same one, but for the mask over the future."""
    from course_lib import language_models as lms

    return (lms.GPT if objective == "causal" else both_sides())(vocabulary=len(small_tokenizer()), **SMALL)


@lru_cache
def both_sides() -> type[nn.Module]:
    import torch

    from course_lib import language_models as lms
    from course_lib.language_models.blocks import visible

    class BothSides(lms.GPT):
        """A GPT that hides nothing: each position sees the whole text, padding apart."""

        def states(self, input_ids, attention_mask=None, cache=None):
            T = input_ids.shape[1]
            x = self.token_embedding(input_ids) + self.position_embedding(torch.arange(T, device=input_ids.device))
            mask = visible(T, T, attention_mask, causal=False)
            for block in self.blocks:
                x = block(x, mask=mask)
            return self.norm(x)

    return BothSides


@lru_cache
def stream(split: str, tokens: int) -> torch.Tensor:
    """The texts of a split in a fixed shuffle, one after the other, an <end> behind each: the first ids (tokens,)."""
    import random

    import torch

    texts = [text for kind in documents(split).values() for text in kind]
    random.Random(0).shuffle(texts)
    ids: list[int] = []
    for text in texts:
        if len(ids) >= tokens:
            break
        ids += [*small_tokenizer()(text, add_special_tokens=False)["input_ids"], small_tokenizer().eos_token_id]
    return torch.tensor(ids[:tokens])


def pretrain(objective: str, tokens: int, seed: int, rate: float | None = None) -> tuple[nn.Module, float]:
    """A model that has read so many tokens once (0: none), and the mean loss of its last tenth of steps."""
    from course_lib import language_models as lms
    from course_lib import runtime, tasks
    from course_lib.training import fit

    runtime.seed(seed)
    model, causal = model_of(objective), objective == "causal"
    if not tokens:
        return model.eval(), float("nan")
    trained, task = (model, tasks.NextToken()) if causal else asked_only(model)
    history = fit(
        trained, lms.windows(stream("train", tokens), SMALL["context"], guess_next=causal),
        task=task, tokenizer=small_tokenizer(),
        batch_size=16, learning_rate=rate or CHOSEN[objective], weight_decay=0.1, dtype="float32", seed=seed,
        progress=False,
    )  # fmt: skip
    last = history.loss[-max(1, len(history.loss) // 10) :]
    return model, sum(last) / len(last)


def states_of(model: nn.Module, rows: list[list[int]]) -> list[torch.Tensor]:
    """The states (T, d) of each row of token ids, padding apart; rows of similar length are computed together."""
    import torch

    order, found = sorted(range(len(rows)), key=lambda i: len(rows[i])), {}
    with torch.no_grad():
        for start in range(0, len(order), 64):
            part = [torch.tensor(rows[i]) for i in order[start : start + 64]]
            ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
            real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in part], batch_first=True)
            states = model.states(ids, real)
            found |= {i: one[: len(row)] for i, row, one in zip(order[start : start + 64], part, states)}
    return [found[i] for i in range(len(rows))]


def review_features(model: nn.Module, split: str, pools: tuple[str, ...] = ("mean", "last")) -> dict:
    """(vectors (n, d), labels (n,)) of movie reviews: the mean over a review's tokens, or the state of its last."""
    import torch

    from course_lib.corpora import load_data

    reviews = load_data("movie-reviews")[split]
    reviews = reviews.select(range(REVIEWS)) if split == "train" else reviews
    ids = small_tokenizer()(list(reviews["text"]), add_special_tokens=False)["input_ids"]
    states = states_of(model, [row[: SMALL["context"]] for row in ids])
    take = {"mean": lambda one: one.mean(0), "last": lambda one: one[-1]}
    return {pool: (torch.stack([take[pool](one) for one in states]).numpy(), list(reviews["label"])) for pool in pools}


def names_in(code: str) -> list[tuple[int, str]]:
    """(where it ends, role) of each plain name in a function, by Python's parser: called, assigned to, or else read."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a method whose text holds a line further left than its first cannot stand alone
        return []
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    starts = [0, *itertools.accumulate(len(line) for line in code.splitlines(keepends=True))]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            role = "called" if id(node) in called else "read" if isinstance(node.ctx, ast.Load) else "stored"
            found.append((starts[node.lineno - 1] + node.end_col_offset, role))
    return sorted(found)


@lru_cache
def names(split: str) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Functions as tokens, and for each the (position of a name's last token, number of its role) of its names."""
    from course_lib.corpora import load_data

    rows, places = [], []
    for code in load_data("python-code")[split]["code"]:
        if len(rows) == FUNCTIONS[split]:
            break
        if not code.isascii():  # the parser counts bytes, the tokenizer letters
            continue
        encoded = small_tokenizer()(
            code, add_special_tokens=False, truncation=True, max_length=SMALL["context"], return_offsets_mapping=True
        )
        position = {end: number for number, (_, end) in enumerate(encoded["offset_mapping"])}
        last = len(encoded["input_ids"]) - 1
        here = [(position[end], ROLES.index(role)) for end, role in names_in(code) if position.get(end, last) < last]
        if here:
            rows.append(encoded["input_ids"])
            places.append(here)
    return rows, places


def name_features(model: nn.Module, split: str, later: int = 0) -> tuple[np.ndarray, list[int]]:
    """(vectors (n, d), roles (n,)) of names in functions: the state of a name's last token, or of a `later` token."""
    import torch

    rows, places = names(split)
    at = [[position + later for position, _ in here] for here in places]
    states = [one[where] for one, where in zip(states_of(model, rows), at)]
    return torch.cat(states).numpy(), [role for here in places for _, role in here]


def probe(train: tuple, test: tuple) -> float:
    """Accuracy on `test` of a logistic regression on frozen features, fitted to `train`; both (vectors, labels)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(*train).score(*test)


def probes(model: nn.Module, split: str = "test") -> dict[str, float]:
    """Accuracies: of reviews by the mean and by the last state, of names by their own state and by the next one."""
    train, test = review_features(model, "train"), review_features(model, split)
    found = {f"review_{pool}": probe(train[pool], test[pool]) for pool in train}
    for column, later in (("name_here", 0), ("name_next", 1)):
        found[column] = probe(name_features(model, "train", later), name_features(model, split, later))
    return found


@experiment(
    "33-learning-rates",
    about="A small model that reads on and one that reads both ways, 300,000 tokens: loss of its own objective on "
    "validation text, by learning rate.",
    grid=[{"objective": name, "rate": rate, "seed": SWEEP_SEED} for name in CHOSEN for rate in RATES],
    minutes=5,
)
def learning_rates(objective: str, rate: float, seed: int) -> dict[str, float]:
    import torch

    from course_lib import language_models as lms
    from course_lib import tasks

    model, _ = pretrain(objective, BUDGETS[0], seed, rate)
    causal = objective == "causal"
    task = tasks.NextToken() if causal else tasks.MaskedTokens()
    rows = lms.windows(stream("validation", 60_000), SMALL["context"], guess_next=causal)
    batch = task.collate(rows if causal else task.fixed(rows, small_tokenizer()), small_tokenizer())
    with torch.no_grad():
        total, units = task.loss(model(batch["input_ids"]), batch)
    return {"loss": float(total / units)}


@experiment(
    "33-both-sides",
    about="The same small model, read on (each next token guessed) or read both ways (hidden tokens guessed), on the "
    "same text: accuracy of the same probe on its frozen states.",
    grid=[
        {"objective": name, "tokens": tokens, "seed": seed}
        for tokens in (0, *BUDGETS) for name in CHOSEN for seed in SEEDS
    ],
    minutes=25,
)  # fmt: skip
def both_sides_or_one(objective: str, tokens: int, seed: int) -> dict[str, float]:
    """`loss` is the objective's own, over the last tenth of the steps: the two objectives' cannot be compared."""
    begun = time.perf_counter()
    model, loss = pretrain(objective, tokens, seed)
    measured = {"parameters": model.num_parameters(), "seconds": time.perf_counter() - begun, **probes(model)}
    return measured | ({"loss": loss} if tokens else {})
