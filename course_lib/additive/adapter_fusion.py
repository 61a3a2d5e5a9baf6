"""AdapterFusion: Pfeiffer, Kamath, Rücklé, Cho, Gurevych, "AdapterFusion: Non-Destructive Task Composition for Transfer
Learning", EACL 2021.

    h <- h + sum_n softmax_n(Q h . K a_n) V a_n,      a_n = f_n(h)

N adapters f_n, each trained on a task of its own, are frozen; at every position an attention over the N of them is
trained: the query is what the adapters read, keys and values are what they say. V begins near the identity, so the
fusion begins as a mixture of the adapters. A saved fusion holds Q, K, V and the frozen adapters: its folder needs no
other. So it stores more than it trains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from . import files
from .base import Method
from .bottleneck_adapter import BottleneckAdapter
from .sites import Site


@dataclass(frozen=True)
class Source:
    """A trained adapter as a fusion holds it: where it was saved, what it is, its base and its numbers."""

    folder: str
    design: BottleneckAdapter
    base: dict = field(compare=False, repr=False)  # what `files.base_signature` says of it
    state: dict[str, Tensor] = field(compare=False, repr=False)

    @classmethod
    def read(cls, folder: str | Path) -> Source:
        """The adapter saved in a folder, its head left out. Raises CourseError where there is no bottleneck adapter."""
        _, state, description = files.read(Path(folder))
        found = {"name": "an addition of peft"} if description is None else dict(description["method"])
        name = found.pop("name")
        if name != "BottleneckAdapter":
            raise CourseError(f"AdapterFusion fuses saved BottleneckAdapters; {folder} holds {name}.")
        state = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
        return cls(str(folder), BottleneckAdapter(**found), description["base"], state)

    def fill(self, site: Site, adapter: nn.Module) -> None:
        """Give a fresh adapter the saved numbers of its site."""
        wanted = {name: f"{site.key}.{name}" for name in adapter.state_dict()}
        missing = [key for key in wanted.values() if key not in self.state]
        if missing:
            raise CourseError(f"The adapter in {self.folder} is incomplete: {missing[0]} is missing. Save it again.")
        for name, tensor in adapter.state_dict().items():
            saved = self.state[wanted[name]].shape
            if saved != tensor.shape:
                raise CourseError(
                    f"{wanted[name]} of the adapter in {self.folder} has shape {tuple(saved)}, but {self.design} needs "
                    f"{tuple(tensor.shape)}. Save it again."
                )
        adapter.load_state_dict({name: self.state[key] for name, key in wanted.items()})


@dataclass(frozen=True)
class AdapterFusion(Method):
    """`sources` are the folders of at least two BottleneckAdapters with placement "pfeiffer", saved on the same base.

    They are read at once; afterwards the method holds their numbers, and the folders may go.
    """

    sources: tuple[str | Path | Source, ...] = ()

    family = "additive"
    paper = "Pfeiffer et al. 2021"
    formula = "h <- h + sum_n softmax_n(Q h . K a_n) V a_n"
    count = "L (3 d^2 + 2 d); stores the N adapters too"

    def __post_init__(self):
        if isinstance(self.sources, str | Path) or len(self.sources) < 2:
            raise CourseError(f"AdapterFusion needs the folders of at least two saved adapters; got {self.sources!r}.")
        sources = tuple(s if isinstance(s, Source) else Source.read(s) for s in self.sources)
        object.__setattr__(self, "sources", sources)
        for source in sources:
            if source.design.placement != "pfeiffer":
                raise CourseError(
                    f"The adapter in {source.folder} has placement={source.design.placement!r}; only 'pfeiffer' can "
                    "be fused: a Houlsby adapter brings LayerNorms of its own, and a sum cannot pass through several."
                )
            if source.design.skip_layers != sources[0].design.skip_layers:
                raise CourseError(
                    f"Fused adapters stand in the same blocks, but {sources[0].folder} has skip_layers="
                    f"{sources[0].design.skip_layers} and {source.folder} {source.design.skip_layers}."
                )

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        for source in self.sources:
            files.check_base(layout, source.base, Path(source.folder))
        for adapters in zip(*(source.design.place(layout) for source in self.sources), strict=True):
            site = adapters[0][0]
            for source, (_, adapter) in zip(self.sources, adapters, strict=True):
                source.fill(site, adapter)
            yield site, Fusion(layout.width, [adapter for _, adapter in adapters])

    def described(self) -> dict:
        """What a file's header says; the numbers stand in the file itself."""
        return {"sources": [{"folder": s.folder, "design": asdict(s.design), "base": s.base} for s in self.sources]}

    @classmethod
    def from_description(cls, fields: dict, state: dict[str, Tensor]) -> AdapterFusion:
        """A saved fusion holds the numbers of its n-th source under "blocks.3.stream.sources.n.down.weight"."""
        sources = []
        for n, said in enumerate(fields["sources"]):
            named = {re.sub(rf"\.sources\.{n}\.", ".", key): t for key, t in state.items() if f".sources.{n}." in key}
            sources.append(Source(said["folder"], BottleneckAdapter(**said["design"]), said["base"], named))
        return cls(tuple(sources))


class Fusion(nn.Module):
    """sum_n softmax_n(Q h . K a_n) V a_n with a_n = f_n(h), for h of shape (B, T, d)."""

    def __init__(self, width: int, sources: list[nn.Module]):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)  # its bias adds the same to all n scores: it never learns
        self.value = nn.Linear(width, width, bias=False)
        self.sources = nn.ModuleList(frozen(source) for source in sources)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.value.weight.normal_(std=1e-6).fill_diagonal_(1.0)

    def forward(self, h: Tensor) -> Tensor:
        a = torch.stack([source(h) for source in self.sources], dim=-2)  # (B, T, N, d)
        scores = torch.einsum("btd,btnd->btn", self.query(h), self.key(a))
        return torch.einsum("btn,btnd->btd", scores.softmax(-1), self.value(a))


def frozen(module: nn.Module) -> nn.Module:
    """The module with its parameters turned into buffers: kept with the others, and trained by nobody."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return module
