"""Two files hold an addition: adapter_model.safetensors and adapter_config.json, the names that peft uses too.

Where peft computes the same function we write peft's own type and keys, and peft opens the folder. Elsewhere the type
begins with COURSE_, so that peft refuses instead of being silently wrong. Our own description (method, task, base)
travels in the header of the safetensors file, which peft does not read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .. import tasks
from ..architectures import Layout
from ..language_models import twin
from ..runtime import CourseError, write_text_atomically
from . import peft_files

if TYPE_CHECKING:
    from ..bases import Base
    from .base import Addition, Method, Tuned

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLE = "adapter_model.bin"
FORMAT = 2
REMEDY = "Load it on the base it was trained on, or train it again."


# --- writing ------------------------------------------------------------------------------------------------


def save(tuned: Tuned, addition: Addition, folder: Path) -> Path:
    """Write the two files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = _packed(tuned, addition)
    partial = folder / f".{WEIGHTS}.{os.getpid()}"
    try:
        partial.write_bytes(weights)
        os.replace(partial, folder / WEIGHTS)
        write_text_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise CourseError(
            f"The addition could not be written to {folder}: {error.strerror or error}. "
            f"It needs {len(weights):,} bytes there."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return folder


def size_of(tuned: Tuned, addition: Addition) -> int:
    """Bytes of the weights file."""
    return len(_packed(tuned, addition)[1])


def _packed(tuned: Tuned, addition: Addition) -> tuple[dict, bytes]:
    method, layout = addition.method, tuned.layout
    description = {
        "format": FORMAT,
        "method": describe(method),
        "task": None if tuned.task is None else tasks.describe(tuned.task),
        "base": base_signature(layout),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in untied(addition.state()).items()}
    theirs = method.to_peft(layout, {k: t for k, t in state.items() if not k.startswith("head.")})
    if theirs is None or (addition.head is not None and method.peft_head is None):
        config = {"peft_type": f"COURSE_{description['method']['name'].upper()}", **description}
    else:
        fields, weights = theirs
        heads = {
            peft_files.head_key(method, layout, key): t for key, t in state.items() if key.startswith("head.")
        }
        config = {
            "peft_type": method.peft_type, "task_type": peft_files.task_type(tuned.task, layout),
            "base_model_name_or_path": None, "inference_mode": True, **fields,
        }
        if heads:  # some heads peft knows for itself, T5's it does not
            config["modules_to_save"] = [peft_files.head_name(layout)]
        state = {key: tensor.contiguous() for key, tensor in {**weights, **heads}.items()}
    return config, to_bytes(state, metadata={"course": json.dumps(description), "format": "pt"})


def describe(method: Method) -> dict:
    """A method as JSON: its name and fields."""
    if hasattr(method, "methods"):
        return {"name": "Sum", "methods": [describe(part) for part in method.methods]}
    return {"name": type(method).__name__, **method.described()}


def base_signature(layout: Layout) -> dict:
    """What an addition's base must be: the family, the sizes, and a few numbers that tell its weights from others'."""
    last = layout.projection(layout.first_stack - 1, "ffn_out")
    return {
        "model_type": layout.kind, "layers": layout.first_stack, "width": layout.width, "vocabulary": layout.vocabulary,
        "samples": {"the embeddings": _sample(layout.embedding.weight), "the last block": _sample(last.matrix)},
    }


def _sample(weight: Tensor) -> list[float]:
    """Eight numbers of a matrix, spread over it."""
    numbers = weight.detach().flatten()
    return [round(x, 6) for x in numbers[:: max(1, len(numbers) // 8)][:8].float().tolist()]


def untied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors stores no shared memory: a tensor used in several places is written once, under its first name."""
    seen: set[tuple] = set()
    kept = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen:
            kept[name] = tensor
        seen.add(place)
    return kept


# --- reading ------------------------------------------------------------------------------------------------


def load(base: Base | nn.Module | Tuned, folder: Path, name: str, trainable: bool) -> Tuned:
    """See `additive.load`."""
    from ..bases import Base
    from .base import Tuned, attach

    config, state, description = read(folder)
    tuned = base if isinstance(base, Tuned) else None
    layout = tuned.layout if tuned else Layout(twin(base.model if isinstance(base, Base) else base))
    if description is not None:
        check_base(layout, description["base"], folder)
        method = _method_from(description["method"], folder, state)
        task = None if description["task"] is None else tasks.from_description(description["task"])
    else:
        task = peft_files.task_from(config, state, folder)
        if task and not tuned:  # peft's names begin at the model with its head
            layout = Layout(task.with_head(layout.model))
        method = _from_peft(config, state, layout, folder)
    if tuned is None:
        tuned = attach(base, method, task=task, name=name)
        tuned.additions[name].requires_grad_(trainable)
    else:
        tuned.add(method, name, trainable)
    try:
        _fill(tuned, tuned.additions[name], config, state, folder)
    except CourseError:
        tuned.remove(name)
        raise
    return tuned


def read(folder: Path) -> tuple[dict, dict[str, Tensor], dict | None]:
    """(configuration, tensors, our description or None where peft wrote the files) of a saved addition."""
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if WEIGHTS in missing and (folder / PICKLE).is_file():
        raise CourseError(
            f"{folder} holds {PICKLE}, a pickle, which can run any code when it is opened; the course reads {WEIGHTS} "
            "only. Ask whoever saved it to save it again: peft's save_pretrained writes safetensors by default."
        )
    if missing:
        raise CourseError(f"{folder} holds no saved addition: {' and '.join(missing)} is not there. Check the path.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a file, not a dict)
            metadata = file.metadata() or {}
            description = json.loads(metadata["course"]) if "course" in metadata else None
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} holds no JSON object")
    except (SafetensorError, ValueError) as error:
        raise CourseError(
            f"The files in {folder} are damaged ({error}). Copy them again from where they were saved."
        ) from error
    if description is not None and description.get("format") != FORMAT:
        raise CourseError(
            f"{folder} was saved by another version of the course (format {description.get('format')}; this version "
            f"reads {FORMAT}). Load it with that version, or train it again."
        )
    return config, state, description


def _peft_class(config: dict, folder: Path) -> type[Method]:
    """The course's class for an addition that peft saved."""
    from .base import METHODS

    kind = config.get("peft_type")
    known = {method.peft_type: method for method in METHODS.values() if method.peft_type}
    if kind not in known:
        raise CourseError(
            f"{folder} was saved by peft as peft_type={kind}, which the course cannot read; it reads "
            f"{', '.join(sorted(known))}. Open it with peft."
        )
    return known[kind]


def _from_peft(config: dict, state: dict[str, Tensor], layout: Layout, folder: Path) -> Method:
    """The course's method for a peft configuration; one that it has not is refused."""
    kind = _peft_class(config, folder)
    peft_files.check_config(config, kind, folder)
    try:
        return kind.from_peft(config, state, layout)
    except KeyError as error:
        raise CourseError(
            f"{folder / CONFIG} says nothing of {error}, which {config['peft_type']} needs. The file is incomplete: "
            "copy it again from where it was saved."
        ) from error


def _method_from(description: dict, folder: Path, state: dict[str, Tensor]) -> Method:
    from .base import METHODS, Sum

    fields = dict(description)
    name = fields.pop("name")
    if name == "Sum":
        return Sum(*(
            _method_from(part, folder, {k.removeprefix(f"part{n}."): t for k, t in state.items()})
            for n, part in enumerate(fields["methods"], start=1)
        ))
    if name not in METHODS:
        raise CourseError(f"{folder} holds a {name!r}, which this version of the course does not know.")
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    try:
        return METHODS[name].from_description(fields, state)
    except TypeError as error:
        raise CourseError(
            f"{folder} describes a {name} by {', '.join(fields) or 'nothing'}, which this version of the course does "
            "not understand. Load it with the version that saved it, or train it again."
        ) from error


def check_base(layout: Layout, wanted: dict, folder: Path) -> None:
    """Raise CourseError where `wanted`, the base an addition was saved on, is not the base of this layout."""
    own = base_signature(layout)
    differing = [key for key in own if key != "samples" and own[key] != wanted[key]]
    if differing:
        said = ", ".join(f"{key} {wanted[key]} there and {own[key]} here" for key in differing)
        raise CourseError(f"The addition in {folder} belongs to another base: {said}. {REMEDY}")
    for where, sample in wanted["samples"].items():
        apart = max(abs(a - b) for a, b in zip(own["samples"][where], sample, strict=True))
        if apart > 0.05 * max(map(abs, sample)):  # bf16 moves a number by 0.4 %
            raise CourseError(
                f"The addition in {folder} belongs to a base of the same shape but with other weights "
                f"(numbers of {where} differ by {apart:.3g}). {REMEDY}"
            )


@torch.no_grad()
def _fill(tuned: Tuned, addition: Addition, config: dict, state: dict[str, Tensor], folder: Path) -> None:
    """Copy the file's tensors into the addition: every key, and only these keys."""
    own, method, layout = untied(addition.state()), addition.method, tuned.layout
    if not str(config.get("peft_type", "")).startswith("COURSE_"):
        heads = {peft_files.head_key(method, layout, key): key for key in own if key.startswith("head.")}
        expected = method.to_peft(layout, {k: t for k, t in own.items() if not k.startswith("head.")})[1]
        _same_shapes({**expected, **{theirs: own[ours] for theirs, ours in heads.items()}}, state, addition, folder)
        inner = method.state_from_peft(layout, {k: t for k, t in state.items() if k not in heads})
        state = {**inner, **{ours: state[theirs] for theirs, ours in heads.items()}}
    _same_shapes(own, state, addition, folder)
    addition.fill(state)


def _same_shapes(expected: dict[str, Tensor], found: dict[str, Tensor], addition: Addition, folder: Path) -> None:
    missing, foreign = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or foreign:
        both = ((missing, "missing"), (foreign, "foreign"))
        parts = [f"{len(keys)} {what} (first: {keys[0]})" for keys, what in both if keys]
        raise CourseError(
            f"The weights in {folder} do not fit {addition.method}: {' and '.join(parts)} keys. "
            "The file is incomplete or belongs to another method or task: copy it again, or load it as what it is."
        )
    for key, tensor in expected.items():
        if tensor.shape != found[key].shape:
            raise CourseError(
                f"{key} in {folder} has shape {tuple(found[key].shape)}, but {addition.method} needs "
                f"{tuple(tensor.shape)} on this base. {REMEDY}"
            )
