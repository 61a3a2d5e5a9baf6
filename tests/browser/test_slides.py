"""Every slide of every deck in a room's resolution: nothing leaves 1280 x 720, and nothing is asked of the network.

COURSE_CHAPTER names one chapter. COURSE_PICTURES=1 stores a picture of each slide in data/cache/screenshots/slides.
"""

import json
import os
from pathlib import Path

import pytest

from course_lib import notebooks
from course_lib.publishing import slides

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = [os.environ["COURSE_CHAPTER"]] if "COURSE_CHAPTER" in os.environ else None
PICTURES = ROOT / "data" / "cache" / "screenshots" / "slides" if "COURSE_PICTURES" in os.environ else None
READABLE = 0.7  # a slide may be drawn this much smaller, and no more

# What sticks out of the slide, in pixels, of everything that is seen; what is inside a box that scrolls is seen there.
OUTSIDE = """
const slide = Reveal.getCurrentSlide(), found = [];
const clipped = node => { for (let up = node.parentElement; up && up !== slide; up = up.parentElement)
  if (/auto|scroll|hidden/.test(getComputedStyle(up).overflowY)) return true; return false; };
for (const node of slide.querySelectorAll('*')) {
  if (node.closest('aside, svg svg, mjx-assistive-mml') || !node.checkVisibility() || clipped(node)) continue;
  const box = node.getBoundingClientRect();
  const out = Math.max(box.bottom - 720, box.right - 1280, -box.top, -box.left);
  if (box.width && box.height && out > 1)
    found.push([node.tagName, Math.round(out), node.textContent.trim().slice(0, 60)]);
}
const fit = slide.querySelector('.fit');
return [found.slice(0, 3), Number(fit.style.zoom || 1), Reveal.getIndices()];
"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    return slides.build(CHAPTERS, tmp_path_factory.mktemp("slides"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in notebooks.find(CHAPTERS)])
def test_nothing_overflows_a_slide(path, decks, browser):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get_log("performance")
    browser.get((decks / f"{path.stem}.html").as_uri())
    browser.execute_async_script(
        "const done = arguments[0];"
        "(function wait() { document.documentElement.dataset.ready ? done() : setTimeout(wait, 50) })()"
    )
    count = browser.execute_script("return Reveal.getTotalSlides()")
    assert count == slides.plan(notebooks.read(path)).slides
    outside, small = [], []
    for number in range(count):
        browser.execute_script(
            "const at = Reveal.getIndices(Reveal.getSlides()[arguments[0]]);"
            "Reveal.slide(at.h, at.v, 999);",
            number,
        )
        found, zoom, at = browser.execute_script(OUTSIDE)
        if found:
            outside.append((number + 1, at, found))
        assert zoom >= READABLE
        if zoom < 0.85:
            small.append((number + 1, zoom))
        if PICTURES:
            PICTURES.mkdir(parents=True, exist_ok=True)
            browser.save_screenshot(str(PICTURES / f"{path.stem[:2]}-{number + 1:02d}.png"))
    print(f"\n{path.stem}: {count} slides; drawn smaller than 0.85: {small}")
    assert not outside, "\n".join(map(str, outside))
    browser.execute_script("Reveal.getCurrentSlide().querySelector('.fit').style.zoom = 6")
    assert browser.execute_script(OUTSIDE)[0], "the check itself sees what sticks out"
    assert not asked_outside(browser), "a deck works without a network"
    notes = browser.execute_script("return document.querySelectorAll('aside.notes').length")
    assert notes > 10


def asked_outside(browser) -> list[str]:
    """Addresses of the network that the page asked for."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    asked = (one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent")
    return [address for address in asked if not address.startswith(("file:", "data:", "blob:", "chrome"))]
