"""Programs as answers: a decoder completes a function, the sandbox runs its tests, pass@k counts.

The problems are rows of "human-eval" (Chen et al. 2021, arXiv:2107.03374): `prompt` ends below a docstring, `test`
defines check(candidate), `entry_point` names the function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import sandbox
from ..runtime import CourseError

if TYPE_CHECKING:
    from ..bases import Base

# What begins a line when the function is over: a completion is cut before the first of them.
STOPS = ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint", "\nassert", "\n```")


def cut(text: str, stops: Sequence[str] = STOPS) -> str:
    """The text before the first stop sequence that occurs in it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


def pass_at_k(n: int, c: int, k: int) -> float:
    """The probability that k of n programs, drawn without putting back, hold one of the c right ones.

    1 - C(n - c, k) / C(n, k), the unbiased estimate of Chen et al. (2021, section 2.1) from n samples.
    """
    from math import comb

    if not (0 <= c <= n and 1 <= k <= n):
        raise CourseError(f"pass@{k} of {n} programs, {c} of them right: k must lie in 1 to n, and c in 0 to n.")
    return 1 - comb(n - c, k) / comb(n, k)


def try_program(problem: Mapping[str, str], completion: str, *, seconds: float = 3) -> sandbox.Result:
    """Run a completed function against the problem's tests, in the sandbox; status "ok": all of them passed."""
    lines = [problem["prompt"] + completion, problem["test"], f"check({problem['entry_point']})"]
    return sandbox.run("\n".join(lines), seconds=seconds)


def complete(
    base: Base, prompts: Sequence[str], *, samples: int = 1, temperature: float = 0.0, tokens: int = 128,
    seed: int = 0, batch_size: int = 40, stops: Sequence[str] = STOPS,
) -> list[list[str]]:  # fmt: skip
    """What a decoder writes behind each prompt, `samples` times, cut at the first stop sequence.

    Temperature 0 takes the likeliest token. Prompts of similar length share a batch; a row that has written a stop
    sequence is finished.
    """
    import torch
    from transformers import StoppingCriteria

    tokenizer, words = base.tokenizer, base.tokenizer.batch_decode
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    jobs = sorted((i for i in range(len(prompts)) for _ in range(samples)), key=lambda i: (len(ids[i]), i))
    written: list[list[str]] = [[] for _ in prompts]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    class Finished(StoppingCriteria):
        """Rows whose continuation holds a stop sequence."""

        def __init__(self, start: int):
            self.start = start

        def __call__(self, input_ids, scores, **_):
            texts = words(input_ids[:, self.start :], skip_special_tokens=True)
            return torch.tensor([len(cut(text, stops)) < len(text) for text in texts], device=input_ids.device)

    draw = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for first in range(0, len(jobs), batch_size):
            chosen = jobs[first : first + batch_size]
            longest = max(len(ids[i]) for i in chosen)
            rows = torch.tensor([[pad] * (longest - len(ids[i])) + ids[i] for i in chosen])
            mask = torch.tensor([[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in chosen])
            device = next(base.model.parameters()).device
            said = base.model.generate(
                rows.to(device), attention_mask=mask.to(device), max_new_tokens=tokens, pad_token_id=pad,
                stopping_criteria=[Finished(longest)], **draw,
            )  # fmt: skip
            for i, text in zip(chosen, words(said[:, longest:], skip_special_tokens=True)):
                written[i].append(cut(text, stops))
    return written
