"""The checks of chapter 52."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch

UNLEARNT = -100


# --- 52.1 -------------------------------------------------------------------------------------------------


@check_of("52.1", "What the decoder is given", minutes=8)
def decoder_inputs(attempt: Callable) -> None:
    """The labels one place to the right, behind the start token, padding filled."""
    import torch

    rng = random.Random(0)
    for start, pad in ((7, 3), (2, 0)):
        B, T = 3, rng.randint(5, 8)
        labels = torch.randint(10, 60, (B, T))
        labels[1, T - 2 :] = UNLEARNT
        labels[2, T - 1 :] = UNLEARNT
        kept = labels.clone()
        found = attempt(labels, start, pad)
        if not torch.equal(labels, kept):
            raise Wrong("52.1.in_place")
        if not isinstance(found, torch.Tensor):
            raise Wrong("52.1.not_tensor", found=type(found).__name__)
        clean = labels.masked_fill(labels == UNLEARNT, pad)
        begin = torch.full((B, 1), start)
        if found.shape == (B, T + 1):
            raise Wrong("52.1.too_long", found=tuple(found.shape), right=(B, T))
        if found.shape != labels.shape:
            raise Wrong("52.1.shape", found=tuple(found.shape), right=(B, T))
        right = torch.cat([begin, clean[:, :-1]], 1)
        if torch.equal(found, right):
            continue
        if bool((found == UNLEARNT).any()):
            raise Wrong("52.1.minus_hundred")
        rolled = clean.roll(1, 1)
        before = right.clone()
        before[:, 0] = pad
        named = {
            "52.1.unshifted": clean,
            "52.1.left": torch.cat([clean[:, 1:], torch.full((B, 1), pad)], 1),
            "52.1.rolled": rolled,
            "52.1.wrong_start": before,
            "52.1.overwritten": torch.cat([begin, clean[:, 1:]], 1),
            "52.1.rows": torch.cat([clean.new_full((1, T), start), clean[:-1]]),
        }
        for key, value in named.items():
            if torch.equal(found, value):
                raise Wrong(key)
        if torch.equal(found[:, 1:], rolled[:, 1:]):
            raise Wrong("52.1.wrong_start")
        real = torch.cat([torch.ones(B, 1, dtype=torch.bool), labels[:, :-1] != UNLEARNT], 1)
        if torch.equal(found[real], right[real]):
            raise Wrong("52.1.padding")
        raise Wrong("52.1.value")


# --- 52.2 -------------------------------------------------------------------------------------------------


@check_of("52.2", "BLEU of a corpus", minutes=15)
def corpus_bleu(attempt: Callable) -> None:
    """Corpora on which every known way to get BLEU wrong gives another number."""
    for short in (False, True):
        hypotheses, references = _corpus(short)
        right = bleu(hypotheses, references)
        found = _number(attempt([list(h) for h in hypotheses], [list(r) for r in references]))
        if abs(found - right) < 1e-4:
            continue
        gap = {"found": f"{found:.2f}", "right": f"{right:.2f}"}
        for key, value in _wrong_bleus(hypotheses, references).items():
            if abs(found - value) < 1e-4:
                raise Wrong(key, **gap)
        raise Wrong("52.2.value", **gap)
    nothing = [["a", "b", "c", "d", "e"]], [["v", "w", "x", "y", "z"]]
    if abs(_number(attempt(*nothing))) > 1e-6:
        raise Wrong("52.2.zero")


def _number(found: object) -> float:
    try:
        value = float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise Wrong("52.2.not_a_number", found=type(found).__name__) from None
    if math.isnan(value):
        raise Wrong("52.2.not_a_number", found="nan")
    return value


def _corpus(short: bool) -> tuple[list[list[str]], list[list[str]]]:
    """References of 5 to 12 words out of ten, and hypotheses with a few errors, shorter or longer in all."""
    rng = random.Random(1 + short)
    references = [[rng.choice("abcdefghij") for _ in range(rng.randint(5, 12))] for _ in range(12)]
    hypotheses = []
    for number, reference in enumerate(references):
        words = list(reference)
        words[rng.randrange(len(words))] = rng.choice("abcdefghij")
        if short and number % 2:
            words = words[:-3]
        elif not short and number % 2:
            words += [words[-1]] * 2
        elif number == 4:
            words = words[:-1]
        hypotheses.append(words)
    hypotheses[0] = references[0][: 2 if short else 3]  # too short to have a 4-gram
    return hypotheses, references


def _counts(words: Sequence[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]], orders: int = 4, *, clip: bool = True,
    brevity: str = "corpus", mean: str = "geometric",
) -> float:  # fmt: skip
    """Papineni and others 2002, 0 to 100; the options are ways to get it wrong."""
    hits, totals = [0] * orders, [0] * orders
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for n in range(1, orders + 1):
            ours, theirs = _counts(hypothesis, n), _counts(reference, n)
            hits[n - 1] += sum(min(c, theirs[g]) if clip else c * (g in theirs) for g, c in ours.items())
            totals[n - 1] += sum(ours.values())
    precisions = [h / t if t else 0.0 for h, t in zip(hits, totals)]
    if mean == "pooled":
        score = sum(hits) / max(1, sum(totals))
    elif mean == "arithmetic":
        score = sum(precisions) / orders
    else:
        score = math.exp(sum(map(math.log, precisions)) / orders) if min(precisions) > 0 else 0.0
    h, r = sum(map(len, hypotheses)), sum(map(len, references))
    each = [min(1.0, math.exp(1 - len(b) / len(a))) for a, b in zip(hypotheses, references)]
    penalties = {
        "corpus": min(1.0, math.exp(1 - r / h)), "none": 1.0, "both": math.exp(1 - r / h), "ratio": min(1.0, h / r),
        "upside down": min(1.0, math.exp(1 - h / r)),
        "sentence": sum(each) / len(each),
    }  # fmt: skip
    return 100 * score * penalties[brevity]


def _wrong_bleus(hypotheses: list[list[str]], references: list[list[str]]) -> dict[str, float]:
    right = bleu(hypotheses, references)
    each = [bleu([h], [r]) for h, r in zip(hypotheses, references)]
    each_precision = [bleu([h], [r], brevity="none") for h, r in zip(hypotheses, references)]
    lengths = [len(reference) for reference in references]
    ways = {
        "52.2.mean_of_sentences": sum(each) / len(each),
        "52.2.mean_of_sentences_weighted": sum(n * b for n, b in zip(lengths, each)) / sum(lengths),
        "52.2.mean_of_precisions": sum(each_precision) / len(each),
        "52.2.fraction": right / 100,
        "52.2.swapped": bleu(references, hypotheses),
        "52.2.no_clipping": bleu(hypotheses, references, clip=False),
        "52.2.no_brevity": bleu(hypotheses, references, brevity="none"),
        "52.2.brevity_both_ways": bleu(hypotheses, references, brevity="both"),
        "52.2.brevity_ratio": bleu(hypotheses, references, brevity="ratio"),
        "52.2.brevity_upside_down": bleu(hypotheses, references, brevity="upside down"),
        "52.2.brevity_of_sentences": bleu(hypotheses, references, brevity="sentence"),
        "52.2.arithmetic": bleu(hypotheses, references, mean="arithmetic"),
        "52.2.pooled": bleu(hypotheses, references, mean="pooled"),
        "52.2.unigrams": bleu(hypotheses, references, 1),
        "52.2.up_to_three": bleu(hypotheses, references, 3),
    }  # fmt: skip
    if sum(map(len, hypotheses)) < sum(lengths):
        del ways["52.2.brevity_upside_down"]  # where it equals no penalty at all
    return {key: value for key, value in ways.items() if abs(value - right) > 1e-3}


# --- 52.3 -------------------------------------------------------------------------------------------------


@check_of("52.3", "One step of beam search", minutes=10)
def beam_step(attempt: Callable) -> None:
    """From one beginning, then from several of unequal probability: parents, tokens and sums, best first."""
    import torch

    for kept, K, V in ((3, 3, 8), (4, 4, 11), (1, 3, 9)):
        log_p, steps = _telling_step(kept, K, V)
        given = log_p.clone(), steps.clone()
        answer = attempt(log_p, steps, K)
        if not (torch.equal(log_p, given[0]) and torch.equal(steps, given[1])):
            raise Wrong("52.3.in_place")
        try:
            parents, tokens, scores = (torch.as_tensor(part) for part in answer)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong("52.3.not_three", found=type(answer).__name__) from None
        if not all(part.shape == (K,) for part in (parents, tokens, scores)):
            shapes = ", ".join(str(tuple(part.shape)) for part in (parents, tokens, scores))
            raise Wrong("52.3.shape", found=shapes, right=f"({K},)")
        _name_step(parents.long(), tokens.long(), scores.float(), log_p, steps, K)


def _best(table: torch.Tensor, K: int, largest: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values, flat = table.flatten().topk(K, largest=largest)
    return flat // table.shape[1], flat % table.shape[1], values


def _wrong_steps(log_p: torch.Tensor, steps: torch.Tensor, K: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(parents, tokens) by misconception."""
    import torch

    past, first, own = log_p[:, None], log_p.argmax(), steps.max(-1).indices
    alone = (log_p + steps.max(-1).values).argsort(descending=True)
    flat = (past + steps).flatten().topk(K).indices
    return {
        "52.3.each_its_own": (torch.arange(len(log_p)), own),
        "52.3.each_its_own ": (alone, own[alone]),
        "52.3.best_beam_only": (first.expand(K), steps[first].topk(K).indices),
        "52.3.past_forgotten": _best(steps, K)[:2],
        "52.3.worst": _best(past + steps, K, largest=False)[:2],
        "52.3.multiplied": _best(past * steps, K)[:2],
        "52.3.probabilities": _best(past + steps.exp(), K)[:2],
        "52.3.exchanged": (flat % steps.shape[1], flat // steps.shape[1]),
        "52.3.index": (flat % len(log_p), flat // len(log_p)),
    }


def _telling_step(kept: int, K: int, V: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A step on which no misconception chooses what is right, in any order; with one beginning, any step."""
    import torch

    while True:
        steps = torch.randn(kept, V).mul(2).log_softmax(-1)
        log_p = -3 * torch.rand(kept) - 0.5
        right = _chosen(*_best(log_p[:, None] + steps, K)[:2])
        wrong = [_chosen(*step) for step in _wrong_steps(log_p, steps, K).values()]
        if kept == 1 or (right not in wrong and wrong[2] != wrong[6]):
            return log_p, steps


def _chosen(parents: torch.Tensor, tokens: torch.Tensor) -> set[tuple[int, int]]:
    return set(zip(parents.tolist(), tokens.tolist()))


def _name_step(
    parents: torch.Tensor, tokens: torch.Tensor, scores: torch.Tensor, log_p: torch.Tensor, steps: torch.Tensor, K: int
) -> None:
    import torch

    right = _best(log_p[:, None] + steps, K)
    chosen = torch.equal(parents, right[0]) and torch.equal(tokens, right[1])
    if chosen and same(scores, right[2]):
        return
    if chosen:
        if same(scores, right[2].exp()):
            raise Wrong("52.3.score_is_probability")
        if same(scores, steps[right[0], right[1]]):
            raise Wrong("52.3.score_of_the_step")
        raise Wrong("52.3.score")
    if _chosen(parents, tokens) == _chosen(right[0], right[1]):
        raise Wrong("52.3.order")
    for key, wrong in _wrong_steps(log_p, steps, K).items():
        if torch.equal(parents, wrong[0]) and torch.equal(tokens, wrong[1]):
            raise Wrong(key.strip())
    raise Wrong("52.3.value")


# --- 52.4 -------------------------------------------------------------------------------------------------

PLACEHOLDER = re.compile(r"%\d+|%[sd](?![a-z])|\{\w*\}")

SURVIVING = (
    ("Bad request for %1", "Mauvaise requête pour %1"),
    ("%1 of %2 cells", "%2 cellules, dont %1"),
    ("Save", "Sauvegarder"),
    ("Hello {name}, you have %d messages", "%d messages pour {name}"),
    ("Copy {} to {}", "Copier {} vers {}"),
    ("100 % sure", "Sûr à 100 %"),
)
LOST = (  # the misconception that calls it right, source, target; the plainest first
    ("52.4.lost", "Bad request for %1", "Mauvaise requête"),
    ("52.4.only_percent", "Open {0} now", "Ouvrir maintenant"),
    ("52.4.only_braces", "%d cells", "Cellules"),
    ("52.4.only_digits", "Open %s", "Ouvrir"),
    ("52.4.changed", "%1 of %2", "%1 de %1"),
    ("52.4.changed", "Hello {name}", "Bonjour {nom}"),
    ("52.4.substring", "Bad request for %1", "Mauvaise requête pour %10"),
    ("52.4.sets", "Copy {} to {}", "Copier vers {}"),
    ("52.4.sets", "%1 of %1", "%1"),
    ("52.4.invented", "Open file", "Ouvrir le fichier %1"),
    ("52.4.invented", "Open %s", "Ouvrir %s dans %s"),
)


@check_of("52.4", "Do the placeholders survive?", minutes=8)
def survives(attempt: Callable) -> None:
    """Pairs that survive in another order, and pairs that lose, invent, double or change a placeholder."""
    for source, target in SURVIVING:
        found = attempt(source, target)
        if found not in (True, False):
            raise Wrong("52.4.not_bool", found=repr(found)[:40])
        if not found:
            names = PLACEHOLDER.findall(source)
            key = "52.4.text" if not names else "52.4.order" if len(set(names)) > 1 else "52.4.refused"
            raise Wrong(key, source=source, target=target)
    for key, source, target in LOST:
        if attempt(source, target):
            raise Wrong(key, source=source, target=target)
