"""The training loop. One for every method of the course: it knows nothing of adapters, only of parameters that require
a gradient, a task that turns outputs into a summed loss, and rows.

Whatever splits the work (accumulation, several processes) changes the memory and the time, never the result: a step's
loss is the sum over all units (rows or tokens) of the GLOBAL batch, divided by their number.
"""

from __future__ import annotations

import contextlib
import math
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device

from course_lib import runtime
from course_lib.runtime import CourseError
from course_lib.tasks import inputs_of
from course_lib.training import checkpoints
from course_lib.training.batches import bucketed_batches, encode, length_of, parts_of
from course_lib.training.guards import (
    PoliteInterrupt,
    as_dtype,
    explained_index_errors,
    require_labels,
    require_length,
)
from course_lib.training.history import History, Progress, peak_memory_mb


def fit(
    model: torch.nn.Module,
    data: Any,
    *,
    task: Any = None,
    tokenizer: Any = None,
    epochs: int = 1,
    max_steps: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    accumulate: int = 1,
    clip: float | None = 1.0,
    warmup: float = 0.06,
    schedule: str = "cosine",
    patience: int | None = None,
    evaluate_every: int | None = None,
    dtype: str | torch.dtype = "auto",
    bucket: bool = True,
    seed: int = 0,
    folder: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train the parameters of `model` that require a gradient; the model is changed in place.

    `data` is a DatasetDict (train, and validation if there is one) or the rows to train on, raw or encoded; `task` and
    `tokenizer` default to the model's own. With a validation split the model ends with the weights of its best
    evaluation, and `patience` evaluations without a better one end the run.

    batch_size      rows of one step, over all processes; `accumulate` cuts it into that many parts to save memory
    max_steps       if given, the number of steps, whatever `epochs` says
    weight_decay    on matrices only, not on biases, norms and other vectors
    clip            largest norm of the gradient, None for no limit
    warmup          the part of all steps in which the learning rate rises to `learning_rate`
    schedule        how it falls afterwards: "cosine", "linear" (both to zero) or "constant"
    evaluate_every  steps between evaluations, by default an epoch
    dtype           of matrix products: "auto" (see `runtime.where`), "float32", "bfloat16" or "float16"
    folder          where checkpoints go, every `checkpoint_every` steps (by default an epoch); `resume=True` goes on
                    from the last one there, on the same device with the same losses to the last bit

    Raises CourseError, with the remedy, if there is nothing to train or to train on, if a sequence is too long for the
    model, if the loss stops being a number, or if the folder holds another run.
    """
    task = task if task is not None else getattr(model, "task", None)
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
    if task is None:
        raise CourseError("fit needs a task: attach the method with task=..., or call fit(model, data, task=...).")
    if min(batch_size, accumulate, epochs if max_steps is None else max_steps) < 1:
        raise CourseError("epochs, max_steps, batch_size and accumulate must be at least 1.")

    # What is trained, on what.
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not names:
        raise CourseError(
            "There is nothing to train: no parameter of the model requires a gradient. Attach a method first, or "
            "switch parameters on with requires_grad_(True)."
        )
    splits = data if hasattr(data, "keys") else {"train": data}
    if "train" not in splits:
        raise CourseError(f"The data has no split named 'train', only {', '.join(splits)}.")
    features = encode(splits["train"], task, tokenizer)
    held_out = encode(splits["validation"], task, tokenizer, "validation") if "validation" in splits else []
    lengths = [length_of(feature) for feature in features]
    require_length(model, max([*lengths, *map(length_of, held_out)]))
    require_labels(task, [*features, *held_out])

    # How many steps.
    steps_per_epoch = math.ceil(len(features) / batch_size)
    steps = max_steps or epochs * steps_per_epoch
    evaluate_every = evaluate_every or steps_per_epoch
    checkpoint_every = checkpoint_every or steps_per_epoch

    run = Run(model, task, tokenizer, names, batch_size, learning_rate, weight_decay, accumulate, clip, dtype, seed)
    history, best = History(steps_per_epoch=steps_per_epoch), None
    settings = {
        "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay,
        "clip": clip, "warmup": warmup, "schedule": schedule, "patience": patience, "evaluate_every": evaluate_every,
        "dtype": str(run.dtype), "bucket": bucket, "seed": seed,
        "rows": len(features), "validation rows": len(held_out),
        "lengths of the rows": zlib.crc32(str(lengths).encode()),
        "trained parameters": zlib.crc32(str([(name, *p.shape) for p, name in names.items()]).encode()),
    }  # fmt: skip
    folder = Path(folder) if folder is not None else None
    if folder and (found := checkpoints.steps_in(folder)):
        if not resume:
            raise CourseError(
                f"The folder {folder} holds the checkpoint {found[-1].name} of an earlier run. "
                "Pass resume=True to go on with it, or choose another folder."
            )
        history, best = run.restore(found[-1], settings)
    already, start = history.seconds, time.perf_counter()
    bar = Progress(steps, history.steps, enabled=progress and run.accelerator.is_main_process)
    run.say = lambda sentence: (history.notes.append(sentence), bar.say(sentence))
    run.warn_if_large(max(lengths))

    def save(step: int) -> None:
        history.seconds = already + time.perf_counter() - start
        run.save(folder, step, settings, history, best)

    step, batches = history.steps, None
    try:
        with PoliteInterrupt() as interrupt:
            while step < steps and not history.stopped_early:
                epoch, position = divmod(step, steps_per_epoch)
                if batches is None or position == 0:
                    batches = bucketed_batches(lengths, batch_size, seed, epoch, bucket)
                rows = [features[i] for i in batches[position]]
                rate = learning_rate_at(step, steps, learning_rate, warmup, schedule)
                step_start = time.perf_counter()
                loss = run.step(rows, rate, step + 1)
                step += 1

                history.loss.append(loss)
                history.learning_rate.append(rate)
                history.tokens.append(sum(lengths[i] for i in batches[position]))
                history.step_seconds.append(time.perf_counter() - step_start)
                bar.step(loss, history.tokens[-1] / history.step_seconds[-1])

                if held_out and (step % evaluate_every == 0 or step == steps):
                    validation_loss = run.validation_loss(held_out)
                    if validation_loss < history.best_validation_loss:
                        best = checkpoints.copy_of(checkpoints.trained_state(model))
                    history.validation_step.append(step)
                    history.validation_loss.append(validation_loss)
                    waited = len(history.validation_loss) - 1 - history.validation_step.index(history.best_step)
                    history.stopped_early = patience is not None and waited >= patience and step < steps
                finished = step == steps or history.stopped_early
                if folder and (step % checkpoint_every == 0 or finished or interrupt.asked):
                    save(step)
                interrupt.raise_if_asked()
    except KeyboardInterrupt:
        history.interrupted = True
    finally:
        run.finish(best)
        history.seconds = already + time.perf_counter() - start
        history.peak_memory_mb = max(history.peak_memory_mb, peak_memory_mb(str(run.device)))
        bar.close(repr(history))
    if history.interrupted:
        kept = f"the best weights, of step {history.best_step}" if best else f"the weights of step {step}"
        bar.say(
            f"Interrupted after step {step} of {steps}: the model holds {kept}, and can be used. "
            + ("Call fit again with resume=True to go on." if folder else "Calling fit again trains on from there.")
        )
    return history


class Run:
    """The moving parts of one call of `fit`: model on its device, optimiser, and one step of it."""

    def __init__(
        self, model, task, tokenizer, names, batch_size, learning_rate, weight_decay, accumulate, clip, dtype, seed
    ):
        # Mixed precision is the `autocast` below: accelerate's own would replace the model's forward for good.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        try:
            self.accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[unused])
        except ValueError:  # a process has one precision, and another trainer has asked for its own before
            self.accelerator = Accelerator(kwargs_handlers=[unused])
            self.accelerator.native_amp = False
        if self.accelerator.distributed_type not in ("NO", "MULTI_CPU", "MULTI_GPU"):
            raise CourseError(
                f"fit runs on one device or, with `accelerate launch`, on several with a copy of the model on each; it "
                f"was launched as {self.accelerator.distributed_type}. Choose multi-GPU in `accelerate config`."
            )
        self.device, self.world = self.accelerator.device, self.accelerator.num_processes
        self.model, self.task, self.tokenizer, self.names = model, task, tokenizer, names
        self.batch_size, self.accumulate, self.clip = batch_size, accumulate, clip
        self.dtype = runtime.where().dtype if dtype == "auto" else as_dtype(dtype)
        runtime.seed(seed)
        model.train()
        self.parallel = self.accelerator.prepare_model(model)  # on its device; several processes: gradients averaged
        if self.world > 1:
            torch.manual_seed(seed + self.accelerator.process_index)  # each process draws its own dropout
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        groups = [
            {"params": [p for p in names if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in names if p.ndim < 2], "weight_decay": 0.0},  # biases, norms and other vectors
        ]
        fused = self.device.type in ("cpu", "cuda") and all(p.is_floating_point() for p in names)
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, fused=fused)
        self.scaler = torch.amp.GradScaler(  # float16 alone needs its loss scaled, to keep small gradients above zero
            self.device.type, enabled=self.dtype is torch.float16, init_scale=2.0**8
        )
        self.say = print

    def warn_if_large(self, longest: int) -> None:
        """Say so beforehand if a step is likely to need more memory than there is."""
        rows = math.ceil(self.batch_size / self.accumulate / self.world)
        needed, free = (
            runtime.estimate_memory(self.model, rows, longest, self.dtype),
            runtime.free_memory(self.device.type),
        )
        if needed > free:
            self.say(
                f"A step needs about {needed / 2**30:.1f} GB, and {free / 2**30:.1f} GB are free on {self.device}: "
                "if memory runs out, choose a larger accumulate, shorter rows or a smaller model."
            )

    def autocast(self):
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def summed_loss(self, model: torch.nn.Module, rows: list[dict]) -> tuple[torch.Tensor, Any]:
        """Loss summed over the units of `rows`, and how many units there are."""
        batch = send_to_device(self.task.collate(rows, self.tokenizer), self.device)
        with explained_index_errors(), self.autocast():
            return self.task.loss(model(**inputs_of(batch)), batch)

    def step(self, rows: list[dict], learning_rate: float, number: int) -> float:
        """One step of the optimiser on the global batch `rows`; returns its mean loss per unit."""
        totals = self.halving_memory(lambda: self.gradients_of_sum(rows))
        totals = self.accelerator.reduce(totals)  # summed over the processes: the global loss and its units
        loss_sum, units = totals[0], totals[1].clamp(min=1)

        # Each .grad holds the gradient of the summed loss, averaged over the processes: make it that of the mean.
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.names if parameter.grad is not None]
        torch._foreach_mul_(gradients, self.world / units)
        norm = torch.nn.utils.clip_grad_norm_(self.names, self.clip if self.clip is not None else math.inf)
        loss, norm = torch.stack([loss_sum / units, norm.to(loss_sum)]).tolist()  # the step's one wait for the device

        if not (math.isfinite(loss) and (math.isfinite(norm) or self.scaler.is_enabled())):
            what = "loss" if not math.isfinite(loss) else "gradient"
            self.optimizer.zero_grad(set_to_none=True)
            raise CourseError(
                f"The {what} of step {number} is not a finite number ({loss if what == 'loss' else norm}). The step "
                "was not taken: the model holds the best weights evaluated, or if there are none those before it. Try "
                f"a lower learning rate (it was {learning_rate:g} at this step), a longer warmup, a smaller clip, or "
                f"dtype='float32' (it was {str(self.dtype).removeprefix('torch.')}); look for empty or damaged rows."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def gradients_of_sum(self, rows: list[dict]) -> torch.Tensor:
        """Add the gradient of the summed loss of this process's share of `rows` to .grad; returns [loss, units]."""
        share = rows[self.accelerator.process_index :: self.world]
        weight = 1.0 if share else 0.0  # a last batch smaller than the number of processes: take part, count nothing
        parts = parts_of(share or rows[:1], self.accumulate)
        totals = torch.zeros(2, device=self.device)
        for part in parts:
            last = part is parts[-1]
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.parallel):
                loss_sum, units = self.summed_loss(self.parallel, part)
                if not loss_sum.requires_grad:
                    raise CourseError(
                        "The loss does not depend on any trainable parameter: is the addition disabled, or another "
                        "one in use than the one to train?"
                    )
                self.scaler.scale(loss_sum * weight).backward()
            totals[0] += weight * loss_sum.detach()
            totals[1] += weight * units
        return totals

    @torch.no_grad()
    def validation_loss(self, features: list[dict]) -> float:
        """Mean loss per unit over `features`, with dropout off."""
        self.model.eval()
        order = sorted(range(len(features)), key=lambda i: length_of(features[i]))
        own = order[self.accelerator.process_index :: self.world]

        def totals_of_share() -> torch.Tensor:
            totals, size = torch.zeros(2, device=self.device), math.ceil(self.batch_size / self.accumulate)
            for start in range(0, len(own), size):
                loss_sum, units = self.summed_loss(self.model, [features[i] for i in own[start : start + size]])
                totals[0] += loss_sum
                totals[1] += units
            return totals

        loss_sum, units = self.accelerator.reduce(self.halving_memory(totals_of_share)).tolist()
        self.model.train()
        return loss_sum / max(units, 1)

    def halving_memory(self, work):
        """Do `work`; if the device runs out of memory, do it again in parts half as large."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                if self.accumulate >= self.batch_size or self.world > 1:  # other processes could not follow
                    raise CourseError(
                        f"Memory ran out on {self.device} with the batch of {self.batch_size} rows cut into "
                        f"{self.accumulate} parts. Shorten the sequences, choose a smaller model, or (if there are "
                        "fewer parts than rows) a larger accumulate."
                    ) from error
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.accumulate = min(2 * self.accumulate, self.batch_size)
            self.say(
                f"Out of memory: the batch is now cut into {self.accumulate} parts, one after the other. "
                "The global batch, and so the result, stays the same."
            )

    def save(self, folder: Path, step: int, settings: dict, history: History, best: dict | None) -> None:
        """Write a checkpoint; a full disk is reported, and the one before it stands."""
        if not self.accelerator.is_main_process:
            return
        tensors, numbers = checkpoints.random_state()
        tensors |= {f"weights/{name}": t for name, t in checkpoints.trained_state(self.model).items()}
        tensors |= {f"best/{name}": t for name, t in (best or {}).items()}
        tensors |= checkpoints.optimizer_tensors(self.optimizer, self.names)
        state = {
            "step": step, "epoch": step // history.steps_per_epoch, "position": step % history.steps_per_epoch,
            "settings": settings, "accumulate": self.accumulate, "scaler": self.scaler.state_dict(),
            "random": numbers, "history": history.to_dict(),
        }  # fmt: skip
        try:
            checkpoints.save(folder, step, tensors, state)
        except OSError as error:
            before = checkpoints.steps_in(folder)
            stands = f"{before[-1].name} still stands" if before else "there is none before it"
            self.say(f"The checkpoint of step {step} could not be written ({error}); {stands}. Training goes on.")

    def restore(self, path: Path, settings: dict) -> tuple[History, dict | None]:
        """Put a checkpoint back; returns the history so far and the best weights."""
        tensors, state = checkpoints.load(path)
        checkpoints.require_same_run(path, state["settings"], settings)
        parts = {"weights": {}, "best": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind in parts:
                parts[kind][rest] = tensor.to(self.device)
        checkpoints.load_trained_state(self.model, parts["weights"])
        checkpoints.set_optimizer_tensors(self.optimizer, self.names, tensors)
        self.scaler.load_state_dict(state["scaler"])
        self.accumulate = state["accumulate"]
        if self.world == 1:  # each of several processes draws its own numbers: exact resume is for one device
            checkpoints.set_random_state(tensors, state["random"])
        return History.from_dict(state["history"]), parts["best"] or None

    def finish(self, best: dict | None) -> None:
        """Leave the model ready for use: best weights if there are any, no gradients, dropout off."""
        if best is not None:
            checkpoints.load_trained_state(self.model, best)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()


def learning_rate_at(step: int, steps: int, peak: float, warmup: float = 0.06, schedule: str = "cosine") -> float:
    """The learning rate of step `step` (from 0) of `steps`: a linear rise, then cosine, linear or constant."""
    if schedule not in ("cosine", "linear", "constant"):
        raise CourseError(f"The schedule {schedule!r} is not known; choose 'cosine', 'linear' or 'constant'.")
    rise = round(warmup * steps)
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    done = (step - rise) / max(1, steps - rise)
    return peak * {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[schedule]
