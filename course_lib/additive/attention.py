"""Additions inside attention: keys and values of their own, or a term added to what attention says.

transformers lets a model name the function that computes softmax(QK^T / sqrt d) V. The copy names ours, which looks for
additions at its layer and else calls the base's function with the base's arguments. The key-value cache holds real
tokens only, so generation with and without it, beams and activation checkpointing need nothing special.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..runtime import CourseError

if TYPE_CHECKING:
    from ..architectures import Layout
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
    slots = module.__dict__.get("course_slots", [])
    found = [(slot, block, name, rows, part) for slot, block in slots for name, rows, part in slot.present(query)]
    prefixes = [(rows, *part.keys_values(slot, block)) for slot, block, _, rows, part in found if part_is_prefix(part)]
    gate = None
    if prefixes:
        key, value, attention_mask = _prepend(prefixes, query, key, value, attention_mask, module, options)
        gate = _gate(found, x, query)
    if gate is not None:
        options["scaling"] = options.get("scaling") or width**-0.5
        query, key, value = _apart(gate, key.shape[2] - T, query, key, value)
    said, weights = _base_function(module)(module, query, key, value, attention_mask, **options)
    if gate is not None:
        said = said[..., :width] + gate.transpose(1, 2) * said[..., width:]
    for _, _, _, rows, part in found:
        if not part_is_prefix(part):  # a term beside the base's attention; said has shape (B, T, heads, head_dim)
            seen = query if rows is None else query[rows]
            term = part(seen).transpose(1, 2).to(said.dtype)
            said = said + term if rows is None else said.index_add(0, rows, term)
    return said, weights


def part_is_prefix(part: nn.Module) -> bool:
    """A prefix shifts the text by its length; other modules at this site give a term of the output."""
    return hasattr(part, "shift")


def _prepend(prefixes, query, key, value, mask, module, options) -> tuple[Tensor, Tensor, Tensor]:
    """[P_k ; K], [P_v ; V] and the mask for them; rows with a shorter prefix, or none, are masked in front."""
    B, _, T, _ = query.shape
    p = max(P_k.shape[-2] for _, P_k, _ in prefixes)
    heads, width = key.shape[1], key.shape[3]
    P_K, P_V = key.new_zeros(B, heads, p, width), value.new_zeros(B, heads, p, width)
    seen = torch.zeros(B, 1, 1, p, dtype=torch.bool, device=key.device)
    for rows, P_k, P_v in prefixes:
        front = (0, 0, p - P_k.shape[-2], 0)  # pad on the left of the prefix
        K, V = (nn.functional.pad(P.to(key.dtype), front).expand(B, -1, -1, -1) for P in (P_k, P_v))
        chosen = torch.ones(B, 1, 1, 1, dtype=torch.bool, device=key.device)
        if rows is not None:
            chosen = torch.zeros_like(chosen).index_fill(0, rows, True)
        P_K, P_V = torch.where(chosen, K, P_K), torch.where(chosen, V, P_V)
        real = torch.arange(p, device=key.device) >= p - P_k.shape[-2]
        seen = seen | (chosen & real)
    if mask is None:  # the base's function would have masked the future by itself
        causal = options.pop("is_causal", None)
        causal = getattr(module, "is_causal", True) if causal is None else causal
        mask = torch.ones(T, key.shape[2], dtype=torch.bool, device=key.device)
        mask = (mask.tril(key.shape[2] - T) if causal and T > 1 else mask).expand(B, 1, -1, -1)
    else:
        options.pop("is_causal", None)
    if mask.dtype != torch.bool:
        seen = torch.zeros(seen.shape, dtype=mask.dtype, device=key.device).masked_fill(
            ~seen, torch.finfo(mask.dtype).min
        )
    if options.get("position_bias") is not None:  # T5: the prefix is at no distance from the text
        options["position_bias"] = nn.functional.pad(options["position_bias"], (p, 0))
    front = seen.expand(B, mask.shape[1], mask.shape[2], -1)
    mask = torch.cat([front, mask.expand(B, -1, -1, -1)], dim=-1)
    return torch.cat([P_K, key], dim=2), torch.cat([P_V, value], dim=2), mask


def _gate(found, x: Tensor | None, query: Tensor) -> Tensor | None:
    """What stands before the prefix at each query, (B, 1, T, 1): 1 on rows without a gate; None where none has one."""
    gate = None
    for slot, block, _, rows, part in found:
        if hasattr(part, "gates"):
            g = slot.said(part.gates[block], x, rows)[:, None].to(query.dtype).expand(-1, -1, query.shape[2], -1)
            gate = query.new_ones(len(query), 1, query.shape[2], 1) if gate is None else gate
            gate = g if rows is None else gate.index_copy(0, rows, g)
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
        found = list(slot.present(ids))
        if not found:
            return None
        moved = torch.zeros(len(ids), 1, dtype=torch.long, device=ids.device)
        for _, rows, part in found:
            moved = moved + part.shift if rows is None else moved.index_fill(0, rows, part.shift)
        positions = kwargs.get("position_ids")
        if positions is None:
            past = kwargs.get("past_key_values")
            begin = first_position + (0 if past is None else past.get_seq_length())
            positions = torch.arange(begin, begin + ids.shape[1], device=ids.device)[None]
        return args, {**kwargs, "position_ids": positions + moved}

    return hook
