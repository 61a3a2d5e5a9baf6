"""Two files hold an addition: adapter_model.safetensors and adapter_config.json, the names that peft uses too.

Where peft computes the same function we write peft's own type and keys, and peft opens the folder. Elsewhere the type
begins with COURSE_, so that peft refuses instead of being silently wrong. Our own description (method, task, base)
travels in the header of the safetensors file, which peft does not read.
"""

from __future__ import annotations

import dataclasses
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
from ..runtime import CourseError, write_text_atomically

if TYPE_CHECKING:
    from ..bases import Base
    from .base import Addition, Method, Tuned

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FORMAT = 1
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
    description = {
        "format": FORMAT,
        "method": describe(addition.method),
        "task": None if tuned.task is None else tasks.describe(tuned.task),
        "base": base_signature(tuned.layout),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in addition.state().items()}
    config = _peft_config(tuned, addition)
    if config is None:
        config = {"peft_type": f"COURSE_{description['method']['name'].upper()}", **description}
    else:
        state = _to_peft_keys(tuned, addition, state)
    return config, to_bytes(_untied(state), metadata={"course": json.dumps(description), "format": "pt"})


def describe(method: Method) -> dict:
    """A method as JSON: its name and fields."""
    if hasattr(method, "methods"):
        return {"name": "Sum", "methods": [describe(part) for part in method.methods]}
    return {"name": type(method).__name__, **dataclasses.asdict(method)}


def base_signature(layout: Layout) -> dict:
    """What an addition's base must be: the family, the sizes, and eight numbers that tell its weights from others'."""
    numbers = layout.embedding.weight.detach().flatten()
    return {
        "model_type": layout.kind, "layers": layout.num_layers, "width": layout.width, "vocabulary": layout.vocabulary,
        "sample": [round(x, 6) for x in numbers[:: len(numbers) // 8][:8].float().tolist()],
    }


def _untied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors stores no shared memory: a tied tensor is written once, under its first name."""
    seen: set[int] = set()
    return {k: t for k, t in state.items() if not (t.data_ptr() in seen or seen.add(t.data_ptr()))}


def _peft_config(tuned: Tuned, addition: Addition) -> dict | None:
    """peft's own configuration, where peft then computes the same function; else None."""
    method, layout = addition.method, tuned.layout
    if type(method).__name__ != "PromptTuning" or not (layout.causal or method.compat == "peft"):
        return None
    return {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_CLS" if addition.head is not None else "CAUSAL_LM" if layout.causal else "FEATURE_EXTRACTION",
        "num_virtual_tokens": method.length,
        "token_dim": layout.width,
        "num_transformer_submodules": 1,
        "num_attention_heads": layout.num_heads,
        "num_layers": layout.num_layers,
        "base_model_name_or_path": None,
        "inference_mode": True,
    }


def _to_peft_keys(tuned: Tuned, addition: Addition, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_peft_key(name, _head_name(tuned.layout)): tensor for name, tensor in state.items()}


def _peft_key(name: str, head: str) -> str:
    if name.startswith("head."):
        return f"base_model.{head}.{name.removeprefix('head.')}"
    return name.removeprefix("prompt.")


def _head_name(layout: Layout) -> str:
    return "classifier" if hasattr(layout.model, "classifier") else "score"


# --- reading ------------------------------------------------------------------------------------------------


def load(base: Base | nn.Module | Tuned, folder: Path, name: str, trainable: bool) -> Tuned:
    """See `additive.load`."""
    from ..bases import Base
    from .base import Tuned, attach

    config, state, description = _read(folder)
    if description is None:
        description = _from_peft(config, state, folder)
    method = _method_from(description["method"], folder)
    task = None if description["task"] is None else tasks.from_description(description["task"])
    if isinstance(base, Tuned):
        tuned = base
        _check_base(tuned.layout, description.get("base"), folder)
        tuned.add(method, name, trainable)
    else:
        _check_base(Layout(base.model if isinstance(base, Base) else base), description.get("base"), folder)
        tuned = attach(base, method, task=task, name=name)
        tuned.additions[name].requires_grad_(trainable)
    addition = tuned.additions[name]
    try:
        _fill(tuned, addition, state, folder)
    except CourseError:
        tuned.remove(name)
        raise
    return tuned


def _read(folder: Path) -> tuple[dict, dict[str, Tensor], dict | None]:
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise CourseError(f"{folder} holds no saved addition: {' and '.join(missing)} is not there. Check the path.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a file, not a dict)
            metadata = file.metadata() or {}
            description = json.loads(metadata["course"]) if "course" in metadata else None
    except (SafetensorError, ValueError) as error:
        raise CourseError(
            f"The files in {folder} are damaged ({error}). Copy them again from where they were saved."
        ) from error
    return config, state, description


def _from_peft(config: dict, state: dict[str, Tensor], folder: Path) -> dict:
    """Our description of an addition that peft saved."""
    kind = config.get("peft_type")
    if kind != "PROMPT_TUNING":
        raise CourseError(f"{folder} was saved by peft as {kind}, which the course cannot read.")
    head = next((tensor for key, tensor in state.items() if key.endswith(("classifier.weight", "score.weight"))), None)
    return {
        "method": {
            "name": "PromptTuning", "length": config["num_virtual_tokens"], "init": "random", "init_text": None,
            "compat": "peft",
        },
        "task": None if head is None else {"name": "Classification", "labels": len(head)},
    }


def _method_from(description: dict, folder: Path) -> Method:
    from .base import METHODS, Sum

    fields = dict(description)
    name = fields.pop("name")
    if name == "Sum":
        return Sum(*(_method_from(part, folder) for part in fields["methods"]))
    if name not in METHODS:
        raise CourseError(f"{folder} holds a {name!r}, which this version of the course does not know.")
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return METHODS[name](**fields)


def _check_base(layout: Layout, wanted: dict | None, folder: Path) -> None:
    if wanted is None:  # saved by peft, which does not say
        return
    own = base_signature(layout)
    differing = [key for key in own if key != "sample" and own[key] != wanted[key]]
    if differing:
        said = ", ".join(f"{key} {wanted[key]} there and {own[key]} here" for key in differing)
        raise CourseError(f"The addition in {folder} belongs to another base: {said}. {REMEDY}")
    apart = max(abs(a - b) for a, b in zip(own["sample"], wanted["sample"], strict=True))
    if apart > 0.05 * max(map(abs, wanted["sample"])):  # bf16 moves a number by 0.4 %
        raise CourseError(
            f"The addition in {folder} belongs to a base of the same shape but with other weights "
            f"(some embeddings differ by {apart:.3g}). {REMEDY}"
        )


@torch.no_grad()
def _fill(tuned: Tuned, addition: Addition, state: dict[str, Tensor], folder: Path) -> None:
    """Copy the file's tensors into the addition: every key, and only these keys."""
    own = addition.state()
    names = {name: name for name in _untied(own)}
    if _peft_config(tuned, addition) is not None:
        names = {_peft_key(name, _head_name(tuned.layout)): name for name in names}
    missing, foreign = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or foreign:
        both = ((missing, "missing"), (foreign, "foreign"))
        parts = [f"{len(keys)} {what} (first: {keys[0]})" for keys, what in both if keys]
        raise CourseError(
            f"The weights in {folder} do not fit {addition.method}: {' and '.join(parts)} keys. "
            "The file is incomplete or belongs to another method or task."
        )
    for key, name in names.items():
        if own[name].shape != state[key].shape:
            raise CourseError(
                f"{key} in {folder} has shape {tuple(state[key].shape)}, but {addition.method} needs "
                f"{tuple(own[name].shape)} on this base. {REMEDY}"
            )
    for key, name in names.items():
        own[name].copy_(state[key])
