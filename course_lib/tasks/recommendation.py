"""Recommendation: who took what, in which order; guess what comes next.

A history is a list of item numbers in the order of time. Numbers count from 1, because 0 is padding. Shapes: B users,
T places in a history, V items with padding, d width.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..language_models.blocks import Attention, Block, FeedForward, LayerNorm, initialise
from ..runtime import CourseError
from .base import UNLEARNT, Task, padded

# --- histories ---------------------------------------------------------------------------------------------------


def histories(rows: Iterable[dict], ties: str = "shuffled") -> dict[int, list[int]]:
    """user -> item numbers in the order of time, from rows with `user`, `item` and `timestamp`.

    Where several items of a user carry the same second, their order is not known. "shuffled" puts them into a fixed
    order that means nothing (by a hash); "item" by item number, which looks like an order and is none.
    """
    if ties not in ("shuffled", "item"):
        raise CourseError(f"ties={ties!r} is not known; choose 'shuffled' or 'item'.")

    def key(row: dict) -> tuple:
        mixed = hashlib.blake2b(f"{row['user']} {row['item']}".encode(), digest_size=8).digest()
        return row["timestamp"], (mixed if ties == "shuffled" else row["item"])

    by_user = defaultdict(list)
    for row in rows:
        by_user[row["user"]].append(row)
    return {user: [row["item"] for row in sorted(taken, key=key)] for user, taken in sorted(by_user.items())}


@dataclass(frozen=True)
class Split:
    """Histories cut by time: the last item of each user is the test, the one before it the validation."""

    users: list[int]
    train: list[list[int]]
    validation: list[int]
    test: list[int]

    def known(self, part: str) -> list[list[int]]:
        """What may be looked at when `part` is guessed: for the test that includes the validation item."""
        if part == "validation":
            return self.train
        return [[*items, last] for items, last in zip(self.train, self.validation)]

    def targets(self, part: str) -> list[int]:
        return {"validation": self.validation, "test": self.test}[part]


def leave_last_out(histories: dict[int, list[int]], at_least: int = 3) -> Split:
    """Each user's last item for the test, the last but one for validation, the rest to learn from.

    Users with fewer than `at_least` items are left out.
    """
    kept = {user: items for user, items in histories.items() if len(items) >= max(3, at_least)}
    if not kept:
        raise CourseError(f"No user has {max(3, at_least)} items or more: nothing is left to split.")
    return Split(
        list(kept), [items[:-2] for items in kept.values()],
        [items[-2] for items in kept.values()], [items[-1] for items in kept.values()],
    )  # fmt: skip


def windows(train: Sequence[Sequence[int]], length: int) -> list[dict]:
    """Features for `fit`: pieces of at most `length` places, in which each item but a user's first is asked for once.

    Cut from the end, so that the shorter piece is a user's first.
    """
    features = []
    for user, items in enumerate(train):
        for end in range(len(items) - 1, 0, -length):
            start = max(0, end - length)
            features.append({
                "input_ids": list(items[start:end]), "labels": list(items[start + 1 : end + 1]), "user": user,
            })  # fmt: skip
    return features


def popularity(train: Sequence[Sequence[int]], items: int) -> Tensor:
    """(V,) how often each item stands in the histories to learn from."""
    return torch.bincount(torch.tensor([item for taken in train for item in taken]), minlength=items + 1).float()


def recent_popularity(rows: Iterable[dict], split: Split, part: str, items: int, days: float) -> Tensor:
    """(U, V) how often each item was taken in the days before each user's target was, ties by overall popularity.

    Only what the split lets one learn from is counted, and only what was there at the time.
    """
    held = {user: set(pair) for user, *pair in zip(split.users, split.validation, split.test)}
    at = {(row["user"], row["item"]): row["timestamp"] for row in rows}
    kept = sorted((time, item) for (user, item), time in at.items() if item not in held.get(user, ()))
    times, taken = torch.tensor([time for time, _ in kept]), torch.tensor([item for _, item in kept])
    now = torch.tensor([at[pair] for pair in zip(split.users, split.targets(part))])
    first, last = torch.searchsorted(times, now - int(days * 86400)), torch.searchsorted(times, now)
    counts = [torch.bincount(taken[a:b], minlength=items + 1) for a, b in zip(first, last)]
    overall = popularity(split.train, items)
    return torch.stack(counts) + overall / (1 + overall.sum())


def neighbours(train: Sequence[Sequence[int]], items: int, reach: int = 3) -> Tensor:
    """(V, V) how often two items stand at most `reach` places apart in the histories to learn from."""
    together = torch.zeros(items + 1, items + 1)
    for taken in map(torch.tensor, train):
        for step in range(1, min(reach, len(taken) - 1) + 1):
            pairs = taken[:-step], taken[step:]
            together.index_put_(pairs, torch.ones(len(pairs[0])), accumulate=True)
    return together + together.T


# --- models: they answer with states (B, T, d) and the table of items (V, d); a score is their product -------------


class Items(nn.Module):
    """The table of items (V, d): a trained vector for each, or vectors made of texts, or their sum.

    `text` (V, m) are frozen vectors of the items' texts. With both, an item's own vector begins at zero: it is added to
    what the text says. An item that is never trained on keeps zero and lives by its text alone.
    """

    def __init__(self, number: int, width: int, text: Tensor | None = None, own: bool = True):
        super().__init__()
        if text is None and not own:
            raise CourseError("Items need a text, or vectors of their own.")
        self.own = nn.Embedding(number + 1, width) if own else None
        self.from_text = nn.Linear(text.shape[1], width, bias=False) if text is not None else None
        self.register_buffer("text", text, persistent=False)
        initialise(self)
        if own and text is not None:
            nn.init.zeros_(self.own.weight)

    def forward(self) -> Tensor:
        if self.from_text is None:
            return self.own.weight
        table = self.from_text(self.text)
        return table if self.own is None else table + self.own.weight


class MatrixFactorisation(nn.Module):
    """A vector for each user and one for each item; the score is their product (with BPR: Rendle et al. 2009)."""

    def __init__(self, users: int, items: Items, width: int):
        super().__init__()
        self.items, self.users, self.length = items, nn.Embedding(users, width), 1
        nn.init.normal_(self.users.weight, std=0.02)

    def forward(self, input_ids: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        return self.users(user)[:, None].expand(-1, input_ids.shape[1], -1), self.items()


class SASRec(nn.Module):
    """Causal self-attention over a history (Kang and McAuley 2018): the course's blocks, with items for tokens.

    As published: two pre-norm blocks of one head, a feed-forward network as wide as the stream with ReLU, learned
    positions, dropout, and one table that reads items and scores them. Here positions count from a window's first item.
    """

    def __init__(self, items: Items, width: int, length: int, blocks: int = 2, heads: int = 1, dropout: float = 0.2):
        super().__init__()
        self.items, self.length = items, length
        self.positions, self.dropout = nn.Embedding(length, width), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                Attention(width, heads, dropout=dropout), FeedForward(width, width, "relu"),
                lambda: LayerNorm(width, 1e-8), dropout=dropout,
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.norm = LayerNorm(width, 1e-8)
        initialise(self.positions)
        initialise(self.blocks)

    def forward(self, input_ids: Tensor, user: Tensor | None = None) -> tuple[Tensor, Tensor]:
        table = self.items()
        x = table[input_ids] + self.positions.weight[: input_ids.shape[1]]  # (B, T, d)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, causal=True)
        return self.norm(x), table


@torch.no_grad()
def scores(model: nn.Module, known: Sequence[Sequence[int]], batch_size: int = 256) -> Tensor:
    """(U, V) the scores of all items for what each user takes next, after the histories `known`."""
    was_training, found = model.training, []
    model.eval()
    device = next(model.parameters()).device
    for start in range(0, len(known), batch_size):
        rows = [list(items[-model.length :]) for items in known[start : start + batch_size]]
        users = torch.arange(start, start + len(rows), device=device)
        states, table = model(padded(rows, 0, "right").to(device), user=users)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        found.append((states[torch.arange(len(rows)), last] @ table.T).cpu())
    model.train(was_training)
    return torch.cat(found)


# --- losses: states (N, d), table (V, d), targets (N,) -> the summed loss -----------------------------------------


def all_items(states: Tensor, table: Tensor, targets: Tensor, on_sale: Tensor) -> Tensor:
    """Cross-entropy over every item on sale."""
    logits = (states @ table.T).masked_fill(~on_sale, -torch.inf)  # (N, V)
    return F.cross_entropy(logits, targets, reduction="sum")


def one_negative(states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """SASRec's published loss: the taken item yes, one item drawn at random (N,) no; two sigmoids a place."""
    yes, no = (states * table[targets]).sum(-1), (states * table[negatives]).sum(-1)
    return F.softplus(-yes).sum() + F.softplus(no).sum()


def pairwise(states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """BPR: minus log of the chance, by a sigmoid, that the taken item is preferred to the drawn one (N,)."""
    return F.softplus(-(states * (table[targets] - table[negatives])).sum(-1)).sum()


def sampled_softmax(
    states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, log_chance: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the taken item and n drawn ones (n,), the same for all places of the batch.

    log_chance (V,): the log of each item's chance of being a candidate, which is subtracted from all scores (Bengio and
    Senecal 2008; for batches of a recommender Yi et al. 2019); None leaves it out. A drawn item that happens to be the
    taken one does not count against itself.
    """
    if log_chance is None:
        log_chance = torch.zeros(len(table), device=table.device)
    right = (states * table[targets]).sum(-1) - log_chance[targets]  # (N,)
    drawn = states @ table[negatives].T - log_chance[negatives]  # (N, n)
    drawn = drawn.masked_fill(negatives[None, :] == targets[:, None], -torch.inf)
    return (torch.cat([right[:, None], drawn], dim=1).logsumexp(1) - right).sum()


@dataclass(frozen=True)
class NextItem(Task):
    """At every place of a history, the next item; the model answers with states and a table of items.

    objective       "all items", "one negative", "pairwise", "sampled" (items drawn uniformly) or "in batch" (the other
                    places' items are the negatives, so that an item is drawn as often as it is taken: InfoNCE)
    negatives       how many are drawn for "sampled"
    frequencies     (V,) how often each item is taken; if given, "in batch" subtracts its log
    not_on_sale     items that are no candidates yet: a full softmax would push them down at every step
    """

    objective: str = "all items"
    negatives: int = 100
    frequencies: Sequence[float] | None = field(default=None, repr=False)
    not_on_sale: Sequence[int] = field(default=(), repr=False)

    def __post_init__(self):
        known = ("all items", "one negative", "pairwise", "sampled", "in batch")
        if self.objective not in known:
            raise CourseError(f"The objective {self.objective!r} is not known; choose one of {', '.join(known)}.")

    def collate(self, features: Sequence[dict], tokenizer=None) -> dict[str, Tensor]:
        return {
            "input_ids": padded([f["input_ids"] for f in features], 0, "right"),
            "labels": padded([f["labels"] for f in features], UNLEARNT, "right"),
            "user": torch.tensor([f["user"] for f in features]),
        }

    def loss(self, output: tuple[Tensor, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        states, table = output
        asked = batch["labels"] != UNLEARNT  # (B, T)
        targets, h = batch["labels"][asked], states[asked].float()  # (N,), (N, d)
        return self._summed(h, table.float(), targets, batch), asked.sum()

    def _summed(self, h: Tensor, table: Tensor, targets: Tensor, batch: dict[str, Tensor]) -> Tensor:
        on_sale = torch.ones(len(table), dtype=torch.bool, device=table.device)
        on_sale[[0, *self.not_on_sale]] = False
        if self.objective == "all items":
            return all_items(h, table, targets, on_sale)
        if self.objective == "in batch":
            log_chance = None
            if self.frequencies is not None:
                log_chance = torch.as_tensor(self.frequencies, device=h.device).clamp_min(1).float().log()
            return sampled_softmax(h, table, targets, targets, log_chance)
        choice = on_sale.nonzero()[:, 0]
        if self.objective == "sampled":
            drawn = choice[torch.randint(len(choice), (self.negatives,), device=h.device)]
            return sampled_softmax(h, table, targets, drawn)
        drawn = choice[torch.randint(len(choice), targets.shape, device=h.device)]  # (N,)
        taken = batch["input_ids"][:, None, :].expand(-1, batch["labels"].shape[1], -1)[batch["labels"] != UNLEARNT]
        for _ in range(5):  # what is in the window is no negative: draw again
            clash = (drawn[:, None] == taken).any(1) | (drawn == targets)
            again = choice[torch.randint(len(choice), targets.shape, device=h.device)]
            drawn = torch.where(clash, again, drawn)
        return (one_negative if self.objective == "one negative" else pairwise)(h, table, targets, drawn)


# --- texts -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def text_vectors(base, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """(n + 1, m) unit vectors of n texts by an encoder's mean state; row 0, padding's, is zero."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.zeros(len(texts) + 1, base.model.config.hidden_size)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = base.tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True)
        states = base.model(**batch).last_hidden_state  # (B, T, m)
        mask = batch["attention_mask"][:, :, None]
        found[torch.tensor(rows) + 1] = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    return found
