"""How good is a model of language? The bits it needs for a text, the same for every model under the one interface."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..runtime import CourseError
from .text import as_ids

LONGEST = 512  # window of models that take any length, if none is named
CELLS = 2**25  # logits computed at once: 128 MB


@torch.no_grad()
def surprise(
    model: nn.Module, ids, *, context: int | None = None, stride: int | None = None, batch_size: int = 32
) -> Tensor:
    """-log2 p(token | the tokens before it) of every token of a text: ids (N,) -> bits (N,), float64.

    The model reads the text through windows of `context` tokens, `stride` apart, and each token is scored once: by the
    first window that holds it, which shows more than context - stride tokens before it. By default half a window is
    shown, or as much as a model of short reach can use. Nothing precedes the first token: it costs log2 V, as under a
    uniform guess.
    """
    ids = as_ids(ids)
    context = context or model.context or LONGEST
    if model.context and context > model.context:
        raise CourseError(f"Windows of {context} tokens are longer than the {model.context} this model looks at.")
    if stride is None:  # a model of short reach needs no more than that in front
        known = model.reach if model.reach and model.reach < context else context // 2
        stride = max(1, context - known)
    if stride > context:
        raise CourseError(f"With windows of {context} tokens every {stride} some tokens would stand in none.")
    bits = torch.full((len(ids),), math.log2(model.vocabulary), dtype=torch.float64)
    if len(ids) < 2:
        return bits
    # A window gives `context` tokens to the model and scores the `context` tokens after each.
    starts, scored = [0], 1 + min(context, len(ids) - 1)
    last = [scored]
    while scored < len(ids):
        starts.append(min(scored + stride, len(ids)) - 1 - context)
        scored = min(scored + stride, len(ids))
        last.append(scored)
    batch_size = max(1, min(batch_size, CELLS // (context * model.vocabulary)))
    with evaluating(model):
        done = 1
        for first in range(0, len(starts), batch_size):
            chosen = starts[first : first + batch_size]
            windows = torch.stack([ids[start : start + context + 1] for start in chosen])  # (B, context + 1)
            device = next((p.device for p in model.parameters()), ids.device)
            logits = model(windows[:, :-1].to(device)).float()
            targets = windows[:, 1:].to(device)
            chosen_bits = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0].double() / math.log(2)
            for start, end, row in zip(chosen, last[first : first + batch_size], chosen_bits.cpu()):
                bits[done:end] = row[done - start - 1 : end - start - 1]
                done = end
    return bits


def bits_per_byte(model: nn.Module, text: str | bytes, *, tokenizer=None, **windows) -> float:
    """Bits that the model needs for each byte of a text, comparable whatever a model's tokens are.

    Text goes through `tokenizer`, or is read as its UTF-8 bytes. `windows` are the arguments of `surprise`.
    """
    raw = text.encode() if isinstance(text, str) else bytes(text)
    ids = raw if tokenizer is None else tokenizer(raw.decode())["input_ids"]
    return float(surprise(model, ids, **windows).sum()) / len(raw)


def perplexity(model: nn.Module, ids, **windows) -> float:
    """2 to the mean surprise of the tokens after the first: among how many equally likely ones the model wavers."""
    return 2 ** float(surprise(model, ids, **windows)[1:].mean())


def bits_after_shuffling(
    model: nn.Module, ids, keep: int, *, context: int = 128, samples: int = 400, seed: int = 0
) -> float:
    """Bits of a token behind `context` tokens, of which all but the last `keep` were put in random order.

    Every model is asked about the same places, with the same shuffles: a model that does not mind uses no order there.
    """
    ids, generator = as_ids(ids), torch.Generator().manual_seed(seed)
    if len(ids) <= context or keep > context:
        raise CourseError(f"A text of {len(ids)} tokens has no place behind {context} tokens, {keep} of them in order.")
    starts = torch.randint(len(ids) - context, (samples,), generator=generator)
    windows = ids[starts[:, None] + torch.arange(context + 1)]  # (samples, context + 1)
    far = context - keep
    order = torch.rand(samples, far, generator=generator).argsort(-1)
    windows[:, :far] = windows[:, :far].gather(1, order)
    device = next((p.device for p in model.parameters()), ids.device)
    bits, step = 0.0, max(1, min(64, CELLS // (context * model.vocabulary)))
    with evaluating(model), torch.no_grad():
        for batch in windows.to(device).split(step):
            log_p = model(batch[:, :-1])[:, -1].float().log_softmax(-1)  # (B, V)
            bits -= float(log_p.gather(1, batch[:, -1:]).sum()) / math.log(2)
    return bits / samples


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model that is asked for next tokens: dropout off inside, and every module as it was afterwards."""
    if getattr(model, "reads_both_ways", False):
        raise CourseError(
            f"{type(model).__name__} sees the whole text, the next token included, so its guesses of that token say "
            "nothing. Take a model that reads from left to right: NGram, Convolution, Recurrent, GPT."
        )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
