"""Where an addition acts: a site, and the hook that lets it act there.

Every site is a sum. With x the residual stream, h a sublayer's output and f the addition,

    after    h <- h + f(h)                            sequential: it sees what the sublayer said
    beside   h <- h + f(x)                            parallel: it sees what the sublayer saw
    stream   x <- x + f(x)                            after the block; post-norm: LN(z + f(LN(z))), z the block's sum
    block    y <- y + f(y)                            on what the block hands on, in every family
    edit     y <- y + f(y)                            the same at chosen positions of the prompt only
    logits   scores <- scores + f(states)             beside the head over the vocabulary
    prompt   [P ; E]                                  vectors put before the embedded tokens
    attend   inside the attention function            keys and values, or a term of the output, of the addition's own
    side     y <- f(x_0, ..., x_L)                    beside the whole stack; y is what the head reads

and, for the comparators and for (IA)^3,

    bias     y <- y + f(x)                            a difference of biases, at any module
    scale    y <- f(y)                                what a projection says, scaled; at its input: scale_input
    instead  y <- f(x)                                a module of the addition's own, in place of the base's

Hooks are ordinary torch forward hooks on a copy of the module tree; without an active addition they return None,
which leaves the base's result as it is, to the last bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..architectures import ROLES, Layout
from . import attention, side_network
from .mixed_rows import Group, groups_of


@dataclass(frozen=True)
class Site:
    """One insertion point: what kind of sum, at which module of the body, and from which block on it acts."""

    kind: str
    where: str = ""  # "attention" or "ffn"; for "instead" a module path from the model
    block: int | None = None  # None: outside the blocks
    part: int = 0  # which summand of Sum(m1, m2, ...) stands here

    @property
    def key(self) -> str:
        """The site's name in files: "blocks.3.ffn.beside"."""
        place = [] if self.block is None else ["blocks", str(self.block)]
        names = [*place, *([self.where] if self.where else []), self.kind]
        return ".".join([f"part{self.part}", *names] if self.part else names)


class Route:
    """Which addition each row of the present call uses.

    It lives in the calling thread for the time of the call, never on the model: the last batch may be smaller, beams
    multiply the rows, and two requests may run at once.
    """

    def __init__(self, default: str):
        self.default = default
        self._thread = threading.local()

    @property
    def rows(self) -> str | tuple[str | None, ...] | None:
        """One name for the whole batch, a tuple with a name or None for each row, or None: nothing is added."""
        return getattr(self._thread, "rows", self.default)

    @property
    def states(self) -> Tensor | None:
        """Cached states (B, T, d) that replace what the blocks below the lowest addition would compute."""
        return getattr(self._thread, "states", None)

    @property
    def memo(self) -> dict:
        """What additions compute once a call: the prefixes of all layers, which positions are the prompt's."""
        return self._thread.__dict__.setdefault("memo", {})

    @contextmanager
    def use(
        self, rows: str | tuple[str | None, ...] | None, states: Tensor | None = None, memo: dict | None = None
    ) -> Iterator[None]:
        before = dict(self._thread.__dict__)
        self._thread.rows, self._thread.states = rows, states
        self._thread.memo = {} if memo is None else memo
        try:
            yield
        finally:
            self._thread.__dict__.clear()
            self._thread.__dict__.update(before)

    def names(self) -> list[str]:
        """The additions in use, each once."""
        rows = self.rows if isinstance(self.rows, tuple) else (self.rows,)
        return [name for name in dict.fromkeys(rows) if name is not None]

    def groups(self, x: Tensor) -> Iterator[tuple[str, Tensor | None]]:
        """(name, row numbers in x) for each addition in use; row numbers None means the whole batch.

        Beam search repeats every row next to itself, so x may hold k rows for each row of the call.
        """
        rows = self.rows
        if rows is None:
            return
        if isinstance(rows, str):
            yield rows, None
            return
        times = len(x) // len(rows)
        for name in self.names():
            chosen = [row * times + k for row, used in enumerate(rows) if used == name for k in range(times)]
            yield name, torch.tensor(chosen, device=x.device)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once a call: a generated answer's tokens share it, the next call makes it anew."""
        if not hasattr(self._thread, "rows"):  # not inside a call
            return make()
        memo = self.memo
        if key not in memo:
            memo[key] = make()
        return memo[key]


class Slot:
    """The additions that act at one site, by name; `add` and `instead` apply those that the call uses."""

    def __init__(self, route: Route):
        self.route = route
        self.modules: dict[str, list[tuple[str, nn.Module]]] = {}  # with the design of which each is an instance
        self.alone: dict[str, list[Group]] = {}  # the same, for batches that use one addition

    def __deepcopy__(self, memo: dict) -> Slot:
        return self  # a copy of the hooked tree goes on looking here; it owns no tensors of its own

    def plug(self, name: str, module: nn.Module, design: str) -> None:
        """Let a module of an addition act here. Modules of equal designs differ in their numbers only."""
        self.modules.setdefault(name, []).append((design, module))
        self.alone.setdefault(name, []).append(Group([module]))

    def unplug(self, name: str) -> None:
        self.modules.pop(name, None)
        self.alone.pop(name, None)

    def present(self, x: Tensor) -> Sequence[Group]:
        """What acts here in this call on the rows of x (B, ...)."""
        rows = self.route.rows
        if rows is None:
            return ()
        if isinstance(rows, str):
            return self.alone.get(rows, ())
        return self.route.once((self, len(x)), lambda: groups_of(self.modules, rows, x))

    def one_by_one(self, x: Tensor) -> Iterator[tuple[Tensor | None, nn.Module]]:
        """(row numbers, module) of the same, for modules that no stack can hold."""
        for name, rows in self.route.groups(x):
            for _, module in self.modules.get(name, ()):
                yield rows, module

    def add(self, h: Tensor, x: Tensor | None = None) -> Tensor:
        """h + f(x) on the rows that have an addition here; without x it is h + f(h). Returns h itself if none has."""
        for group in self.present(h):
            h = group.add(h, self.said(group, h if x is None else x))
        return h

    def said(self, group: Group, x: Tensor) -> Tensor:
        """f(x) on the group's rows; one that averages over a text is told which positions are text."""
        mask = self.route.memo.get("attention_mask") if getattr(group.like, "averages", False) else None
        return group(x) if mask is None else group(x, mask)

    def add_to(self, columns: slice, y: Tensor, x: Tensor) -> Tensor:
        """y + f(x) on some columns of y: those of one role in a fused projection."""
        if columns == slice(None):
            return self.add(y, x)
        own = y[..., columns]
        part = self.add(own, x)
        return y if part is own else _put(y, columns, part)

    def edit(self, y: Tensor) -> Tensor:
        """y + f(y) at the positions of the prompt that the addition chooses."""
        mask = self.route.memo.get("prompt")  # (rows of the call, length of the prompt)
        if mask is None:
            mask = torch.ones(y.shape[:2], dtype=torch.long, device=y.device)
        elif y.shape[1] < mask.shape[1]:  # a token that was generated, with a cache: not of the prompt
            return y
        for group in self.present(y):
            chosen = group.like.positions(mask).repeat_interleave(len(y) // len(mask), dim=0)
            chosen = nn.functional.pad(chosen, (0, y.shape[1] - chosen.shape[1]))
            y = group.add(y, torch.where(group.chosen(chosen)[..., None], group(y), 0.0))
        return y

    def through(self, y: Tensor, columns: slice = slice(None)) -> Tensor:
        """f(y) in place of (some columns of) y on the rows that have an addition here."""
        for group in self.present(y):
            part = y[..., columns]
            y = _put(y, columns, group.put(part, group(part)))
        return y

    def instead(self, y: Tensor, x: Tensor) -> Tensor:
        """f(x) in place of y on the rows that have a module of their own here."""
        for group in self.present(x):
            y = group.put(y, group(x))
        return y


def _put(y: Tensor, columns: slice, part: Tensor) -> Tensor:
    """y with some of its columns replaced, as a new tensor."""
    if columns == slice(None):
        return part
    return torch.cat([y[..., : columns.start], part, y[..., columns.stop :]], dim=-1)


def insert(site: Site, slot: Slot, layout: Layout) -> list[Callable[[], None]]:
    """Register the hooks of one site; returns the functions that remove them."""
    body, kind = layout.body, site.kind
    if kind == "logits":
        return [_on_result(layout.lm_head, slot.add)]
    if kind == "instead":
        return [_in_place_of(layout.model.get_submodule(site.where), slot)]
    if kind == "attend":
        return attention.insert(site, slot, layout)
    if kind == "side":
        return side_network.insert(site, slot, layout)
    if kind in ("block", "edit"):
        change = slot.edit if kind == "edit" else slot.add
        return [_on_result(body.get_submodule(layout.block_path(site.block)), lambda y, x: change(y))]
    if kind == "bias":
        return [_on_result(layout.model.get_submodule(site.where), slot.add)]
    if site.where in ROLES:
        projection = layout.projection(site.block, site.where)
        module, columns = projection.module, projection.columns
        if kind == "scale_input":
            return [module.register_forward_pre_hook(lambda m, args: (slot.through(args[0]), *args[1:])).remove]
        change = slot.add_to if kind == "beside" else lambda columns, y, x: slot.through(y, columns)
        return [_on_result(module, lambda y, x: change(columns, y, x))]
    if kind == "stream" and not layout.post_norm:
        return insert(replace(site, kind="block"), slot, layout)
    paths = layout.sublayer(site.block, "ffn" if kind == "stream" else site.where)
    if kind == "stream":
        return [_on_norm(body.get_submodule(paths.norm), slot)]
    if kind == "after":
        return [_on_result(body.get_submodule(paths.result), lambda h, x: slot.add(h))]
    if kind == "beside" and paths.join:
        return [_on_join(body.get_submodule(paths.join), slot)]
    if kind == "beside":
        return [_on_result(body.get_submodule(paths.result), slot.add)]
    raise ValueError(f"{kind!r} is not a kind of site")


def _in_place_of(module: nn.Module, slot: Slot) -> Callable[[], None]:
    """Let an addition's module answer for the base's, which is not even run where it would answer for all rows."""

    def forward(x: Tensor) -> Tensor:
        found = slot.present(x)
        if len(found) == 1 and found[0].rows is None:
            own = found[0](x)
            return own if torch.is_autocast_enabled(x.device.type) else own.to(x.dtype)
        return slot.instead(type(module).forward(module, x), x)

    module.forward = forward
    return lambda: module.__dict__.pop("forward", None)


def _on_result(module: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """Replace a module's result h by change(h, x), x being its input; a tuple's first entry is the result."""

    def hook(module, args, kwargs, result):
        h = result[0] if isinstance(result, tuple) else result
        changed = change(h, args[0] if args else kwargs["hidden_states"])
        if changed is h:
            return None
        return (changed, *result[1:]) if isinstance(result, tuple) else changed

    # before hooks of transformers that record hidden states, so that they record the sum
    return module.register_forward_hook(hook, with_kwargs=True, prepend=True).remove


def _on_join(join: nn.Module, slot: Slot) -> Callable[[], None]:
    """Post-norm families compute norm(h + x) in one module called as join(..., x): x + f(x) goes in for x."""

    def hook(module, args):
        *others, x = args
        return (*others, slot.add(x))

    return join.register_forward_pre_hook(hook).remove


def _on_norm(norm: nn.Module, slot: Slot) -> Callable[[], None]:
    """Post-norm stream: LN(z + f(LN(z))) for LN(z)."""

    def hook(module, args, normed):
        z = args[0]
        changed = slot.add(z, normed)
        return None if changed is z else module.forward(changed)

    return norm.register_forward_hook(hook, prepend=True).remove
