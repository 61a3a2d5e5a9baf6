"""Chapter 52: translation from nothing by an encoder-decoder, and by a frozen SmolLM2 with an addition.

Messages are those of JupyterLab that have at most LONGEST letters and no line break: a program's menus, buttons and
short notices. What a model writes is read up to its first line break, also for the untouched model, which goes on.
"""

from __future__ import annotations

import functools
import random
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.experiments.registry import experiment

if TYPE_CHECKING:
    from course_lib.additive import Tuned
    from course_lib.bases import Base
    from course_lib.language_models import EncoderDecoder
    from course_lib.tasks import Generation

SEEDS = range(5)
LANGUAGES = {"fr": "French", "zh": "Chinese"}
LONGEST = 40
EXAMPLES = 8  # in the few-shot prompt
STEPS, BATCH = 200, 8
RATES = {"parallel": 4e-3, "lora": 3e-3}
WRITTEN, MARKED = 100, 24  # test messages that are written; test messages with placeholders, which may be longer
PLACEHOLDER = re.compile(r"%\d+|%[sd](?![a-z])|\{\w*\}")


@functools.cache
def base_of(name: str) -> Base:
    """A base, read once; nothing changes it."""
    from course_lib.bases import load_base

    return load_base(name)


@functools.cache
def messages(language: str, split: str) -> list[dict]:
    """Short messages of a split."""
    from course_lib.corpora import load_data

    rows = load_data(f"ui-en-{language}")[split]
    return [row for row in rows if len(row["source"]) <= LONGEST and "\n" not in row["source"] + row["target"]]


@functools.cache
def marked(language: str) -> list[dict]:
    """Test messages with placeholders, of up to 100 letters."""
    from course_lib.corpora import load_data

    rows = load_data(f"ui-en-{language}")["test"]
    found = (row for row in rows if PLACEHOLDER.search(row["source"]) and "\n" not in row["source"])
    return [row for row in found if len(row["source"]) <= 100][:MARKED]


def task_of(language: str, examples: Sequence[dict] = ()) -> Generation:
    """English: ... French: ..., behind `examples` of the same form."""
    from course_lib.tasks import Generation

    word = LANGUAGES[language]
    shown = "".join(f"English: {row['source']}\n{word}: {row['target']}\n\n" for row in examples)
    shown = shown.replace("{", "{{").replace("}", "}}")
    template = f"{shown}English: {{source}}\n{word}:"
    return Generation(template=template, target=" {target}", max_length=600, max_target=40)


def first_lines(texts: Sequence[str]) -> list[str]:
    """What stands before the first line break."""
    return [text.strip().partition("\n")[0].strip() for text in texts]


def survives(source: str, target: str) -> bool:
    """The same placeholders, each as often, in any order."""
    return Counter(PLACEHOLDER.findall(source)) == Counter(PLACEHOLDER.findall(target))


def score(model, tokenizer, task: Generation, language: str) -> dict[str, float]:
    """chrF, BLEU, exact match, shares of copies, of broken characters and of placeholders that survive."""
    from course_lib.evaluation import METRICS

    rows, with_marks = messages(language, "test")[:WRITTEN], marked(language)
    said, references = first_lines(task.generate(model, rows, tokenizer)), [row["target"] for row in rows]
    names = {"chrf": "chrf", "bleu": "bleu_zh" if language == "zh" else "bleu", "exact_match": "exact_match"}
    found = {column: METRICS[name].value(references, said) for column, name in names.items()}
    kept = first_lines(task.generate(model, with_marks, tokenizer))
    found["copied"] = sum(text == row["source"] for text, row in zip(said, rows)) / len(rows)
    found["broken"] = sum("\ufffd" in text for text in said) / len(rows)
    found["kept"] = sum(survives(row["source"], text) for row, text in zip(with_marks, kept)) / len(kept)
    return found


def trained(way: str, language: str, seed: int) -> Tuned:
    """SmolLM2 with an addition; way "shuffled" is the parallel adapter on translations of other messages."""
    import course_lib as cl
    from course_lib.additive import LoRA, ParallelAdapter

    rows = list(messages(language, "train"))
    random.Random(seed).shuffle(rows)
    if way == "shuffled":
        rows = [{**row, "target": other["target"]} for row, other in zip(rows, rows[1:] + rows[:1])]
    cl.seed(seed)
    method = LoRA() if way == "lora" else ParallelAdapter()
    tuned = cl.attach(base_of("smollm2"), method, task=task_of(language))
    rate = RATES.get(way, RATES["parallel"])
    cl.fit(tuned, rows, max_steps=STEPS, batch_size=BATCH, learning_rate=rate, seed=seed, progress=False)
    return tuned


def models_folder() -> Path:
    from course_lib.runtime import root

    return root() / "data" / "models"


def addition_folder() -> Path:
    """Where the addition of seed 0 is kept: chapter 52 translates the menu with it."""
    return models_folder() / "ui-en-fr"


def _ui_grid() -> Iterator[dict]:
    for seed in SEEDS:
        for language, ways in (("fr", ("untouched", "few-shot", "parallel", "lora", "shuffled")),
                               ("zh", ("untouched", "few-shot", "parallel"))):  # fmt: skip
            drawn = ways[seed > 0 :]  # of the untouched model nothing is drawn
            yield from ({"language": language, "way": way, "seed": seed} for way in drawn)


@experiment(
    "52-ui",
    about="SmolLM2 translates JupyterLab's short messages into French and Chinese: untouched, behind 8 examples, or "
    "with an addition trained for 200 steps of 8 messages: scores on 100 test messages, and the share of test "
    "messages whose placeholders survive. Seed 0 of the parallel adapter for French is written to "
    "data/models/ui-en-fr.",
    grid=list(_ui_grid()),
    minutes=140,
)
def ui(language: str, way: str, seed: int) -> dict[str, float]:
    """A seed draws the examples, or the rows' order and the initial numbers; untouched there is nothing to draw."""
    base = base_of("smollm2")
    if way in ("untouched", "few-shot"):
        examples = random.Random(seed).sample(messages(language, "train"), EXAMPLES) if way == "few-shot" else ()
        return score(base.model, base.tokenizer, task_of(language, examples), language)
    tuned = trained(way, language, seed)
    if (language, way, seed) == ("fr", "parallel", 0):
        tuned.save(addition_folder())
    return {**score(tuned, base.tokenizer, task_of(language), language), "stored": tuned.budget().stored}


# --- from nothing ----------------------------------------------------------------------------------------------------

NET = {"width": 128, "layers": 2, "heads": 4, "dropout": 0.1}
KINDS = ("pronunciation", "names-en-fr", "names-en-zh", "ui-en-fr", "ui-en-zh")
NET_STEPS, NET_BATCH, NET_RATE = {"pronunciation": 2500}, 48, 2e-3  # steps of the others: OTHER_STEPS
OTHER_STEPS = 1000
NET_WRITTEN = 300
SOUNDS = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH"),
    *("K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)
LETTER = dict(zip(SOUNDS, string.ascii_letters))


@functools.cache
def words(split: str, count: int) -> list[dict]:
    """Words of 3 to 10 letters, and their sounds without stress, a letter for each of the 39: cat, "tbE"."""
    from course_lib.corpora import load_data

    rows = load_data("pronunciation")[split].select(range(2 * count))
    plain = (row for row in rows if row["word"].isalpha() and 3 <= len(row["word"]) <= 10)
    spelt = [
        {"source": row["word"], "target": "".join(LETTER[sound.rstrip("012")] for sound in row["phonemes"].split())}
        for row in plain
    ]
    return list({row["source"]: row for row in reversed(spelt)}.values())[::-1][:count]


@functools.cache
def pairs(kind: str, split: str) -> list[dict]:
    """Rows of source and target."""
    from course_lib.corpora import load_data

    if kind == "pronunciation":
        return words(split, 40_000 if split == "train" else 1000)
    if kind.startswith("ui"):
        return messages(kind[-2:], split)
    return list(load_data(kind)[split])


def net_file() -> Path:
    """Where the net of pronunciations is kept, in bfloat16."""
    return models_folder() / "pronunciation" / "model.safetensors"


def stored_net() -> EncoderDecoder:
    """The net that seed 0 of 52-from-nothing made of pronunciations."""
    from safetensors.torch import load_file

    from course_lib.language_models import EncoderDecoder

    net = EncoderDecoder(**NET)
    state = {name: tensor.float() for name, tensor in load_file(net_file()).items()}
    net.load_state_dict({**state, "head.weight": state["token_embedding.weight"]})
    return net.eval()


@experiment(
    "52-from-nothing",
    about="An encoder-decoder of bytes (2 + 2 layers, width 128), 1,000 steps of 48 pairs (pronunciation: "
    "2,500), from nothing: chrF and exact match on 300 test pairs, errors for each letter of the target. Seed 0 of "
    "pronunciation is written to data/models/pronunciation.",
    grid=[{"kind": kind, "seed": seed} for seed in SEEDS for kind in KINDS],
    minutes=100,
)
def from_nothing(kind: str, seed: int) -> dict[str, float]:
    """`errors`: edit distance to the target over the target's length, summed over the rows before dividing."""
    from safetensors.torch import save_file

    import course_lib as cl
    from course_lib.evaluation import METRICS, edit_distances
    from course_lib.language_models import Bytes, EncoderDecoder

    cl.seed(seed)
    net, tokenizer, task = EncoderDecoder(**NET), Bytes(end=True), cl.tasks.SequenceToSequence(max_target=80)
    train, test = pairs(kind, "train"), pairs(kind, "test")[:NET_WRITTEN]
    history = cl.fit(
        net, train, task=task, tokenizer=tokenizer, max_steps=NET_STEPS.get(kind, OTHER_STEPS), batch_size=NET_BATCH,
        learning_rate=NET_RATE, seed=seed, progress=False,
    )  # fmt: skip
    net.eval()
    if (kind, seed) == ("pronunciation", 0):
        net_file().parent.mkdir(parents=True, exist_ok=True)
        state = {name: tensor for name, tensor in net.state_dict().items() if name != "head.weight"}  # tied
        save_file({name: tensor.bfloat16() for name, tensor in state.items()}, net_file())
    said, targets = task.generate(net, test, tokenizer, batch_size=50), [row["target"] for row in test]
    wrong = sum(int(edit_distances(text, [target])[0]) for text, target in zip(said, targets))
    return {
        "rows": len(train), "parameters": net.num_parameters(), "training_loss": sum(history.loss[-50:]) / 50,
        "chrf": METRICS["chrf"].value(targets, said), "exact_match": METRICS["exact_match"].value(targets, said),
        "errors": wrong / sum(map(len, targets)),
    }  # fmt: skip
