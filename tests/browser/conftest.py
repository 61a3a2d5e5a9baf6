"""A headless Chromium, shared by the checks of notebooks, slides and book."""

import os
import shutil

import pytest

pytest.importorskip("selenium", reason="the extra 'browser' is not installed: make test-browser")

from selenium import webdriver


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    binary, driver = next(filter(None, found), None), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.fail("Chromium and chromedriver are needed (Debian: apt install chromium chromium-driver).")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    quiet = ("headless=new", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync")
    for flag in (*quiet, "disable-component-update", "disable-dev-shm-usage", "window-size=1300,1000"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})  # what pages ask the network for
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    result = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    result.set_script_timeout(600)
    yield result
    result.quit()
