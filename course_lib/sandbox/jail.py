"""The inner side of the sandbox: a process that locks itself in, one lock after another, and then runs the code.

Started by `sandbox.run` as a script, with the standard library alone and a description in JSON on standard input. What
it gives away cannot be had back: by the time the first line of the code runs, the process has no network, no files but
those it was given, no right to start another process, and limits that it cannot raise. Where neither the mounts nor
Landlock can close the files, or the filter of system calls is missing, the code is not run.
"""

import contextlib
import ctypes
import io
import json
import linecache
import os
import resource
import struct
import sys
import traceback
import types

LIBC = ctypes.CDLL(None, use_errno=True)
NAME = "answer.py"  # of the code, in tracebacks

# --- calls that Python has no function for ----------------------------------------------------------------------------


def call(function, *arguments) -> int:
    """A function of the C library; -1 becomes an OSError."""
    result = function(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def system_call(number: int, *arguments) -> int:
    """A kernel call by number; these numbers are the same on every processor."""
    LIBC.syscall.restype = ctypes.c_long
    return call(LIBC.syscall, ctypes.c_long(number), *arguments)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    call(LIBC.mount, source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags),
         data and data.encode())  # fmt: skip


# --- namespaces: a network without wires, a file system with only what was given --------------------------------------

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x1000, 0x4000, 1 << 18, 2, 4
MNT_DETACH, AT_RECURSIVE, AT_FDCWD = 2, 0x8000, -100
MOUNT_SETATTR, PIVOT_ROOT = 442, {"x86_64": 155, "aarch64": 41}
READ_ONLY, NO_SETUID = 1, 2
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def own_namespaces() -> None:
    """Leave the machine's users, mounts, network and message queues; needs no privilege where the kernel allows it."""
    user, group = os.getuid(), os.getgid()
    call(LIBC.unshare, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def own_file_system(folder: str, readable: list[str], scratch: str) -> None:
    """Make a root that holds `readable` (read-only) and `folder`, at their usual places, and nothing else."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("none", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m")
    for path in [*readable, *DEVICES]:
        bind(path, scratch)
    os.makedirs(scratch + folder, exist_ok=True)
    attributes = struct.pack("QQQQ", READ_ONLY | NO_SETUID, 0, 0, 0)
    system_call(MOUNT_SETATTR, AT_FDCWD, scratch.encode(), AT_RECURSIVE, attributes, len(attributes))
    mount(folder, scratch + folder, None, MS_BIND)
    os.chdir(scratch)
    system_call(PIVOT_ROOT[os.uname().machine], b".", b".")
    call(LIBC.umount2, b".", MNT_DETACH)  # what lies on top now is the old root
    os.chdir(folder)


def bind(path: str, root: str) -> None:
    """Show `path` under `root` too; a link is copied as a link."""
    target = root + path
    if not os.path.lexists(path) or os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        open(target, "x").close()
    mount(path, target, None, MS_BIND | MS_REC)


# --- Landlock: rights on files, kept by the kernel for this process ---------------------------------------------------

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
SPECIAL_FILES = 1 << 9 | 1 << 11 | 1 << 6  # sockets and devices


def landlock(folder: str, readable: list[str]) -> None:
    """Rights on `folder`, reading on `readable`, nothing else. Kernel 5.13 or newer, no privilege."""
    version = system_call(CREATE_RULESET, None, 0, 1)
    every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    network, scopes = 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = system_call(CREATE_RULESET, struct.pack("QQQ", every, network, scopes)[:size], size, 0)
    read = READ_FILE | READ_DIR | EXECUTE
    for path, rights in [
        *((path, read) for path in [*readable, *DEVICES]),
        ("/dev/null", READ_FILE | WRITE_FILE),
        (folder, every & ~SPECIAL_FILES),
    ]:
        try:
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = rights & every if os.path.isdir(path) else rights & every & FILE_RIGHTS
        system_call(ADD_RULE, rules, 1, struct.pack("=Qi", rights, file), 0)
        os.close(file)
    system_call(RESTRICT_SELF, rules, 0)
    os.close(rules)


# --- limits, capabilities, system calls -------------------------------------------------------------------------------

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
CAPSET = {"x86_64": 126, "aarch64": 91}


def limits(seconds: int, memory: int, file_size: int) -> None:
    """Seconds of CPU time, bytes of memory, bytes of one file, no core dumps."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def no_capabilities() -> None:
    """Being root is worth nothing from here on."""
    header = struct.pack("II", 0x20080522, 0)
    system_call(CAPSET[os.uname().machine], header, struct.pack("6I", *[0] * 6))


def filter_system_calls(numbers: dict) -> None:
    """Install the seccomp filter: a small program that the kernel runs before every call of this process.

    Each instruction is (operation, jump if true, jump if false, value), after Linux's filter.h; it reads the call's
    number at offset 0, the processor at 4 and the low half of argument i at 16 + 8 i.
    """
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    allow, refuse, unknown, kill = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
    own = os.getpid()
    program = [(load, 0, 0, 4), (equal, 1, 0, numbers["architecture"]), (answer, 0, 0, kill), (load, 0, 0, 0)]
    for number in numbers["allowed"]:
        program += [(equal, 0, 1, number), (answer, 0, 0, allow)]
    program += [(equal, 0, 1, numbers["clone3"]), (answer, 0, 0, unknown)]
    program += [
        (equal, 0, 4, numbers["clone"]),
        (load, 0, 0, 16),
        (any_bit, 0, 1, 0x00010000),  # CLONE_THREAD
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    for name in ("kill", "tgkill"):
        program += [
            (equal, 0, 4, numbers[name]),
            (load, 0, 0, 16),
            (equal, 0, 1, own),
            (answer, 0, 0, allow),
            (answer, 0, 0, refuse),
        ]
    program += [
        (equal, 0, 6, numbers["prlimit64"]),
        (load, 0, 0, 32),  # the new limit's address, low half and high half: both zero when one only reads
        (equal, 0, 3, 0),
        (load, 0, 0, 36),
        (equal, 0, 1, 0),
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    program.append((answer, 0, 0, refuse))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    call(LIBC.prctl, PR_SET_SECCOMP, ctypes.c_ulong(2), struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))


def lock(config: dict) -> list[str]:
    """Close every lock that the machine has; return their names. OSError from one that every Linux has."""
    folder, readable, skip = config["folder"], config["readable"], config["skip"]
    closed = ["limits"]
    call(LIBC.prctl, PR_SET_PDEATHSIG, ctypes.c_ulong(9))
    if "namespaces" not in skip:
        with contextlib.suppress(OSError):  # forbidden here (containers, hardened systems): Landlock remains
            own_namespaces()
            closed.append("network namespace")
            own_file_system(folder, readable, config["scratch"])
            closed.append("mounts")
    call(LIBC.prctl, PR_SET_NO_NEW_PRIVS, *[ctypes.c_ulong(n) for n in (1, 0, 0, 0)])
    if "landlock" not in skip:
        with contextlib.suppress(OSError):  # an older kernel, or switched off: the mounts remain
            landlock(folder, readable)
            closed.append("landlock")
    os.chdir(folder)
    limits(config["seconds"], config["memory"], config["file_size"])
    no_capabilities()
    if config["calls"] and "seccomp" not in skip:
        with contextlib.suppress(OSError):
            filter_system_calls(config["calls"])
            closed.append("seccomp")
    return closed


def run(code: str, report) -> None:
    """Run the code as the program __main__; report how it ended."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv, sys.dont_write_bytecode = [NAME], True
    linecache.cache[NAME] = (len(code), None, code.splitlines(keepends=True), NAME)
    try:
        exec(compile(code, NAME, "exec"), module.__dict__)
        end = "ok"
    except MemoryError:
        end = "memory"
        print("MemoryError", file=sys.stderr)
    except BaseException as error:  # SystemExit too: a program that leaves before its last line has not run
        end = "error"
        shown = traceback.TracebackException.from_exception(error)
        shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if frame.filename != __file__])
        print("".join(shown.format()), end="", file=sys.stderr)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    report({"end": end})
    os._exit(0 if end == "ok" else 1)


def main() -> None:
    config = json.load(sys.stdin)
    sys.stdin = io.StringIO()
    sys.path[:0] = config["paths"]

    def report(line: dict) -> None:
        os.write(config["report"], (json.dumps(line) + "\n").encode())

    closed = lock(config)
    holds = "seccomp" in closed and bool({"mounts", "landlock"} & set(closed))
    report({"locks": closed, "holds": holds})
    if holds:
        run(config["code"], report)


if __name__ == "__main__":
    main()
