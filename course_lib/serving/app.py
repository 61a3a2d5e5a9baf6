"""The service's addresses. Whatever is wrong with a request, the answer is a status and a sentence.

    POST /predict   {"addition": "reviews", "text": "..."}  ->  {"addition": "reviews", "label": 1, "scores": [...]}
    GET /additions  the names that a request may choose from
    GET /health     does it answer, and how many requests wait?
    GET /metrics    counts and times, in the text format that Prometheus reads

400 bad JSON or fields, 404 unknown addition or address, 413 too long, 429 too many waiting, 500 the model failed,
503 the service is being stopped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.exceptions import HTTPException as StarletteHTTPException

from .batching import Busy, MicroBatcher, Stopping
from .served import Row, Served, TooLong

MAX_BYTES = 65_536  # of a request's body: far more than any text that the additions read
TIMES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)  # seconds
log = logging.getLogger(__name__)


class Counts:
    """What /metrics says."""

    def __init__(self, batcher: MicroBatcher):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU seconds; on Linux
        self.requests = Counter("requests", "Requests by addition and status", ["addition", "status"],
                                registry=self.registry)  # fmt: skip
        self.seconds = Histogram("request_seconds", "From the request's arrival to its answer", buckets=TIMES,
                                 registry=self.registry)  # fmt: skip
        self.rows = Histogram("batch_rows", "Rows answered together", buckets=(1, 2, 4, 8, 16, 32, 64),
                              registry=self.registry)  # fmt: skip
        waiting = Gauge("waiting", "Requests that are in no batch yet", registry=self.registry)
        waiting.set_function(lambda: len(batcher.waiting))


def create_app(served: Served, *, max_rows: int = 32, max_wait: float = 0.004, max_queue: int = 256) -> FastAPI:
    """The service for one base with its additions; see MicroBatcher for the three numbers."""
    batcher = MicroBatcher(
        served.answer, max_rows=max_rows, max_wait=max_wait, max_queue=max_queue,
        on_batch=lambda rows: counts.rows.observe(rows),
    )  # fmt: skip
    counts = Counts(batcher)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title="One base, many additions", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(StarletteHTTPException, as_sentence)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        arrived, addition, status = time.perf_counter(), "", 500  # unknown names count as "": anyone may invent more
        try:
            row = row_of(await body_of(request), served)
            addition = row.addition
            answer = await asked(batcher, row)
            status = 200
            return JSONResponse(answer)
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            counts.requests.labels(addition, status).inc()
            counts.seconds.observe(time.perf_counter() - arrived)

    @app.get("/additions")
    async def additions() -> Response:
        return JSONResponse({"additions": served.names})

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok", "additions": len(served.names), "waiting": len(batcher.waiting)})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(counts.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def as_sentence(request: Request, error: StarletteHTTPException) -> Response:
    """Every refusal in one form; an address that is not there says which are."""
    sentence = error.detail
    if error.status_code == 404 and sentence == "Not Found":
        sentence = f"There is nothing at {request.url.path}; try POST /predict, GET /additions, /health or /metrics."
    return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)


async def body_of(request: Request) -> bytes:
    """The body, read no further than it may be long."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"The request is longer than {MAX_BYTES:,} bytes. Send a shorter text.")
    return body


def row_of(body: bytes, served: Served) -> Row:
    """The request's text as tokens, with its addition; an HTTPException says what is wrong with it."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"This is no JSON: {error}.") from None
    if not isinstance(request, dict):
        raise HTTPException(400, f"Send a JSON object with the keys addition and text, not a {type(request).__name__}.")
    for key in ("addition", "text"):
        if not isinstance(request.get(key), str) or not request[key].strip():
            raise HTTPException(400, f'The key "{key}" must hold a string that is not empty.')
    try:
        request["text"].encode()
    except UnicodeEncodeError:
        raise HTTPException(400, "The text holds half of a surrogate pair, which is no character.") from None
    if request["addition"] not in served.names:
        some = ", ".join(served.names[:5]) + (", ..." if len(served.names) > 5 else "")
        raise HTTPException(404, f"There is no addition called {request['addition'][:40]!r}; there are: {some}.")
    try:
        return served.row(request["text"], request["addition"])
    except TooLong as error:
        raise HTTPException(413, str(error)) from None


async def asked(batcher: MicroBatcher, row: Row) -> dict:
    """The model's answer, or an HTTPException in place of whatever went wrong with it."""
    try:
        return await batcher.ask(row)
    except Busy:
        sentence = f"{batcher.max_queue} requests are waiting already. Try again in a second."
        raise HTTPException(429, sentence, headers={"Retry-After": "1"}) from None
    except Stopping:
        raise HTTPException(503, "The service is being stopped. Try again when it is back.") from None
    except Exception as error:
        log.exception("a batch failed")
        kind = type(error).__name__
        raise HTTPException(500, f"The model failed on this batch ({kind}); the service goes on.") from None
