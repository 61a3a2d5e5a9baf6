"""A small network beside the base: what side tuning and ladder side tuning share.

    s <- W_down x                     x the embedded tokens (B, T, d), s the side state (B, T, d/q)
    s <- block_l(input_l(s, h_l))     beside each block of the base; h_l (B, T, d) is what that block hands on
    W_up norm(s)                      (B, T, d), where the base's head reads

The side blocks are blocks of the base's own kind with every width divided by q (as many heads, each narrower), and are
called as the base's are, with its masks and positions. They begin as the base's blocks, pruned: of each matrix every
q-th row and column is kept. What is kept of a rotary head so turns at the speeds it had.

The base only lends its states: hooks on its blocks run the side blocks, and another at the head hands over the answer.
Beside an encoder-decoder stand two such networks, and the second reads what the first says, as the base's decoder does.
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

    from transformers import PreTrainedConfig

    from ..architectures import Family, Layout
    from .sites import Site, Slot


class SideNetwork(nn.Module):
    """W_down, L side blocks, a final norm and W_up; the method says what the blocks and the head read."""

    def __init__(self, layout: Layout, stack: Family, reduction: int):
        super().__init__()
        blocks, norm = layout.body.get_submodule(stack.blocks), layout.final_norm(stack)
        config = narrowed(layout, stack, reduction)
        self.reduction = reduction
        self.down = nn.Linear(layout.width, config.hidden_size)
        self.blocks = nn.ModuleList(type(block)(config, layer_idx=layer) for layer, block in enumerate(blocks))
        self.norm = nn.Identity()  # blocks of post-norm families end with a LayerNorm already
        if norm is not None:
            self.norm = type(norm)(config.hidden_size, eps=norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)
            prune(self.norm, norm, reduction)
        for own, base in zip(self.blocks, blocks, strict=True):
            prune(own, base, reduction)
        self.up = nn.Linear(config.hidden_size, layout.width) if stack is layout.stacks[-1] else None
        self.eval()

    def block_input(self, block: int, s: Tensor, h: Tensor) -> Tensor:
        """What a side block reads, (B, T, d/q): the state s of the block below, and h where the method has rungs."""
        return s

    def output(self, side: Tensor, base: Tensor) -> Tensor:
        """What the head reads, (B, T, d), of what the side network says and of what it would read of the base."""
        raise NotImplementedError

    def states(self, h: Tensor) -> Tensor:
        """What the base lends, in the network's number format, unless autocast chooses it."""
        return h if torch.is_autocast_enabled(h.device.type) else h.to(self.down.weight.dtype)

    def train(self, mode: bool = True) -> SideNetwork:
        return super().train(False)  # its blocks bring the base's dropout along, which is never drawn


def narrowed(layout: Layout, stack: Family, reduction: int) -> PreTrainedConfig:
    """The configuration of a stack of the base with all widths divided by `reduction`.

    Raises CourseError if that leaves a fraction of a number, or half a rotating pair, somewhere.
    """
    head = layout.projection(0, "query").size[0] // layout.num_heads
    least = 2 if hasattr(layout.body, "rotary_emb") else 1  # rotary positions turn pairs of numbers
    widths = (layout.width, head / least, layout.ffn_width)
    possible = [q for q in range(1, head + 1) if not any(width % q for width in widths)]
    if reduction not in possible:
        raise CourseError(
            f"reduction={reduction} cannot divide this model of width {layout.width}, with heads of width {head} and "
            f"an FFN of width {layout.ffn_width}, into whole parts. Possible here: {', '.join(map(str, possible))}."
        )
    config = copy.deepcopy(layout.body.get_submodule(stack.blocks.rpartition(".")[0]).config)
    config.hidden_size = layout.width // reduction
    for name in ("head_dim", "d_kv"):
        if hasattr(config, name):
            setattr(config, name, head // reduction)
    for name in ("intermediate_size", "n_inner", "d_ff"):
        if hasattr(config, name):
            setattr(config, name, layout.ffn_width // reduction)
    return config


@torch.no_grad()
def prune(narrow: nn.Module, wide: nn.Module, reduction: int) -> None:
    """Fill a narrow module with every q-th row and column of the weights of a wide one."""
    for name, parameter in narrow.named_parameters():
        parameter.copy_(wide.get_parameter(name)[(slice(None, None, reduction),) * parameter.dim()])


def stand_beside(layout: Layout, make: Callable[[Family], SideNetwork]) -> list[tuple[str, SideNetwork]]:
    """A network for each stack of the base, with the stack's name: "" where there is only one."""
    if not layout.encoder_decoder:
        return [("", make(layout.family))]
    encoder, decoder = map(make, layout.stacks)
    decoder.__dict__["reads"] = encoder  # no part of it: only what it looks at
    return [("encoder", encoder), ("decoder", decoder)]


# --- beside the base ----------------------------------------------------------------------------------------


def insert(site: Site, slot: Slot, layout: Layout) -> list[Callable[[], None]]:
    """Run side networks beside the blocks of a stack, and hand what they say to the head."""
    stack = layout.stacks[-1 if site.where == "decoder" else 0]
    blocks = layout.body.get_submodule(stack.blocks)
    hooks = [
        block.register_forward_hook(_beside(slot, layer), with_kwargs=True) for layer, block in enumerate(blocks)
    ]
    last = layout.final_norm(stack) or blocks[-1]
    hooks.append(last.register_forward_hook(_at_the_head(slot)))
    return [hook.remove for hook in hooks]


def _beside(slot: Slot, layer: int) -> Callable:
    """The hook of one block of the base: it runs the side block, called as the base's was."""

    def hook(block: nn.Module, args: tuple, kwargs: dict, result: Any) -> None:
        x, h, memo = args[0], _states(result), slot.route.memo
        for rows, network in slot.one_by_one(h):
            own = partial(_argument, network=network, rows=rows, batch=len(h), tokens=h.shape[1])
            s = network.block_input(layer, network.down(own(x)) if layer == 0 else memo[network], own(h))
            others = [own(value) for value in args[1:]]
            if isinstance(result, tuple):  # T5: a block also hands on the biases for distances, its first one's
                others[1], others[4] = map(own, result[1:])
                others[2] = _of_the_encoder(memo, network, len(s))
            memo[network] = _states(
                network.blocks[layer](s, *others, **{name: own(value) for name, value in kwargs.items()})
            )

    return hook


def _at_the_head(slot: Slot) -> Callable:
    """The hook of the last module before the head: rows with a side network get its answer."""

    def hook(module: nn.Module, args: tuple, result: Any) -> Any:
        answer, memo = _states(result), slot.route.memo
        for rows, network in slot.one_by_one(answer):
            s = network.norm(memo.pop(network))
            if network.up is None:  # of an encoder, for the decoder's side network
                memo[network, "said"] = s
                continue
            said = network.output(network.up(s), answer if rows is None else answer[rows]).to(answer.dtype)
            answer = said if rows is None else answer.index_copy(0, rows, said)
        return (answer, *result[1:]) if isinstance(result, tuple) else answer

    return hook


def _states(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def _of_the_encoder(memo: dict, network: SideNetwork, rows: int) -> Tensor | None:
    """What the encoder's side network said, (rows, S, d/q): beams repeat every row next to itself."""
    if "reads" not in network.__dict__:
        return None
    if (network.reads, "said") not in memo:
        raise CourseError("The side network reads the text itself: give input_ids, not encoder_outputs.")
    said = memo[network.reads, "said"]
    return said.repeat_interleave(rows // len(said), dim=0)


def _argument(value: Any, network: SideNetwork, rows: Tensor | None, batch: int, tokens: int) -> Any:
    """An argument of a base's block (states, mask, positions, cache) as a side block needs it."""
    if isinstance(value, tuple):  # cosines and sines of the positions, (B or 1, T, head width): of what was kept
        return tuple(_argument(part, network, rows, batch, tokens)[..., :: network.reduction] for part in value)
    if torch.is_tensor(value):
        value = network.states(value) if value.is_floating_point() else value
        return value[rows] if rows is not None and value.dim() > 1 and len(value) == batch else value
    if hasattr(value, "get_seq_length"):
        from .side_cache import own_cache

        return own_cache(value, network, rows, batch, tokens)
    return value
