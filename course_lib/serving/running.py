"""A socket to listen on, and a graceful end: what has been accepted is answered first."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ..bases import load_base
from ..runtime import CourseError
from .app import create_app
from .served import Served


def serve(
    folders: Sequence[str | Path], *, base: str = "minilm", host: str = "127.0.0.1", port: int = 8000,
    max_rows: int = 32, max_wait: float = 0.004, max_queue: int = 256,
) -> None:
    """Serve saved additions until Ctrl-C or SIGTERM, which wait for requests under way; port 0 takes a free one."""
    listening = listen(host, port)
    served = Served.from_folders(load_base(base), folders)
    app = create_app(served, max_rows=max_rows, max_wait=max_wait, max_queue=max_queue)
    shown = ", ".join(served.names[:5]) + (", ..." if len(served.names) > 5 else "")
    listening.listen()  # from here on clients are let in; they wait until the server is up
    print(f"Serving {len(served.names)} additions to {base} on {address_of(listening)} ({shown}). Ctrl-C stops.",
          flush=True)  # fmt: skip
    server_of(app).run(sockets=[listening])


@contextlib.contextmanager
def running(app: FastAPI, host: str = "127.0.0.1") -> Iterator[str]:
    """Inside, the app answers at the address that is given, from a thread of this process."""
    listening, server = listen(host, 0), server_of(app)
    listening.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise CourseError("The service stopped while it was starting.")
            time.sleep(0.01)
        yield address_of(listening)
    finally:
        server.should_exit = True
        thread.join()


def server_of(app: FastAPI) -> uvicorn.Server:
    """uvicorn, which says nothing unless something goes wrong, and gives requests half a minute to be finished."""
    return uvicorn.Server(uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=30, lifespan="on", ws="none",
    ))  # fmt: skip


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to host and port."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise CourseError(
            f"The service cannot listen on {host}, port {port}: {error.strerror or error}. Choose another port "
            "(--port 8001; 0 takes a free one)."
        ) from None
    return listening


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
