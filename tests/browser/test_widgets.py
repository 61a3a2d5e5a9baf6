"""Every widget of every chapter in JupyterLab: each control is reached and moved by keyboard, and pictures follow.

COURSE_CHAPTER names one chapter ("41"); otherwise all are run, about a minute each.
"""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from course_lib import notebooks

from .test_lab import PANEL, code_cells, shown
from .test_slides import asked_outside

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = [os.environ["COURSE_CHAPTER"]] if "COURSE_CHAPTER" in os.environ else None
CONTROLS = ", ".join(
    f".jupyter-widgets {kind}" for kind in (".noUi-handle", "select", "input[type=text]", "input[type=checkbox]")
)
SCREENSHOTS = ROOT / "data" / "cache" / "screenshots" / "widgets"

# What a control says of itself: kind, label, whether Tab reaches it, and its value.
ABOUT = """
const control = arguments[0], box = control.closest('.widget-inline-hbox, .jupyter-widgets');
const labels = [...box.querySelectorAll('label')].map(one => one.textContent.replace('\u200b', '').trim());
const label = labels.find(text => text);
const kind = control.matches('.noUi-handle') ? 'slider' : control.tagName === 'SELECT' ? 'menu' : control.type;
const value = kind === 'slider' ? control.getAttribute('aria-valuenow')
  : kind === 'menu' ? control.selectedIndex : kind === 'checkbox' ? control.checked : control.value;
const last = kind === 'slider' ? Number(value) >= Number(control.getAttribute('aria-valuemax'))
  : kind === 'menu' ? control.selectedIndex === control.options.length - 1 : false;
return {kind, label, value: String(value), reached: control.tabIndex >= 0, last};
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on the course's folder; the learner's progress stays as it was."""
    settings, token = tmp_path_factory.mktemp("settings"), secrets.token_hex(8)
    (settings / "jupyter_lab_config.json").write_text(json.dumps({"LabApp": {"expose_app_in_browser": True}}))
    port = 8900 + os.getpid() % 90
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={ROOT}"]
    command += [f"--ServerApp.port={port}", "--allow-root", "--ServerApp.log_level=ERROR", "--LabApp.log_level=ERROR"]
    more = {"JUPYTER_CONFIG_DIR": str(settings), "JUPYTER_TOKEN": token, "OMP_NUM_THREADS": "1"}
    more |= {"JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces"), "PYTHONPATH": str(ROOT)}
    progress = ROOT / "progress.json"
    before = progress.read_bytes() if progress.exists() else None
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | more, stderr=subprocess.DEVNULL)
    address = f"http://localhost:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "JupyterLab did not start"
                time.sleep(0.2)
        yield lambda path: f"{address}{path}?token={token}"
    finally:
        server.terminate()
        server.wait(30)
        if before is not None:
            progress.write_bytes(before)
        else:
            progress.unlink(missing_ok=True)


def run(browser, lab, notebook, name):
    """Open a copy of `notebook`, because JupyterLab saves what it opens, and run all cells; returns the copy."""
    copy = notebooks.folder() / f"browser-check-{name}.ipynb"
    notebooks.normalise(notebook)  # names the kernel, or JupyterLab asks for one
    notebooks.write(notebook, copy)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("performance")
    browser.get(lab(f"/lab/tree/notebooks/{copy.name}") + "&reset")
    wait = WebDriverWait(browser, 900, poll_frequency=1, ignored_exceptions=[Exception])
    wait.until(lambda b: b.execute_script(PANEL + "return panel.sessionContext.session.kernel.status === 'idle'"))
    browser.execute_script(
        "const run = name => window.jupyterapp.commands.execute(name);"
        "run('editmenu:clear-all').then(() => { run('notebook:run-all-cells') });"
    )
    wait.until(lambda b: all(count for _, count, _ in code_cells(b)))
    return copy


@pytest.fixture
def tidy(lab):
    """Afterwards, no copy and no kernel is left."""
    yield
    for copy in notebooks.folder().glob("browser-check-*.ipynb"):
        copy.unlink()
    with urllib.request.urlopen(lab("/api/kernels")) as answer:
        kernels = json.load(answer)
    for kernel in kernels:
        urllib.request.urlopen(urllib.request.Request(lab(f"/api/kernels/{kernel['id']}"), method="DELETE")).close()


def survey(browser, name):
    """For each cell with a widget beside a picture: [(its control's label, does the picture follow?), ...].

    The boxes of a prediction have no picture: they are only asked for label and reach.
    """
    found = {}
    for index, _, outputs in code_cells(browser):
        if "jupyter.widget-view+json" not in outputs or not (controls := find_controls(browser, index)):
            continue
        for control in controls:
            about = browser.execute_script(ABOUT, control)
            assert about["label"], f"cell {index + 1}: a {about['kind']} has no label"
            assert about["reached"], f"cell {index + 1}: {about['label']} cannot be reached by Tab"
        if '"image/png"' in outputs:
            found[index + 1] = [try_control(browser, index, number) for number in range(len(controls))]
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            browser.save_screenshot(str(SCREENSHOTS / f"{name}-{index + 1}.png"))
    return found


DRAWN = """
import course_lib as cl
def draw(ax, **values):
    ax.set_title(str(values{ignored}))
cl.views.explore(draw, width=(1, 4, 1, 4), scale=(0.0, 1.0, 0.5), where=["ffn", "attention"], on=True, text="a")
"""


def test_the_check_moves_every_kind_of_control_and_sees_a_dead_widget(lab, browser, tidy):
    cells = [new_code_cell(DRAWN.format(ignored=ignored)) for ignored in ("", " and 0")]
    run(browser, lab, new_notebook(cells=cells), "toy")
    alive, dead = survey(browser, "toy").values()
    assert alive == [("width", True), ("scale", True), ("where", True), ("on", True), ("text", True)]
    assert dead == [(label, False) for label, _ in alive]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in notebooks.find(CHAPTERS)])
def test_every_widget_moves_its_picture(path, lab, browser, tidy):
    notebook = notebooks.read(path)
    run(browser, lab, notebook, path.stem)
    errors = [outputs for _, _, outputs in code_cells(browser) if '"output_type":"error"' in outputs]
    assert not errors, errors
    found = survey(browser, path.stem)
    print(f"\n{path.stem}: {found}")
    made = sum("explore(" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert len(found) >= max(1, made), "a widget was not shown"
    for cell, controls in found.items():
        assert any(moved for _, moved in controls), f"no control of cell {cell} changes the picture"
    outside = [address for address in asked_outside(browser) if not address.startswith(("http://localhost", "ws://"))]
    assert not outside, "a widget works without a network"


def find_controls(browser, index):
    """The controls of the widget in cell `index`, once they are there."""
    browser.execute_script(
        PANEL + "panel.content.activeCellIndex = arguments[0]; panel.content.scrollToItem(arguments[0], 'center');",
        index,
    )
    find = PANEL + f"return [...panel.content.widgets[arguments[0]].node.querySelectorAll('{CONTROLS}')]"
    for _ in range(40):
        if found := browser.execute_script(find, index):
            return found
        time.sleep(0.25)
    return []


def try_control(browser, index, number):
    """Move one control by its keys: (its label, does the picture change?). That it can be moved is asserted."""
    control = find_controls(browser, index)[number]
    about = browser.execute_script(ABOUT, control)
    WebDriverWait(browser, 120, ignored_exceptions=[Exception]).until(
        lambda b: shown(b, index), f"no picture beside {about['label']}"
    )
    time.sleep(1)  # let the picture settle
    before = shown(browser, index)
    browser.execute_script("arguments[0].focus()", control)
    slide = Keys.ARROW_LEFT if about["last"] else Keys.ARROW_RIGHT
    choose = Keys.ARROW_UP if about["last"] else Keys.ARROW_DOWN  # of a closed menu JupyterLab takes the arrows
    keys = {"slider": [slide], "menu": [Keys.SPACE, choose, Keys.ENTER], "checkbox": [Keys.SPACE]}
    for key in keys.get(about["kind"], [Keys.END, " film", Keys.ENTER]):
        browser.switch_to.active_element.send_keys(key)
        time.sleep(0.2)
    now = browser.execute_script(ABOUT, find_controls(browser, index)[number])
    assert now["value"] != about["value"], f"{about['label']} does not move by keyboard"
    for _ in range(60):
        if (pictures := shown(browser, index)) and pictures != before:
            return about["label"], True
        time.sleep(0.25)
    return about["label"], False
