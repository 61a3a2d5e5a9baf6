"""The key-value cache of a side network: layers of its own behind the base's, in the base's cache.

transformers reorders, repeats and cuts all layers of a cache alike, so beams and the like need nothing special. This
file is imported only where a cache is used, for transformers takes its time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from ..runtime import CourseError
from .side_network import SideNetwork


def own_cache(cache: Cache, network: SideNetwork, rows: Tensor | None, batch: int, tokens: int) -> Cache:
    """The cache that the network's blocks are given: with a layer each, of the rows that have the network.

    `tokens` of this call have been put into the base's layers already, as the base's block runs first.
    Raises CourseError for a cache of fixed size, and for one that was begun without the network.
    """
    if isinstance(cache, EncoderDecoderCache):
        written = own_cache(cache.self_attention_cache, network, rows, batch, tokens)
        said = cache.cross_attention_cache
        return EncoderDecoderCache(written, own_cache(said, network, rows, batch, said.get_seq_length()))
    layers = [layer for layer in cache.layers if getattr(layer, "network", None) == id(network)]
    layers = layers or _begin(cache, network, tokens)
    return Cache(layers=layers if rows is None else [OfRows(layer, rows, batch) for layer in layers])


def _begin(cache: Cache, network: SideNetwork, tokens: int) -> list[DynamicLayer]:
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
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


class OfRows(DynamicLayer):
    """Some rows of a layer that, like every layer of its cache, holds the whole batch."""

    def __init__(self, layer: DynamicLayer, rows: Tensor, batch: int):
        self.layer, self.rows, self.batch = layer, rows, batch

    @property
    def keys(self) -> Tensor:
        return self.layer.keys[self.rows]

    @property
    def values(self) -> Tensor:
        return self.layer.values[self.rows]

    def update(self, keys: Tensor, values: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append new keys and values (rows, heads, T, head width); returns all there are of these rows."""
        self.layer.update(*(
            torch.zeros_like(x[:1]).repeat(self.batch, 1, 1, 1).index_copy(0, self.rows, x) for x in (keys, values)
        ))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.layer.get_seq_length()
