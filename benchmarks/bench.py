"""How fast are the course's additions, beside peft and beside the base alone?

    make bench                                    # everything, about a quarter of an hour; stored in data/results
    python benchmarks/bench.py steps mixed        # some sections; the others' stored rows stay
    python benchmarks/bench.py --quick            # a smoke test: seconds, and nothing is stored

steps      a training step (forward, loss, backward, AdamW) of each method that peft has too; peft runs twice, as "peft"
           and "peft again": how far these two differ is the noise of the comparison
forward    a forward pass without gradients, beside the base alone
mixed      a batch of 64 rows that use 1, 8 and 64 additions: training (forward, backward) and generating
cache      a training step on cached states beside the same step without, one adapter in the top block
handling   attach, merge and switch, in seconds
memory     peak memory of a step, every contender in a process of its own (on Linux)
finetune   MiniLM on 2,000 movie reviews with LoRA: cl.fit beside peft and transformers' Trainer, with the same rate,
           batch and epochs, in two number formats, with and without batches of similar length; Trainer's defaults too
adapters   a training step and its peak memory beside the `adapters` library, which needs another transformers and so
           runs in an environment of its own: --adapters-python golden/bin/python (how to make it: tests/golden)

Contenders take turns within a round, in an order drawn anew for each round, and a ratio is taken within its round; what
is stored is the median of these ratios with a 95 % bootstrap interval. Both sides compute the same function from the
same numbers in float32: ours is read from the files that peft wrote. peft is in eval mode, which draws no dropout, as
ours draws none from the base. Models are SmolLM2 with 8 rows of 64 tokens and MiniLM with 32 rows of 32.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

import course_lib as cl  # noqa: E402
from course_lib.additive import (  # noqa: E402
    IA3,
    BottleneckAdapter,
    Compacter,
    LayerNormTuning,
    LoRA,
    LoReFT,
    ParallelAdapter,
    PrefixTuning,
    PromptTuning,
    PTuning,
    attach,
    load,
)
from course_lib.experiments import runner, store  # noqa: E402
from course_lib.tasks import Classification  # noqa: E402

Row = tuple[dict, dict]  # (point, measured), as in every file of data/results
BASES = {"minilm": (32, 32), "smollm2": (8, 64)}  # rows and tokens of a batch
METHODS = ("LoRA", "IA3", "PromptTuning", "PTuning", "PrefixTuning", "LayerNormTuning")


# --- contenders ------------------------------------------------------------------------------------------------------


class Contest:
    """One base, and for each method our model and peft's with the same numbers."""

    def __init__(self, name: str):
        self.name, self.base = name, cl.load_base(name)
        self.rows, self.tokens = BASES[name]
        self.encoder = name == "minilm"
        self.task = Classification(2) if self.encoder else None
        torch.manual_seed(0)
        model = self.base.model
        self.plain = self.task.with_head(model, self.base.tokenizer).eval() if self.encoder else model

    def batch(self, rows: int | None = None, tokens: int | None = None) -> dict[str, torch.Tensor]:
        """Random words; the labels are two classes, or the words themselves."""
        draw = torch.Generator().manual_seed(1)
        ids = torch.randint(1000, 20_000, (rows or self.rows, tokens or self.tokens), generator=draw)
        labels = torch.randint(0, 2, (len(ids),), generator=draw) if self.encoder else ids
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def method(self, name: str):
        """The method in our words."""
        compat = "peft" if self.encoder else None  # which puts prompts before [CLS]
        return {
            "LoRA": LoRA(rank=8, alpha=16), "IA3": IA3(), "PromptTuning": PromptTuning(20, compat=compat),
            "PTuning": PTuning(20, compat=compat), "PrefixTuning": PrefixTuning(10, hidden=None),
            "LayerNormTuning": LayerNormTuning(), "BottleneckAdapter": BottleneckAdapter(16),
            "ParallelAdapter": ParallelAdapter(16), "Compacter": Compacter(16), "LoReFT": LoReFT(),
        }[name]

    def config(self, name: str) -> peft.PeftConfig:
        """The same method in peft's words."""
        width = self.base.model.config.hidden_size
        options = {"task_type": "SEQ_CLS" if self.encoder else "CAUSAL_LM"}
        out = r".*layer\.\d+\.output\.dense" if self.encoder else r".*mlp\.down_proj"
        scaled = r".*self\.(key|value)" if self.encoder else r".*self_attn\.[kv]_proj"
        norms = ["LayerNorm"] if self.encoder else ["input_layernorm", "post_attention_layernorm", "norm"]
        lora = ["query", "value"] if self.encoder else ["q_proj", "v_proj"]
        return {
            "LoRA": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=lora, **options),
            "IA3": lambda: peft.IA3Config(target_modules=f"{scaled}|{out}", feedforward_modules=out, **options),
            "PromptTuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=20, **options),
            "PTuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=20, encoder_hidden_size=width, **options),
            "PrefixTuning": lambda: peft.PrefixTuningConfig(num_virtual_tokens=10, **options),
            "LayerNormTuning": lambda: peft.LNTuningConfig(target_modules=norms, **options),
        }[name]()

    def theirs(self, method: str) -> torch.nn.Module:
        return peft.get_peft_model(copy.deepcopy(self.plain), self.config(method)).eval()

    def ours(self, method: str, theirs: torch.nn.Module | None = None) -> cl.additive.Tuned:
        """Our model; with `theirs`, read from what peft writes: of P-tuning that is no network, but its result."""
        if theirs is None or method == "PTuning":
            return attach(self.base, self.method(method), task=self.task).train()
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            return load(self.base, folder, trainable=True).train()


def stepper(model: torch.nn.Module, batch: dict, optimised: bool = True, **more) -> Callable[[], float]:
    """A function that makes one training step and returns the loss before it."""
    numbers = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(numbers, lr=1e-4, fused=True)

    def step() -> float:
        loss = model(**batch, **more).loss
        loss.backward()
        if optimised:
            optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


# --- clocks ----------------------------------------------------------------------------------------------------------


class Clock:
    """Runs contenders in turns and compares them."""

    def __init__(self, now: Callable[[], float], quick: bool, adapters_python: str | None = None):
        self.now, self.quick, self.adapters_python = now, quick, adapters_python
        self.draw = random.Random(0)

    def rounds(self, contenders: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
        """Seconds of every contender in every round; as many rounds as fit into `seconds`, at least six."""
        for run in contenders.values():
            run()
        once = {name: self.time(run) for name, run in contenders.items()}
        number = 2 if self.quick else min(60, max(6, round(seconds / sum(once.values()))))
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(number):
            for name in self.draw.sample(list(contenders), len(contenders)):
                times[name].append(self.time(contenders[name]))
        return times

    def time(self, run: Callable) -> float:
        begun = self.now()
        run()
        return self.now() - begun


def ratio(of: list[float], to: list[float], name: str = "ratio") -> dict[str, float]:
    """The median of paired ratios, and its 95 % bootstrap interval."""
    ratios = np.array(of) / np.array(to)
    resampled = np.median(np.random.default_rng(0).choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return {name: float(np.median(ratios)), f"{name}_low": float(low), f"{name}_high": float(high)}


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}_seconds": statistics.median(values) for name, values in times.items()}


# --- sections --------------------------------------------------------------------------------------------------------


def steps(clock: Clock, bases: list[str], methods: tuple[str, ...]) -> Iterator[Row]:
    for name in bases:
        contest = Contest(name)
        batch = contest.batch()
        for method in methods:
            theirs = contest.theirs(method)
            ours, again = contest.ours(method, theirs), copy.deepcopy(theirs)
            runs = {key: stepper(m, batch) for key, m in (("ours", ours), ("peft", theirs), ("peft_again", again))}
            first = {key: run() for key, run in runs.items()}
            if method != "PTuning" and not math.isclose(first["ours"], first["peft"], rel_tol=1e-4):
                raise SystemExit(f"{method} on {name}: the losses differ, {first}; nothing can be compared.")
            times = clock.rounds(runs, 15 if name == "minilm" else 40)
            yield {"section": "steps", "base": name, "method": method}, {
                **ratio(times["ours"], times["peft"]), **ratio(times["peft_again"], times["peft"], "control"),
                **medians(times), "rounds": len(times["ours"]),
            }


def forward(clock: Clock, bases: list[str], methods: tuple[str, ...]) -> Iterator[Row]:
    for name in bases:
        contest = Contest(name)
        batch = contest.batch()
        for method in methods:
            theirs = contest.theirs(method)
            models = {"base": contest.plain, "ours": contest.ours(method, theirs).eval(), "peft": theirs}
            times = clock.rounds({key: without_gradients(model, batch) for key, model in models.items()}, 8)
            yield {"section": "forward", "base": name, "method": method}, {
                **ratio(times["ours"], times["base"], "ours"), **ratio(times["peft"], times["base"], "peft"),
                **medians(times), "rounds": len(times["ours"]),
            }


def without_gradients(model: torch.nn.Module, batch: dict) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        model(**batch)

    return run


MIXED = (1, 8, 64)


def mixed(clock: Clock, bases: list[str], methods: tuple[str, ...]) -> Iterator[Row]:
    for name in bases:
        contest = Contest(name)
        train = contest.batch(64, 32 if name == "minilm" else 16)
        for method in (*methods, "ParallelAdapter"):
            tuned = contest.ours(method)
            for number in range(1, max(MIXED)):
                tuned.add(contest.method(method), str(number))
            tuned.train()
            names = ["default", *map(str, range(1, max(MIXED)))]
            share = {n: [names[row % n] for row in range(64)] for n in MIXED}
            runs = {f"{n}": stepper(tuned, train, optimised=False, additions=share[n]) for n in MIXED}
            yield mixed_row(clock, runs, name, method, "training", 12 if name == "minilm" else 30)
            if not contest.encoder:
                ids = contest.batch(64, 8)["input_ids"]
                runs = {f"{n}": writer(tuned, ids, share[n], 4 if clock.quick else 12) for n in MIXED}
                yield mixed_row(clock, runs, name, method, "generating", 40)


def mixed_row(clock: Clock, runs: dict, base: str, method: str, what: str, seconds: float) -> Row:
    times = clock.rounds(runs, seconds)
    return {"section": "mixed", "base": base, "method": method, "doing": what}, {
        **ratio(times["8"], times["1"], "ratio_8"), **ratio(times["64"], times["1"], "ratio_64"),
        **medians(times), "rounds": len(times["1"]),
    }


def writer(tuned, ids: torch.Tensor, additions: list[str], words: int) -> Callable[[], None]:
    options = {"max_new_tokens": words, "min_new_tokens": words, "do_sample": False, "pad_token_id": 0}
    return lambda: tuned.generate(ids, attention_mask=torch.ones_like(ids), additions=additions, **options)


def cache(clock: Clock, bases: list[str], methods: tuple[str, ...]) -> Iterator[Row]:
    for name in bases:
        contest = Contest(name)
        task = Classification(2)
        layers = contest.base.model.config.num_hidden_layers
        tuned = attach(contest.base, BottleneckAdapter(16, skip_layers=layers - 1), task=task).train()
        batch = contest.batch()
        batch["labels"] = torch.arange(len(batch["labels"])) % 2
        features = [{"input_ids": ids.tolist(), "labels": n % 2} for n, ids in enumerate(batch["input_ids"])]
        states = torch.stack([feature["states"] for feature in cl.cache_below(tuned, features)])
        tuned.train()
        runs = {"plain": stepper(tuned, batch), "cached": stepper(tuned, batch, states=states)}
        times = clock.rounds(runs, 10)
        yield {"section": "cache", "base": name, "method": "BottleneckAdapter, top block"}, {
            **ratio(times["cached"], times["plain"]), **medians(times), "rounds": len(times["plain"]),
        }


def handling(clock: Clock, bases: list[str], methods: tuple[str, ...]) -> Iterator[Row]:
    for name in bases:
        contest = Contest(name)
        for doing in (attaching, merging, switching):
            runs, rounds = doing(contest)
            times = {side: [clock.time(run) for _ in range(rounds)] for side, run in runs.items()}
            yield {"section": "handling", "base": name, "doing": doing.__name__}, medians(times)


def attaching(contest: Contest) -> tuple[dict[str, Callable], int]:
    """peft changes the model that it is given, ours must share its weights."""
    shared = {parameter.data_ptr() for parameter in contest.base.model.parameters()}
    if not all(p.data_ptr() in shared for p in attach(contest.base, LoRA()).model.base_model.parameters()):
        raise SystemExit("attach copied weights of the base.")
    fresh = iter([copy.deepcopy(contest.plain) for _ in range(5)])
    theirs = lambda: peft.get_peft_model(next(fresh), contest.config("LoRA"))  # noqa: E731
    return {"ours": lambda: attach(contest.base, LoRA()), "peft": theirs}, 5


def merging(contest: Contest) -> tuple[dict[str, Callable], int]:
    """Ours makes a model; peft merges into the one there is, and back."""
    ours, theirs = contest.ours("LoRA"), contest.theirs("LoRA")
    return {"ours": ours.merge, "peft_and_back": lambda: [theirs.merge_adapter(), theirs.unmerge_adapter()]}, 3


def switching(contest: Contest) -> tuple[dict[str, Callable], int]:
    """To a second addition and back."""
    ours, theirs = contest.ours("LoRA").add(LoRA(), "second"), contest.theirs("LoRA")
    theirs.add_adapter("second", contest.config("LoRA"))
    uses = {"ours": ours.use, "peft": theirs.set_adapter}
    return {side: lambda use=use: [use("second"), use("default")] for side, use in uses.items()}, 20


def memory(clock: Clock, bases: list[str], methods: tuple[str, ...]) -> Iterator[Row]:
    if not sys.platform.startswith("linux"):
        print("  skipped: peaks are read from /proc, which only Linux has")
        return
    for name in bases:
        for method in ("LoRA", "PromptTuning", "PrefixTuning")[: 1 if clock.quick else 3]:
            measured = {}
            for side in ("ours", "peft"):
                measured |= {f"{side}_{key}": value for key, value in peak(name, method, side).items()}
            yield {"section": "memory", "base": name, "method": method}, measured


def peak(name: str, method: str, side: str) -> dict[str, float]:
    """What `peak_of` prints, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, method, side]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def peak_of(name: str, method: str, side: str) -> None:
    """Print the peak memory of three steps, in MB, and how much of it stood before the first."""
    contest = Contest(name)
    theirs = lambda: peft.get_peft_model(contest.plain, contest.config(method)).eval()  # noqa: E731
    step = stepper(contest.ours(method) if side == "ours" else theirs(), contest.batch())
    before = memory_now("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak of loading
    for _ in range(3):
        step()
    print(json.dumps({"mb": memory_now("VmHWM"), "mb_above_model": memory_now("VmHWM") - before}))


def memory_now(what: str) -> float:
    """"VmRSS" or "VmHWM", the peak, of this process in MB."""
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024


def finetune(clock: Clock, bases: list[str], methods: tuple[str, ...]) -> Iterator[Row]:
    reviews = cl.load_data("movie-reviews")
    rows = 64 if clock.quick else 2000
    contest = Contest("minilm")
    tokenizer = contest.base.tokenizer
    train, test = (contest.task.features(list(reviews[split])[:rows], tokenizer) for split in ("train", "test"))
    settings = [(dtype, grouped) for dtype in ("bfloat16", "float32") for grouped in (True, False)]
    for dtype, grouped in settings[: 1 if clock.quick else 4]:
        for side in clock.draw.sample(("ours", "peft"), 2):
            train_with = {"ours": fit_ours, "peft": fit_theirs}[side]
            seconds, accuracy = train_with(contest, clock, train, test, dtype, grouped)
            point = {"section": "finetune", "base": "minilm", "method": "LoRA", "side": side}
            yield point | {"dtype": dtype, "grouped": grouped}, {"training_seconds": seconds, "accuracy": accuracy}
    if not clock.quick:
        seconds, accuracy = fit_theirs(contest, clock, train, test)
        point = {"section": "finetune", "base": "minilm", "method": "LoRA", "side": "peft, Trainer's defaults"}
        yield point, {"training_seconds": seconds, "accuracy": accuracy}


RATE, BATCH, EPOCHS = 2e-3, 32, 2


def fit_ours(contest, clock, train, test, dtype, grouped) -> tuple[float, float]:
    cl.seed(0)
    tuned = attach(contest.base, LoRA(), task=contest.task)
    options = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "dtype": dtype, "bucket": grouped}
    seconds = clock.time(lambda: cl.fit(tuned, train, progress=False, **options))
    return seconds, accuracy_of(tuned, contest, test)


def fit_theirs(contest, clock, train, test, dtype=None, grouped=False) -> tuple[float, float]:
    """peft and Trainer with our settings; without a dtype, with Trainer's own."""
    import datasets

    cl.seed(0)
    model = contest.theirs("LoRA")
    options = {}
    if dtype is not None:
        for module in model.modules():  # ours draws no dropout from the frozen base
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        options = {
            "num_train_epochs": EPOCHS, "per_device_train_batch_size": BATCH, "learning_rate": RATE,
            "lr_scheduler_type": "cosine", "warmup_steps": 0.06, "bf16": dtype == "bfloat16",
            "use_cpu": not torch.cuda.is_available(),
            "train_sampling_strategy": "group_by_length" if grouped else "random",
        }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        trainer = transformers.Trainer(
            model, transformers.TrainingArguments(folder, report_to="none", disable_tqdm=True, **options),
            train_dataset=datasets.Dataset.from_list(train),
            data_collator=transformers.DataCollatorWithPadding(contest.base.tokenizer),
        )
        seconds = clock.time(trainer.train)
    return seconds, accuracy_of(model.eval(), contest, test)


@torch.no_grad()
def accuracy_of(model, contest, test) -> float:
    model.eval()
    right = 0
    for begin in range(0, len(test), 100):
        batch = contest.task.collate(test[begin : begin + 100], contest.base.tokenizer)
        labels = batch.pop("labels")
        right += int((model(**batch).logits.argmax(-1) == labels).sum())
    return right / len(test)


ADAPTERS = ("BottleneckAdapter", "ParallelAdapter", "Compacter", "LoReFT")


class Elsewhere:
    """The same step by the `adapters` library, in a process of its own that waits for its turn."""

    def __init__(self, python: str, folder: str, method: str, contest: Contest):
        worker = Path(__file__).with_name("adapters_worker.py")
        command = [python, str(worker), folder, method, str(contest.rows), str(contest.tokens)]
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean)
        self.trained = self.answer()["trained"]

    def ask(self, command: str) -> dict:
        print(command, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> dict:
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise SystemExit("The process of the adapters library has ended; its own words stand above.")


def beside_adapters(clock: Clock, bases: list[str], methods: tuple[str, ...]) -> Iterator[Row]:
    python = clock.adapters_python
    if not python:
        print("  skipped: name the interpreter that has the library, with --adapters-python")
        return
    for name in bases:
        contest = Contest(name)
        with tempfile.TemporaryDirectory() as folder:
            contest.plain.save_pretrained(folder)
            for method in ADAPTERS:
                tuned = contest.ours(method)
                theirs, again, fresh = (Elsewhere(python, folder, method, contest) for _ in range(3))
                runs = {"ours": stepper(tuned, contest.batch())}
                runs |= {key: lambda p=p: p.ask("step") for key, p in (("adapters", theirs), ("adapters_again", again))}
                times = clock.rounds(runs, 15 if name == "minilm" else 40)
                peaks = {"adapters": fresh.ask("peak"), "ours": peak(name, method, "ours")}
                for side in (theirs, again, fresh):
                    side.process.communicate()
                yield {"section": "adapters", "base": name, "method": method}, {
                    **ratio(times["ours"], times["adapters"]),
                    **ratio(times["adapters_again"], times["adapters"], "control"),
                    **medians(times), "rounds": len(times["ours"]), "ours_trained": tuned.budget().trained,
                    "adapters_trained": theirs.trained,
                    **{f"{side}_mb_above_model": measured["mb_above_model"] for side, measured in peaks.items()},
                }


# --- what is printed and stored --------------------------------------------------------------------------------------


SECTIONS = {f.__name__: f for f in (steps, forward, mixed, cache, handling, memory, finetune)}
SECTIONS["adapters"] = beside_adapters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"any of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="two rounds of everything, on MiniLM; nothing is stored")
    parser.add_argument("--base", choices=BASES, action="append", help="one base (default: both)")
    parser.add_argument("--method", choices=METHODS, action="append", help="one method (default: all six)")
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds, for a busy machine; nothing is stored")
    parser.add_argument("--adapters-python", metavar="PATH", help="the interpreter that has the adapters library")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    if options.peak:
        peak_of(*options.peak)
        return
    unknown = set(options.sections) - SECTIONS.keys()
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    clock = Clock(time.process_time if options.cpu_time else time.perf_counter, options.quick, options.adapters_python)
    bases = options.base or (["minilm"] if options.quick else list(BASES))
    methods = tuple(options.method or METHODS)
    stored = not (options.quick or options.cpu_time)
    begun = time.perf_counter()
    for name in options.sections or SECTIONS:
        print(f"\n{name}", flush=True)
        found = []
        for point, measured in SECTIONS[name](clock, bases, methods):
            found.append(row(point, measured))
            print("  " + line(point, measured), flush=True)
        if name == "steps":
            print(f"  geometric mean of the ratios {geometric_mean(found):.3f}")
        if stored:
            keep(found)
    print(f"\n{time.perf_counter() - begun:.0f} s" + ("" if stored else "; nothing was stored"))


def line(point: dict, measured: dict) -> str:
    """One line of the printed table."""
    words = " ".join(str(value) for key, value in point.items() if key != "section")
    numbers = []
    for key, value in measured.items():
        if f"{key}_low" in measured:
            numbers.append(f"{key} {value:.3f} [{measured[f'{key}_low']:.3f}, {measured[f'{key}_high']:.3f}]")
        elif not key.endswith(("_low", "_high")):
            numbers.append(f"{key} {value:.4g}")
    return f"{words:<40} {', '.join(numbers)}"


def geometric_mean(rows: list[dict]) -> float:
    return statistics.geometric_mean(row["measured"]["ratio"] for row in rows)


def row(point: dict, measured: dict) -> dict:
    return {"point": point, "measured": measured, "commit": runner.code_commit(), "machine": runner.machine()}


def keep(rows: list[dict]) -> None:
    """Put rows into data/results/bench.json, over those of the same points."""
    path: Path = store.path_of("bench")
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    new = {json.dumps(row["point"]): row for row in [*old, *rows]}
    content = {
        "name": "bench",
        "about": "Seconds and memory of the course's additions beside peft 0.21, adapters 1.3 and the base alone.",
        "provenance": {"command": "make bench", **runner.provenance()}, "rows": list(new.values()),
    }
    cl.runtime.write_text_atomically(path, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
