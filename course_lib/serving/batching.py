"""Micro-batching: requests that arrive one by one are answered together.

A model reads 32 rows in far less than 32 times the time of one. So a request waits a few milliseconds for company:
a batch is closed when it is full, or when its oldest request has waited `max_wait` seconds. While a batch is being
computed the next one gathers, so under load nobody waits for the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


class Busy(Exception):
    """As many requests are waiting as may wait."""


class Stopping(Exception):
    """The service is being stopped and takes no new requests."""


@dataclass
class Waiting:
    """A request that is in no batch yet."""

    item: Any
    since: float
    answer: asyncio.Future


class MicroBatcher:
    """Hands batches of at most `max_rows` items to `answer`, which runs in a thread of its own, one batch a time.

    answer: a list of items -> as many answers. max_wait: seconds that the oldest of a batch waits for others.
    max_queue: how many items may wait; one more is refused with Busy.
    """

    def __init__(
        self, answer: Callable[[Sequence[Any]], Sequence[Any]], *, max_rows: int = 32, max_wait: float = 0.004,
        max_queue: int = 256, on_batch: Callable[[int], None] = lambda rows: None,
    ):
        self.answer, self.on_batch = answer, on_batch
        self.max_rows, self.max_wait, self.max_queue = max_rows, max_wait, max_queue
        self.waiting: deque[Waiting] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self._worker: asyncio.Task | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def start(self) -> None:
        """Begin to answer."""
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Take no more requests, answer those that are waiting, and end."""
        self._closed = True
        self._changed.set()
        await self._worker
        self._thread.shutdown()

    async def ask(self, item: Any) -> Any:
        """The answer to one item, computed in a batch with others. Raises Busy, Stopping, or what `answer` raises."""
        if self._closed:
            raise Stopping
        if len(self.waiting) >= self.max_queue:
            raise Busy
        mine = Waiting(item, time.monotonic(), asyncio.get_running_loop().create_future())
        self.waiting.append(mine)
        self._changed.set()
        return await mine.answer

    async def _work(self) -> None:
        while batch := await self._next_batch():
            batch = [one for one in batch if not one.answer.cancelled()]  # whose client has gone
            if not batch:
                continue
            self.on_batch(len(batch))
            try:
                run = asyncio.get_running_loop().run_in_executor
                answers = await run(self._thread, self.answer, [one.item for one in batch])
            except Exception as error:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    async def _next_batch(self) -> list[Waiting]:
        """Wait for a batch: full, or as old as it may get. An empty one means the end."""
        while not self.waiting:
            if self._closed:
                return []
            await self._news()
        closes = self.waiting[0].since + self.max_wait
        while len(self.waiting) < self.max_rows and not self._closed and (left := closes - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news(), left)
        return [self.waiting.popleft() for _ in range(min(self.max_rows, len(self.waiting)))]

    async def _news(self) -> None:
        self._changed.clear()
        await self._changed.wait()
