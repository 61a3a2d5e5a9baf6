"""A batch whose rows use different additions, in one pass.

Modules of one design at one site are alike but for their numbers. So these are stacked, and the module runs once over
the stack and the rows that belong to it (torch.vmap): 64 additions cost about as much as one. Gradients flow through
the stack to each addition's own parameters. Modules of other designs or shapes make groups of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


def groups_of(modules: dict[str, list[tuple[str, nn.Module]]], rows: Sequence[str | None], x: Tensor) -> list[Group]:
    """What acts at one site on x (B, ...), when `rows` names an addition for each row.

    `modules` has the (design, module) pairs of each addition. Beam search repeats every row next to itself, so x may
    hold k rows for each row of the call.
    """
    times = len(x) // len(rows)
    owned: dict[str, list[int]] = {}
    for row, name in enumerate(rows):
        if name in modules:
            owned.setdefault(name, []).extend(range(row * times, (row + 1) * times))
    alike: dict[tuple, list[tuple[nn.Module, list[int]]]] = {}
    for name, own in owned.items():
        for place, (design, module) in enumerate(modules[name]):
            kind = (place, design, *((p.shape, p.dtype) for p in module.parameters()))
            alike.setdefault(kind, []).append((module, own))
    ordered = sorted(alike, key=lambda kind: kind[0])  # an addition's second module reads what its first one wrote
    return [Group.of(alike[kind], x) for kind in ordered]


class Group:
    """Modules that are alike but for their numbers, and the rows of a batch that each of them acts on."""

    def __init__(self, modules: list[nn.Module], rows: Tensor | None = None):
        self.modules = modules  # one, or one for each entry of the stack
        self.rows = rows  # those that have a module here, an addition's beside each other; None: all, as they stand
        self.side = 1  # how many rows an entry of the stack acts on
        self.filled: Tensor | None = None  # (entries * side,): rows for every entry; None: they come out even
        self.real: Tensor | None = None  # where the rows then stand

    @classmethod
    def of(cls, owned: list[tuple[nn.Module, list[int]]], x: Tensor) -> Group:
        """The group of some modules and the numbers of the rows that they own.

        An entry of the stack acts on as many rows as an addition has in the mean. An addition with more rows has
        several entries; places left over repeat a row. However unevenly the additions share the batch, there are at
        most three entries for an addition, and two places for a row.
        """
        order = [row for _, own in owned for row in own]
        group = cls([owned[0][0]], None if order == list(range(len(x))) else torch.tensor(order, device=x.device))
        if len(owned) == 1:
            return group
        group.modules, group.side = [], len(order) // len(owned)
        filled, begin = [], 0
        for module, own in owned:
            for first in range(begin, begin + len(own), group.side):
                group.modules.append(module)
                filled += [min(first + k, begin + len(own) - 1) for k in range(group.side)]
            begin += len(own)
        if filled != list(range(begin)):
            group.filled = torch.tensor(filled, device=x.device)
            group.real = torch.tensor([filled.index(row) for row in range(begin)], device=x.device)
        return group

    @property
    def like(self) -> nn.Module:
        """One of the modules, for what all of them share."""
        return self.modules[0]

    def part(self, pick: Callable[[nn.Module], nn.Module]) -> Group:
        """The same rows with a part of each module."""
        group = copy.copy(self)
        group.__dict__.pop("stacked", None)
        group.modules = [pick(module) for module in self.modules]
        return group

    # --- rows -----------------------------------------------------------------------------------------------

    def chosen(self, x: Tensor) -> Tensor:
        """The group's rows of x (B, ...)."""
        return x if self.rows is None else x.index_select(0, self.rows)

    def add(self, y: Tensor, term: Tensor) -> Tensor:
        """y (B, ...) plus a term on the group's rows."""
        term = term.to(y.dtype)
        return y + term if self.rows is None else y.index_add(0, self.rows, term)

    def put(self, y: Tensor, own: Tensor) -> Tensor:
        """y (B, ...) with the group's rows replaced."""
        own = own.to(y.dtype)
        return own if self.rows is None else y.index_copy(0, self.rows, own)

    # --- what the modules say -------------------------------------------------------------------------------

    def __call__(self, *tensors: Tensor) -> Tensor:
        """f(x, ...) of each of the group's rows, with the row's own f, in the module's number format."""
        chosen = [self.chosen(tensor) for tensor in tensors]
        if not torch.is_autocast_enabled(chosen[0].device.type):  # which chooses the format itself
            chosen[0] = chosen[0].to(next(self.like.parameters()).dtype)
        if len(self.modules) == 1:
            return self.like(*chosen)
        if self.filled is not None:
            chosen = [tensor.index_select(0, self.filled) for tensor in chosen]
        said = self._stacked_call(*(tensor.unflatten(0, (-1, self.side)) for tensor in chosen)).flatten(0, 1)
        return said if self.real is None else said.index_select(0, self.real)

    def tables(self) -> Tensor:
        """f() of modules that read nothing, for each of the group's rows; a single module's once, (1, ...)."""
        if len(self.modules) == 1:
            return self.like()[None]
        said = self._stacked_call().repeat_interleave(self.side, dim=0)
        return said if self.real is None else said.index_select(0, self.real)

    def _stacked_call(self, *tensors: Tensor) -> Tensor:
        """The module over the stack, and over the first dimension of the tensors."""
        shell, numbers = self.stacked
        return vmap(lambda own, *x: functional_call(shell, own, x), randomness="different")(numbers, *tensors)

    @cached_property
    def stacked(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """A module to be filled with numbers, and those of all modules, stacked."""
        named = [dict(module.named_parameters()) | dict(module.named_buffers()) for module in self.modules]
        return shell_of(self.like), {name: torch.stack([own[name] for own in named]) for name in named[0]}


def shell_of(module: nn.Module) -> nn.Module:
    """A new tree of modules that holds the same tensors; other tensors may be put in without touching the original."""
    shell = object.__new__(type(module))
    shell.__dict__.update(module.__dict__)
    shell.__dict__["_parameters"], shell.__dict__["_buffers"] = dict(module._parameters), dict(module._buffers)
    shell.__dict__["_modules"] = {
        name: None if child is None else shell_of(child) for name, child in module._modules.items()
    }
    return shell
