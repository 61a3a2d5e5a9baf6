"""One base with many saved additions, behind HTTP: `python -m course_lib serve FOLDER...`.

    served.py     the base and its additions: texts in, answers out, each row with the addition it names
    batching.py   single requests become batches
    app.py        addresses, status codes, counts
    running.py    a socket to listen on, and a graceful end
    load.py       many clients at once, and what they had to wait

FastAPI, uvicorn and httpx are the extra "serve" of pyproject.toml; `make lab` installs it.
"""

from .app import create_app
from .batching import Busy, MicroBatcher, Stopping
from .load import Load, load_async, measure_load, percentile
from .running import running, serve
from .served import Row, Served, TooLong

__all__ = [
    "Busy",
    "Load",
    "MicroBatcher",
    "Row",
    "Served",
    "Stopping",
    "TooLong",
    "create_app",
    "load_async",
    "measure_load",
    "percentile",
    "running",
    "serve",
]
