"""Chapter 57: what a service with 1, 8 or 64 additions on one base costs, under a load generator."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib import runtime
from course_lib.experiments.registry import experiment

if TYPE_CHECKING:
    from course_lib.bases import Base

SEEDS = range(5)
ADDITIONS = (1, 8, 64)
CLIENTS, REQUESTS, WARM_UP = 32, 960, 160
BOTTLENECK, TEXTS = 16, 200


def additions_on(base: Base, count: int, folder: Path, seed: int) -> list[Path]:
    """Saved adapters with random numbers in them: what a service costs does not depend on what they have learnt."""
    import torch

    import course_lib as cl

    cl.seed(seed)
    method = cl.additive.BottleneckAdapter(BOTTLENECK)
    tuned = cl.attach(base, method, task=cl.tasks.Classification(2))
    folders = []
    for number in range(count):
        with torch.no_grad():
            for parameter in tuned.trainable_parameters():
                parameter.normal_(std=0.02)
        folders.append(tuned.save(folder / f"addition-{number:02}"))
    return folders


def texts() -> list[str]:
    """Real film-review sentences, in the order of their hash."""
    import course_lib as cl

    return cl.load_data("movie-reviews")["test"]["text"][:TEXTS]


@experiment(
    "57-serving",
    about="MiniLM and 1, 8 or 64 adapters behind `python -m course_lib serve`, 32 clients at once on the same machine.",
    grid=[{"additions": count, "seed": seed} for seed in SEEDS for count in ADDITIONS],
    minutes=8,
)
def serving(
    additions: int, seed: int, clients: int = CLIENTS, requests: int = REQUESTS, warm_up: int = WARM_UP
) -> dict[str, float]:
    """A server process, clients in this one; throughput, what clients waited, and the server's CPU time a request."""
    import psutil

    import course_lib as cl
    from course_lib.serving import measure_load

    with tempfile.TemporaryDirectory() as scratch:
        folders = additions_on(cl.load_base("minilm"), additions, Path(scratch), seed)
        rows = [{"addition": folders[i % additions].name, "text": text} for i, text in enumerate(texts())]
        command = [sys.executable, "-m", "course_lib", "serve", *map(str, folders), "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        options = {"stdout": subprocess.PIPE, "text": True, "cwd": runtime.root(), "env": environment}
        with subprocess.Popen(command, **options) as server:
            try:
                address = server.stdout.readline().split(" on ")[1].split()[0]
                process = psutil.Process(server.pid)
                measure_load(address, rows, clients=clients, requests=warm_up, warm_up=0)
                before = sum(process.cpu_times()[:2])
                load = measure_load(address, rows, clients=clients, requests=requests, warm_up=0)
                spent = sum(process.cpu_times()[:2]) - before
                memory = process.memory_info().rss
            finally:
                server.terminate()
    return {
        "requests_per_second": load.requests_per_second,
        "p50_ms": load.percentile(50), "p95_ms": load.percentile(95),
        "cpu_ms": 1000 * spent / requests,
        "memory_mb": memory / 2**20,
        "answered": float(load.statuses[200]),
    }
