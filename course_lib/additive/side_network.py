"""A small network beside the base: what side tuning and ladder side tuning share.

    s <- W_down x                     x the embedded tokens (B, T, d), s the side state (B, T, d/q)
    s <- block_l(input_l(s, h_l))     beside each block of the base; h_l (B, T, d) is what that block hands on
    W_up norm(s)                      (B, T, d), where the base's head reads

The side blocks are blocks of the base's own kind with every width divided by q (as many heads, each narrower), and are
called as the base's are, with its masks and positions. They begin as the base's blocks, pruned: of each matrix every
q-th row and column is kept. What is kept of a rotary head so turns at the speeds it had.

The base only lends its states: hooks on its blocks run the side blocks, and another at the head hands over the answer.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..runtime import CourseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import Cache, PreTrainedConfig

    from ..architectures import Layout
    from .sites import Slot


class SideNetwork(nn.Module):
    """W_down, L side blocks, a final norm and W_up; the method says what the blocks and the head read."""

    def __init__(self, layout: Layout, reduction: int):
        super().__init__()
        config, block, norm = narrowed(layout, reduction), type(layout.blocks[0]), layout.final_norm
        self.reduction = reduction
        self.down = nn.Linear(layout.width, config.hidden_size)
        self.blocks = nn.ModuleList(block(config, layer_idx=layer) for layer in range(layout.num_layers))
        self.norm = nn.Identity()  # blocks of post-norm families end with a LayerNorm already
        if norm is not None:
            self.norm = type(norm)(config.hidden_size, eps=norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)
            prune(self.norm, norm, reduction)
        for own, base in zip(self.blocks, layout.blocks, strict=True):
            prune(own, base, reduction)
        self.up = nn.Linear(config.hidden_size, layout.width)
        self.eval()

    def block_input(self, block: int, s: Tensor, h: Tensor) -> Tensor:
        """What a side block reads, (B, T, d/q): the state s of the block below, and h where the method has rungs."""
        return s

    def output(self, side: Tensor, base: Tensor) -> Tensor:
        """What the head reads, (B, T, d), of what the side network says and of what it would read of the base."""
        raise NotImplementedError

    def forward(self, s: Tensor) -> Tensor:
        """W_up norm(s): the side state at the width of the base."""
        return self.up(self.norm(s))

    def states(self, h: Tensor) -> Tensor:
        """States of the base (B, T, d) in the network's number format, unless autocast chooses it."""
        return h if torch.is_autocast_enabled(h.device.type) else h.to(self.up.weight.dtype)

    def train(self, mode: bool = True) -> SideNetwork:
        return super().train(False)  # its blocks bring the base's dropout along, which is never drawn


def narrowed(layout: Layout, reduction: int) -> PreTrainedConfig:
    """The base's configuration with all widths divided by `reduction`.

    Raises CourseError if that leaves a fraction of a number, or half a rotating pair, somewhere; and for T5.
    """
    if layout.family.relative_positions:
        raise CourseError(
            f"A side network has no place beside a {layout.kind} model: its blocks take their positions from its own "
            "first block, and its decoder reads an encoder. Attach it to a decoder or an encoder such as 'minilm'."
        )
    head = layout.projection(0, "query").size[0] // layout.num_heads
    least = 2 if hasattr(layout.body, "rotary_emb") else 1  # rotary positions turn pairs of numbers
    possible = [q for q in range(1, head + 1) if head % (q * least) == 0 and layout.ffn_width % q == 0]
    if reduction not in possible:
        raise CourseError(
            f"reduction={reduction} cannot divide this model's heads of width {head} and FFN of width "
            f"{layout.ffn_width} into whole parts. Possible here: {', '.join(map(str, possible))}."
        )
    config = copy.deepcopy(layout.config)
    config.hidden_size = layout.width // reduction
    for name, width in (("head_dim", head), ("intermediate_size", layout.ffn_width), ("n_inner", layout.ffn_width)):
        if hasattr(config, name):
            setattr(config, name, width // reduction)
    return config


@torch.no_grad()
def prune(narrow: nn.Module, wide: nn.Module, reduction: int) -> None:
    """Fill a narrow module with every q-th row and column of the weights of a wide one."""
    for name, parameter in narrow.named_parameters():
        parameter.copy_(wide.get_parameter(name)[(slice(None, None, reduction),) * parameter.dim()])


# --- beside the base ----------------------------------------------------------------------------------------


def insert(slot: Slot, layout: Layout) -> list[Callable[[], None]]:
    """Run side networks beside the blocks, and hand what they say to the head."""
    hooks = [
        block.register_forward_hook(_beside(slot, layer), with_kwargs=True) for layer, block in enumerate(layout.blocks)
    ]
    last = layout.blocks[-1] if layout.final_norm is None else layout.final_norm
    hooks.append(last.register_forward_hook(_at_the_head(slot)))
    return [hook.remove for hook in hooks]


def _beside(slot: Slot, layer: int) -> Callable:
    """The hook of one block of the base: it runs the side block, called as the base's was."""

    def hook(block: nn.Module, args: tuple, kwargs: dict, result: Any) -> None:
        x, h = args[0], _states(result)
        for rows, network in slot.one_by_one(h):
            own = partial(_argument, network=network, rows=rows, batch=len(h), tokens=h.shape[1])
            s = network.down(network.states(own(x))) if layer == 0 else slot.route.memo[network]
            s = network.block_input(layer, s, network.states(own(h)))
            others = {name: own(value) for name, value in kwargs.items()}
            slot.route.memo[network] = _states(network.blocks[layer](s, *map(own, args[1:]), **others))

    return hook


def _at_the_head(slot: Slot) -> Callable:
    """The hook of the last module before the head: rows with a side network get its answer."""

    def hook(module: nn.Module, args: tuple, result: Any) -> Any:
        h = _states(result)
        answer = h
        for rows, network in slot.one_by_one(h):
            said = network(slot.route.memo.pop(network))
            said = network.output(said, answer if rows is None else answer[rows]).to(h.dtype)
            answer = said if rows is None else answer.index_copy(0, rows, said)
        return (answer, *result[1:]) if isinstance(result, tuple) else answer

    return hook


def _states(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def _argument(value: Any, network: SideNetwork, rows: Tensor | None, batch: int, tokens: int) -> Any:
    """An argument of a base's block (states, mask, positions, cache) as a side block needs it."""
    from transformers import Cache

    if isinstance(value, Cache):
        return OwnLayers(value, network, rows, batch, tokens)
    if isinstance(value, tuple):  # cosines and sines of the positions, (B or 1, T, head width): of what was kept
        return tuple(_argument(part, network, rows, batch, tokens)[..., :: network.reduction] for part in value)
    if rows is not None and torch.is_tensor(value) and value.dim() > 1 and len(value) == batch:
        return value[rows]
    return value


class OwnLayers:
    """The base's key-value cache as one side network sees it: layers of its own behind the base's, for its own rows.

    transformers reorders, repeats and cuts all layers of a cache alike, so beams and the like need nothing special.
    """

    def __init__(self, cache: Cache, network: SideNetwork, rows: Tensor | None, batch: int, tokens: int):
        self.rows, self.batch = rows, batch
        self.layers = [layer for layer in cache.layers if getattr(layer, "network", None) == id(network)]
        if not self.layers:
            self.layers = self._begin(cache, network, tokens)

    @staticmethod
    def _begin(cache: Cache, network: SideNetwork, tokens: int) -> list:
        from transformers.cache_utils import DynamicLayer

        if any(type(layer) is not DynamicLayer for layer in cache.layers if not hasattr(layer, "network")):
            raise CourseError(
                f"A side network keeps keys and values in a dynamic cache; this one is a {type(cache).__name__} of "
                f"{type(cache.layers[0]).__name__}. Leave cache_implementation out."
            )
        if cache.get_seq_length() != tokens:
            raise CourseError(
                f"This cache holds {cache.get_seq_length() - tokens} tokens that the side network has not read: begin "
                "it with the same addition."
            )
        while len(cache.layers) < len(network.blocks):  # a cache may grow by a layer a block: the base's come first
            cache.layers.append(DynamicLayer())
        layers = [DynamicLayer() for _ in network.blocks]
        for layer in layers:
            layer.network = id(network)
        cache.layers.extend(layers)
        return layers

    def update(self, keys: Tensor, values: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """Append new keys and values (rows, heads, T, head width) of one side block; returns all there are."""
        if self.rows is None:
            return self.layers[block].update(keys, values)
        spread = (x.new_zeros(self.batch, *x.shape[1:]).index_copy(0, self.rows, x) for x in (keys, values))
        keys, values = self.layers[block].update(*spread)
        return keys[self.rows], values[self.rows]
