"""The protocol of every addition: attach, use, disable, detach, count, save, load.

A method is a frozen dataclass whose `place` yields (site, module) pairs; everything else stands here once. `attach`
copies the base's module tree, sharing its tensors, and hooks the copy; the base itself is never touched.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..architectures import Layout, frozen_copy, own_copy
from ..bases import Base
from ..language_models import twin
from ..runtime import CourseError
from ..tasks import inputs_of
from . import attention, files, prompts
from .sites import Route, Site, Slot, insert

METHODS: dict[str, type[Method]] = {}


class Method:
    """Base of the method dataclasses: what the method is called, and where it adds."""

    family: ClassVar[str]  # after Lialin et al. 2023
    paper: ClassVar[str]
    formula: ClassVar[str]
    count: ClassVar[str]  # of trained parameters, in the symbols of the paper
    peft_type: ClassVar[str | None] = None
    why_no_merge: ClassVar[str | None] = "its addition is no linear map of the input, so no weight can absorb it"
    why_no_sum: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        METHODS[cls.__name__] = cls

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        """Yield the modules of this addition, freshly initialised, each with the site where it acts."""
        raise NotImplementedError

    # What a file says of a method: its fields, unless a method has more to say or to read.
    def described(self) -> dict:
        """The fields as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_description(cls, fields: dict, state: dict[str, Tensor]) -> Method:
        """The method that a file describes; `state` are the file's tensors, for methods that are made of some."""
        return cls(**fields)

    # A method that peft computes too says how its files look there; state maps our names to tensors.
    peft_head: ClassVar[str | None] = "base_model.model."  # before the head's name in peft's files; None: no head there
    peft_fields: ClassVar[tuple[str, ...]] = ()  # of peft's configuration: read, or of no effect on what is computed
    peft_values: ClassVar[dict[str, tuple]] = {}  # further fields, each with the values that the course has

    def to_peft(self, layout: Layout, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]] | None:
        """(fields of peft's configuration, tensors under peft's keys), or None where peft computes something else."""
        return None

    @classmethod
    def from_peft(cls, config: dict, state: dict[str, Tensor], layout: Layout) -> Method:
        """The method that a peft configuration describes. Raises CourseError for variants that the course has not."""
        raise NotImplementedError

    def state_from_peft(self, layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """peft's tensors under our names."""
        raise NotImplementedError

    def __str__(self) -> str:
        return repr(self)


class Sum(Method):
    """Several methods added at once, under one name: Sum(PromptTuning(), ParallelAdapter())."""

    family, paper, formula, count = "sum", "-", "the sum of the parts' terms", "the sum of the parts' counts"

    def __init__(self, *methods: Method):
        if len(methods) < 2:
            raise CourseError(f"Sum adds at least two methods; {len(methods)} given.")
        for method in methods:
            if method.why_no_sum:
                raise CourseError(f"{type(method).__name__} cannot be summed with others: {method.why_no_sum}.")
        self.methods = methods

    def place(self, layout: Layout) -> Iterator[tuple[Site, nn.Module]]:
        before: dict[str, Method] = {}  # what may stand before the text only once
        for part, method in enumerate(self.methods, start=1):
            for site, module in method.place(layout):
                if site.kind == "prompt" or (site.kind == "attend" and site.block is None):
                    if site.kind in before:
                        raise CourseError(
                            f"{before[site.kind]} and {method} both put vectors before the text, in one place: one "
                            "would hide the other. Take one of them, with the length of both."
                        )
                    before[site.kind] = method
                yield dataclasses.replace(site, part=part), module

    def __repr__(self) -> str:
        return f"Sum({', '.join(map(repr, self.methods))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and self.methods == other.methods

    def __hash__(self) -> int:
        return hash(self.methods)


@dataclass(frozen=True)
class Budget:
    """What an addition costs, in numbers and in bytes of its file."""

    trained: int  # numbers that training changes, the task's head included
    stored: int  # numbers that are kept afterwards
    base: int  # numbers of the frozen model
    head: int  # of the trained ones, how many are the task's head
    bytes: int  # size of the weights file

    @property
    def percent(self) -> float:
        return 100 * self.trained / self.base

    def __str__(self) -> str:
        head = f", head {self.head:,}" if self.head else ""
        return (
            f"trained {self.trained:,} ({self.percent:.3g} % of {self.base:,}{head}), "
            f"stored {self.stored:,}, {self.bytes:,} bytes on disk"
        )


class Addition(nn.Module):
    """The trained part: the modules of one method on one model, and the task's head."""

    def __init__(self, method: Method, placed: list[tuple[Site, nn.Module]], head: nn.Module | None):
        super().__init__()
        self.method = method
        self.sites = [site for site, _ in placed]
        self.parts = nn.ModuleDict({_module_key(site): module for site, module in placed})
        self.head = head

    def at(self, *kinds: str) -> Iterator[tuple[Site, nn.Module]]:
        """The (site, module) pairs of some kinds of site."""
        for site in self.sites:
            if site.kind in kinds:
                yield site, self.parts[_module_key(site)]

    def state(self) -> dict[str, Tensor]:
        """The tensors to keep, under the names they have in files."""
        state = {
            f"{site.key}.{name}": tensor
            for site, module in self.at(*{site.kind for site in self.sites})
            for name, tensor in stored_tensors(module).items()
        }
        if self.head is not None:
            state |= {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return state


    def fill(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of a file; names and shapes have been checked."""
        trainable = any(parameter.requires_grad for parameter in self.parameters())
        for site, module in self.at(*{site.kind for site in self.sites}):
            prefix = f"{site.key}."
            own = {name: state[prefix + name] for name in stored_tensors(module) if prefix + name in state}
            if hasattr(module, "fill"):
                module.fill(own)
            else:
                module.load_state_dict(own, strict=False)  # a tensor shared with another site is filled there
        if self.head is not None:
            self.head.load_state_dict({name: state[f"head.{name}"] for name in self.head.state_dict()})
        self.requires_grad_(trainable)  # a loaded prefix is a new parameter


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What is kept of a module; one that has parts needed only in training says so by a `stored` method."""
    return module.stored() if hasattr(module, "stored") else module.state_dict()


def _module_key(site: Site) -> str:
    return site.key.replace(".", "/")  # ModuleDict allows no dots


class Tuned(nn.Module):
    """A frozen base with additions. Called, and answering, as the transformers model is."""

    def __init__(self, base: nn.Module, tokenizer=None, task=None, name: str = "default"):
        super().__init__()
        self.__dict__["base"] = base  # not a submodule: never moved, trained or saved with this one
        self.tokenizer, self.task = tokenizer, task
        self.model = frozen_copy(base if task is None else task.with_head(base, tokenizer))
        self.model.eval()
        self.layout = Layout(self.model, tokenizer)
        self.route = Route(default=name)
        self.additions = nn.ModuleDict()
        self.slots: dict[tuple, Slot] = {}
        self.recomputing = False
        self._removers: list = []

    # --- additions ------------------------------------------------------------------------------------------

    def add(self, method: Method, name: str = "default", trainable: bool = True) -> Tuned:
        """Add one more addition beside those present; `use(name)` or `additions=[...]` selects it."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict, name):
            raise CourseError(f"{name!r} cannot name an addition: use letters, digits, '_' and '-'.")
        if name in self.additions:
            raise CourseError(f"There is an addition called {name!r} already. Remove it first, or choose another name.")
        if not isinstance(method, Method):
            raise CourseError(f"{method!r} is not a method of course_lib.additive; methods are: {', '.join(METHODS)}.")
        placed = list(method.place(self.layout))
        head = None if self.task is None else self.layout.head
        whole = any(site.kind == "whole" for site, _ in placed)  # a whole model brings its own head
        addition = Addition(method, placed, None if head is None or whole else own_copy(head))
        device = next(self.model.parameters()).device
        self.additions[name] = addition.to(device).requires_grad_(trainable)
        for site, module in placed:
            self._plug(site, name, module, repr(method))
        if addition.head is not None:
            self._plug(Site("instead", where=_path_of(self.model, head)), name, addition.head, repr(self.task))
        return self

    def _plug(self, site: Site, name: str, module: nn.Module, design: str) -> None:
        if site.kind == "whole":
            return
        if site.kind == "attend":
            attention.switch_on(self.layout)
        if site.kind == "prompt":
            prompts.owner_embedding(self.layout, self.route).prompts[name] = module
            return
        place = (site.kind, site.where, site.block)
        if place not in self.slots:
            self.slots[place] = Slot(self.route)
            self._removers += insert(site, self.slots[place], self.layout)
        self.slots[place].plug(name, module, design)

    def remove(self, name: str) -> Tuned:
        """Take one addition off; the others stay."""
        self._known(name)
        for slot in self.slots.values():
            slot.unplug(name)
        if isinstance(self.layout.embedding, prompts.PromptedEmbedding):
            self.layout.embedding.prompts.pop(name, None)
        del self.additions[name]
        return self

    def use(self, name: str) -> Tuned:
        """Make `name` the addition that calls use when they name none."""
        self.route.default = self._known(name)
        return self

    def _known(self, name: str | None) -> str | None:
        if name is not None and name not in self.additions:
            raise CourseError(f"There is no addition called {name!r}; it has: {', '.join(self.additions) or 'none'}.")
        return name

    @contextmanager
    def disabled(self) -> Iterator[Tuned]:
        """Inside, nothing is added: the base's answers, to the last bit."""
        with self.route.use(None):
            yield self

    def detach(self) -> nn.Module:
        """Take every addition off, for good, and return the base's own model."""
        for remove in self._removers:
            remove()
        self._removers, self.slots = [], {}
        self.additions = nn.ModuleDict()
        embedding = self.layout.embedding
        if isinstance(embedding, prompts.PromptedEmbedding):
            embedding.prompts.clear()
        return self.base

    # --- calling --------------------------------------------------------------------------------------------

    def forward(self, *, additions: list[str | None] | None = None, states: Tensor | None = None, **batch):
        """The base's forward with additions; `additions` names one for each row (None: the base alone).

        `states` (B, T, d), from `cache_below`, stand for what the blocks under the lowest addition compute. A
        `prompt_mask` (B, T) in the batch tells the prompt's positions from those of what is said after it.
        """
        with self._routed(additions, states):
            model, prepared = self._prepare(batch)
            return prompts.strip(model(**prepared.inputs), prepared)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, *, additions: list[str | None] | None = None, **options):
        """transformers' generate with additions; the prompt's ids are cut from what comes back."""
        with self._routed(additions, None):
            model, prepared = self._prepare({"input_ids": input_ids, **options}, positions=False)
            self._check_length(prepared.inputs, options.get("max_new_tokens") or 0)
            if not self.layout.encoder_decoder:  # lengths are the text's
                for limit in prepared.inputs.keys() & {"max_length", "min_length"}:
                    prepared.inputs[limit] += prepared.length
            answer = model.generate(**prepared.inputs)
        if self.layout.encoder_decoder:  # the prompt was read by the encoder: no part of what was written
            return answer
        if torch.is_tensor(answer):
            return answer[:, prepared.length:]
        answer.sequences = answer.sequences[:, prepared.length:]
        return answer

    @contextmanager
    def _routed(self, additions: list[str | None] | None, states: Tensor | None) -> Iterator[None]:
        rows = self.route.rows
        if additions is not None:
            rows = tuple(self._known(name) for name in additions)
            if len(set(rows)) == 1:
                rows = rows[0]
        with self.route.use(rows, states):
            yield

    def _prepare(self, batch: dict, positions: bool = True) -> tuple[nn.Module, prompts.Prepared]:
        """The module to call and its inputs: prompts put in, positions counted from the mask on decoders."""
        if positions:  # to generate, None says something: eos_token_id=None means never to stop
            batch = {key: value for key, value in batch.items() if value is not None}
        model = self._model_in_use()
        embedding = self.layout.embedding
        seen = self._seen(batch) if positions else 0
        prepared = prompts.Prepared(batch)
        if isinstance(embedding, prompts.PromptedEmbedding) and any(n in embedding.prompts for n in self.route.names()):
            used = next(embedding.prompts[n] for n in self.route.names() if n in embedding.prompts)
            prepared = prompts.prepend(batch, embedding, used.start(self.layout), self.layout, seen)
        else:
            self._check_length(batch)
        self._think_ahead(prepared.inputs, seen)
        prepared.inputs = {key: value for key, value in prepared.inputs.items() if key != "prompt_mask"}
        given = prepared.inputs
        counted = self.layout.causal or prepared.length  # padding on the left, or before a shorter prompt
        counted = counted and not self.layout.family.relative_positions
        said = "position_ids" in given or "attention_mask" not in given
        if positions and counted and not said:
            position_ids = (given["attention_mask"].cumsum(-1) - 1).clamp_min(0) + self.layout.first_position
            prepared.inputs = dict(given, position_ids=position_ids[:, seen:])
        if self.recomputing:
            prepared.inputs = dict(prepared.inputs, use_cache=False)  # a block run twice would fill its cache twice
        return model, prepared

    def _seen(self, batch: dict) -> int:
        """How many positions a cache holds from earlier calls, over which this one goes on."""
        past = batch.get("past_key_values")
        return 0 if past is None or self.layout.encoder_decoder else int(past.get_seq_length())

    def _think_ahead(self, batch: dict, seen: int) -> None:
        """Let additions compute what they need once a call, before the first block."""
        ids, mask = batch.get("input_ids"), batch.get("attention_mask")
        self.route.memo["attention_mask"] = mask
        if ids is not None:
            written = batch.get("prompt_mask", torch.ones_like(ids) if mask is None else mask)
            self.route.memo["prompt"] = torch.zeros_like(ids) if seen else written
            for (kind, _, block), slot in self.slots.items():
                if kind == "attend" and block is None:
                    attention.prefixes(slot, ids)

    def _check_length(self, batch: dict, new: int = 0) -> None:
        """Where positions are a table, the text, what stands before it and what is to be written must fit in."""
        ids, longest = batch.get("input_ids"), self.layout.longest
        if ids is None or longest is None:
            return
        modules = [m for name in self.route.names() for m in self.additions[name].parts.values()]
        shift = max((getattr(module, "shift", 0) for module in modules), default=0)
        if ids.shape[-1] + shift + new > longest:
            parts = [f"{ids.shape[-1]} tokens"]
            parts += [f"the prefix {shift}"] * (shift > 0) + [f"{new} are to be written"] * (new > 0)
            raise CourseError(
                f"The text has {' and '.join(parts)}, but this model has {longest} positions: cut the text"
                f"{', or write less' if new else ''}."
            )

    def _model_in_use(self) -> nn.Module:
        whole = [m for name in self.route.names() for _, m in self.additions[name].at("whole")]
        if whole and isinstance(self.route.rows, tuple):
            raise CourseError(
                "Full fine-tuning replaces the whole model, so it cannot share a batch with other additions: "
                "send those rows in a batch of their own."
            )
        if self.route.states is not None:
            return self._upper()
        return whole[0] if whole else self.model

    # --- cached states --------------------------------------------------------------------------------------

    def lowest_block(self) -> int:
        """The first block that the addition in use changes; below it, states never change. L if none is changed."""
        sites = [site for name in self.route.names() for site in self.additions[name].sites]
        if any(site.kind in ("prompt", "whole") or _below_blocks(site, self.layout) for site in sites):
            return 0
        return min((_block_of(site, self.layout) for site in sites), default=self.layout.num_layers)

    def _upper(self) -> nn.Module:
        """The same modules without the blocks under the lowest addition, whose output is given."""
        lowest = self.lowest_block()
        keep = min(lowest, self.layout.num_layers - 1)
        shell = _without_blocks(self.model, self.layout, keep)
        body = shell.base_model
        blocks = body.get_submodule(self.layout.family.blocks)
        blocks[0] = _Given(blocks[0], self.route, skip=lowest == self.layout.num_layers)
        return shell

    # --- training -------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Tuned:
        """Training mode for the additions; the frozen base stays in eval mode, so its dropout is never drawn."""
        self.training = mode
        self.model.eval()
        for addition in self.additions.values():
            addition.train(mode)
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The numbers that training changes: the additions' (and heads'), nothing of the base."""
        return [parameter for parameter in self.additions.parameters() if parameter.requires_grad]

    def trained_state(self) -> dict[str, Tensor]:
        """Name -> tensor of everything that training changes (and nothing of the base)."""
        return {name: p.detach() for name, p in self.additions.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `trained_state` gave."""
        own = {name: p for name, p in self.additions.named_parameters() if p.requires_grad}
        if own.keys() != state.keys():
            wrong = sorted(own.keys() ^ state.keys())
            raise CourseError(f"This state belongs to another addition: it differs in {', '.join(wrong[:3])}.")
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def activation_checkpointing_enable(self) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        route = self.route

        def contexts():  # called in the forward pass: the recomputation must use the same rows
            return _nothing(), route.use(route.rows, route.states, route.memo)

        options = {"use_reentrant": False, "context_fn": contexts}
        self.recomputing = True
        self.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        for block in self.layout.blocks:
            block.training = True  # transformers recomputes blocks in training mode only; their dropout stays off

    # --- counting, keeping ----------------------------------------------------------------------------------

    def budget(self, name: str | None = None) -> Budget:
        """Trained and stored numbers of the addition in use (or of `name`), beside the base's."""
        addition = self.additions[self._known(name or self.route.default)]
        state = addition.state()
        return Budget(
            trained=sum(p.numel() for p in addition.parameters()),
            stored=sum(tensor.numel() for tensor in files.untied(state).values()),
            base=sum(p.numel() for p in self.base.parameters()),
            head=0 if self.layout.head is None else sum(p.numel() for p in self.layout.head.parameters()),
            bytes=files.size_of(self, addition),
        )

    def save(self, folder: str | Path, name: str | None = None) -> Path:
        """Write adapter_model.safetensors and adapter_config.json of one addition; returns the folder."""
        return files.save(self, self.additions[self._known(name or self.route.default)], Path(folder))

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """A plain model, in float32, with the addition in use inside its weights, where the method allows it."""
        addition = self.additions[self._known(self.route.default)]
        if addition.method.why_no_merge:
            raise CourseError(f"{type(addition.method).__name__} cannot be merged: {addition.method.why_no_merge}.")
        merged = own_copy(self.base if self.task is None else self.task.with_head(self.base, self.tokenizer))
        moved = next(self.model.parameters())
        layout = Layout(merged.to(moved.device, torch.promote_types(moved.dtype, torch.float32)))
        for site, module in addition.at(*{site.kind for site in addition.sites}):
            module.merge_into(layout, site)
        if addition.head is not None:
            layout.head.load_state_dict(addition.head.state_dict())
        return merged.requires_grad_(False).eval()

    def __repr__(self) -> str:
        names = ", ".join(f"{name}: {addition.method}" for name, addition in self.additions.items())
        return f"{type(self.model).__name__} + {{{names}}}"


def attach(base: Base | nn.Module, method: Method, *, task=None, name: str = "default") -> Tuned:
    """Add `method` to a frozen base, under a task if one is given, and return the tuned model.

    The base is left as it is: the result works on a copy of the module tree that shares the base's tensors (0.02 s on
    SmolLM2, no memory), so several tuned models may stand on one base.
    A GPT or an Encoder of the course is taken as its twin among transformers' classes, which computes the same.
    Raises CourseError for an unknown architecture, or a method that this architecture has no place for.
    """
    if isinstance(base, Tuned):
        raise CourseError("This model has an addition already. Use tuned.add(method, name=...) for one more.")
    model, tokenizer = (base.model, base.tokenizer) if isinstance(base, Base) else (base, None)
    if not hasattr(model, "config"):
        raise CourseError(f"A transformers model or a Base is needed; {type(base).__name__} was given.")
    return Tuned(twin(model), tokenizer, task, name).add(method, name)


def load(base: Base | nn.Module | Tuned, folder: str | Path, *, name="default", trainable=False) -> Tuned:
    """Put a saved addition on its base (or beside others, on a tuned model), exactly as it was saved.

    Raises CourseError for a missing, foreign or incomplete file, or another base than the addition was trained on.
    """
    return files.load(base, Path(folder), name, trainable)


def cache_below(tuned: Tuned, dataset, *, batch_size: int = 64) -> list[dict]:
    """Encode a dataset and compute, once, the states under the lowest addition.

    Returns features with a "states" tensor (T, d) each, which `fit`, `evaluate` and `tuned(states=...)` take: the
    blocks below are never run again. It pays when the addition sits high and there is more than one epoch.
    """
    if tuned.layout.family.relative_positions:
        raise CourseError(
            f"The first block of a {tuned.layout.kind} computes the bias for distances that all others use: no block "
            "can be left out, so states cannot be cached."
        )
    lowest = tuned.lowest_block()
    if lowest == 0:
        raise CourseError("This addition begins at the first block (or before it): there is nothing below to cache.")
    given = tuned.task.features(dataset, tuned.tokenizer)
    features = [{key: value for key, value in row.items() if key != "states"} for row in given]  # ours to fill
    order = sorted(range(len(features)), key=lambda i: len(features[i]["input_ids"]))
    device = next(tuned.model.parameters()).device
    last = tuned.layout.blocks[lowest - 1]
    found: dict[str, Tensor] = {}
    handle = last.register_forward_hook(lambda module, args, out: found.update(states=out))
    try:
        with torch.no_grad(), tuned.disabled():
            for begin in range(0, len(order), batch_size):
                chosen = order[begin : begin + batch_size]
                batch = tuned.task.collate([features[i] for i in chosen], tuned.tokenizer)
                tuned(**{key: value.to(device) for key, value in inputs_of(batch).items() if torch.is_tensor(value)})
                for i, states, mask in zip(chosen, found["states"], batch["attention_mask"], strict=True):
                    features[i]["states"] = states[mask.bool().to(device)].cpu()
    finally:
        handle.remove()
    return features


class _Given(nn.Module):
    """A block whose input is the cached states; with `skip`, they are already its output."""

    def __init__(self, block: nn.Module, route: Route, skip: bool):
        super().__init__()
        self.block, self.route, self.skip = block, route, skip

    def forward(self, hidden_states: Tensor, *args, **kwargs):
        return self.route.states if self.skip else self.block(self.route.states, *args, **kwargs)


def _without_blocks(model: nn.Module, layout: Layout, lowest: int) -> nn.Module:
    """A shell around the same modules in which the list of blocks begins at `lowest`."""

    def shell(module: nn.Module) -> nn.Module:
        new = object.__new__(type(module))
        new.__dict__.update(module.__dict__)
        new.__dict__["_modules"] = dict(module._modules)
        return new

    top = node = shell(model)
    blocks = layout.body.get_submodule(layout.family.blocks)
    path = _path_of(model, blocks).split(".")
    for name in path[:-1]:
        node._modules[name] = shell(node._modules[name])
        node = node._modules[name]
    node._modules[path[-1]] = nn.ModuleList(list(blocks)[lowest:])
    return top


def _path_of(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, found in model.named_modules() if found is module)


def _block_of(site: Site, layout: Layout) -> int:
    """The block at whose input cached states may stand for what lies below this site."""
    if site.block is not None:
        return site.block
    block = layout.block_of(site.where)
    return layout.num_layers if block is None else block


def _below_blocks(site: Site, layout: Layout) -> bool:
    """A site among the embeddings changes what the first block reads; a prefix or a side network is in every block."""
    return "embed" in site.where or (site.kind in ("attend", "side") and site.block is None)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
