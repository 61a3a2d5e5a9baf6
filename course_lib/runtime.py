"""Where am I? Device, number format, threads, scale, seeds, and an estimate of memory.

Nothing here imports torch until it is asked for something that needs it, so that `import course_lib` stays quick.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import platform
import random
import re
import shutil
import sys
import time
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SCALES = ("laptop", "gpu")
GIB = 2**30


class CourseError(Exception):
    """An error meant for a learner: the message says what was given, what was expected and what to do."""

    def _render_traceback_(self) -> list[str]:
        """IPython calls this instead of printing its long traceback: in a notebook the sentence stands alone."""
        return [f"{type(self).__name__}: {self}"]


# --- places ----------------------------------------------------------------------------------------------------------


def _find_root() -> Path | None:
    """The nearest folder that holds both course_lib/ and pyproject.toml, from this file or from the working folder."""
    here = Path.cwd().resolve()
    for folder in (Path(__file__).resolve().parent.parent, here, *here.parents):
        if (folder / "course_lib").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return None


def root() -> Path:
    """The course's folder; where there is none (a single notebook on Colab), the working folder."""
    return _find_root() or Path.cwd()


def cache_dir() -> Path:
    """The folder for everything that can be made again, created if missing.

    $COURSE_CACHE if it is set, else data/cache in the course's folder, else (no such folder, or one that cannot be
    written) ~/.cache/additive-course.
    """
    chosen, home = os.environ.get("COURSE_CACHE"), Path.home() / ".cache" / "additive-course"
    if chosen:
        candidates = [Path(chosen).expanduser()]
    else:
        repository = _find_root()
        candidates = [repository / "data" / "cache", home] if repository else [home]
    for folder in candidates:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise CourseError(
        f"The cache folder {candidates[-1]} cannot be created or written. "
        "Set the environment variable COURSE_CACHE to a folder that you may write."
    )


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def quiet_transformers():
    """No progress bars and advice of transformers in a learner's notebook."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


# --- device, number format, threads, scale ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Runtime:
    """What the course found: the device, the number format for autocast, the threads and the scale of the cells."""

    device: str  # "cuda", "mps" or "cpu"
    dtype: torch.dtype  # what matrix products are computed in; weights and optimiser stay in float32
    threads: int  # of one operation on the CPU
    scale: str  # "laptop" or "gpu"
    colab: bool

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.device}, {kind}, {threads}, {self.scale} scale" + (", Colab" if self.colab else "")


def where() -> Runtime:
    """Find the device, the fastest safe number format, the threads and the scale.

    OMP_NUM_THREADS is respected; without it the threads are capped at the CPUs this process may really use (affinity
    and container quota). COURSE_SCALE ("laptop" or "gpu") overrides the scale.
    """
    import torch

    allowed = cpus()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > allowed:
        torch.set_num_threads(allowed)
    device, dtype = _device_and_dtype()
    return Runtime(device, dtype, torch.get_num_threads(), scale(), "google.colab" in sys.modules)


def scale() -> str:
    """The scale of the cells: "gpu" where CUDA is there, else "laptop"; COURSE_SCALE overrides."""
    chosen = os.environ.get("COURSE_SCALE", "").strip().lower()
    if chosen and chosen not in SCALES:
        raise CourseError(
            f"COURSE_SCALE is {chosen!r}, but the course knows only {' and '.join(map(repr, SCALES))}. "
            "Set it to one of these, or unset it to let the course choose."
        )
    if chosen:
        return chosen
    import torch

    return "gpu" if torch.cuda.is_available() else "laptop"


@functools.cache
def _device_and_dtype() -> tuple[str, torch.dtype]:
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "cuda", torch.bfloat16 if native else torch.float16  # a T4 has fast float16 only
    if torch.backends.mps.is_available():
        return "mps", torch.float32
    return "cpu", torch.bfloat16 if bfloat16_speedup() >= 1.2 else torch.float32


def bfloat16_speedup() -> float:
    """How many times faster this CPU trains a linear layer under bfloat16 autocast than in float32.

    Measured in well under a second at the size of a small Transformer's feed-forward layer, (1024, 384) x (384, 1536),
    forward and backward, casts included, and kept on disk for this CPU, torch version and number of threads: a
    CPU without bfloat16 instructions emulates them and is several times slower.
    """
    import torch

    key = f"{cpu_name()} | torch {torch.__version__} | {torch.get_num_threads()} threads"
    path = cache_dir() / "bfloat16_speedup.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return float(known[key])
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    speedup = _measure_bfloat16_speedup()
    with contextlib.suppress(OSError):  # a full disk costs a second measurement, nothing else
        write_text_atomically(path, json.dumps({**known, key: round(speedup, 2)}, indent=1))
    return speedup


def _measure_bfloat16_speedup(budget: float = 0.6) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        hidden = torch.randn(1024, 384, generator=generator, requires_grad=True)
        weight = torch.randn(1536, 384, generator=generator)

    def seconds(enabled: bool) -> float:
        start = time.perf_counter()
        # whoever asks first may stand inside no_grad or inference_mode
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.nn.functional.linear(hidden, weight).sum().backward()
        return time.perf_counter() - start

    end = time.perf_counter() + budget
    full, half = [], []
    seconds(True)  # the first call also compiles kernels
    while not half or time.perf_counter() < end:
        full.append(seconds(False))
        half.append(seconds(True))
    return min(full) / min(half)


def cpu_name() -> str:
    """The processor's model name, as the system states it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def cpus() -> int:
    """How many CPUs this process may use: affinity and the container's quota count, not the machine's cores."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no quota ("max"), or no cgroups at all
        return count


def seed(n: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    import numpy
    import torch

    random.seed(n)
    numpy.random.seed(n % 2**32)  # noqa: NPY002 - the generator that other libraries draw from
    torch.manual_seed(n)


# --- estimates before long work ---------------------------------------------------------------------------------------


def free_memory(device: str = "cpu") -> int:
    """Bytes that can still be had on `device`; on a CPU a container's limit counts too."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    free = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        return max(0, min(free, limit - used + (int(cached.group(1)) if cached else 0)))
    except (OSError, ValueError):
        return free


def require_memory(needed: float, purpose: str, device: str = "cpu", remedy: str = "") -> None:
    """Stop with a sentence if `needed` bytes are more than what is free on `device`."""
    free = free_memory(device)
    if needed > free:
        raise CourseError(
            f"{purpose} needs about {needed / GIB:.1f} GB of memory, but {free / GIB:.1f} GB are free on {device}. "
            + (remedy or "Close other notebooks and programs, or choose a smaller model or batch.")
        )


def estimate_memory(model: torch.nn.Module, batch_size: int, length: int, dtype: torch.dtype | None = None) -> int:
    """Bytes that one training step needs, the weights included: an estimate from above, good to a factor of about two.

    Counted: all weights; for the trainable ones a gradient and two Adam moments in float32; for each block and token
    17 numbers of width `hidden_size` (Korthikanti et al. 2022, arXiv:2205.05198, section 4.1, without the attention
    matrix, which fused attention does not store); for a language model three copies of its logits. Not counted: what
    Python and the libraries themselves take (about 0.5 GB).
    """
    import torch

    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) * 3 * 4
    inner = getattr(model, "model", model)  # an addition wraps the model
    config = getattr(model, "config", None) or getattr(inner, "config", None)
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None) or 0
    layers = getattr(config, "num_hidden_layers", None) or getattr(config, "num_layers", None) or 0
    tokens = batch_size * length
    item = 2 if dtype in (torch.bfloat16, torch.float16) else 4
    blocks = layers * tokens * width * 17 * item
    speaks = hasattr(inner, "get_output_embeddings") and inner.get_output_embeddings() is not None
    logits = 3 * tokens * getattr(config, "vocab_size", 0) * 4 if speaks else 0
    return weights + trained + blocks + logits


# --- doctor ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One row of the doctor's table."""

    item: str
    found: str
    wanted: str = ""
    ok: bool = True
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """What the doctor found; printed as a table, remedies below it."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def __str__(self) -> str:
        rows = [("", "item", "found", "wanted")]
        rows += [("ok" if f.ok else "NO", f.item, f.found, f.wanted) for f in self.findings]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        remedies = [f"{f.item}: {f.remedy}" for f in self.findings if not f.ok]
        verdict = ["", "To do:", *remedies] if remedies else ["", "Everything the course needs is here."]
        return "\n".join(lines + verdict)

    __repr__ = __str__


def doctor() -> Report:
    """Examine Python, packages, device, memory, disk and sources, and say what to do about what is missing."""
    return Report((_python(), *_packages(), *_device(), *_space(), _sources(), *_minutes()))


SET_UP = "run `make lab` (or `python bootstrap.py setup`) in the course's folder"


def _python() -> Finding:
    remedy = f"install Python 3.11 or newer, delete .venv and {SET_UP}."
    return Finding("Python", platform.python_version(), "3.11 or newer", sys.version_info >= (3, 11), remedy)


def _packages() -> list[Finding]:
    """Every dependency of pyproject.toml in its range, and how many are at the tested version."""
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        project = tomllib.loads((root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        requirements = [Requirement(line) for line in project["dependencies"]]
    except OSError:  # installed without the repository
        requirements = [Requirement(line) for line in metadata.requires("additive-course") or []]
        requirements = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    installed = {}
    for distribution in metadata.distributions():
        installed.setdefault(_canonical(distribution.name), distribution.version)
    findings = []
    for requirement in requirements:
        version = installed.get(_canonical(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wanted, remedy = str(requirement.specifier) or "any version", f"{SET_UP}, which installs it."
            findings.append(Finding(requirement.name, version or "missing", wanted, False, remedy))
    pins = [(name, version) for name, version in _pins("constraints.txt") if _canonical(name) in installed]
    other = [name for name, version in pins if installed[_canonical(name)].split("+")[0] != version]
    tested = f"{len(pins) - len(other)} of {len(pins)} at the tested version" if pins else ""
    if other:
        tested += f" (not {', '.join(other[:4])}{' ...' if len(other) > 4 else ''})"
    good = len(requirements) - len(findings)
    return [Finding("packages", f"{good} of {len(requirements)} in range", tested), *findings]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins(file: str, core_only: bool = False) -> list[tuple[str, str]]:
    """(name, version) of each `name==version` line; of sources.txt perhaps only those before the on-demand ones."""
    import sysconfig

    for folder in (root(), Path(sysconfig.get_path("data"), "share", "additive-course")):
        if (folder / file).is_file():
            text = (folder / file).read_text(encoding="utf-8")
            text = text.split("# === on demand")[0] if core_only else text
            return re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    return []


def _device() -> list[Finding]:
    try:
        import torch
    except ImportError:
        return []  # the packages' row says so already
    here = where()
    name = torch.cuda.get_device_name() if here.device == "cuda" else cpu_name()
    kind = str(here.dtype).removeprefix("torch.")
    probe = f" (bfloat16 is {bfloat16_speedup():.1f} x as fast here)" if here.device == "cpu" else ""
    return [
        Finding("device", f"{here.device}, {name}"),
        Finding("number format", kind + probe),
        Finding("threads", f"{here.threads} of {cpus()} CPUs"),
        Finding("scale", here.scale),
    ]


def _space() -> list[Finding]:
    memory, disk = free_memory(), shutil.disk_usage(cache_dir()).free
    return [
        Finding(
            "free memory", f"{memory / GIB:.1f} GB", "3 GB", memory >= 3 * GIB,
            "close other notebooks and programs; no notebook needs more than 4 GB in all.",
        ),
        Finding(
            "free disk", f"{disk / GIB:.1f} GB", "1 GB", disk >= GIB,
            f"make room where the cache is ({cache_dir()}), or set COURSE_CACHE to another folder.",
        ),
    ]  # fmt: skip


def _sources() -> Finding:
    pins = _pins("sources.txt", core_only=True)
    missing = [name for name, version in pins if not (cache_dir() / "sources" / f"{name}-{version}").is_dir()]
    found = f"{len(pins) - len(missing)} of {len(pins)} core sources"
    if missing:
        found += f" (not {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''})"
    return Finding("sources", found, "all", bool(pins) and not missing, "run `python -m course_lib fetch`.")


def _minutes() -> list[Finding]:
    """What the chapters took when they were last executed, and the slowest."""
    try:
        text = (root() / "data" / "results" / "chapter_minutes.json").read_text(encoding="utf-8")
        rows = json.loads(text)["rows"]
        slowest = max(rows, key=lambda row: row["minutes"])
    except (OSError, ValueError, KeyError):
        return []
    total = sum(row["minutes"] for row in rows)
    found = f"{len(rows)} chapters run in {total:.1f} min (longest: {slowest['chapter']}, {slowest['minutes']:.1f} min)"
    return [Finding("time, laptop scale", found)]
