"""A learner's first minutes: `make lab`, the page opens, "Run all", no errors, and moving the widget moves the picture.

Run by `make test-browser` (Chromium or Chrome and its driver must be installed). COURSE_NOTEBOOK names another notebook
than the first one, COURSE_SCREENSHOTS the folder for the pictures (default: data/cache/screenshots).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / os.environ.get("COURSE_NOTEBOOK", "notebooks/00_start_here.ipynb")
SCREENSHOTS = Path(os.environ.get("COURSE_SCREENSHOTS", ROOT / "data" / "cache" / "screenshots"))
PANEL = "const panel = window.jupyterapp.shell.currentWidget;"


@pytest.fixture
def notebook():
    """A copy beside the original, because JupyterLab saves what it opens; the learner's progress stays as it was."""
    copy, progress = NOTEBOOK.with_name(f"browser-check-{NOTEBOOK.name}"), ROOT / "progress.json"
    before = progress.read_bytes() if progress.exists() else None
    shutil.copy(NOTEBOOK, copy)
    yield copy.relative_to(ROOT).as_posix()
    copy.unlink()
    if before is not None:
        progress.write_bytes(before)
    else:
        progress.unlink(missing_ok=True)


@pytest.fixture
def address(notebook, tmp_path):
    """JupyterLab as `make lab` starts it, except that the page may be asked what it shows."""
    settings = {"LabApp": {"expose_app_in_browser": True}}
    (tmp_path / "jupyter_lab_config.json").write_text(json.dumps(settings))
    command = [sys.executable, "bootstrap.py", "lab", "--no-browser", "--notebook", notebook]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    lab = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path)}, **pipes)
    try:
        printed = ""
        while not (found := re.search(r"http://\S+token=\w+", printed)):
            line = lab.stdout.readline()
            assert line, f"make lab ended without an address: {printed}"
            printed += line
        yield found.group()
    finally:
        lab.terminate()
        lab.wait(30)


def test_the_first_notebook_runs_and_its_widget_moves(address, browser):
    started = time.monotonic()
    browser.get(address)
    wait = WebDriverWait(browser, 120, ignored_exceptions=[Exception])
    wait.until(lambda b: b.execute_script(PANEL + "return panel.sessionContext.session.kernel.status === 'idle'"))
    ready = time.monotonic() - started

    run_all = PANEL + (
        "const done = arguments[0];"
        "window.jupyterapp.commands.execute('editmenu:clear-all')"
        "  .then(() => window.jupyterapp.commands.execute('notebook:run-all-cells')).then(done, e => done(`${e}`));"
    )
    browser.execute_async_script(run_all)
    wait.until(lambda b: all(count for _, count, _ in code_cells(b)))
    ran = time.monotonic() - started - ready
    browser.save_screenshot(screenshot("after-run-all"))
    errors = [outputs for _, _, outputs in code_cells(browser) if '"output_type":"error"' in outputs]
    assert not errors, errors

    with_widget = [index for index, _, outputs in code_cells(browser) if "jupyter.widget-view+json" in outputs]
    assert with_widget, "no cell shows a widget"
    moved = [index for index in with_widget if widget_moves(browser, index)]
    assert moved, "no widget changes its picture when it is moved"
    browser.save_screenshot(screenshot("widget"))
    print(f"\n{NOTEBOOK.name}: page ready in {ready:.1f} s, all cells run in {ran:.1f} s, pictures in {SCREENSHOTS}")


def code_cells(browser) -> list[tuple[int, int | None, str]]:
    """(index, execution count, outputs as JSON) of each code cell that has code."""
    return browser.execute_script(
        PANEL + "const cells = [];"
        "panel.content.widgets.forEach((cell, index) => {"
        "  const shared = cell.model.sharedModel;"
        "  if (cell.model.type === 'code' && shared.source.trim())"
        "    cells.push([index, shared.execution_count, JSON.stringify(shared.getOutputs())]);"
        "}); return cells;"
    )


def widget_moves(browser, index: int) -> bool:
    """Move the first control of the cell's widget by one step; does what the cell shows change?"""
    script = (
        PANEL
        + "panel.content.activeCellIndex = arguments[0]; return panel.content.scrollToItem(arguments[0], 'center')"
    )
    browser.execute_script(script, index)
    cell = "panel.content.widgets[arguments[0]].node"
    find = PANEL + f"return {cell}.querySelector('.jupyter-widgets .noUi-handle, .jupyter-widgets select')"
    wait = WebDriverWait(browser, 30)
    try:
        control = wait.until(lambda b: b.execute_script(find, index))
        wait.until(lambda b: shown(b, index))
    except Exception:  # this widget has neither a slider nor a menu, or shows no picture
        return False
    time.sleep(1)  # let the first picture settle
    before = shown(browser, index)
    control.send_keys(Keys.ARROW_DOWN if control.tag_name == "select" else Keys.ARROW_RIGHT)
    try:
        return wait.until(lambda b: (now := shown(b, index)) and now != before)
    except Exception:
        return False


def shown(browser, index: int) -> list[str]:
    """The pictures (and tables) that a cell's output shows now."""
    return browser.execute_script(
        PANEL + "const node = panel.content.widgets[arguments[0]].node;"
        "return [...node.querySelectorAll('.jp-OutputArea img, .jp-OutputArea svg, .jp-OutputArea table')]"
        "  .map(picture => picture.src || picture.outerHTML)",
        index,
    )


def screenshot(name: str) -> str:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return str(SCREENSHOTS / f"{NOTEBOOK.stem}-{name}.png")
