"""What the sandbox must stop, with all its locks and with each kind alone, and what it must let a program do."""

import os
import platform
import sys
import time

import pytest

from course_lib import sandbox
from course_lib.runtime import CourseError

LINUX = sys.platform == "linux" and sandbox.system_calls.table(platform.machine()) is not None
SETS = [(), ("namespaces",), ("landlock",)]  # all locks; as in a container; as on an old kernel


@pytest.fixture(params=SETS, ids=lambda skip: f"without {skip[0]}" if skip else "all locks")
def run(request):
    """Runs a program under one set of locks."""
    if not LINUX or not sandbox.protection(request.param).ok:
        pytest.skip("these locks are not on this machine")

    def go(code, **options):
        result, _ = sandbox._run(code, skip=request.param, **options)
        return result

    return go


# --- the four that the course promises, and their relatives ---


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ],
)
def test_an_endless_loop_is_stopped(run, code):
    result = run(code, seconds=1)
    assert result.status == "timeout"
    assert result.seconds < 3


def test_a_sleeper_is_stopped_by_the_clock(run, monkeypatch):
    monkeypatch.setattr(sandbox, "WALL", 0)
    started = time.monotonic()
    assert run("import time\ntime.sleep(600)", seconds=1).status == "timeout"
    assert time.monotonic() - started < 30


def test_a_memory_hog_is_stopped(run):
    assert run("hoard = []\nwhile True: hoard.append(bytearray(10**7))").status == "memory"
    assert run("import mmap\nmmap.mmap(-1, 10**10)").status == "error"


DELETIONS = {
    "os.unlink": "import os\nos.unlink({0!r})",
    "pathlib": "import pathlib\npathlib.Path({0!r}).unlink()",
    "subprocess rm": "import subprocess\nsubprocess.run(['rm', '-f', {0!r}], check=True)",
    "os.system": "import os\nprint(os.system('rm -f ' + {0!r}))",
    "exec rm": "import os\nos.execv('/bin/rm', ['rm', '-f', {0!r}])",
    "ctypes": "import ctypes\nassert ctypes.CDLL(None).unlink({0!r}.encode()) == 0",
    "kernel call": "import ctypes\nassert ctypes.CDLL(None).syscall(263, -100, {0!r}.encode(), 0) == 0",
    "rmtree": "import os, shutil\nshutil.rmtree(os.path.dirname({0!r}))",
    "rename away": "import os\nos.rename({0!r}, 'mine')",
    "overwrite": "open({0!r}, 'w').write('')",
    "append": "open({0!r}, 'a').write('more')",
    "truncate": "import os\nos.truncate({0!r}, 0)",
    "through a link": "import os\nos.symlink({0!r}, 'link')\nopen('link', 'w').write('')",
    "through a folder's link": "import os\nos.symlink(os.path.dirname({0!r}), 'd')\nos.unlink('d/precious')",
    "upwards": "import os\nos.unlink(os.path.relpath({0!r}))",
    "chmod": "import os\nos.chmod({0!r}, 0)",
    "read": "print(open({0!r}).read())\nraise SystemExit(1 / 0)",
}


@pytest.mark.parametrize("code", DELETIONS.values(), ids=DELETIONS)
def test_no_file_outside_is_deleted_changed_or_read(run, code, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("data")
    mode = precious.stat().st_mode
    result = run(code.format(str(precious)))
    assert precious.read_text() == "data"
    assert precious.stat().st_mode == mode
    assert "data" not in result.stdout
    assert not result.ok or code == DELETIONS["os.system"]


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}', timeout=2)",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
        "import socket\nsocket.socket(socket.AF_UNIX).connect({path!r})",
        "import socket\nsocket.getaddrinfo('example.org', 80)",
    ],
    ids=["tcp", "http", "udp", "unix", "names"],
)
def test_there_is_no_network(run, code, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "s"))
        local.listen()
        result = run(code.format(port=server.getsockname()[1], path=str(tmp_path / "s")))
    assert result.status == "error"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True:\n    os.fork()",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'pass'])",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    ],
    ids=["fork bomb", "stubborn fork bomb", "subprocess", "multiprocessing", "spawn", "thread bomb"],
)
def test_a_fork_bomb_is_stopped(run, code):
    before = len(os.listdir("/proc"))
    result = run(code, seconds=1)
    assert not result.ok
    assert len(os.listdir("/proc")) < before + 50


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.kill(-1, 9)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
        "import os\nprint(open(f'/proc/{os.getppid()}/environ').read())",
        "import os\nos.setuid(0) if os.getuid() else os.chown('.', 1, 1)",
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "import ctypes\nassert ctypes.CDLL(None).ptrace(16, __import__('os').getppid(), 0, 0) == 0",
    ],
    ids=["kill the parent", "kill everybody", "raise a limit", "another's environment", "user", "unshare", "ptrace"],
)
def test_it_cannot_get_out(run, code):
    assert run(code).status == "error"


def test_files_are_limited_in_size_and_number(run):
    assert run("open('big', 'wb').write(bytes(10**7))", file_size=10**6).status in ("error", "killed")
    many = "for i in range(10**6): open(f'file{i}', 'w').write('x' * 1000)"
    assert run(many, seconds=20).status == "killed"


def test_nothing_of_this_process_is_handed_on(run, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "secret-4711")
    result = run("import os\nprint(dict(os.environ), os.listdir('.'))\ntry: input()\nexcept EOFError: print('end')")
    assert result.ok
    assert "4711" not in result.stdout
    assert result.stdout.endswith("end\n")


def test_output_is_cut(run):
    result = run("print('x' * 10**6)\nimport sys\nsys.stderr.write('y' * 10**6)", output=500)
    assert result.ok
    assert (len(result.stdout), len(result.stderr)) == (500, 500)


# --- what a program may do ---


def test_a_program_computes_and_writes_into_its_folder(run):
    code = """
import collections, dataclasses, json, math, os, pathlib, re, tempfile, threading
@dataclasses.dataclass
class Point:
    x: int
os.mkdir("d"); os.rename("d", "e"); os.rmdir("e")
with tempfile.TemporaryFile("w+") as file:
    file.write("a")
worker = threading.Thread(target=print, args=("thread",)); worker.start(); worker.join()
pathlib.Path("out.txt").write_text(pathlib.Path("data/in.txt").read_text().upper())
print(pathlib.Path("out.txt").read_text(), Point(3), __name__)
"""
    result = run(code, files={"data/in.txt": "hello"})
    assert (result.status, result.stdout) == ("ok", "thread\nHELLO Point(x=3) __main__\n"), result.stderr


def test_readable_folders_can_be_read_and_not_written(run, tmp_path):
    (tmp_path / "module_of_ours.py").write_text("answer = 42")
    read = run("import module_of_ours\nprint(module_of_ours.answer)", paths=[tmp_path])
    assert read.stdout == "42\n", read.stderr
    written = run(f"open({str(tmp_path / 'module_of_ours.py')!r}, 'a')", readable=[tmp_path])
    assert written.status == "error"
    assert run(f"open({str(tmp_path / 'new')!r}, 'w')", readable=[tmp_path]).status == "error"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["module_of_ours.py"]


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("print(1)", "ok", ""),
        ("1 / 0", "error", "ZeroDivisionError"),
        ("def f(:", "error", "SyntaxError"),
        ("raise SystemExit(0)", "error", "SystemExit"),
        ("import os\nos._exit(0)", "error", ""),
        ("import os\nos.abort()", "killed", ""),
        ("def f(): f()\nf()", "error", "RecursionError"),
    ],
)
def test_how_a_program_ended(run, code, status, said):
    result = run(code)
    assert result.status == status
    assert said in result.stderr
    assert "jail.py" not in result.stderr


# --- the interface ---


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_the_course_can_be_imported_with_torch():
    if not sandbox.protection().ok:
        pytest.skip("no sandbox here")
    code = "import course_lib, torch\nprint(torch.ones(2, 2).matmul(torch.ones(2, 2)).sum().item())"
    result = sandbox.run(code, **sandbox.course(), seconds=60, memory=16 * 2**30)
    assert result.stdout == "8.0\n", result.stderr
    assert sandbox.run("import torch", seconds=10).status == "error"  # only when it is asked for


@pytest.mark.skipif(not LINUX, reason="Linux only")
@pytest.mark.parametrize("skip", [("seccomp",), ("namespaces", "landlock")])
def test_without_a_lock_that_is_needed_nothing_runs(skip):
    result, _ = sandbox._run("print('ran')", skip=skip)
    assert result is None
    found = sandbox.protection(skip)
    assert not found.ok
    assert "NOT stopped" in str(found)


def test_it_refuses_with_a_sentence_where_it_cannot_lock(monkeypatch):
    sandbox.protection.cache_clear()
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    try:
        assert "no sandbox here" in str(sandbox.protection())
        with pytest.raises(CourseError, match="stored results"):
            sandbox.run("print(1)")
    finally:
        sandbox.protection.cache_clear()


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_a_file_outside_its_folder_is_refused_as_input():
    with pytest.raises(CourseError, match="outside"):
        sandbox._run("pass", files={"../x": ""})


@pytest.mark.skipif(not LINUX, reason="Linux only")
def test_the_numbers_are_this_kernels(tmp_path):
    """The table against the C library's own header, where there is one."""
    import re
    from pathlib import Path

    rename = {"newfstatat": "fstatat"}
    for header, column in (("x86_64-linux-gnu/asm/unistd_64.h", 0), ("asm-generic/unistd.h", 1)):
        header = Path("/usr/include") / header
        if not header.is_file():
            continue
        numbers = {name: int(n) for name, n in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
        for name, pair in {**sandbox.system_calls.ALLOWED, **sandbox.system_calls.CONDITIONAL}.items():
            if pair[column] is not None and (found := numbers.get(name, numbers.get(rename.get(name)))) is not None:
                assert found == pair[column], (header, name)
