"""Checkpoints: what a killed run needs to go on to the last bit, in safetensors and JSON, nothing pickled.

A checkpoint is a folder `step-000120` with two files: tensors (trained weights, best weights, Adam's moments, states
of the random number generators) and state.json (step, schedule position, history, the run's settings). It is written
under another name, forced to disk and then renamed, so that a folder with the right name is always whole.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from course_lib.runtime import CourseError

Tensors = dict[str, torch.Tensor]


def trained_state(model: torch.nn.Module) -> Tensors:
    """The tensors that training changes: the model's own account of them, else trainable parameters and buffers."""
    if hasattr(model, "trained_state"):
        return model.trained_state()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    buffers = {name for name, _ in model.named_buffers()}
    state = model.state_dict()
    return {name: state[name] for name in [*names, *(n for n in state if n in buffers)]}


def load_trained_state(model: torch.nn.Module, tensors: Tensors) -> None:
    """Put back what `trained_state` gave, in place."""
    if hasattr(model, "load_trained_state"):
        model.load_trained_state(tensors)
        return
    own = trained_state(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def copy_of(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def random_state() -> tuple[Tensors, dict[str, Any]]:
    """The state of every random number generator a model may use: tensors, and a few plain numbers."""
    version, python, gauss = random.getstate()
    _, words, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - libraries draw from it
    tensors = {
        "random/torch": torch.get_rng_state(),
        "random/python": torch.tensor(python, dtype=torch.int64),
        "random/numpy": torch.from_numpy(words.astype(np.int64)),
    }
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors, {"python": [version, gauss], "numpy": [int(position), int(has_gauss), float(cached)]}


def set_random_state(tensors: Tensors, numbers: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random/torch"])
    version, gauss = numbers["python"]
    random.setstate((version, tuple(tensors["random/python"].tolist()), gauss))
    words = tensors["random/numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, *numbers["numpy"]))  # noqa: NPY002
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[torch.nn.Parameter, str]) -> Tensors:
    """Adam's moments and step counts, one entry a parameter and kind."""
    return {
        f"adam/{kind}/{names[parameter]}": value
        for parameter, kinds in optimizer.state.items()
        for kind, value in kinds.items()
    }


def set_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: dict[torch.nn.Parameter, str], tensors: Tensors
) -> None:
    for parameter, name in names.items():
        for kind in ("step", "exp_avg", "exp_avg_sq"):
            key = f"adam/{kind}/{name}"
            if key in tensors:
                # A fused AdamW counts its steps on the parameter's device, the others on the CPU.
                fused = kind != "step" or optimizer.defaults.get("fused")
                optimizer.state[parameter][kind] = tensors[key].to(parameter.device if fused else "cpu")


def steps_in(folder: Path) -> list[Path]:
    """Whole checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if re.fullmatch(r"step-\d{6,}", path.name))
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def save(folder: Path, step: int, tensors: Tensors, state: dict[str, Any]) -> Path:
    """Write the checkpoint of `step` and remove the older ones; OSError leaves those as they were."""
    final, partial = folder / f"step-{step:06d}", folder / f".partial-{os.getpid()}"
    if final.exists():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        try:
            save_file(whole, partial / "tensors.safetensors")
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error
        (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        os.replace(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in [*folder.glob(".partial-*"), *(path for path in steps_in(folder) if path != final)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read one checkpoint."""
    try:
        return load_file(path / "tensors.safetensors"), json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CourseError(
            f"The checkpoint {path} cannot be read ({error}). Delete this folder and start again."
        ) from error


def require_same_run(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Stop with a sentence if the checkpoint belongs to a run with other settings, data or parameters."""
    changed = [
        f"{name} was {saved.get(name)!r} and is {now.get(name)!r}"
        for name in {**saved, **now}
        if saved.get(name) != now.get(name)
    ]
    if changed:
        raise CourseError(
            f"The checkpoint {path} belongs to another run: {'; '.join(changed)}. "
            "Use the same settings to go on with it, or another folder for a new run."
        )
