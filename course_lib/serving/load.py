"""A load generator: many clients at once, each sending its next request when its last one has been answered."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from ..runtime import CourseError


@dataclass(frozen=True)
class Load:
    """What the clients saw after the warm-up."""

    latencies: np.ndarray  # seconds, one an answered request, in the order in which they were sent
    elapsed: float  # seconds from the first of these requests to the last answer
    statuses: Counter  # status -> requests, the warm-up's left out

    @property
    def requests_per_second(self) -> float:
        """Requests answered with 200 a second."""
        return self.statuses[200] / self.elapsed

    def percentile(self, q: float) -> float:
        """Milliseconds within which q per cent of the requests were answered."""
        return 1000 * percentile(self.latencies, q)

    def __str__(self) -> str:
        refused = {status: count for status, count in self.statuses.items() if status != 200}
        return (
            f"{self.requests_per_second:.0f} requests/s, p50 {self.percentile(50):.0f} ms, "
            f"p95 {self.percentile(95):.0f} ms" + (f", refused: {refused}" if refused else "")
        )


def percentile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least q per cent of the values do not exceed (nearest rank)."""
    if len(values) == 0:
        raise CourseError("A percentile needs at least one value: no request was answered.")
    return float(np.percentile(np.asarray(values), q, method="inverted_cdf"))


def measure_load(address: str, rows: Sequence[dict[str, Any]], **options: Any) -> Load:
    """Send rows (over and over, in turn) to the service at `address`; see `load_async` for the options.

    It has an event loop of its own in a thread of its own, so it runs in a notebook too.
    """

    async def run() -> Load:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits, trust_env=False) as client:
            return await load_async(client, rows, **options)

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, run()).result()


async def load_async(
    client: httpx.AsyncClient, rows: Sequence[dict[str, Any]], *, clients: int = 16, requests: int = 400,
    warm_up: int = 100,
) -> Load:
    """`clients` at once send `warm_up` requests that are not counted, then `requests` that are.

    Latencies are those of requests answered with 200: a quick refusal would flatter them.
    """
    sources, seen = itertools.cycle(rows), []
    numbers = iter(range(warm_up + requests))

    async def one_client() -> None:
        for number in numbers:
            began = time.perf_counter()
            answer = await client.post("/predict", json=next(sources))
            seen.append((number, began, time.perf_counter(), answer.status_code))

    await asyncio.gather(*(one_client() for _ in range(clients)))
    counted = sorted(one for one in seen if one[0] >= warm_up)
    latencies = np.array([end - began for _, began, end, status in counted if status == 200])
    elapsed = max(end for _, _, end, _ in counted) - min(began for _, began, _, _ in counted)
    return Load(latencies, elapsed, Counter(status for *_, status in counted))
