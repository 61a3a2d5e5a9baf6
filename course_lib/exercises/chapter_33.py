"""The checks of chapter 33."""

from __future__ import annotations

import math
from collections.abc import Callable

from .registry import Wrong, check_of

UNLEARNT = -100


@check_of("33.1", "The masking function", minutes=15)
def mask_tokens(attempt: Callable) -> None:
    """Shares on 200,000 tokens; which tokens are chosen is read from the labels, what they show from the result."""
    import torch

    vocabulary, special, mask_id, rate = 500, [490, 491, 492, 499], 499, 0.15

    def drawn(seed: int) -> tuple:
        return attempt(ids, special, mask_id, vocabulary, rate, torch.Generator().manual_seed(seed))

    ids = torch.randint(490, (400, 500), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, -20:-1], ids[:, -1] = 490, 491, 492
    kept, ordinary = ids.clone(), ~torch.isin(ids, torch.tensor(special))
    found = drawn(0)
    if found is None:
        raise Wrong("33.1.none")
    seen, labels = found
    if not torch.equal(ids, kept):
        raise Wrong("33.1.in_place")
    if seen.shape != ids.shape or labels.shape != ids.shape:
        raise Wrong("33.1.shape", seen=tuple(seen.shape), labels=tuple(labels.shape), right=tuple(ids.shape))
    again, other = drawn(0), drawn(1)
    if torch.equal(seen, other[0]):
        raise Wrong("33.1.always_the_same")
    if not torch.equal(seen, again[0]) or not torch.equal(labels, again[1]):
        raise Wrong("33.1.generator")

    changed, scored = seen != ids, labels != UNLEARNT
    if (scored | changed)[~ordinary].any():
        everything = scored[ordinary].all() and not changed[~ordinary].any()
        raise Wrong("33.1.all_scored" if everything else "33.1.special_masked")
    if (scored & ordinary).sum() == ordinary.sum():
        raise Wrong("33.1.all_scored")
    if (labels[scored] == mask_id).any():
        raise Wrong("33.1.labels_of_the_seen")
    if changed[ordinary].float().mean() > 2 * rate:
        raise Wrong("33.1.over_all", found=f"{changed[ordinary].float().mean():.0%}")
    if not torch.equal(labels[scored], ids[scored]):
        raise Wrong("33.1.labels")
    masked = seen == mask_id
    hidden, replaced = masked[ordinary].float().mean(), (changed & ~masked)[ordinary].float().mean()
    if (changed & ~scored).any():
        raise Wrong("33.1.random_unscored" if not (changed & masked & ~scored).any() else "33.1.changed_unscored")
    chosen = scored[ordinary].float().mean().item()
    shares = {"mask": hidden.item() / max(chosen, 1e-9), "random": replaced.item() / max(chosen, 1e-9)}
    shares["kept"] = 1 - sum(shares.values())
    if abs(shares["kept"]) < 0.002 and abs(chosen - 0.9 * rate) < 0.004:
        raise Wrong("33.1.kept_unscored")
    if abs(chosen - rate) > 0.005:
        raise Wrong("33.1.rate", found=f"{chosen:.1%}", right=f"{rate:.0%}")
    said = {name: f"{share:.0%}" for name, share in shares.items()}
    if abs(shares["mask"] - 1) < 0.01:
        raise Wrong("33.1.only_masks")
    if abs(shares["random"] - 0.02) < 0.006 and abs(shares["mask"] - 0.8) < 0.02:
        raise Wrong("33.1.of_the_rest", **said)
    if abs(shares["mask"] - 0.8) > 0.02 or abs(shares["random"] - 0.1) > 0.015:
        raise Wrong("33.1.shares", **said)
    strangers = seen[changed & ~masked]
    if torch.isin(strangers, torch.tensor(special)).any():
        raise Wrong("33.1.special_drawn")
    if strangers.min() < 0 or strangers.max() >= vocabulary:
        raise Wrong("33.1.no_token", found=int(strangers.max()))
    if len(strangers.unique()) < 400:
        raise Wrong("33.1.one_stranger", found=len(strangers.unique()))


@check_of("33.2", "Sentinels for spans", minutes=12)
def corrupt(attempt: Callable) -> None:
    """Spans at both ends, next to each other and none at all; the usual variants are recognised by their values."""
    sentinels, end = [90, 91, 92, 93, 94], 99
    cases = [
        ([1, 2, 3, 4, 5, 6, 7, 8], "..##..#."),
        ([5, 5, 6, 6, 7, 7], "#....#"),
        ([1, 2, 3, 4], "###."),
        ([4, 3, 2, 1], ".#.#"),
        ([7, 8, 9], "..."),
    ]

    def spans(marks: str) -> list[tuple[int, int]]:
        padded = f".{marks}."
        starts = [i for i in range(len(marks)) if padded[i] == "." and padded[i + 1] == "#"]
        ends = [i for i in range(1, len(marks) + 1) if padded[i] == "#" and padded[i + 1] == "."]
        return list(zip(starts, ends, strict=True))

    def build(ids, marks, sentinel, *, token_each=False, start=True, stop=True, whole=False, drop=False, keep=False):
        source, target = [], []
        cuts = [(i, i + 1) for i, m in enumerate(marks) if m == "#"] if token_each else spans(marks)
        at = 0
        for n, (first, last) in enumerate(cuts):
            source += ids[at:first] + ([] if drop else [sentinel(n)]) + (ids[first:last] if keep else [])
            target += ([sentinel(n)] if start else []) + ids[first:last]
            at = last
        source += ids[at:]
        return source, (list(ids) if whole else target) + ([end] if stop else [])

    def mark(n):
        return sentinels[n]

    variants = {
        "33.2.no_end": lambda ids, m: build(ids, m, mark, stop=False),
        "33.2.one_each": lambda ids, m: build(ids, m, lambda n: 90 + n, token_each=True),
        "33.2.same_sentinel": lambda ids, m: build(ids, m, lambda n: sentinels[0]),
        "33.2.target_unmarked": lambda ids, m: build(ids, m, mark, start=False),
        "33.2.whole_target": lambda ids, m: build(ids, m, mark, whole=True),
        "33.2.source_unmarked": lambda ids, m: build(ids, m, mark, drop=True),
        "33.2.still_there": lambda ids, m: build(ids, m, mark, keep=True),
        "33.2.backwards": lambda ids, m: build(ids, m, lambda n: sentinels[len(spans(m)) - 1 - n]),
        "33.2.exchanged": lambda ids, m: build(ids, m, mark)[::-1],
        "33.2.kept_hidden": lambda ids, m: build(
            ids, "".join("#" if letter == "." else "." for letter in m), lambda n: 90 + n
        ),
        "33.2.sentinel_behind": lambda ids, m: (
            build(ids, m, mark)[0], [i for n, (a, b) in enumerate(spans(m)) for i in (*ids[a:b], mark(n))] + [end]
        ),
    }  # fmt: skip
    answers = []
    for ids, marks in cases:
        given, hidden, marks_given = list(ids), [letter == "#" for letter in marks], list(sentinels)
        found = attempt(given, hidden, marks_given, end)
        if found is None:
            raise Wrong("33.2.none")
        if given != ids or hidden != [letter == "#" for letter in marks] or marks_given != sentinels:
            raise Wrong("33.2.in_place")
        answers.append(tuple(list(map(int, part)) for part in found))
    right = [build(ids, marks, mark) for ids, marks in cases]
    if answers == right:
        return
    for key, variant in variants.items():
        if answers == [variant(ids, marks) for ids, marks in cases]:
            raise Wrong(key)
    for (ids, marks), answer, wanted in zip(cases, answers, right, strict=True):
        if answer != wanted:
            raise Wrong("33.2.value", ids=ids, marks=marks, found=answer, right=wanted)


@check_of("33.3", "One vector for a text", minutes=8)
def mean_state(attempt: Callable) -> None:
    """Rows of different length whose padding holds large numbers; where those went shows in the value."""
    import torch

    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 6, 4, generator=generator)
    lengths = torch.tensor([6, 2, 4])
    mask = (torch.arange(6) < lengths[:, None]).long()
    states[mask == 0] = 50.0
    given = states.clone(), mask.clone()
    found = attempt(*given)
    if found is None:
        raise Wrong("33.3.none")
    if not torch.equal(given[0], states) or not torch.equal(given[1], mask):
        raise Wrong("33.3.in_place")
    real = mask[..., None]
    right = (states * real).sum(1) / lengths[:, None]
    named = {
        "33.3.padding": states.mean(1),
        "33.3.divisor": (states * real).mean(1),
        "33.3.sum": (states * real).sum(1),
        "33.3.first": states[:, 0],
        "33.3.last_column": states[:, -1],
        "33.3.last": states[torch.arange(3), lengths - 1],
        "33.3.largest": states.masked_fill(real == 0, float("-inf")).amax(1),
        "33.3.over_all": (states * real).sum((0, 1)) / mask.sum(),
    }
    if not isinstance(found, torch.Tensor):
        raise Wrong("33.3.shape", found=type(found).__name__)
    if found.shape == right.shape and torch.allclose(found, right, atol=1e-4):
        return
    for key, wrong in named.items():
        if found.shape == wrong.shape and torch.allclose(found, wrong, atol=1e-4):
            raise Wrong(key)
    if found.shape != right.shape:
        raise Wrong("33.3.shape", found=tuple(found.shape))
    raise Wrong("33.3.value")


@check_of("33.4", "Score a sentence from both sides", minutes=15)
def pseudo_log_likelihood(attempt: Callable) -> None:
    """On a toy encoder whose answers depend on every token that it is shown, so that each mistake has its own value."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    V, d, mask_id, special = 20, 8, 19, [17, 18, 19]

    class Toy(nn.Module):
        """ids (B, T) -> logits (B, T, V), of the token that stands at each position; every position sees all."""

        def __init__(self):
            super().__init__()
            self.embed, self.place, self.head = nn.Embedding(V, d), nn.Embedding(12, d), nn.Linear(d, V)
            self.mix = nn.Linear(d, d)

        def forward(self, ids):
            x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
            return self.head(x + torch.tanh(self.mix(x)).mean(1, keepdim=True)) * 2

    model = Toy().eval()
    sentences = [torch.tensor([17, 3, 5, 3, 11, 8, 18]), torch.tensor([17, 2, 18]), torch.tensor([17, 4, 4, 9, 18])]

    measures = {
        "logits": lambda logits, t, token: logits[t, token],
        "probabilities": lambda logits, t, token: logits.softmax(-1)[t, token],
        "over_positions": lambda logits, t, token: logits.log_softmax(0)[t, token],
    }
    totals = {"mean": lambda total, n: total / n, "negative": lambda total, n: -total,
              "bits": lambda total, n: total / math.log(2)}  # fmt: skip

    @torch.no_grad()
    def score(ids: torch.Tensor, form: str) -> float:
        ordinary = [t for t, i in enumerate(ids.tolist()) if i not in special]
        asked = list(range(len(ids))) if form == "special" else ordinary
        hidden_at = {
            "unmasked": lambda t: [], "together": lambda t: ordinary, "left_only": lambda t: list(range(t, len(ids))),
            "piling_up": lambda t: [u for u in ordinary if u <= t],
        }.get(form, lambda t: [t])  # fmt: skip
        measure = measures.get(form, lambda logits, t, token: logits.log_softmax(-1)[t, token])
        total = 0.0
        for t in asked:
            seen = ids.clone()
            seen[hidden_at(t)] = mask_id
            total += measure(model(seen[None])[0], t - 1 if form == "shifted" else t, ids[t]).item()
        return totals.get(form, lambda total, n: total)(total, len(asked))

    answers = []
    for ids in sentences:
        kept = ids.clone()
        found = attempt(model, ids, mask_id, special)
        if found is None:
            raise Wrong("33.4.none")
        if not torch.equal(ids, kept):
            raise Wrong("33.4.in_place")
        answers.append(float(found))

    def close(form: str) -> bool:
        return all(abs(a - score(ids, form)) < 1e-3 for a, ids in zip(answers, sentences, strict=True))

    if close("right"):
        return
    keys = (
        "33.4.unmasked", "33.4.together", "33.4.piling_up", "33.4.left_only", "33.4.shifted", "33.4.special",
        "33.4.mean", "33.4.negative", "33.4.bits", "33.4.logits", "33.4.probabilities", "33.4.over_positions",
    )  # fmt: skip
    for key in keys:
        if close(key.rpartition(".")[2]):
            raise Wrong(key)
    raise Wrong("33.4.value", found=f"{answers[0]:.3f}", right=f"{score(sentences[0], 'right'):.3f}")
