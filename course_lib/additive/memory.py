"""What a training step keeps in memory for its backward pass: the activations that autograd saves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..architectures import Layout
from ..runtime import CourseError
from ..tasks import inputs_of

if TYPE_CHECKING:
    from ..tasks import Task
    from .base import Tuned


@dataclass(frozen=True)
class SavedActivations:
    """Bytes that the forward pass of one batch leaves for its backward pass."""

    blocks: int  # by the blocks, all that is added there, and a side network
    rest: int  # by the embeddings, the head and the loss

    def __str__(self) -> str:
        return f"{self.blocks:,} bytes in the blocks, {self.rest:,} in embeddings, head and loss"


def saved_activation_bytes(tuned: Tuned, batch: dict[str, Tensor], task: Task | None = None) -> SavedActivations:
    """Run one training forward pass and count what autograd keeps of it.

    `batch` is what the task collates, labels included; `task` defaults to the model's own. Each storage counts once and
    whole, however many tensors look into it; parameters and the batch itself do not count.
    Raises CourseError without a task.
    """
    task = tuned.task if task is None else task
    if task is None:
        raise CourseError("A loss is needed to know what its gradient needs: attach with a task, or give task=.")
    model = tuned._model_in_use()
    layout = Layout(model)
    present = _places([*tuned.parameters(), *tuned.buffers(), *filter(torch.is_tensor, batch.values())])
    kept: dict[int, tuple[torch.UntypedStorage, bool]] = {}  # where it lies -> what, and whether the blocks saved it
    inside = False

    def enter(*_) -> None:
        nonlocal inside
        inside = True

    def leave(*_) -> None:
        nonlocal inside
        inside = False

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in present:
            kept.setdefault(storage.data_ptr(), (storage, inside))  # held here, so its place is not given away
        return tensor

    training, last = tuned.training, layout.final_norm(layout.stacks[-1]) or layout.blocks[-1]
    hooks = [layout.blocks[0].register_forward_pre_hook(enter), last.register_forward_hook(leave)]
    try:
        tuned.train()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            task.loss(tuned(**inputs_of(batch)), batch)
    finally:
        tuned.train(training)
        for hook in hooks:
            hook.remove()
    return SavedActivations(*(
        sum(storage.nbytes() for storage, by_blocks in kept.values() if by_blocks == which) for which in (True, False)
    ))


def _places(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}
