"""Chapter 32: the course's own GPT, trained once and kept under data/models; and how loss falls with size and text."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.experiments.registry import experiment

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

KINDS = ("chat", "docs", "code")
END = "<|end|>"  # closes every document
MERGES = 2048 - 256 - 1
CONTEXT, BATCH, RATE = 256, 8, 2e-3
SIZES = {"width": 192, "layers": 4, "heads": 6}
HELD_OUT = 50_000  # bytes of each kind's test split that are scored
SAMPLE = 5  # documents of each kind whose loss a test computes again
# Conversations hold a few addresses and telephone numbers of real people: a model need not learn those.
CONTACT = re.compile(r"\S+@\S+|https?://\S+|www\.\S+|\+?\d[\d ().-]{5,}\d")


def documents(split: str) -> dict[str, list[str]]:
    """Texts of one split by kind: conversations, documentation, functions. All may be used and passed on.

    A docstring stands in its module's file, too, so documentation follows the split of the code it belongs to.
    """
    from course_lib.corpora import load_data

    files, docstrings = load_data("python-code", unit="files"), load_data("python-docs")
    module_split = {row["module"]: part for part in files for row in files[part].select_columns("module")}
    docs = [
        f"{row['summary']}\n\n{row['text']}"
        for part in docstrings for row in docstrings[part]
        if module_split.get(module_of(row["name"], module_split)) == split
    ]  # fmt: skip
    return {
        "chat": conversations(split),
        "docs": docs + list(load_data("python-docs", kind="topics")[split]["text"]),
        "code": list(load_data("python-code")[split]["code"]),
    }


def conversations(split: str) -> list[str]:
    """The chat corpus without addresses and telephone numbers."""
    from course_lib.corpora import load_data

    return [CONTACT.sub("<hidden>", text) for text in load_data("chat")[split]["text"]]


def module_of(name: str, modules: dict[str, str]) -> str:
    """The longest beginning of a dotted name that is a module; "" if none is."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt from `texts`, with one special token: the end of a document."""
    from transformers import PreTrainedTokenizerFast

    from course_lib.language_models.bpe import BPE

    fast = BPE.train(texts, MERGES).fast()
    fast.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=END, bos_token=END, pad_token=END)


def joined(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """The ids of all texts, each behind an end token, as one long text (N,)."""
    import torch

    rows = tokenizer([END + text for text in texts])["input_ids"]
    return torch.tensor([i for row in rows for i in row])


@experiment(
    "32-course-gpt",
    about="The course's GPT (4 layers, width 192, 2,048 tokens), once through chat, python-docs and python-code: bits "
    "per byte of test text, beside 5-grams of bytes counted on the same. Writes data/models/course-gpt.",
    grid=[{"model": "course-gpt", "seed": 0}],
    minutes=25,
)
def course_gpt(model: str, seed: int) -> dict[str, float]:
    """`chat`, `docs`, `code`: bits per byte of the stored bfloat16 weights; `ngram_chat` and so on: of the 5-gram."""
    import torch

    from course_lib import language_models as lms
    from course_lib import runtime, tasks
    from course_lib.bases import own_folder
    from course_lib.training import fit

    train, validation, test = (documents(split) for split in ("train", "validation", "test"))
    tokenizer = tokenizer_of([text for kind in KINDS for text in train[kind]])
    rows = [w for kind in KINDS for w in lms.windows(joined(train[kind], tokenizer), CONTEXT)]
    held = [w for kind in KINDS for w in lms.windows(joined(validation[kind], tokenizer)[: 40 * CONTEXT], CONTEXT)]
    runtime.seed(seed)
    net, begun = lms.GPT(vocabulary=len(tokenizer), context=CONTEXT, **SIZES), time.perf_counter()
    history = fit(
        net, {"train": rows, "validation": held}, task=tasks.NextToken(), batch_size=BATCH, learning_rate=RATE,
        weight_decay=0.1, evaluate_every=100, dtype="float32", seed=seed, progress=False, checkpoint_every=100,
        folder=runtime.cache_dir() / "runs" / model, resume=True,
    )  # fmt: skip
    folder = lms.save(net, own_folder(model), tokenizer, dtype=torch.bfloat16)
    stored = lms.load(folder)
    count = lms.NGram(order=5).fit("\n".join(text for kind in KINDS for text in train[kind]).encode())
    measured = {"parameters": net.num_parameters(), "tokens": sum(history.tokens), "seconds": history.seconds}
    for kind in KINDS:
        text = "\n".join(test[kind])[:HELD_OUT]
        measured[kind] = lms.bits_per_byte(stored, text, tokenizer=tokenizer)
        measured[f"ngram_{kind}"] = lms.bits_per_byte(count, text)
    samples = {kind: sample(test[kind]) for kind in KINDS}
    write_provenance(
        folder, "32-course-gpt", train, time.perf_counter() - begun,
        validation={"step": history.validation_step, "nats_per_token": history.validation_loss},
        samples={kind: {
            "sha256": sha256(text.encode()), "bits_per_byte": lms.bits_per_byte(stored, text, tokenizer=tokenizer)
        } for kind, text in samples.items()},
    )  # fmt: skip
    return measured


def write_provenance(folder: Path, name: str, train: dict, seconds: float, **more) -> None:
    """training.json: what made the files of a model of the course, from which text; `more` says how it went."""
    from course_lib.experiments import runner

    about = {
        "command": f"python -m course_lib experiment {name}", "commit": runner.code_commit(),
        "machine": runner.machine(), **runner.provenance(), "seconds": round(seconds),
        "licence": "the course's own weights, MIT; trained on chat (MIT), python-docs and python-code (PSF licence)",
        "text": {kind: {
            "documents": len(train[kind]), "bytes": sum(len(text.encode()) for text in train[kind]),
            "sha256": sha256("\n".join(train[kind]).encode()),
        } for kind in KINDS},
        **more,
        "files": {path.name: sha256(path.read_bytes()) for path in sorted(folder.iterdir()) if path.suffix != ".md"
                  and path.name != "training.json"},
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def sample(texts: list[str]) -> str:
    """The first documents of a split, cut to a few hundred bytes each: a small held-out text."""
    return "\n".join(text[:400] for text in texts[:SAMPLE])


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


# --- size, text and loss ---------------------------------------------------------------------------------------------

SMALL = {"small": (16, 2), "middle": (32, 2), "large": (64, 2)}  # name -> width, layers
BUDGETS = (200_000, 600_000, 1_800_000)  # bytes, each read once
HELD = ("held-out", (96, 3), 3_600_000)  # larger than all and with more to read: to be predicted


def scaling_grid() -> Iterator[dict]:
    for seed in range(5):
        yield from ({"model": name, "bytes": budget, "seed": seed} for name in SMALL for budget in BUDGETS)
        yield {"model": HELD[0], "bytes": HELD[2], "seed": seed}


@experiment(
    "32-scaling",
    about="GPTs of bytes in three sizes on three amounts of chat, each byte read once, and a fourth size on a fourth "
    "amount: bits per byte of test text.",
    grid=list(scaling_grid()),
    minutes=20,
)
def scaling(model: str, bytes: int, seed: int) -> dict[str, float]:  # noqa: A002 - the grid's word
    """`parameters` counts the blocks alone, without the tables of tokens and positions."""
    from course_lib import language_models as lms
    from course_lib import runtime, tasks
    from course_lib.training import fit

    width, layers = HELD[1] if model == HELD[0] else SMALL[model]
    runtime.seed(seed)
    net = lms.GPT(vocabulary=256, context=64, width=width, layers=layers, heads=max(2, width // 16))
    ids = lms.as_ids("\n\n".join(conversations("train")).encode()[:bytes])
    history = fit(
        net, lms.windows(ids, 64), task=tasks.NextToken(), batch_size=8, learning_rate=2e-3 * (192 / width) ** 0.5,
        weight_decay=0.1, dtype="float32", seed=seed, progress=False,
    )  # fmt: skip
    text = "\n\n".join(conversations("test"))[: HELD_OUT // 2]
    return {
        "bits_per_byte": lms.bits_per_byte(net, text), "seconds": history.seconds,
        "parameters": sum(p.numel() for block in net.blocks for p in block.parameters()),
    }  # fmt: skip


# --- too little text -------------------------------------------------------------------------------------------------

CURES = {"none": 0.0, "dropout": 0.3, "decay": 3.0, "l1": 3e-4}  # name -> strength
TEXTS, HELD_TEXTS, EPOCHS = 6, 12, 16  # conversations; times each is read


def overfitting_run(cure: str, strength: float, seed: int, epochs: int = EPOCHS):
    """A GPT (2 layers, width 64) that reads the same few conversations again and again: the model and its history."""
    from course_lib import language_models as lms
    from course_lib import runtime, tasks
    from course_lib.bases import load_base
    from course_lib.training import fit

    tokenizer = load_base("course-gpt").tokenizer
    rows, held = (
        lms.windows(joined(conversations(split)[:count], tokenizer), 64)
        for split, count in (("train", TEXTS), ("validation", HELD_TEXTS))
    )
    runtime.seed(seed)
    dropout = strength if cure == "dropout" else 0.0
    net = lms.GPT(vocabulary=len(tokenizer), context=64, width=64, layers=2, heads=4, dropout=dropout)
    task = with_l1(net, strength) if cure == "l1" else tasks.NextToken()
    history = fit(
        net, {"train": rows, "validation": held[:40]}, task=task, epochs=epochs, batch_size=4, learning_rate=6e-3,
        weight_decay=strength if cure == "decay" else 0.0, dtype="float32", seed=seed, progress=False,
        evaluate_every=2 * -(-len(rows) // 4),
    )  # fmt: skip
    return net, history


def with_l1(model, strength: float):
    """The task of the next token plus `strength` times the sum of all weights' sizes, a token; not in evaluation."""
    import torch

    from course_lib import tasks

    class Penalised(tasks.NextToken):
        def loss(self, output, batch):
            total, count = super().loss(output, batch)
            if torch.is_grad_enabled():
                total = total + strength * count * sum(p.abs().sum() for p in model.parameters() if p.ndim > 1)
            return total, count

    return Penalised()


@experiment(
    "32-overfitting",
    about="A small GPT that reads six conversations sixteen times: loss on held-out ones in nats a token, with "
    "dropout, decay of weights (decoupled L2) or an L1 penalty.",
    grid=[
        {"cure": cure, "strength": strength, "seed": seed}
        for seed in range(5) for cure, strength in CURES.items()
    ],
    minutes=3,
)  # fmt: skip
def overfitting(cure: str, strength: float, seed: int) -> dict[str, float]:
    """`best` is the lowest held-out loss on the way, where early stopping would end, `last` that of the last epoch."""
    net, history = overfitting_run(cure, strength, seed)
    weights = [p.detach().abs() for p in net.parameters() if p.ndim > 1]
    return {
        "best": history.best_validation_loss, "last": history.validation_loss[-1],
        "best_epoch": history.best_step / history.steps_per_epoch, "train": sum(history.loss[-10:]) / 10,
        "tiny": sum(float((w < 1e-3).sum()) for w in weights) / sum(w.numel() for w in weights),
        "seconds": history.seconds,
    }  # fmt: skip
