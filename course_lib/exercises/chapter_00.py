"""The checks of chapter 00."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable

from .registry import Wrong, check_of


@check_of("00.1", "Count the numbers of a soft prompt", minutes=3)
def prompt_numbers(attempt: Callable) -> None:
    """p vectors of width d are p d numbers; what is counted instead is named over ten random shapes."""
    rng = random.Random(0)
    shapes = [(9, 576), *((rng.randint(2, 60), 64 * rng.randint(3, 64)) for _ in range(9))]
    found = [attempt(p, d) for p, d in shapes]
    if found[0] is None:
        raise Wrong("00.1.none")
    named = {
        "00.1.vectors": lambda p, d: p,
        "00.1.width": lambda p, d: d,
        "00.1.sum": lambda p, d: p + d,
        "00.1.twice": lambda p, d: 2 * p * d,
        "00.1.bytes": lambda p, d: 4 * p * d,
    }
    p, d = shapes[0]
    gap = {"p": p, "d": d, "found": found[0], "right": p * d}
    for key, count in named.items():
        if all(answer == count(*shape) for answer, shape in zip(found, shapes, strict=True)):
            raise Wrong(key, **gap)
    if len(set(map(str, found))) == 1:
        raise Wrong("00.1.constant", **gap)
    extra = [answer - p * d for answer, (p, d) in zip(found, shapes, strict=True)]
    if extra[0] > 0 and (
        len(set(extra)) == 1 or len({more / d for more, (_, d) in zip(extra, shapes, strict=True)}) == 1
    ):
        raise Wrong("00.1.vocabulary", **gap, extra=f"{extra[0]:,.0f}")
    ratios = {answer / (p * d) for answer, (p, d) in zip(found, shapes, strict=True)}
    if len(ratios) == 1 and ratios != {1.0}:
        raise Wrong("00.1.factor", **gap, factor=f"{ratios.pop():g}")
    for answer, (p, d) in zip(found, shapes, strict=True):
        if answer != p * d:
            raise Wrong("00.1.value", p=p, d=d, found=answer, right=p * d)
        try:
            operator.index(answer)
        except TypeError:
            raise Wrong("00.1.float", p=p, d=d, found=answer, right=p * d) from None


@check_of("00.2", "Prove that the base is unchanged", minutes=8)
def base_unchanged(attempt: Callable) -> None:
    """Changes that a careless comparison overlooks, one after the other; each has its name."""
    import torch

    rng = random.Random(0)
    before = {f"layer{i}.weight": torch.randn(rng.randint(40, 60), rng.randint(90, 99)) for i in range(3)}
    before["norm.bias"] = torch.randn(rng.randint(5, 9))
    first, last = "layer0.weight", "norm.bias"

    def says(**changed: torch.Tensor) -> bool:
        """The attempt's answer when some tensors of the copy were replaced."""
        return _answer(attempt, before, {name: value.clone() for name, value in (before | changed).items()})

    def with_middle(add: list[float]) -> torch.Tensor:
        """The first tensor with numbers added in its middle, where printing shows only dots."""
        changed = before[first].clone()
        changed[changed.shape[0] // 2, 40 : 40 + len(add)] += torch.tensor(add)
        return changed

    if not says():
        raise Wrong("00.2.identity" if _answer(attempt, before, before) else "00.2.always_false")
    if says(**{last: before[last] + 1}):
        raise Wrong("00.2.always_true" if says(**{first: before[first] + 1}) else "00.2.first_only", name=last)
    if says(**{first: with_middle([1.0])}):
        raise Wrong("00.2.printed_text", name=first)
    swapped = before[first].clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    if says(**{first: swapped}):
        raise Wrong("00.2.sums", name=first)
    nudged = before[last].clone()
    nudged[0] = torch.nextafter(nudged[0], torch.tensor(torch.inf))
    if says(**{last: nudged}):
        raise Wrong("00.2.tolerance", old=f"{before[last][0].item():.9g}", new=f"{nudged[0].item():.9g}")
    copy = {name: value.clone() for name, value in before.items()}
    fewer = {name: value for name, value in copy.items() if name != last}
    try:
        if _answer(attempt, copy, fewer):
            raise Wrong("00.2.missing", name=last)
    except KeyError:
        raise Wrong("00.2.missing_error", name=last) from None
    try:
        if _answer(attempt, fewer, copy):
            raise Wrong("00.2.extra", name=last)
    except KeyError:
        raise Wrong("00.2.missing_error", name=last) from None
    repeated = before[last].repeat(2, 1)
    shapes = {"name": last, "old": tuple(before[last].shape), "new": tuple(repeated.shape)}
    if says(**{last: repeated}):
        raise Wrong("00.2.shape", **shapes)
    if says(**{last: before[last].unsqueeze(0)}):
        raise Wrong("00.2.shape", **(shapes | {"new": (1, *shapes["old"])}))
    if says(**{last: before[last].double()}):
        raise Wrong("00.2.dtype", name=last)


def _answer(attempt: Callable, before: dict, after: dict) -> bool:
    """What the attempt says, as True or False; what it must not return is named."""
    try:
        answer = attempt(before, after)
    except RuntimeError as error:
        if "ambiguous" in str(error):
            raise Wrong("00.2.ambiguous") from None
        raise
    if answer is None:
        raise Wrong("00.2.none")
    if getattr(answer, "shape", ()) not in ((), (1,)):
        raise Wrong("00.2.ambiguous")
    return bool(answer)
