"""Run Python code that nobody has read: a model's answer, a learner's notebook.

    result = sandbox.run("print(sum(range(10)))", seconds=2)
    result.status, result.stdout                        # "ok", "45\n"

The code runs in a process of its own with limits on time, memory, file size and output; without network; with one
temporary folder that it may write and nothing to read but Python itself and what `readable` names; without the right
to start another process; without this process's environment. The locks are Linux's own and need no privilege: user,
mount and network namespaces, Landlock, a seccomp filter, resource limits (jail.py closes them from inside). Either of
the first two may be missing, as in many containers; `protection()` says what is there. Where they do not suffice, `run`
refuses with a sentence: there is no unprotected mode.

What it does not promise: that code which knows the sandbox cannot forge the verdict of a check that runs beside it in
the same process, or that the kernel has no flaw.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..runtime import CourseError, root
from . import system_calls

MIB = 2**20
JAIL = Path(__file__).with_name("jail.py")
SYSTEM = (  # what the loader, the locale and the time zone need, and what libraries ask about the machine
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache",
    "/etc/localtime", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu",
)  # fmt: skip
WALL = 4  # a process may take this many times its CPU time, and five seconds, by the clock


@dataclass(frozen=True)
class Result:
    """How a program ended.

    status: "ok", it ran to its last line; "error", it raised something or left early; "timeout"; "memory"; "killed",
    by a signal or because it filled its folder. stdout and stderr are cut at `output` characters. seconds: of CPU time.
    """

    status: str
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Protection:
    """Which locks this machine has, and which of the attempts that were tried here they stopped."""

    locks: tuple[str, ...]
    stopped: tuple[str, ...]
    open: tuple[str, ...]
    reason: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.stopped) and not self.open

    def __str__(self) -> str:
        if not self.locks:
            return f"no sandbox here: {self.reason}"
        rows = [("locks", ", ".join(self.locks)), ("stopped here", ", ".join(self.stopped) or "nothing")]
        if self.open:
            rows.append(("NOT stopped", ", ".join(self.open)))
        if self.reason:
            rows.append(("therefore", self.reason))
        return "\n".join(f"{name:<13} {text}" for name, text in rows)


def run(
    code: str,
    *,
    files: Mapping[str, str | bytes] | None = None,
    readable: Iterable[str | Path] = (),
    paths: Iterable[str | Path] = (),
    environment: Mapping[str, str] | None = None,
    seconds: float = 5,
    memory: int = 512 * MIB,
    file_size: int = 16 * MIB,
    output: int = 20_000,
) -> Result:
    """Run `code` as a program in the sandbox and wait for it.

    files: names and contents to put into its folder first. readable: files and folders that it may read. paths: folders
    to import from (they are readable too). environment: variables; nothing of this process's own is passed on. seconds:
    of CPU time; four times that and five seconds more by the clock. memory: bytes of address space. file_size: bytes of
    one file; ten times that for the whole folder. output: characters kept of stdout and of stderr.
    Raises CourseError where this machine cannot lock the program in.
    """
    found = protection()
    if not found.ok:
        raise CourseError(
            "Code that nobody has read is run only in a sandbox, and this machine offers none that holds: "
            f"{found.reason} Use Linux (on Windows: WSL) with kernel 5.13 or newer; where that is not possible, read "
            "the stored results."
        )
    result, locks = _run(
        code, files=files or {}, readable=readable, paths=paths, environment=environment or {}, seconds=seconds,
        memory=memory, file_size=file_size, output=output,
    )  # fmt: skip
    if result is None:
        raise CourseError(f"The sandbox did not close (locks: {', '.join(locks) or 'none'}), so nothing was run.")
    return result


def course() -> dict[str, list[Path]]:
    """`readable` and `paths` for a program that imports the course and its packages: run(code, **course())."""
    packages = [Path(sysconfig.get_paths()[name]) for name in ("purelib", "platlib")]
    return {"paths": list(dict.fromkeys([root(), *packages])), "readable": [Path(sys.prefix)]}


def _run(
    code: str,
    *,
    files: Mapping[str, str | bytes] = {},
    readable: Iterable[str | Path] = (),
    paths: Iterable[str | Path] = (),
    environment: Mapping[str, str] = {},
    seconds: float = 5,
    memory: int = 512 * MIB,
    file_size: int = 16 * MIB,
    output: int = 20_000,
    skip: tuple[str, ...] = (),
) -> tuple[Result | None, tuple[str, ...]]:
    """As `run`, without asking whether the locks hold; None if the jail found too few. `skip` leaves locks out."""
    home = Path(tempfile.mkdtemp(prefix="sandbox-")).resolve()
    folder, scratch = home / "folder", home / "root"
    folder.mkdir()
    scratch.mkdir()
    try:
        for name, content in files.items():
            target = (folder / name).resolve()
            if not target.is_relative_to(folder):
                raise CourseError(f"The file {name!r} would lie outside the sandbox's folder; give a name below it.")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths = [str(Path(path).absolute()) for path in paths]
        config = {
            "code": code, "folder": str(folder), "scratch": str(scratch), "paths": paths,
            "readable": _places([*_python(), *paths, *readable]), "seconds": max(1, round(seconds + 0.49)),
            "memory": int(memory), "file_size": int(file_size), "skip": skip,
            "calls": system_calls.table(platform.machine()),
        }  # fmt: skip
        return _watch(config, _environment(folder, environment), seconds, output, 10 * file_size)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _python() -> list[str]:
    """The interpreter's own library."""
    return [*SYSTEM, *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")), sys.base_prefix + "/lib"]


def _places(paths: Iterable[str | Path]) -> list[str]:
    """Each path as given and with its links followed: both are asked for."""
    absolute = [os.path.abspath(path) for path in paths]
    every = [place for path in absolute for place in (os.path.realpath(path), path)]
    return sorted(dict.fromkeys(place for place in every if os.path.lexists(place)))  # parents before children


def _environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    places = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": "/usr/bin:/bin"}
    return {**places, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", **extra}


def _watch(
    config: dict, environment: dict, seconds: float, output: int, space: int
) -> tuple[Result | None, tuple[str, ...]]:
    """Start the jail, read what it says, and end it when its time or space is over."""
    report, inner = os.pipe()
    config["report"] = inner
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(JAIL)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=environment, pass_fds=(inner,), start_new_session=True,
    )  # fmt: skip
    os.close(inner)
    kept = {"stdout": b"", "stderr": b"", "report": b""}
    timeout = overfull = False
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(config).encode())
            process.stdin.close()
        end = time.monotonic() + WALL * seconds + 5
        with selectors.DefaultSelector() as selector:
            for name, file in (("stdout", process.stdout), ("stderr", process.stderr), ("report", report)):
                selector.register(file, selectors.EVENT_READ, name)
            while selector.get_map() and not (timeout or overfull):
                for key, _ in selector.select(timeout=0.2):
                    piece = os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(key.fileobj)
                    kept[key.data] += piece[: max(0, 4 * output - len(kept[key.data]))]
                timeout = time.monotonic() > end
                overfull = _larger(Path(config["folder"]), space)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (process.stdout, process.stderr):
            file.close()
        os.close(report)
    told: dict = {}
    for line in kept["report"].splitlines():
        with contextlib.suppress(ValueError):
            told |= json.loads(line)
    locks = tuple(told.get("locks", ()))
    if not told.get("holds"):
        return None, locks
    if overfull:
        ended = "killed"
    elif timeout or process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        ended = "timeout"
    else:
        ended = "killed" if process.returncode < 0 else "error"  # an error: it left without coming to its last line
    text = {name: kept[name].decode("utf-8", "replace")[:output] for name in ("stdout", "stderr")}
    cpu = used.ru_utime + used.ru_stime
    return Result(told.get("end", ended), text["stdout"], text["stderr"], round(cpu, 3)), locks


def _larger(folder: Path, space: int, entries: int = 2000) -> bool:
    """Whether the folder holds more than `space` bytes or `entries` files."""
    total = count = 0
    for place, _, names in os.walk(folder):
        count += 1 + len(names)
        if count > entries:
            return True
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total > space


# --- what holds here --------------------------------------------------------------------------------------------------

ATTEMPTS = {  # each prints its name if it got through
    "network": "import socket\ns = socket.socket()\ns.settimeout(1)\ns.connect(({host!r}, {port}))",
    "reading outside": "open({secret!r}).read()",
    "deleting outside": "import os\nos.unlink({secret!r})",
    "processes": "import os\nif os.fork() == 0: os._exit(0)",
    "memory": "bytearray({memory} + 1)",
}


@functools.cache
def protection(skip: tuple[str, ...] = ()) -> Protection:
    """Try, once a process, what this machine's locks stop: a connection, a file outside, a fork, too much memory."""
    if sys.platform != "linux":
        return Protection((), (), (), f"its locks are Linux's, and this is {platform.system()}.")
    if system_calls.table(platform.machine()) is None:
        return Protection((), (), (), f"its list of system calls does not cover {platform.machine()}.")
    import socket

    memory = 256 * MIB
    with tempfile.TemporaryDirectory() as outside, socket.create_server(("127.0.0.1", 0)) as server:
        secret = Path(outside) / "secret"
        secret.write_text("outside")
        host, port = server.getsockname()
        tries = {name: code.format(secret=str(secret), host=host, port=port, memory=memory)
                 for name, code in ATTEMPTS.items()}  # fmt: skip
        program = "\n".join(
            f"try:\n    exec({code!r})\n    print({name!r})\nexcept (OSError, MemoryError): pass"
            for name, code in tries.items()
        )
        result, locks = _run(program, seconds=5, memory=memory, skip=skip)
        kept = secret.exists()
    if result is None:
        why = "no filter of system calls (seccomp)." if "seccomp" not in locks else "neither mounts nor Landlock."
        return Protection(locks, (), tuple(ATTEMPTS), why)
    through = set(result.stdout.split("\n")) | (set() if kept else {"deleting outside"})
    still = tuple(name for name in ATTEMPTS if name in through) if result.ok else tuple(ATTEMPTS)
    stopped = tuple(name for name in ATTEMPTS if name not in still)
    return Protection(locks, stopped, still, "" if not still else f"these get through: {', '.join(still)}.")
