"""What happened in a run, and how it is shown while it happens."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any


@dataclass
class History:
    """The record of one run of `fit`: a value a step in the first four lists, a value an evaluation in the next two."""

    loss: list[float] = field(default_factory=list)  # mean over the units of the global batch
    learning_rate: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # without padding
    step_seconds: list[float] = field(default_factory=list)
    validation_step: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    steps_per_epoch: int = 1
    seconds: float = 0.0  # all of it, evaluation and checkpoints included
    peak_memory_mb: float = 0.0  # of the device if it is a GPU, else of the whole Python process
    interrupted: bool = False
    stopped_early: bool = False
    notes: list[str] = field(default_factory=list)  # what was said on the way, such as a halved batch

    @property
    def steps(self) -> int:
        return len(self.loss)

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch

    @property
    def best_step(self) -> int | None:
        """The step with the lowest validation loss; None if nothing was evaluated."""
        losses = [math.inf if math.isnan(loss) else loss for loss in self.validation_loss]
        return self.validation_step[losses.index(min(losses))] if losses else None

    @property
    def best_validation_loss(self) -> float:
        return min((loss for loss in self.validation_loss if not math.isnan(loss)), default=math.inf)

    @property
    def tokens_per_second(self) -> float:
        return sum(self.tokens) / max(sum(self.step_seconds), 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> History:
        return cls(**values)

    def __repr__(self) -> str:
        if not self.loss:
            return "no steps yet"
        few = max(1, min(10, self.steps // 4))
        text = f"{self.steps:,} step{'s' * (self.steps != 1)}, {self.epochs:.3g} epoch{'s' * (self.epochs != 1)}, "
        text += f"{self.seconds:.1f} s, loss {fmean(self.loss[:few]):.3f} -> {fmean(self.loss[-few:]):.3f}"
        if self.validation_loss:
            text += f", validation {self.best_validation_loss:.3f} (best, step {self.best_step:,})"
        text += f", {self.tokens_per_second:,.0f} tokens/s"
        return text + (", stopped early" if self.stopped_early else "") + (", interrupted" * self.interrupted)


LONG = 120  # seconds; longer work is announced


class Progress:
    """One line that moves: a tqdm bar in a terminal, an output that is replaced in a notebook, silence in a log.

    A notebook's stored output is the last line only, on stdout's side: nothing is written to stderr there.
    """

    def __init__(self, total: int, done: int, enabled: bool):
        from tqdm import tqdm

        self.enabled, self.total, self.done = enabled, total, done
        self.first, self.start, self.shown = done, time.perf_counter(), 0.0
        self.meter = tqdm.format_meter
        self.display = _notebook_display() if enabled else None
        self.handle = self.display({"text/plain": "starting"}, raw=True, display_id=True) if self.display else None
        in_terminal = enabled and not self.display and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, unit="step", leave=False) if in_terminal else None

    def step(self, loss: float, tokens_per_second: float) -> None:
        """One step more; the line is renewed at most five times a second."""
        self.done += 1
        now = time.perf_counter()
        if self.done - self.first == 3:  # the first step warms up: what three took is a cautious guess
            left = (now - self.start) / 3 * (self.total - self.done)
            if left > LONG:
                self.say(
                    f"About {left / 60:.0f} min to go, as the first steps went. It may be interrupted: the best state "
                    "so far stays in the model."
                )
        postfix = f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.set_postfix_str(postfix, refresh=False)
            self.bar.update()
        elif self.handle is not None and now - self.shown > 0.2:
            self.shown = now
            line = self.meter(
                self.done, self.total, now - self.start, unit="step", initial=self.first, ncols=100, postfix=postfix
            )
            self.handle.update({"text/plain": line}, raw=True)

    def say(self, sentence: str) -> None:
        """A sentence that stays."""
        if self.enabled:
            self.bar.write(sentence) if self.bar is not None else print(sentence)

    def close(self, line: str) -> None:
        """Replace the moving line by the last one."""
        if self.bar is not None:
            self.bar.close()
        if self.handle is not None:
            self.handle.update({"text/plain": line}, raw=True)
        elif self.enabled:
            print(line)


def _notebook_display() -> Any:
    """IPython's `display` inside a Jupyter kernel, else None."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython import get_ipython
    from IPython.display import display

    return display if getattr(get_ipython(), "kernel", None) is not None else None


def peak_memory_mb(device: str) -> float:
    """The most memory in use so far: on a GPU since the last reset of its statistics, else of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
