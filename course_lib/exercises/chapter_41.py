"""The checks of chapter 41."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .comparing import same
from .registry import Wrong, check_of

if TYPE_CHECKING:
    import torch


def numbers_in(parameters: Iterable[torch.Tensor]) -> int:
    """How many numbers these tensors hold."""
    return sum(parameter.numel() for parameter in parameters)


# --- 41.1 -------------------------------------------------------------------------------------------------


@check_of("41.1", "Attach a delta to one linear layer", minutes=10)
def attach(attempt: Callable) -> None:
    """h <- h + delta(h) by a forward hook: the value, the tensor left alone, the gradient, the handle."""
    import torch
    from torch import nn

    rng = random.Random(0)
    for shape, size_in, size_out in [((4,), 6, 6), ((2, rng.randint(3, 7)), 5, rng.randint(6, 9))]:
        linear = nn.Linear(size_in, size_out)
        delta = nn.Sequential(nn.Linear(size_out, 3), nn.Tanh(), nn.Linear(3, size_out))
        x = torch.randn(*shape, size_in, requires_grad=True)
        old, kept = linear.weight.detach().clone(), []
        h = linear(x).detach()
        linear.register_forward_hook(lambda module, inputs, output, kept=kept: kept.extend([output, output.clone()]))
        handle = attempt(linear, delta)
        found = linear(x)
        if not torch.equal(linear.weight, old):
            raise Wrong("41.1.weight_changed")
        _name_wrong_sum(found, x, h, linear, delta, *kept)
        _require_gradients(found, x, linear, delta)
        if not hasattr(handle, "remove"):
            raise Wrong("41.1.no_handle", found=type(handle).__name__)
        handle.remove()
        if not torch.equal(linear(x), h):
            raise Wrong("41.1.not_removed")


def _name_wrong_sum(
    found: object,
    x: torch.Tensor,
    h: torch.Tensor,
    linear: torch.nn.Linear,
    delta: Callable,
    kept: torch.Tensor,
    as_kept: torch.Tensor,
) -> None:
    """Raise Wrong if what the hooked layer answers is not h + delta(h), or if a kept h was written over."""
    import torch
    from torch.nn import functional as F

    if not isinstance(found, torch.Tensor):
        raise Wrong("41.1.not_a_tensor", found=type(found).__name__)
    with torch.no_grad():

        def layer(x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, linear.weight, linear.bias)

        change = delta(h)
        if same(found, h + change):
            if not torch.equal(kept, as_kept):
                raise Wrong("41.1.in_place")
            return
        named = {
            "41.1.nothing_added": h,
            "41.1.delta_only": change,
            "41.1.multiplied": h * change,
            "41.1.multiplied_gate": h * (1 + change),
            "41.1.twice": h + 2 * change,
            "41.1.subtracted": h - change,
        }
        if x.shape == h.shape:
            named |= {
                "41.1.delta_of_input": h + delta(x),
                "41.1.before_the_layer": layer(x + delta(x)),
                "41.1.input_added": x + change,
            }
        for key, wrong in named.items():
            if same(found, wrong):
                raise Wrong(key)
    raise Wrong(
        "41.1.value",
        gap=f"{(found - h - change).abs().max():.2g}" if found.shape == h.shape else "-",
        shape=tuple(found.shape),
        wanted=tuple(h.shape),
    )


def _require_gradients(found: torch.Tensor, x: torch.Tensor, linear: torch.nn.Linear, delta: torch.nn.Module) -> None:
    """Raise Wrong if the gradient is cut on its way to delta's weights or to the layers below."""
    import torch
    from torch.nn import functional as F

    weights = [x, *delta.parameters()]
    if not found.requires_grad:
        raise Wrong("41.1.no_gradient")
    h = F.linear(x, linear.weight, linear.bias)
    wanted = torch.autograd.grad((h + delta(h)).sum(), weights)
    got = torch.autograd.grad(found.sum(), weights, allow_unused=True)
    if any(gradient is None or not same(gradient, right) for gradient, right in zip(got, wanted, strict=True)):
        raise Wrong("41.1.no_gradient")


# --- 41.2 -------------------------------------------------------------------------------------------------


@check_of("41.2", "Freeze the base and count", minutes=8)
def freeze_and_count(attempt: Callable) -> None:
    """The addition beside the model, then inside it; the model has tied weights, buffers, dropout."""
    rng = random.Random(0)
    for inside in (False, True):
        width = rng.randint(5, 12)
        model, addition = _tied_model(width), _bottleneck(width, rng.randint(2, 4))
        if inside:
            model.addition = addition
        parts = {id(tensor): tensor for module in (model, addition) for tensor in module.parameters()}
        own = {id(tensor) for tensor in addition.parameters()}
        answer = attempt(model, addition)
        try:
            given, trained, total = answer
            parameters = list(given)
        except (TypeError, ValueError):
            raise Wrong("41.2.not_three", found=type(answer).__name__) from None
        base = [tensor for key, tensor in parts.items() if key not in own]
        _require_frozen(model, base, addition)
        _require_list(parameters, given, base, own)
        _require_counts(trained, total, model, addition, inside)


def _tied_model(width: int) -> torch.nn.Module:
    """A small model with one embedding used twice (tied), a buffer and dropout."""
    from torch import nn

    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(20, width),
            "norm": nn.BatchNorm1d(width),
            "dropout": nn.Dropout(0.5),
            "vocabulary": nn.Linear(width, 20, bias=False),
        }
    )
    model["vocabulary"].weight = model["embedding"].weight
    return model


def _bottleneck(width: int, bottleneck: int) -> torch.nn.Module:
    from torch import nn

    return nn.Sequential(nn.Linear(width, bottleneck), nn.ReLU(), nn.Linear(bottleneck, width))


def _require_frozen(model: torch.nn.Module, base: list[torch.Tensor], addition: torch.nn.Module) -> None:
    """Raise Wrong unless exactly the addition is trainable and the base's dropout is off."""
    open_base = sum(tensor.requires_grad for tensor in base)
    if open_base:
        raise Wrong("41.2.base_trainable", found=open_base, all=len(base))
    if not all(tensor.requires_grad for tensor in addition.parameters()):
        raise Wrong("41.2.addition_frozen")
    if model["dropout"].training or model["norm"].training:
        raise Wrong("41.2.train_mode")


def _require_list(parameters: list, given: object, base: list[torch.Tensor], own: set[int]) -> None:
    """Raise Wrong unless the optimiser gets exactly the addition's tensors, each once."""
    found = [id(tensor) for tensor in parameters]
    if not found:
        raise Wrong("41.2.empty" if isinstance(given, list | tuple) else "41.2.used_up")
    if isinstance(parameters[0], str | tuple):
        raise Wrong("41.2.names")
    held = sum(id(tensor) in found for tensor in base)
    if held:
        raise Wrong("41.2.optimiser_holds_frozen", found=held)
    if set(found) != own or len(found) != len(own):
        raise Wrong("41.2.list", found=len(found), right=len(own))


def _require_counts(
    trained: object, total: object, model: torch.nn.Module, addition: torch.nn.Module, inside: bool
) -> None:
    """Raise Wrong unless both counts are numbers of numbers, every tensor once."""
    tensors = {id(tensor): tensor for module in (model, addition) for tensor in module.parameters()}
    right_trained, right_total = numbers_in(addition.parameters()), numbers_in(tensors.values())
    added = 0 if inside else right_trained
    tied = numbers_in(model["embedding"].parameters())
    buffers = numbers_in(model.buffers())
    gap = {"trained": trained, "total": total, "right_trained": right_trained, "right_total": right_total}
    if trained == len(list(addition.parameters())) or total == len(tensors):
        raise Wrong("41.2.tensors_counted", **gap)
    if trained == right_total:
        raise Wrong("41.2.all_trained", **gap)
    if trained != right_trained:
        raise Wrong("41.2.trained_value", **gap)
    named = {
        "41.2.tied_twice": {right_total + tied, right_total + tied + buffers, right_total + tied - added},
        "41.2.buffers": {right_total + buffers},
        "41.2.total_without_addition": {right_total - right_trained},
        "41.2.addition_twice": {right_total + right_trained},
    }
    for key, wrong in named.items():
        if total != right_total and total in wrong:
            raise Wrong(key, **gap)
    if total != right_total:
        raise Wrong("41.2.total_value", **gap)


# --- 41.3 -------------------------------------------------------------------------------------------------


@check_of("41.3", "An adapter that starts as nothing", minutes=12)
def make_adapter(attempt: Callable) -> None:
    """Zero at the start for every h, yet alive: every weight matrix gets a gradient within three steps."""
    import torch
    from torch import nn

    rng = random.Random(0)
    for batch in [(4,), (2, 5)]:
        d, r = rng.randint(12, 20), rng.randint(3, 5)
        delta = attempt(d, r)
        if not isinstance(delta, nn.Module):
            raise Wrong("41.3.not_module", found=type(delta).__name__)
        count = numbers_in(delta.parameters())
        if count == 0:
            raise Wrong("41.3.no_parameters")
        h = torch.randn(*batch, d)
        _require_nothing(delta(h), h)
        _require_alive(delta, h)
        _require_form(delta, d)
        biases = {0, d, r, d + r}
        if count - 2 * d * r not in biases | {more + 1 for more in biases}:
            raise Wrong("41.3.size", d=d, r=r, found=count, right=2 * d * r)


def _require_nothing(out: object, h: torch.Tensor) -> None:
    """Raise Wrong unless `out`, what a fresh adapter says of h, is exactly zero and of h's shape."""
    import torch

    if not isinstance(out, torch.Tensor) or out.shape != h.shape:
        raise Wrong("41.3.shape", found=tuple(getattr(out, "shape", ())), right=tuple(h.shape))
    if same(out, h):
        raise Wrong("41.3.returns_h")
    if same(out, torch.ones_like(h)):
        raise Wrong("41.3.ones")
    if out.abs().max() > 0:
        key = "41.3.not_zero" if out.abs().max() > 0.05 else "41.3.nearly_zero"
        raise Wrong(key, found=f"{out.abs().max():.2g}")


def _require_alive(delta: torch.nn.Module, h: torch.Tensor) -> None:
    """Raise Wrong unless three steps of gradient descent reach every weight matrix; leaves delta trained."""
    import torch

    matrices = [tensor for tensor in delta.parameters() if tensor.dim() > 1]
    zero = [not tensor.any() for tensor in matrices]
    reached = [False] * len(matrices)
    for _ in range(3):
        out = delta(h)
        if not out.requires_grad:
            raise Wrong("41.3.detached")
        delta.zero_grad()
        (out - 1 - h).pow(2).sum().backward()
        for i, tensor in enumerate(matrices):
            reached[i] |= tensor.grad is not None and bool(tensor.grad.any())
        with torch.no_grad():
            for tensor in delta.parameters():
                if tensor.grad is not None:
                    tensor -= 0.01 * tensor.grad.clamp(-1, 1)
    if all(reached):
        return
    if matrices and all(zero):
        raise Wrong("41.3.both_zero")
    if any(reached):
        raise Wrong("41.3.half_dead", found=sum(reached), all=len(matrices))
    raise Wrong("41.3.dead_down" if any(zero) else "41.3.times_zero")


def _require_form(delta: torch.nn.Module, d: int) -> None:
    """Raise Wrong if the trained delta is linear in h, or is h times something."""
    import torch

    with torch.no_grad():
        for tensor in delta.parameters():
            tensor.normal_()
        a, b = torch.randn(3, d), torch.randn(3, d)
        holes = a.clone()
        holes[:, ::2] = 0
        out = delta(holes)
        if same(out[:, ::2], torch.zeros_like(out[:, ::2])):
            raise Wrong("41.3.multiplied")
        if same(out[:, ::2], torch.ones_like(out[:, ::2])):
            raise Wrong("41.3.multiplied")
        bend = delta(a + b) - delta(a) - delta(b) + delta(torch.zeros_like(a))
        if bend.abs().max() < 1e-4 * delta(a).abs().max():
            raise Wrong("41.3.linear")


# --- 41.4 -------------------------------------------------------------------------------------------------


@check_of("41.4", "One-of-K and yes-or-no losses", minutes=12)
def two_losses(attempt: Callable) -> None:
    """Cross-entropy and logistic loss, means over rows; the article's formula and other misses are named."""
    import torch
    from torch.nn import functional as F

    rng = random.Random(0)
    for scale in (1.0, 1.0, 500.0):
        rows, classes = rng.randint(5, 9), rng.randint(3, 6)
        topics, spam = torch.randint(classes, (rows,)), torch.tensor([0.0, 1.0] * rows)[:rows]
        topic_logits = (scale * torch.randn(rows, classes)).requires_grad_()
        spam_logits = (scale * torch.randn(rows)).requires_grad_()
        answer = attempt(topic_logits, topics, spam_logits, spam)
        try:
            one_of_k, yes_no = answer
        except (TypeError, ValueError):
            raise Wrong("41.4.not_two", found=type(answer).__name__) from None
        right = (F.cross_entropy(topic_logits, topics), F.binary_cross_entropy_with_logits(spam_logits, spam))
        found = tuple(torch.as_tensor(loss, dtype=torch.float32) for loss in (one_of_k, yes_no))
        gap = {
            "found_k": f"{found[0].mean():.4f}",
            "right_k": f"{right[0]:.4f}",
            "found_yes": f"{found[1].mean():.4f}",
            "right_yes": f"{right[1]:.4f}",
        }
        if found[0].dim() or found[1].dim():
            raise Wrong("41.4.not_averaged")
        if scale > 1:
            if not all(same(loss, wanted, 1e-4) for loss, wanted in zip(found, right, strict=True)):
                raise Wrong("41.4.overflow", scale=f"{scale:g}", **gap)
            continue
        with torch.no_grad():
            _name_loss(
                found[0],
                right[0],
                _wrong_one_of_k(topic_logits, topics),
                "41.4.one_of_k_value",
                gap,
                right[1],
            )
            _name_loss(found[1], right[1], _wrong_yes_no(spam_logits, spam), "41.4.yes_no_value", gap, right[0])
        if not all(isinstance(loss, torch.Tensor) and loss.requires_grad for loss in (one_of_k, yes_no)):
            raise Wrong("41.4.no_gradient")


def _name_loss(
    found: torch.Tensor,
    right: torch.Tensor,
    named: dict[str, list[torch.Tensor]],
    otherwise: str,
    gap: dict,
    other: torch.Tensor,
) -> None:
    """Raise Wrong with the key whose wrong values include `found`, unless it is right."""
    if same(found, right):
        return
    if same(found, other):
        raise Wrong("41.4.swapped")
    if same(found, -right):
        raise Wrong("41.4.sign", **gap)
    for key, values in named.items():
        if any(same(found, value) or (found.isnan() and value.isnan()) for value in values):
            raise Wrong(key, **gap)
    raise Wrong(otherwise, **gap)


def _wrong_one_of_k(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """What typical mistakes give for the one-of-K loss."""
    from torch.nn import functional as F

    rows, classes = logits.shape
    y = F.one_hot(labels, classes).float()
    p = logits.softmax(1)
    article = -(y * p.log() + (1 - y) * (1 - p).log())
    literal = -(y * p.log()) + (1 - y) * (1 - p).log()
    binary = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    right = F.cross_entropy(logits, labels)

    def means(values: torch.Tensor) -> list[torch.Tensor]:
        return [values.mean(), values.sum() / rows, values.sum()]

    return {
        "41.4.article_formula": means(article),
        "41.4.article_literal": means(literal),
        "41.4.sigmoid_for_one_of_k": means(binary),
        "41.4.sum_not_mean": [right * rows],
        "41.4.divided_by_classes": [right / classes],
        "41.4.softmax_twice": [F.cross_entropy(p, labels)],
        "41.4.softmax_over_rows": [F.nll_loss(logits.log_softmax(0), labels)],
        "41.4.no_log": [-(y * p).sum() / rows, 1 - (y * p).sum() / rows],
        "41.4.no_softmax": [-(y * logits).sum() / rows],
    }


def _wrong_yes_no(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """What typical mistakes give for the yes-or-no loss."""
    import torch
    from torch.nn import functional as F

    ones = torch.ones_like(logits)  # softmax of a single logit
    right = F.binary_cross_entropy_with_logits(logits, labels)
    literal = -labels * ones.log() + (1 - labels) * (1 - ones).log()
    printed = -labels * F.logsigmoid(logits) + (1 - labels) * F.logsigmoid(-logits)
    return {
        "41.4.softmax_of_one": [
            torch.zeros(()),
            literal.mean(),
            -literal.mean(),
            torch.tensor(torch.nan),
            F.binary_cross_entropy(ones, labels),
        ],
        "41.4.softmax_over_rows_yes": [
            F.cross_entropy(logits, labels),
            F.cross_entropy(logits, labels) / len(labels),
        ],
        "41.4.sum_not_mean": [right * len(labels)],
        "41.4.sigmoid_twice": [F.binary_cross_entropy_with_logits(logits.sigmoid(), labels)],
        "41.4.printed_yes_no": [printed.mean(), printed.sum()],
        "41.4.only_yes": [
            -(labels * F.logsigmoid(logits)).mean(),
            -(labels * F.logsigmoid(logits)).sum() / labels.sum(),
        ],
    }


# --- 41.5 -------------------------------------------------------------------------------------------------


@check_of("41.5", "Pad a batch and mask it", minutes=8)
def pad_batch(attempt: Callable) -> None:
    """Random lengths; the padding id is also a real token, so that a mask made by comparison is caught."""
    import torch

    rng = random.Random(0)
    for rows in (3, rng.randint(4, 6), 1):
        pad = rng.randint(3, 9)
        lengths = [4, 2, 7] if rows == 3 else [rng.randint(2, 9) for _ in range(rows)]
        batch = [[rng.randint(10, 99) for _ in range(length)] for length in lengths]
        batch[0][1] = pad
        copies = [list(row) for row in batch]
        answer = attempt(batch, pad)
        if isinstance(answer, dict):
            answer = tuple(answer.values())
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("41.5.no_mask")
        ids, mask = answer
        if not isinstance(ids, torch.Tensor) or not isinstance(mask, torch.Tensor):
            raise Wrong("41.5.not_tensors", found=f"{type(ids).__name__}, {type(mask).__name__}")
        if batch != copies:
            raise Wrong("41.5.changes_input")
        _require_ids(ids, batch, pad)
        _require_mask(mask, ids, batch, pad)


def _require_ids(ids: torch.Tensor, batch: list[list[int]], pad: int) -> None:
    """Raise Wrong unless `ids` holds every row from the left, filled up with `pad` to the longest row."""
    import torch

    rows, longest, shortest = len(batch), max(map(len, batch)), min(map(len, batch))
    right = torch.tensor([row + [pad] * (longest - len(row)) for row in batch])
    if ids.is_floating_point():
        raise Wrong("41.5.float_ids", found=str(ids.dtype))
    if ids.shape == right.T.shape and ids.shape != right.shape and torch.equal(ids.T, right):
        raise Wrong("41.5.transposed", found=tuple(ids.shape), right=tuple(right.shape))
    if ids.dim() == 2 and len(ids) == rows and ids.shape[1] == shortest < longest:
        raise Wrong("41.5.truncated", found=shortest, right=longest)
    if ids.dim() == 2 and len(ids) == rows and ids.shape[1] > longest and torch.equal(ids[:, :longest], right):
        raise Wrong("41.5.too_long", found=ids.shape[1], right=longest)
    if ids.shape != right.shape:
        raise Wrong("41.5.shape", found=tuple(ids.shape), right=tuple(right.shape))
    if torch.equal(ids, right):
        return
    if torch.equal(ids, torch.tensor([[pad] * (longest - len(row)) + row for row in batch])):
        raise Wrong("41.5.left")
    filled = [{int(token) for token in found[len(row) :]} for found, row in zip(ids, batch, strict=True)]
    if all(found[: len(row)].tolist() == row for found, row in zip(ids, batch, strict=True)):
        raise Wrong("41.5.wrong_pad", found=sorted(set().union(*filled)), pad=pad)
    raise Wrong("41.5.value", found=ids.tolist(), right=right.tolist())


def _require_mask(mask: torch.Tensor, ids: torch.Tensor, batch: list[list[int]], pad: int) -> None:
    """Raise Wrong unless `mask` is one on every real token and zero on padding."""
    import torch

    right = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in batch])
    if mask.shape != right.shape:
        raise Wrong("41.5.mask_shape", found=tuple(mask.shape), right=tuple(right.shape))
    mask = mask.bool()
    if torch.equal(mask, right):
        return
    if torch.equal(mask, ~right) or torch.equal(mask, ids == pad):
        raise Wrong("41.5.inverted")
    if torch.equal(mask, ids != pad):
        raise Wrong("41.5.mask_by_pad_id", pad=pad)
    if mask.all():
        raise Wrong("41.5.all_ones")
    raise Wrong("41.5.mask_value", found=mask.int().tolist(), right=right.int().tolist())
