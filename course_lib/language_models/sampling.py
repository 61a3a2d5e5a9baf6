"""Writing with a model: choose a next token from its distribution, append it, ask again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..runtime import CourseError
from .evaluation import evaluating
from .text import as_ids


def next_token_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits (..., V) -> probabilities (..., V) to draw from.

    temperature   logits are divided by it: below 1 sharper, above 1 flatter; 0 leaves the likeliest token alone
    top_k         the k likeliest tokens stay
    top_p         the fewest likeliest tokens that together have at least the probability p stay: the nucleus
                  (Holtzman et al. 2020)
    What stays is renormalised.
    """
    if temperature < 0 or (top_p is not None and not 0 < top_p <= 1) or (top_k is not None and top_k < 1):
        raise CourseError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: the temperature must not be negative, "
            "top_k at least 1 and top_p above 0 and at most 1."
        )
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    ordered, tokens = logits.sort(dim=-1, descending=True, stable=True)  # of logits: probabilities may round to ties
    ordered = (ordered / temperature).softmax(-1)
    if top_k is not None:
        ordered[..., top_k:] = 0.0
        ordered = ordered / ordered.sum(-1, keepdim=True)
    if top_p is not None:
        before = ordered.cumsum(-1) - ordered  # the probability of the tokens in front: the one that crosses p stays
        ordered = ordered.masked_fill(before >= top_p, 0.0)
    ordered = ordered / ordered.sum(-1, keepdim=True)
    return torch.zeros_like(ordered).scatter(-1, tokens, ordered)


@torch.no_grad()
def generate(
    model: nn.Module, input_ids, tokens: int, *, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, seed: int | None = None, stop: int | None = None, cache: bool = True,
) -> Tensor:  # fmt: skip
    """Go on from `input_ids` (B, T), or a string, by `tokens` tokens; returns prompt and continuation, (B, T + tokens).

    With `cache` a model that can (GPT, Recurrent) computes each new token alone. When the text outgrows a model's
    context, the last `context` tokens are read anew for each. A row that has drawn `stop` is filled with it.
    """
    ids = input_ids if torch.is_tensor(input_ids) and input_ids.ndim == 2 else as_ids(input_ids)[None]
    if ids.shape[1] == 0:
        raise CourseError("The prompt is empty: give at least one token to go on from.")
    device = next((p.device for p in model.parameters()), ids.device)
    ids, generator = ids.to(device), torch.Generator(device)
    generator.seed() if seed is None else generator.manual_seed(seed)
    memory = model.new_cache() if cache and hasattr(model, "new_cache") else None
    stopped = torch.zeros(len(ids), 1, dtype=torch.bool, device=device)
    fresh = ids  # what the cache does not hold yet
    with evaluating(model):
        for _ in range(tokens):
            if memory is not None and (model.context is None or ids.shape[1] <= model.context):
                logits = model(fresh, cache=memory)
            else:
                logits = model(ids[:, -(model.reach or ids.shape[1]) :])
            p = next_token_probabilities(logits[:, -1], temperature, top_k, top_p)  # (B, V)
            fresh = torch.multinomial(p, 1, generator=generator)
            if stop is not None:
                fresh = fresh.masked_fill(stopped, stop)
                stopped = stopped | (fresh == stop)
            ids = torch.cat([ids, fresh], dim=1)
            if stop is not None and bool(stopped.all()):
                break
    return ids


@torch.no_grad()
def beam_search(
    model: nn.Module, input_ids, tokens: int, *, beams: int = 4, stop: int | None = None, length_penalty: float = 1.0
) -> list[tuple[Tensor, float]]:
    """The `beams` likeliest continuations found of one prompt (1, T), best first: [(ids (T + n,), log p), ...].

    In each step every one of the `beams` best beginnings is followed by every token, and the best `beams` of all these
    are kept. A beginning that says `stop` is complete; complete ones are compared by log p / n ** length_penalty, so
    that a long one is not lost for its length alone (0 compares the probabilities themselves). Nothing guarantees that
    the likeliest text is among them, and the likeliest text is often not the best (Holtzman et al. 2020).
    """
    ids = input_ids if torch.is_tensor(input_ids) and input_ids.ndim == 2 else as_ids(input_ids)[None]
    if len(ids) != 1 or ids.shape[1] == 0:
        raise CourseError(f"Beam search goes on from one prompt of at least one token; given were {tuple(ids.shape)}.")
    prompt, complete, log_p = ids.shape[1], [], torch.zeros(1)
    with evaluating(model):
        for _ in range(tokens):
            steps = model(ids[:, -(model.reach or ids.shape[1]) :])[:, -1].float().log_softmax(-1)  # (beams, V)
            steps = (log_p[:, None] + steps.cpu()).flatten()
            log_p, best = steps.topk(min(beams, len(steps)))
            rows, next_ids = best // model.vocabulary, best % model.vocabulary
            ids = torch.cat([ids[rows], next_ids[:, None].to(ids.device)], dim=1)
            if stop is not None:
                ended = next_ids == stop
                complete += zip(ids[ended], log_p[ended].tolist())
                ids, log_p = ids[~ended], log_p[~ended]
                if len(ids) == 0 or len(complete) >= beams:
                    break
        else:
            complete += zip(ids, log_p.tolist())  # cut off by the limit
    return sorted(complete, key=lambda pair: -pair[1] / (len(pair[0]) - prompt) ** length_penalty)[:beams]
