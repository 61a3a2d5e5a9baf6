#!/usr/bin/env python3
"""Set the course up, then run it. The Makefile calls this file; it needs no more than Python 3.11.

    python3 bootstrap.py setup          make .venv, install the pinned packages, fetch and verify the sources
    python3 bootstrap.py lab            the same, then open JupyterLab
    python3 bootstrap.py test           the same, then ruff, the unit tests and every notebook
    python3 bootstrap.py notebooks      the same, then run changed notebooks again and store their outputs
    python3 bootstrap.py colab          on Colab: install the course beside what is there

Everything is safe to interrupt and to run again: what is in place stays, and a second set-up takes a second.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "course-setup.json"  # what the last complete set-up was made from
OLDEST = (3, 11)
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"

# Measured with the CPU build of torch; shown before the download.
PACKAGES_MB = 450
DISK_MB = 3000

# Colab's running kernel has these in use: the course is installed beside them and never replaces them.
KEPT_ON_COLAB = ("torch", "torchvision", "torchaudio", "numpy", "pandas")
KERNEL_ON_COLAB = ("ipykernel", "ipython", "jupyter-client", "jupyter-core", "pyzmq", "tornado", "traitlets")


NO_NETWORK = "NewConnection|NameResolution|name resolution|Max retries|unreachable|ConnectTimeout|timed out"


class SetupError(Exception):
    """Something the person at the keyboard can mend; the message is a sentence that says how."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="set up, nothing else")
    lab = commands.add_parser("lab", help="set up and open JupyterLab on the first notebook")
    lab.add_argument("--port", type=int, help="the port to serve on (default: the first free one from 8888)")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.add_argument("--notebook", default=FIRST_NOTEBOOK, help="the notebook to open")
    commands.add_parser("test", help="set up, then ruff, unit tests and every notebook")
    commands.add_parser("book", help="set up, then build the book")
    commands.add_parser("test-browser", help="set up, then try widgets, slides and book in headless Chromium")
    commands.add_parser("test-colab", help="set up, then try the first cell as Colab would run it")
    for name, text in (
        ("notebooks", "run changed notebooks again and store their outputs"),
        ("run", "run chapters headless, nothing is written (default: all)"),
        ("slides", "write lecture decks to build/slides"),
        ("fetch", "fetch sources (default: the core ones)"),
        ("doctor", "say what is here and what is missing"),
    ):
        commands.add_parser(name, help=text).add_argument("arguments", nargs="*")
    bench = commands.add_parser("bench", help="measure speed and memory beside peft")
    bench.add_argument("--quick", action="store_true", help="a smoke test: nothing is stored")
    bench.add_argument("sections", nargs="*", help="some sections (default: all)")
    clean = commands.add_parser("clean", help="remove .venv and leftovers; your notebooks and progress stay")
    clean.add_argument("--all", action="store_true", help="also the sources and trained models in data/cache")
    commands.add_parser("colab", help="on Colab: install the course and fetch its sources")
    options = parser.parse_args()

    if sys.version_info < OLDEST:
        raise SetupError(
            "The course needs Python {}.{} or newer, and this is {}.{}. Install a newer one (python.org, the "
            "system or conda) and name it: make lab PYTHON=python3.11".format(*OLDEST, *sys.version_info)
        )
    if options.command == "clean":
        return clean_up(everything=options.all)
    if options.command == "colab":
        return install_on_colab()
    set_up()
    if options.command == "setup":
        return 0
    if options.command == "lab":
        return open_lab(options)
    if options.command == "test":
        return run_tests()
    if options.command == "bench":
        quick = ["--quick"] if options.quick else []
        return call(PYTHON, "benchmarks/bench.py", *quick, *options.sections, quiet_hub=True)
    if options.command == "book":
        need("book", "myst_nb")
        return call(PYTHON, "-m", "course_lib", "book", quiet_hub=True)
    if options.command == "test-browser":
        return run_browser_test()
    if options.command == "test-colab":
        return call(PYTHON, ROOT / "tests" / "colab" / "check_colab.py")
    return call(PYTHON, "-m", "course_lib", options.command, *options.arguments, quiet_hub=True)


# --- set-up ---------------------------------------------------------------------------------------


def set_up():
    """Make .venv, install the pinned packages and fetch the core sources, each only where it is missing."""
    ensure_venv()
    key = setup_key()
    if read_stamp() != key:
        install_packages()
        STAMP.write_text(json.dumps({"key": key}) + "\n")
    if call(PYTHON, "-m", "course_lib", "fetch") != 0:
        raise SetupError("The packages are in place, but not all sources: see the sentence above.")


def setup_key():
    """A hash of all that decides what .venv must hold, and of where it is (the install is by path)."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("pyproject.toml", "constraints.txt", "sources.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read_stamp():
    try:
        return json.loads(STAMP.read_text())["key"]
    except (OSError, ValueError, KeyError):
        return None


def ensure_venv():
    """Make .venv unless a working one of a new enough Python is there."""
    if venv_works():
        return
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise SetupError(
            "This Python cannot make virtual environments: its venv module is missing. On Debian and Ubuntu: "
            "sudo apt install python{}.{}-venv".format(*sys.version_info)
        )
    free = shutil.disk_usage(ROOT).free / 1e6
    if free < DISK_MB:
        raise SetupError(
            f"The course takes about {DISK_MB / 1000:.1f} GB in {ROOT}, and {free / 1000:.1f} GB are free. "
            "Make room, or clone the course to another disk."
        )
    say(f"Making {VENV} with Python {sys.version.split()[0]}")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    made = subprocess.run(command, capture_output=True, text=True, env=environment())
    if made.returncode != 0:
        raise SetupError(f"python -m venv failed: {last_lines(made.stdout + made.stderr)}")


def venv_works():
    """Does .venv hold a Python that starts, is new enough and has pip?"""
    if not PYTHON.exists():
        return False
    code = f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"
    return subprocess.run([str(PYTHON), "-c", code], capture_output=True, env=environment()).returncode == 0


def install_packages():
    """Install the pinned set. What is there already in the right version costs no download and no network."""
    torch = installed_torch()
    if torch:
        say(f"Keeping torch {torch}, which is already in .venv")
    say(
        f"To download: about {PACKAGES_MB} MB of packages and {core_sources_mb():.0f} MB of models and text, "
        "less what is already here. It can be interrupted and started again."
    )
    if sys.platform == "linux" and not torch and not os.environ.get("TORCH_INDEX"):
        say("(Where the package index serves torch with CUDA, gigabytes more: see 'CPU only' in README.md.)")
    constraints = VENV / "constraints.txt"
    pins = (ROOT / "constraints.txt").read_text()
    if torch:
        pins = re.sub(r"^torch==.*$", f"torch=={torch.split('+')[0]}", pins, flags=re.MULTILINE)
    constraints.write_text(pins)

    started = time.monotonic()
    under = ["--constraint", str(constraints)]
    pip_install("pip and setuptools", *under, "pip", "setuptools")
    if not torch and os.environ.get("TORCH_INDEX"):
        pinned = re.search(r"^torch==(\S+)$", pins, flags=re.MULTILINE).group(1)
        pip_install("torch", "--no-deps", "--index-url", os.environ["TORCH_INDEX"], f"torch=={pinned}")
    # The course itself builds with the setuptools of .venv, so that this needs no network; packages that come as
    # source archives ask for more, and build in isolation under the same pins.
    pip_install("the course", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    pip_install("packages", *under, "--build-constraint", str(constraints), "additive-course[lab,serve]")
    prepare_jupyter()
    say(f"Packages are in place ({time.monotonic() - started:.0f} s)")


def installed_torch():
    """The version of the torch in .venv if it is in the range of pyproject.toml, else None."""
    lowest, end = re.search(r'"torch>=([\d.]+),<(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()
    for folder in VENV.glob("lib/python3*/site-packages/torch-*.dist-info"):
        version = folder.name.removeprefix("torch-").removesuffix(".dist-info")
        numbers = numbers_of(version)
        if numbers_of(lowest) <= numbers < numbers_of(end):
            return version
    return None


def numbers_of(version):
    """ "2.13.0+cpu" -> (2, 13, 0)"""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def core_sources_mb():
    core = (ROOT / "sources.txt").read_text().split("# === on demand")[0]
    return sum(int(size) for size in re.findall(r", (\d+) bytes", core)) / 1e6


def prepare_jupyter():
    """Tie the kernel "python3" to this .venv; keep JupyterLab from asking about news at its first start."""
    command = [str(PYTHON), "-m", "ipykernel", "install", "--sys-prefix", "--name", "python3"]
    made = subprocess.run(command, capture_output=True, text=True, env=environment())
    if made.returncode != 0:
        raise SetupError(f"The Jupyter kernel could not be installed: {last_lines(made.stderr)}")
    kernel = VENV / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec = json.loads(kernel.read_text())
    spec["argv"].append("--log-level=ERROR")  # a warning about encryption on localhost would only worry learners
    kernel.write_text(json.dumps(spec, indent=1))
    overrides = VENV / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    overrides.parent.mkdir(parents=True, exist_ok=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    overrides.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": quiet}))


# --- pip, with progress and with sentences for its failures ---------------------------------------


def pip_install(title, *arguments):
    """Run `pip install` in .venv, showing one line of progress; its whole output goes to .venv/setup.log."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
    if title == "packages":  # by now pip is the pinned one, which can report bytes
        command.append("--progress-bar=raw")
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    process = subprocess.Popen(command, env=environment(), **output)
    progress = Progress(title)
    reader = threading.Thread(target=progress.read, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        while reader.is_alive():
            reader.join(0.5)
            progress.show()
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        progress.close()
    if code != 0:
        raise SetupError(explain_pip("".join(progress.lines)))


class Progress:
    """One line that tells what pip is doing: rewritten on a terminal, repeated every ten seconds in a log."""

    def __init__(self, title):
        self.title, self.doing, self.lines = title, "looking", []
        self.finished_bytes = self.current_bytes = 0
        self.terminal, self.started, self.shown = sys.stdout.isatty(), time.monotonic(), time.monotonic()

    def read(self, stream):
        with open(VENV / "setup.log", "a", encoding="utf-8") as log:
            for line in stream:
                self.understand(line)
                log.write(line)

    def understand(self, line):
        found = re.match(r"Progress (\d+) of (\d+)", line)
        if found:
            self.current_bytes = int(found.group(1))
            return
        self.lines.append(line)
        found = re.match(r"\s*(Collecting|Downloading|Using cached|Processing) (\S+)", line)
        if found:
            self.finished_bytes += self.current_bytes
            self.current_bytes = 0
            self.doing = found.group(2).rsplit("/", 1)[-1].split("-")[0]
        elif line.startswith("Installing collected packages"):
            self.doing = f"unpacking {line.count(',') + 1} packages"

    def show(self):
        wait = 0.5 if self.terminal else 10
        if time.monotonic() - self.shown < wait:
            return
        self.shown = time.monotonic()
        megabytes = (self.finished_bytes + self.current_bytes) / 1e6
        seconds = self.shown - self.started
        text = f"  {self.title}: {seconds:.0f} s, {megabytes:.0f} MB downloaded, {self.doing}"
        if self.terminal:
            print(f"\r{text[:100]:<100}", end="", flush=True)
        else:
            say(text)

    def close(self):
        if self.terminal:
            print("\r" + " " * 100 + "\r", end="", flush=True)


def explain_pip(said):
    """pip's failure as a sentence with a remedy."""
    log = VENV / "setup.log"
    if "No space left on device" in said:
        return f"The disk is full. The course takes {DISK_MB / 1000:.1f} GB: make room and run this again."
    if re.search(NO_NETWORK, said):
        return (
            "There is no connection to the package index. The set-up needs the network once; connect (behind "
            "a proxy: set HTTPS_PROXY) and run the same command again. What has been downloaded is kept."
        )
    if re.search("ResolutionImpossible|conflicting dependencies", said):
        return f"The pinned versions contradict each other. If you edited no pin, report it with {log}."
    missing = re.search(r"No matching distribution found for (\S+)", said)
    if missing:
        return (
            f"The package index offers no {missing.group(1)} for Python {sys.version.split()[0]} on "
            f"{sys.platform}. If there is no network, connect first; else see {log}."
        )
    return f"pip failed: {last_lines(said)} (all of it: {log})"


def last_lines(text, count=3):
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:]) or "it said nothing"


# --- running --------------------------------------------------------------------------------------


def environment(**more):
    """The environment of every child process: .venv first, nothing from the user's own site-packages."""
    foreign = ("PYTHONHOME", "PYTHONPATH", "PIP_CONSTRAINT")
    result = {name: value for name, value in os.environ.items() if name not in foreign}
    result["PATH"] = f"{VENV / 'bin'}{os.pathsep}{result.get('PATH', '')}"
    result.update(VIRTUAL_ENV=str(VENV), PYTHONNOUSERSITE="1", PYTHONUTF8="1", JUPYTER_PREFER_ENV_PATH="1")
    result.update({name: str(value) for name, value in more.items()})
    return result


def call(*command, quiet_hub=False, **variables):
    """Run a command from the course's folder and return its exit code."""
    if (
        quiet_hub
    ):  # a test or a re-executed notebook must not depend on the network, nor on the user's profile
        variables = {"HF_HUB_OFFLINE": "1", "IPYTHONDIR": VENV / "ipython", **variables}
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=environment(**variables)).returncode


def run_tests():
    """ruff, the unit tests, then every notebook; all three run even if one fails."""
    parallel = ["-n", "2", "--dist", "loadfile"]  # one process a core, a file's tests together
    steps = [
        ("ruff", [PYTHON, "-m", "ruff", "check", "."]),
        ("unit tests", [PYTHON, "-m", "pytest", "-q", *parallel, "tests"]),
    ]
    if any((ROOT / "notebooks").glob("*.ipynb")):
        nbval = ["--nbval-lax", "--nbval-current-env", *parallel, "--nbval-cell-timeout", "300"]
        steps.append(("notebooks", [PYTHON, "-m", "pytest", "-q", *nbval, "notebooks"]))
    results = []
    for title, command in steps:
        say(f"\n{title}: {' '.join(str(part) for part in command[1:])}")
        started = time.monotonic()
        code = call(*command, quiet_hub=True, OMP_NUM_THREADS=1)
        results.append((title, code, time.monotonic() - started))
    say("")
    for title, code, seconds in results:
        say(f"{title:<12} {'passed' if code == 0 else 'FAILED'} in {seconds:.0f} s")
    return int(any(code for _, code, _ in results))


def run_browser_test():
    """Install what the browser and the book need where it is missing, then drive Chromium."""
    need("browser", "selenium")
    need("book", "myst_nb")
    return call(PYTHON, "-m", "pytest", "-q", "-s", "-m", "browser", "tests/browser", quiet_hub=True)


def need(extra, module):
    """Install an extra of the course unless `module`, which comes with it, is there."""
    missing = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if call(PYTHON, "-c", missing) != 0:
        pip_install(extra, "--constraint", str(VENV / "constraints.txt"), f"additive-course[{extra}]")


def open_lab(options):
    """Start JupyterLab on the first notebook, print its address, and open a browser where there is one."""
    port = options.port or first_free_port(8888)
    if not is_free(port):
        raise SetupError(f"Port {port} is in use. Choose another (make lab PORT={port + 1}) or leave it out.")
    token = secrets.token_hex(16)
    command = [PYTHON, "-m", "jupyterlab", "--no-browser", "--ServerApp.answer_yes=True"]
    command += [f"--ServerApp.root_dir={ROOT}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.log_level=ERROR", "--ServerApp.log_level=ERROR"]
    if os.geteuid() == 0:
        command.append("--allow-root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the server below is stopped as well
    address = f"http://localhost:{port}/lab/tree/{options.notebook}?token={token}"
    server = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment(JUPYTER_TOKEN=token))
    try:
        wait_for(server, f"http://localhost:{port}/api")
        say(f"\nJupyterLab is running. Open this address:\n\n    {address}\n\nCtrl-C here stops it.\n")
        if not options.no_browser and has_browser():
            webbrowser.open(address)
        return server.wait()
    except KeyboardInterrupt:
        server.wait()
        return 0
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait()


def first_free_port(start):
    for port in range(start, start + 100):
        if is_free(port):
            return port
    raise SetupError(f"No port from {start} to {start + 99} is free. Name one: make lab PORT=9999")


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("localhost", port))
        except OSError:
            return False
    return True


def wait_for(server, address, seconds=60):
    """Wait until the server answers; proxies are for the world outside, not for localhost."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SetupError("JupyterLab stopped while it was starting: see its lines above.")
        try:
            direct.open(address, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.2)
    raise SetupError(f"JupyterLab did not answer within {seconds} s.")


def has_browser():
    """Is there a browser with a screen to show it on?"""
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_screen:
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def clean_up(everything):
    """Remove what set-up and tools made. Notebooks, progress and results stay."""
    leftovers = [VENV, ROOT / "build", *ROOT.glob("*.egg-info"), *ROOT.glob(".*_cache"), ROOT / ".hypothesis"]
    for folder in ("course_lib", "tests", "notebooks"):
        leftovers += [*(ROOT / folder).rglob("__pycache__"), *(ROOT / folder).rglob(".ipynb_checkpoints")]
    if everything:
        leftovers.append(ROOT / "data" / "cache")
    for path in leftovers:
        if path.is_dir():
            say(f"Removing {path.relative_to(ROOT)}")
            shutil.rmtree(path)
    if not everything and (ROOT / "data" / "cache").is_dir():
        say("data/cache (sources and trained models) stays; `make clean ALL=1` removes it too.")
    return 0


# --- Colab ----------------------------------------------------------------------------------------


def install_on_colab():
    """Install the course beside the torch, numpy and pandas of this Python; fetch the sources."""
    constraints = ROOT / "constraints-colab.txt"
    constraints.write_text("".join(f"{line}\n" for line in colab_constraints()))
    say(f"Installing the course; {', '.join(colab_constraints()[:3])} stay as they are")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*command, "--constraint", str(constraints), "--editable", f"{ROOT}[serve]"], cwd=ROOT)
    if installed.returncode != 0:
        raise SetupError("pip could not install the course: see its lines above. Then run the cell again.")
    return subprocess.run([sys.executable, "-m", "course_lib", "fetch"], cwd=ROOT).returncode


def colab_constraints():
    """Pins of what this Python has already and must keep."""
    pins = []
    for name in KEPT_ON_COLAB + KERNEL_ON_COLAB:
        try:
            pins.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return pins


def say(text):
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the same command again to go on.")
