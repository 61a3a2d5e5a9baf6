"""How peft's files name modules, heads and tasks, and which of its configurations compute what the course computes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .. import tasks
from ..architectures import HEADS, Layout
from ..runtime import CourseError

if TYPE_CHECKING:
    from .base import Method

PREFIX = "base_model.model."
FIELDS = (  # these say where a file comes from or how it was begun, not what it computes
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "modules_to_save", "fan_in_fan_out",
)  # fmt: skip
TASK_TYPES = {"SEQ_CLS": tasks.Classification, "TOKEN_CLS": tasks.Tagging}


def module_path(layout: Layout, path: str) -> str:
    """From the body's path of a module to the model's, as peft's configurations name it."""
    body = next(name for name, module in layout.model.named_modules() if module is layout.body)
    return f"{body}.{path}" if body else path


def peft_path(layout: Layout, path: str) -> str:
    """A module's name in peft's files: from the whole model, behind peft's own prefix."""
    return PREFIX + module_path(layout, path)


def target_names(layout: Layout, paths: Iterable[str]) -> list[str]:
    """Short names that peft's rule translates into the modules at `paths` (from the body) and no others.

    A name stands for every module whose path ends with it. BERT's "output.dense" would catch attention's too, so there
    the block's number is put before it.
    """
    paths = list(paths)
    wanted, every = {module_path(layout, path) for path in paths}, [name for name, _ in layout.model.named_modules()]
    names = set()
    for path in paths:
        blocks = next(stack.blocks for stack in layout.stacks if path.startswith(f"{stack.blocks}."))
        with_number = path.removeprefix(f"{blocks}.")
        in_block = with_number.partition(".")[2]
        names.add(next(
            name for name in (in_block, with_number, module_path(layout, path))
            if {found for found in every if is_target([name], found)} <= wanted
        ))  # fmt: skip
    return sorted(names)


def is_target(targets: str | Iterable[str], path: str) -> bool:
    """peft's rule: a list of endings, or one regular expression for the whole path."""
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in targets)


def targeted(
    layout: Layout, targets: str | Iterable[str], layers: int | list[int] | None = None
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """The roles whose projections peft's targets name, and in which blocks (None: all).

    `layers` is peft's layers_to_transform. Raises CourseError if not every role is named in the same blocks.
    """
    if layers is not None and layout.encoder_decoder:
        raise CourseError(
            f"layers_to_transform={layers} does not say which of the two stacks of this {layout.kind} model it means: "
            "open it with peft."
        )
    allowed = range(layout.num_layers) if layers is None else [layers] if isinstance(layers, int) else layers
    hits = {}
    for role in layout.roles:
        if role in layout.family.thirds:  # peft sees the whole fused matrix
            continue
        having = [block for block in range(layout.num_layers) if layout.plays(block, role)]
        paths = {block: module_path(layout, layout.projection(block, role).path) for block in having}
        hit = [block for block in having if block in allowed and is_target(targets, paths[block])]
        if hit:
            hits[role] = None if hit == having else tuple(hit)
    if len(set(hits.values())) > 1:
        by_role = "; ".join(f"{role} in {'all blocks' if hit is None else hit}" for role, hit in hits.items())
        raise CourseError(
            f"This peft configuration targets other blocks for one role than for another ({by_role}), which the "
            "course's additions cannot. Open it with peft, or train it again in the same blocks."
        )
    return tuple(hits), next(iter(hits.values()), None)


def check_config(config: dict, method: type[Method], folder: Path) -> None:
    """Raise CourseError for a variant that the course's method has not, so that none is silently passed over."""
    known = {**dict.fromkeys((*FIELDS, *method.peft_fields)), **method.peft_values}
    for field, value in config.items():
        allowed = known.get(field)
        if not value or (field in known and (allowed is None or value in allowed)):
            continue
        raise CourseError(
            f"{folder} was saved by peft with {field}={value!r}, a variant that the course's {method.__name__} has "
            f"not. Open it with peft, or train it again without {field}."
        )
    others = [name for name in config.get("modules_to_save") or () if name not in HEADS]
    if others:
        raise CourseError(
            f"{folder} was saved by peft with modules_to_save={others}: it trained whole modules of the base, and of "
            f"those the course reads a task's head only ({', '.join(HEADS)}). Open it with peft."
        )


def head_name(layout: Layout) -> str:
    """What the model calls its task's head."""
    return next(name for name in HEADS if hasattr(layout.model, name))


def head_key(method: Method, layout: Layout, key: str) -> str:
    """head.weight -> base_model.model.classifier.weight"""
    return key.replace("head.", f"{method.peft_head}{head_name(layout)}.", 1)


def task_type(task: tasks.Task | None, layout: Layout) -> str:
    """peft's word for what the model is for."""
    words = {kind: word for word, kind in TASK_TYPES.items()}
    writes = "CAUSAL_LM" if layout.causal else "SEQ_2_SEQ_LM" if layout.encoder_decoder else None
    return words.get(type(task)) or writes or "FEATURE_EXTRACTION"


def task_from(config: dict, state: dict[str, Tensor], folder: Path) -> tasks.Task | None:
    """The task whose head a peft file holds, None if it holds none; tags are named by their numbers."""
    last = [f"{name}{inner}.weight" for name in HEADS for inner in ("", ".out_proj")]
    head = next((tensor for key, tensor in state.items() if key.endswith(tuple(last))), None)
    if head is None:
        named = [name for name in config.get("modules_to_save") or () if name in HEADS]
        if named:
            raise CourseError(
                f"{folder} was saved by peft with the task's head ({' or '.join(named)}), but no tensor of it is "
                "there, and a new one would guess. Copy the files again from where they were saved."
            )
        return None
    kind = config.get("task_type")
    if kind not in TASK_TYPES:
        raise CourseError(
            f"{folder} holds a head for the task {kind}, which the course has not; it reads heads for "
            f"{' and '.join(TASK_TYPES)}. Open it with peft."
        )
    if kind == "TOKEN_CLS":
        return tasks.Tagging(tuple(map(str, range(len(head)))))
    return tasks.Classification(len(head))
