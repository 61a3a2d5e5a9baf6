"""Vectors before the text: soft prompts as extra token ids beyond the vocabulary.

A prompt of length p gets the ids V, V+1, ..., V+p-1. The copy's embedding looks them up in the prompt and all others in
the base's table. So a prompted input is an ordinary input of p more tokens: masks, labels, the key-value cache, beams
and rows with prompts of different length need nothing special.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..architectures import Layout
from ..runtime import CourseError
from .sites import Route

PER_POSITION = {  # what has an entry a position in the answers of one stack, and of an encoder with a decoder
    False: ("logits", "last_hidden_state", "hidden_states"),
    True: ("encoder_last_hidden_state", "encoder_hidden_states"),
}


class PromptedEmbedding(nn.Embedding):
    """The base's embedding, over the same weight, that also knows the ids beyond its vocabulary."""

    @classmethod
    def over(cls, embedding: nn.Embedding, route: Route) -> PromptedEmbedding:
        new = cls(1, 1, device="meta")
        new.__dict__.update(embedding.__dict__)
        new.__dict__["_parameters"] = dict(embedding._parameters)
        new.route, new.prompts = route, {}
        return new

    def forward(self, ids: Tensor) -> Tensor:
        table = self.table()
        if table is None or ids.shape[-1] == 1:  # one id at a time: decoding, after the prompt has been read
            return super().forward(ids)
        virtual = ids - self.num_embeddings  # (B, T), >= 0 at the prompt
        known = super().forward(ids.clamp_max(self.num_embeddings - 1))
        own = nn.functional.embedding(virtual.clamp(0, len(table) - 1), table).to(known.dtype)
        return torch.where((virtual >= 0)[..., None], own, known)

    def table(self) -> Tensor | None:
        """The vectors of the prompts in use, one after the other, (sum of p, d), computed once a call."""
        used = [self.prompts[name] for name in self.route.names() if name in self.prompts]
        return self.route.once("prompts", lambda: torch.cat([prompt() for prompt in used])) if used else None

    def readable(self, ids: Tensor) -> Tensor:
        """ids (B, T) in which the row's first word stands for its virtual ones: no penalty or ban is the harder for a
        word that is there already, and positions stay."""
        real = ids < self.num_embeddings
        first = ids.gather(1, real.int().argmax(1, keepdim=True))
        return torch.where(real, ids, first)


@dataclass
class Prepared:
    """A batch with its prompts put in, and what is needed to cut them out of the answer."""

    inputs: dict[str, Tensor]
    start: int = 0  # the first virtual position
    length: int = 0  # how many columns were put in
    total: int = 0  # T + length
    outputs: tuple[str, ...] = ()  # what has an entry a position in the answer


def prepend(
    batch: dict[str, Tensor], embedding: PromptedEmbedding, start: int, layout: Layout, seen: int = 0
) -> Prepared:
    """Put each row's prompt into input_ids (B, T), attention_mask, token_type_ids and token labels.

    `start` is 0, or 1 where the first token must stay first ([CLS]). Rows with a shorter prompt are padded and
    masked on the left of it. An encoder-decoder's prompt is its encoder's: what the decoder reads and says stays.
    Where a cache holds `seen` positions already, the prompt is among them, and only the mask speaks of it.
    Raises CourseError where the longer input has no positions.
    """
    route, prompts = embedding.route, embedding.prompts
    names = [name for name in route.names() if name in prompts]
    ids = batch["input_ids"]
    B, T = ids.shape
    embedding.table()  # before the model runs: what comes below is then free to be compiled or run twice
    lengths = {name: prompts[name].length for name in names}
    offsets = dict(zip(names, itertools.accumulate(lengths.values(), initial=embedding.num_embeddings)))
    p, longest = max(lengths.values()), layout.longest
    if longest is not None and T + (seen or p) > longest:
        raise CourseError(
            f"The text has {T} tokens and the prompt {p}: {T + p} positions, but this model has {longest}. "
            f"Cut the text to {longest - p} tokens or take a shorter prompt."
        )
    rows = route.rows if isinstance(route.rows, tuple) else (route.rows,) * B
    if len(rows) != B:
        raise CourseError(f"additions= names {len(rows)} rows, but the batch has {B}.")
    words = {name: [0] * (p - n) + list(range(offsets[name], offsets[name] + n)) for name, n in lengths.items()}
    virtual = torch.tensor([words.get(name, [0] * p) for name in rows], device=ids.device)  # (B, p)
    mask = (virtual > 0).to(ids.dtype)
    if seen:
        text = batch.get("attention_mask", ids.new_ones(B, seen - p + T))
        return Prepared(dict(batch, attention_mask=torch.cat([mask, text.to(mask.dtype)], dim=1)))
    virtual = torch.where(virtual > 0, virtual, ids[:, :1])  # a word that is there: nobody sees it, penalties count it

    def put(tensor: Tensor, block: Tensor) -> Tensor:
        return torch.cat([tensor[:, :start], block.to(tensor.dtype), tensor[:, start:]], dim=1)

    new = dict(batch, input_ids=put(ids, virtual))
    given = batch.get("attention_mask")
    if layout.family.relative_positions and given is not None and not given[:, 0].all():
        raise CourseError(
            f"A {layout.kind} model counts distances, so padding between a prompt and its text would move them apart: "
            "pad on the right (tokenizer.padding_side = 'right')."
        )
    new["attention_mask"] = put(torch.ones_like(ids) if given is None else given, mask)
    if batch.get("prompt_mask") is not None:
        new["prompt_mask"] = put(batch["prompt_mask"], mask)
    if batch.get("token_type_ids") is not None:
        new["token_type_ids"] = put(batch["token_type_ids"], torch.zeros_like(mask))
    labels = batch.get("labels")
    if labels is not None and labels.shape == ids.shape and not layout.encoder_decoder:
        new["labels"] = put(labels, torch.full_like(mask, -100))
    if layout.encoder_decoder and layout.head is not None and "decoder_input_ids" not in batch:
        # the head reads the decoder's state where the input has its end token: p unseen places keep them in step
        first = torch.full_like(ids[:, :1], layout.config.decoder_start_token_id)
        new["decoder_input_ids"] = put(torch.cat([first, ids[:, :-1]], dim=1), torch.zeros_like(virtual))
        new["decoder_attention_mask"] = put(torch.ones_like(ids), torch.zeros_like(mask))
    return Prepared(new, start, p, T + p, PER_POSITION[layout.encoder_decoder])


def strip(output, prepared: Prepared):
    """Cut the prompt's positions out of everything in a transformers output that has one entry a position."""
    if not prepared.length:
        return output
    end = prepared.start + prepared.length

    def cut(tensor: Tensor) -> Tensor:
        if tensor.dim() < 3 or tensor.shape[1] != prepared.total:
            return tensor
        return torch.cat([tensor[:, : prepared.start], tensor[:, end:]], dim=1)

    for key in prepared.outputs:
        found = output.get(key)
        if found is not None:
            output[key] = cut(found) if torch.is_tensor(found) else tuple(map(cut, found))
    return output


def owner_embedding(layout: Layout, route: Route) -> PromptedEmbedding:
    """The copy's embedding, made to know prompts (once)."""
    present = layout.embedding
    if isinstance(present, PromptedEmbedding):
        return present
    parent, _, leaf = layout.family.embedding.rpartition(".")
    prompted = PromptedEmbedding.over(present, route)
    setattr(layout.body.get_submodule(parent), leaf, prompted)
    if hasattr(layout.model, "generate"):
        _let_generation_read(layout.model, prompted)
    return prompted


def _let_generation_read(model: nn.Module, embedding: PromptedEmbedding) -> None:
    """Penalties, bans and stop words look at the ids while they are generated: show them ids of the vocabulary."""
    from transformers import LogitsProcessorList, StoppingCriteriaList

    class Processors(LogitsProcessorList):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
            return super().__call__(embedding.readable(input_ids), scores, **kwargs)

    class Criteria(StoppingCriteriaList):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
            return super().__call__(embedding.readable(input_ids), scores, **kwargs)

    def processors(*args, encoder_input_ids: Tensor | None = None, **kwargs) -> Processors:
        ids = encoder_input_ids
        if ids is not None and not ids.is_floating_point():
            kwargs["encoder_input_ids"] = embedding.readable(ids)
        return Processors(type(model)._get_logits_processor(model, *args, **kwargs))

    def criteria(*args, **kwargs) -> Criteria:
        return Criteria(type(model)._get_stopping_criteria(model, *args, **kwargs))

    model._get_logits_processor, model._get_stopping_criteria = processors, criteria
