"""The book on a phone: no page scrolls sideways, nothing is asked of the network, what was folded stays folded.

COURSE_PICTURES=1 stores pictures of some pages in data/cache/screenshots/book.
"""

import os
from pathlib import Path

import pytest

from course_lib import notebooks
from course_lib.publishing import book

from .test_slides import asked_outside

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "data" / "cache" / "screenshots" / "book" if "COURSE_PICTURES" in os.environ else None
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("myst_nb", reason="the extra 'book' is not installed: make book")
    return book.build(tmp_path_factory.mktemp("site") / "book")


def pages(site):
    found = sorted(path for path in site.rglob("*.html") if path.parent.name != "_static")
    assert len(found) > len(notebooks.find()) + 5
    return found


def test_every_page_fits_a_phone(site, browser):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.get_log("performance")
    wide, open_at_first, formulas = [], [], 0
    for path in pages(site):
        browser.get(path.as_uri())
        browser.execute_async_script("(window.MathJax?.startup?.promise ?? Promise.resolve()).then(arguments[0])")
        width, folded, drawn = browser.execute_script(
            "return [document.documentElement.scrollWidth, document.querySelectorAll('article details[open]').length,"
            " document.querySelectorAll('mjx-container').length]"
        )
        formulas += drawn
        if width > PHONE["width"]:
            wide.append((path.name, width, browser.execute_script(WIDEST)))
        if folded:
            open_at_first.append(path.name)
        if PICTURES and path.stem[:2] in ("in", "41", "46", "gl", "te", "se"):
            PICTURES.mkdir(parents=True, exist_ok=True)
            for number, share in enumerate((0, 0.12, 0.5, 0.9)):
                browser.execute_script("window.scrollTo(0, document.body.scrollHeight * arguments[0])", share)
                browser.save_screenshot(str(PICTURES / f"{path.stem}-{number}.png"))
    assert not wide, "\n".join(map(str, wide))
    assert not open_at_first
    assert formulas > 200, "formulas are drawn"
    assert not asked_outside(browser), "the book works without a network"


WIDEST = """
return [...document.querySelectorAll('article *')].filter(node => node.getBoundingClientRect().right > innerWidth + 1
  && node.checkVisibility()).slice(0, 3).map(node => `${node.tagName} ${node.textContent.slice(0, 40)}`)
"""


def test_the_search_finds_english_and_chinese(site, browser):
    for word in ("bottleneck", "适配器"):
        browser.get(f"{(site / 'search.html').as_uri()}?q={word}")
        browser.implicitly_wait(20)
        assert browser.find_elements("css selector", "#search-results li"), word
    browser.implicitly_wait(0)
