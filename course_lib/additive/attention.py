"""Additions inside attention: keys and values of their own, or a term added to what attention says.

transformers lets a model name the function that computes softmax(QK^T / sqrt d) V. The copy names ours, which looks for
additions at its layer and else calls the base's function with the base's arguments. The key-value cache holds real
tokens only, so generation with and without it, beams and activation checkpointing need nothing special.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..runtime import CourseError

if TYPE_CHECKING:
    from ..architectures import Layout
    from .mixed_rows import Group
    from .sites import Site, Slot

PREFIX = "course_"  # our functions are called course_sdpa and course_eager, after the one they call
SEEN = "course_seen"  # the argument under which a gated prefix is shown what attention's projections read


def switch_on(layout: Layout) -> None:
    """Make the copy's attention look for additions; the handed-in model's config is another object."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    present = layout.config._attn_implementation
    if present.startswith(PREFIX):
        return
    if present not in ("sdpa", "eager"):
        raise CourseError(
            f"This model's attention is {present!r}; additions inside attention work with 'sdpa' and 'eager'. "
            "Load the base with one of these."
        )
    AttentionInterface.register(PREFIX + present, attend)
    AttentionMaskInterface.register(PREFIX + present, ALL_MASK_ATTENTION_FUNCTIONS[present])
    # under a task's head the body keeps the config that it came with: all of them must name ours
    for module in layout.model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = PREFIX + present


def insert(site: Site, slot: Slot, layout: Layout) -> list[Callable[[], None]]:
    """Show one layer's attention (or, with block None, every layer's) the slot."""
    modules = dict(enumerate(layout.attentions()))
    if site.block is not None:
        modules = {site.block: modules[site.block]}
    for number, module in modules.items():
        module.__dict__.setdefault("course_slots", []).append((slot, number))
    removers = [module.__dict__["course_slots"].clear for module in modules.values()]
    if site.block is None and not layout.family.relative_positions:  # prefixes move the text to later positions
        shift = _shift(slot, layout.first_position)
        removers.append(layout.body.register_forward_pre_hook(shift, with_kwargs=True).remove)
    if site.where == "gated":
        for module in modules.values():
            removers.append(module.register_forward_pre_hook(_show, with_kwargs=True).remove)
    return removers


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options):
    """The base's attention with the additions of this layer; shapes (B, heads, T, head_dim)."""
    x, T, width = options.pop(SEEN, None), key.shape[2], query.shape[3]
    slots = module.__dict__.get("course_slots", ())
    found = [(slot, block, group) for slot, block in slots for group in slot.present(query)]
    blocks = {slot: block for slot, block, group in found if is_prefix(group)}
    gate = None
    if blocks:
        columns = [prefixes(slot, query).of_layer(block) for slot, block in blocks.items()]
        key, value, attention_mask = _prepend(columns, query, key, value, attention_mask, module, options)
        gate = _gate(found, x, query)
    if gate is not None:
        options["scaling"] = options.get("scaling") or width**-0.5
        query, key, value = _apart(gate, key.shape[2] - T, query, key, value)
    said, weights = _base_function(module)(module, query, key, value, attention_mask, **options)
    if gate is not None:
        said = said[..., :width] + gate.transpose(1, 2) * said[..., width:]
    for _, _, group in found:
        if not is_prefix(group):  # a term beside the base's attention; said has shape (B, T, heads, head_dim)
            said = group.add(said, group(query).transpose(1, 2))
    return said, weights


def is_prefix(group: Group) -> bool:
    """A prefix shifts the text by its length; other modules at this site give a term of the output."""
    return hasattr(group.like, "shift")


@dataclass
class Prefixes:
    """The prefixes of a call at one slot, put together once: `numbers` (B or 1, p, L, 2, kv heads, head width)."""

    numbers: Tensor
    seen: Tensor | None  # (B, p): where a row has a prefix; None: everywhere

    def of_layer(self, block: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """P_k and P_v, (B or 1, kv heads, p, head width), and where rows have them."""
        P_k, P_v = self.numbers[:, :, block].permute(2, 0, 3, 1, 4)
        return P_k, P_v, self.seen


def prefixes(slot: Slot, x: Tensor) -> Prefixes | None:
    """The prefixes of the rows of x (B, ...), computed once a call; None if none has one.

    Rows with a shorter prefix, or none, are filled up with zeros in front, which nobody sees.
    """
    return slot.route.once((prefixes, slot, len(x)), lambda: _put_together(slot.present(x), x))


def _put_together(groups: Sequence[Group], x: Tensor) -> Prefixes | None:
    if not groups:
        return None
    shape, p = groups[0].like.shape, max(group.like.length for group in groups)
    if len(groups) == 1 and groups[0].rows is None:
        return Prefixes(groups[0].tables().unflatten(-1, shape), None)
    numbers, seen = None, torch.zeros(len(x), p, dtype=torch.bool, device=x.device)
    for group in groups:
        table = nn.functional.pad(group.tables(), (0, 0, p - group.like.length, 0))
        table = table.expand(len(x) if group.rows is None else len(group.rows), -1, -1)
        numbers = table.new_zeros(len(x), *table.shape[1:]) if numbers is None else numbers
        numbers = group.put(numbers, table)
        real = torch.arange(p, device=x.device) >= p - group.like.length
        seen = group.put(seen, real.expand(len(table), -1))
    return Prefixes(numbers.unflatten(-1, shape), seen)


def _prepend(columns, query, key, value, mask, module, options) -> tuple[Tensor, Tensor, Tensor | None]:
    """[P_k ; K], [P_v ; V] and the mask for them, which stays None where everything sees everything."""
    B, _, T, _ = query.shape
    if mask is None:  # the base's function would have masked the future by itself
        causal = options.get("is_causal")
        causal = T > 1 and (getattr(module, "is_causal", True) if causal is None else causal)
        if causal or any(seen is not None for _, _, seen in columns):
            mask = torch.ones(1, 1, T, key.shape[2], dtype=torch.bool, device=key.device)
            mask = mask.tril(key.shape[2] - T) if causal else mask
    if mask is not None:
        options.pop("is_causal", None)
    for P_k, P_v, seen in columns:
        if mask is not None:
            front = mask.new_ones(1, 1, 1, P_k.shape[2], dtype=torch.bool) if seen is None else seen[:, None, None]
            if mask.dtype != torch.bool:
                front = torch.zeros_like(front, dtype=mask.dtype).masked_fill(~front, torch.finfo(mask.dtype).min)
            rows = max(len(front), len(mask))
            mask = torch.cat([front.expand(rows, *mask.shape[1:3], -1), mask.expand(rows, -1, -1, -1)], dim=-1)
        if options.get("position_bias") is not None:  # T5: the prefix is at no distance from the text
            options["position_bias"] = nn.functional.pad(options["position_bias"], (P_k.shape[2], 0))
        P_k, P_v = (P.to(key.dtype).expand(B, -1, -1, -1) for P in (P_k, P_v))
        key, value = torch.cat([P_k, key], dim=2), torch.cat([P_v, value], dim=2)
    return key, value, mask


def _gate(found: list, x: Tensor | None, query: Tensor) -> Tensor | None:
    """What stands before the prefix at each query, (B, 1, T, 1): 1 on rows without a gate; None where none has one."""
    gate = None
    for slot, block, group in found:
        if hasattr(group.like, "gates"):
            own = slot.route.once((group, block), lambda g=group, b=block: g.part(lambda prefix: prefix.gates[b]))
            g = slot.said(own, x)[:, None].to(query.dtype).expand(-1, -1, query.shape[2], -1)
            gate = query.new_ones(len(query), 1, query.shape[2], 1) if gate is None else gate
            gate = group.put(gate, g)
    return gate


def _apart(gate: Tensor, p: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """softmax([g q P_k ; q K]) [g P_v ; V] with a g for each query: text and prefix in two halves of a space twice as
    wide, [q ; g q] against [K ; 0] and [0 ; P_k]. What comes back is the text's half and, without its g, the prefix's.
    """
    prefix = (torch.arange(key.shape[2], device=key.device) < p)[:, None]
    key, value = (torch.cat([t.masked_fill(prefix, 0), t.masked_fill(~prefix, 0)], dim=-1) for t in (key, value))
    return torch.cat([query, gate * query], dim=-1), key, value


def _show(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Hand attention's input (B, T, d) on to `attend`."""
    return args, {**kwargs, SEEN: args[0] if args else kwargs["hidden_states"]}


def _base_function(module: nn.Module) -> Callable:
    """The attention function that the base uses."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = module.config._attn_implementation.removeprefix(PREFIX)
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


def _shift(slot: Slot, first_position: int) -> Callable:
    """Real tokens stand behind the prefix: their positions grow by its length."""

    def hook(body, args, kwargs):
        ids = args[0] if args else kwargs.get("input_ids")
        ids = kwargs.get("inputs_embeds") if ids is None else ids
        found = slot.present(ids)
        if not found:
            return None
        moved = torch.zeros(len(ids), 1, dtype=torch.long, device=ids.device)
        for group in found:
            moved = group.add(moved, moved.new_full((len(group.chosen(moved)), 1), group.like.shift))
        positions = kwargs.get("position_ids")
        if positions is None:
            past = kwargs.get("past_key_values")
            begin = first_position + (0 if past is None else past.get_seq_length())
            positions = torch.arange(begin, begin + ids.shape[1], device=ids.device)[None]
        return args, {**kwargs, "position_ids": positions + moved}

    return hook
